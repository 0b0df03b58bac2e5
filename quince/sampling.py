"""How one request's tokens are chosen: the value that travels from the API to the sampler."""

from __future__ import annotations

import msgspec

GREEDY = 0.0
# Below this, logits / temperature leaves the range of float32 and the softmax is one-hot anyway.
GREEDY_BELOW = 1e-5


class ThinkingBudget(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How long a model may think. After ``max_tokens`` tokens of thinking it is made to say ``end_token_ids``.

    Thinking begins at once, or after ``open_token_id`` if there is one, and is over at ``close_token_id``, which
    ``end_token_ids`` hold too.
    """

    max_tokens: int
    close_token_id: int
    end_token_ids: tuple[int, ...]
    open_token_id: int | None = None


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Complete: whoever builds it has filled in every default and drawn a seed if none was given.

    ``temperature`` 0 (or below GREEDY_BELOW) is greedy. ``top_k`` 0, ``top_p`` 1 and ``min_p`` 0 filter nothing. The
    filters apply after the temperature, in the order top_k, top_p, min_p. The same ``seed`` gives the same tokens,
    alone or in a batch.

    Before all that, logits change by ``repetition_penalty`` (1: not; tokens of prompt and answer, as Keskar et al.,
    2019), ``frequency_penalty`` and ``presence_penalty`` (0: not; tokens of the answer, as OpenAI's API), and
    ``logit_bias``, pairs of token id and what is added. ``grammar`` (for llguidance) and ``thinking`` forbid tokens.

    ``logprobs`` is how many alternatives to report beside each sampled token (0: only its own), None reports nothing.
    """

    max_tokens: int
    temperature: float = GREEDY
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    grammar: str | None = None
    thinking: ThinkingBudget | None = None
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature < GREEDY_BELOW

    @property
    def penalizes(self) -> bool:
        """Whether logits depend on the tokens before."""
        return bool(self.frequency_penalty or self.presence_penalty) or self.repetition_penalty != 1
