"""How much prompt a step may take, so that streams that run keep flowing while prompts arrive."""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Hashable

TARGET_GAP = 0.1  # seconds between two tokens of a running stream that nobody minds
GAP_FACTOR = 3  # on a slow device, that many of its ordinary steps instead
ALONE = 0.3  # seconds for a step of prompts only: how long an abort may have to wait
MIN_TOKENS = 32
GRAIN = 32  # budgets are multiples of it, so that the device sees few different shapes
MEMORY = 32  # steps whose times are remembered
FIRST_TIME_FACTOR = 3  # a new shape that is dearer by more was compiled, not only run
MAX_SHAPES = 10_000
FIRST_TOKENS = 512  # without kernels to compile: a step's tokens until one has been measured
GROWTH = 4  # and how many times the largest one so far a step may take then


class PrefillPacer:
    """Learns what a prompt token and a decode step cost, and hands out budgets of prompt tokens.

    Beside decoding rows a budget is what fits the larger of TARGET_GAP and GAP_FACTOR median decode steps, otherwise
    what fits ALONE; never more than ``max_tokens``.

    A device may compile kernels for a shape that it sees for the first time, which takes seconds on CUDA. Such a step
    must not count: small budgets make new shapes, which would look dear again, and so on for ever. A device that does
    not compile is believed at once; what a step takes there can be much more than a first estimate from a short prompt
    says (a CPU's attention costs the square of the length), so steps grow by GROWTH at most.
    """

    def __init__(self, *, max_tokens: int, token_seconds: float = 0.0, compiles: bool = True) -> None:
        """``token_seconds``: a first estimate; 0 if there is none. ``compiles``: kernels, for new shapes."""
        self._max_tokens = max_tokens
        self._first_estimate = token_seconds
        self._compiles = compiles
        self._most_tokens = max_tokens if compiles else FIRST_TOKENS  # that a step may take until it has been measured
        self._decode_seconds: deque[float] = deque(maxlen=MEMORY)
        self._prefills: deque[tuple[int, float]] = deque(maxlen=MEMORY)  # tokens, seconds per token
        self._shapes: set[Hashable] = set()

    def observe_decode(self, seconds: float) -> None:
        """A step that only decoded took ``seconds``."""
        self._decode_seconds.append(seconds)

    def observe_prefill(self, shape: Hashable, tokens: int, seconds: float, *, decoding: bool) -> None:
        """A step that prefilled ``tokens`` (padding included) in this shape, beside decoding rows or not."""
        cost = max(seconds - (self._decode_step() if decoding else 0.0), 0.0) / tokens
        known = shape in self._shapes
        if not known and len(self._shapes) < MAX_SHAPES:
            self._shapes.add(shape)
        if known or not self._compiles or cost <= FIRST_TIME_FACTOR * self._token_cost():
            self._prefills.append((tokens, cost))
        self._most_tokens = max(self._most_tokens, GROWTH * tokens)

    def budget(self, *, decoding: bool) -> int:
        step = self._decode_step()
        room = max(TARGET_GAP, GAP_FACTOR * step) - step if decoding else ALONE
        cost = self._token_cost()
        most = min(self._max_tokens, self._most_tokens)
        tokens = most if cost * most <= room else int(room / cost) // GRAIN * GRAIN
        return max(tokens, min(MIN_TOKENS, self._max_tokens))

    @property
    def token_seconds(self) -> float:
        """What a token of a prompt costs; 0 if that is not known yet."""
        return self._token_cost()

    def _decode_step(self) -> float:
        return statistics.median(self._decode_seconds) if self._decode_seconds else 0.0

    def _token_cost(self) -> float:
        """Seconds per token as the larger half of the remembered steps had it: small ones are mostly overhead."""
        if not self._prefills:
            return self._first_estimate
        larger = sorted(self._prefills)[len(self._prefills) // 2 :]
        return statistics.median(cost for _, cost in larger)
