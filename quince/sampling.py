"""How one request's tokens are chosen: the value that travels from the API to the sampler."""

from __future__ import annotations

import msgspec

GREEDY = 0.0
# Below this, logits / temperature leaves the range of float32 and the softmax is one-hot anyway.
GREEDY_BELOW = 1e-5


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Complete: whoever builds it has filled in every default and drawn a seed if none was given.

    ``temperature`` 0 (or below GREEDY_BELOW) is greedy. ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 filter nothing. The
    filters apply after the temperature, in the order top_k, top_p, min_p. The same ``seed`` gives the same tokens,
    alone or in a batch.
    ``logprobs`` is how many alternatives to report beside each sampled token (0: only its own), None reports nothing.
    """

    max_tokens: int
    temperature: float = GREEDY
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW
