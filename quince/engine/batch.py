"""What the scheduler asks of the model runner for one step, and what comes back.

Plain values: every rank of a tensor-parallel engine could run the same Batch.
"""

from __future__ import annotations

import msgspec

from quince.engine.messages import TokenLogprobs
from quince.sampling import SamplingParams


class PrefillChunk(msgspec.Struct, frozen=True):
    """Prompt tokens to put into a request's KV cache, the first of them at position ``start``.

    ``prompt_len`` is how many tokens the request will prefill in all: the runner reserves room for them at once.
    """

    request_id: str
    token_ids: list[int]
    start: int
    prompt_len: int


class DecodeRow(msgspec.Struct, frozen=True):
    """A prefilled request that joins the decode batch; ``token_id`` (the last of its prompt) is its first input.

    ``prompt_token_ids`` are the whole prompt if the sampling parameters penalize it, else nothing.
    """

    request_id: str
    token_id: int
    sampling: SamplingParams
    prompt_token_ids: list[int] = []


class Batch(msgspec.Struct, frozen=True):
    """One step: drop ``free``, add ``join``, decode every row, prefill ``prefill`` in one forward pass.

    ``prefill`` holds either several requests whose whole prompts fit, or one chunk of a single request. ``decoding``
    counts the rows that decode, those that join included.
    """

    free: list[str] = []
    join: list[DecodeRow] = []
    prefill: list[PrefillChunk] = []
    decoding: int = 0

    @property
    def prefill_shape(self) -> tuple[int, int, int]:
        """The rectangle that is prefilled: rows, tokens of the longest, and where it starts."""
        width = max((len(chunk.token_ids) for chunk in self.prefill), default=0)
        return len(self.prefill), width, self.prefill[0].start if self.prefill else 0

    @property
    def prefill_size(self) -> int:
        """Tokens of the rectangle, padding included."""
        rows, width, _ = self.prefill_shape
        return rows * width


class SampledToken(msgspec.Struct, frozen=True, array_like=True):
    """``error``: the request cannot go on after this token, and why."""

    request_id: str
    token_id: int
    logprobs: TokenLogprobs | None = None
    error: str | None = None
