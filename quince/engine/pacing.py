"""How much prompt a step may take, so that streams that run keep flowing while prompts arrive."""

from __future__ import annotations

import statistics
from collections import deque

TARGET_GAP = 0.1  # seconds between two tokens of a running stream that nobody minds
GAP_FACTOR = 3  # on a slow device, that many of its ordinary steps instead
ALONE = 0.3  # seconds for a step of prompts only: how long an abort may have to wait
FIRST_TOKENS = 512  # before anything is known
MIN_TOKENS = 32
GRAIN = 32  # budgets are multiples of it, so that the device sees few different shapes
MEMORY = 32  # steps whose times are remembered


class PrefillPacer:
    """Learns what a prompt token and a decode step cost, and hands out budgets of prompt tokens.

    Beside decoding rows a budget is what fits the larger of TARGET_GAP and GAP_FACTOR median decode steps, otherwise
    what fits ALONE; never more than ``max_tokens``.
    """

    def __init__(self, *, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._decode_seconds: deque[float] = deque(maxlen=MEMORY)
        self._prefills: deque[tuple[int, float]] = deque(maxlen=MEMORY)  # tokens, seconds per token

    def observe(self, *, prefill_tokens: int, decoding: bool, seconds: float) -> None:
        """A step of so many prompt tokens (padding included), beside decoding rows or not, took ``seconds``."""
        if prefill_tokens == 0:
            self._decode_seconds.append(seconds)
        else:
            own = seconds - (self._decode_step() if decoding else 0.0)
            self._prefills.append((prefill_tokens, max(own, 0.0) / prefill_tokens))

    def budget(self, *, decoding: bool) -> int:
        if not self._prefills:
            return min(FIRST_TOKENS, self._max_tokens)
        step = self._decode_step()
        room = max(TARGET_GAP, GAP_FACTOR * step) - step if decoding else ALONE
        cost = self._token_cost()
        tokens = self._max_tokens if cost * self._max_tokens <= room else int(room / cost) // GRAIN * GRAIN
        return max(tokens, min(MIN_TOKENS, self._max_tokens))

    def _decode_step(self) -> float:
        return statistics.median(self._decode_seconds) if self._decode_seconds else 0.0

    def _token_cost(self) -> float:
        """Seconds per token as the larger half of the remembered steps had it: small ones are mostly overhead."""
        larger = sorted(self._prefills)[len(self._prefills) // 2 :]
        return statistics.median(cost for _, cost in larger)
