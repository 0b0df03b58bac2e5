"""How much prompt a step may take, so that streams that run keep flowing while prompts arrive."""

from __future__ import annotations

import statistics
from collections import deque

TARGET_GAP = 0.1  # seconds between two tokens of a running stream that nobody minds
GAP_FACTOR = 3  # on a slow device, that many of its ordinary steps instead
MIN_TOKENS = 32
MEMORY = 64  # steps whose times are remembered
GRAIN = 32  # budgets are multiples of it, so that the device sees few different shapes


class PrefillPacer:
    """Learns what a prompt token and a decode step cost, and hands out budgets of prompt tokens.

    While nothing decodes the budget is ``max_tokens``. Beside decoding rows it is what fits the target: the larger of
    TARGET_GAP and GAP_FACTOR median decode steps.
    """

    def __init__(self, *, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._decode_seconds: deque[float] = deque(maxlen=MEMORY)
        self._token_seconds: deque[float] = deque(maxlen=MEMORY)

    def observe(self, *, prefill_tokens: int, decoding: bool, seconds: float) -> None:
        """A step of so many prompt tokens (padding included), beside decoding rows or not, took ``seconds``."""
        if prefill_tokens == 0:
            self._decode_seconds.append(seconds)
        else:
            own = seconds - (self._decode_step() if decoding else 0.0)
            self._token_seconds.append(max(own, 0.0) / prefill_tokens)

    def budget(self, *, decoding: bool) -> int:
        if not decoding or not self._token_seconds:
            return self._max_tokens
        step = self._decode_step()
        room = max(TARGET_GAP, GAP_FACTOR * step) - step
        cost = statistics.median(self._token_seconds)
        tokens = self._max_tokens if cost * self._max_tokens <= room else int(room / cost) // GRAIN * GRAIN
        return max(tokens, min(MIN_TOKENS, self._max_tokens))

    def _decode_step(self) -> float:
        return statistics.median(self._decode_seconds) if self._decode_seconds else 0.0
