"""What the scheduler asks of the model runner for one step, and what comes back.

Plain values: every rank of a tensor-parallel engine could run the same Batch.
"""

from __future__ import annotations

import msgspec

from quince.engine.disk_files import Entry
from quince.engine.host_arrays import HostArrays
from quince.engine.messages import TokenLogprobs
from quince.sampling import SamplingParams


class PrefillChunk(msgspec.Struct, frozen=True):
    """Tokens to put into a request's KV cache, the first of them at position ``start``.

    ``length`` is how many tokens there will be before the request decodes: the runner reserves room for them at once.
    Numbers below zero are tokens of images and videos (see media.py).
    """

    request_id: str
    token_ids: list[int]
    start: int
    length: int


class DecodeRow(msgspec.Struct, frozen=True):
    """A prefilled request that joins the rows of ``group``; ``token_id``, the last of its tokens, is its first input.

    ``prompt_token_ids`` are the whole prompt if the sampling parameters penalize it, else nothing;
    ``generated_token_ids`` the answer so far, if the request was preempted.
    """

    request_id: str
    token_id: int
    sampling: SamplingParams
    group: int = 0
    prompt_token_ids: list[int] = []
    generated_token_ids: list[int] = []


class SaveSegment(msgspec.Struct, frozen=True, tag=True):
    """Keep the keys and values of a row's tokens ``start`` to ``stop`` as ``handle``: of the layers that can be cut."""

    handle: int
    request_id: str
    start: int
    stop: int


class SaveSnapshot(msgspec.Struct, frozen=True, tag=True):
    """Keep the state of a row's other layers, as it is now, as ``handle``."""

    handle: int
    request_id: str


class SplitSegment(msgspec.Struct, frozen=True, tag=True):
    """The first ``at`` tokens of ``handle`` become ``head``; ``handle`` keeps the rest."""

    handle: int
    at: int
    head: int


class Drop(msgspec.Struct, frozen=True, tag=True):
    handle: int


class Restore(msgspec.Struct, frozen=True, tag=True):
    """Make a row of ``length`` tokens for a request out of the first ``count`` tokens of each (handle, count) of
    ``segments``, in this order, and of ``snapshot``, which the layers that cannot be cut need."""

    request_id: str
    length: int
    segments: list[tuple[int, int]]
    snapshot: int | None = None


class LoadSegment(msgspec.Struct, frozen=True, tag=True):
    """Keep what was read from disk as ``handle``: keys and values."""

    handle: int
    host: HostArrays


class LoadSnapshot(msgspec.Struct, frozen=True, tag=True):
    """The same with a state."""

    handle: int
    host: HostArrays


CacheOperation = SaveSegment | SaveSnapshot | SplitSegment | Drop | Restore | LoadSegment | LoadSnapshot


class DiskWrite(msgspec.Struct, frozen=True):
    """Hand a copy of what is kept as ``handle`` to the disk tier; of a segment, its tokens ``start`` to ``stop``.
    ``used``: the files that hold what comes before it."""

    handle: int
    entry: Entry
    start: int = 0
    stop: int = 0
    used: list[Entry] = []


class Batch(msgspec.Struct, frozen=True):
    """One step: do ``cache`` in order on the rows as they are, drop ``free``, add ``join``, decode every row, prefill
    ``prefill`` in one forward pass.

    Rows of one group decode in one forward pass. The requests of ``prefill`` either all begin or were all in the same
    ``prefill`` before; who is left out there never comes back to it. Their chunks are padded to ``prefill_width``
    tokens, or to the longest of them. ``decoding`` counts the rows that decode, those that join included. ``tight``:
    the groups' buffers become no larger than they must be. ``write``, of what is kept after ``cache``, is done when the
    step before has ended.
    """

    cache: list[CacheOperation] = []
    free: list[str] = []
    join: list[DecodeRow] = []
    prefill: list[PrefillChunk] = []
    prefill_width: int = 0
    decoding: int = 0
    tight: bool = False
    write: list[DiskWrite] = []

    @property
    def prefill_shape(self) -> tuple[int, int, int]:
        """The rectangle that is prefilled: rows, tokens of each with padding, and where it starts."""
        width = max((len(chunk.token_ids) for chunk in self.prefill), default=0)
        return len(self.prefill), max(width, self.prefill_width), self.prefill[0].start if self.prefill else 0

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
