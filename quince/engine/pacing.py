"""How much prompt a step may take, so that streams that run keep flowing while prompts arrive."""

from __future__ import annotations

import statistics
from collections import deque

TARGET_GAP = 0.1  # seconds between two tokens of a running stream that nobody minds
GAP_FACTOR = 3  # on a slow device, that many of its ordinary steps instead
ALONE = 0.3  # seconds for a step of prompts only: how long an abort may have to wait
MIN_TOKENS = 32
GRAIN = 32  # budgets are multiples of it, so that the device sees few different shapes
MEMORY = 32  # steps whose times are remembered
FIRST_TIME_FACTOR = 3  # a new shape that is dearer by more was compiled, not only run
MAX_SHAPES = 10_000
FIRST_LEVEL = 6  # of the prompt that a first estimate comes from (see support.py)
RECENT = 8  # steps of each depth whose times are remembered

Shape = tuple[int, int, int]  # see Batch.prefill_shape


class PrefillPacer:
    """Learns what a prompt token and a decode step cost, and hands out budgets of prompt tokens.

    Beside decoding rows a budget is what fits the larger of TARGET_GAP and GAP_FACTOR median decode steps, otherwise
    what fits ALONE; never more than ``max_tokens``.
    """

    def __init__(self, *, max_tokens: int, token_seconds: float = 0.0, compiles: bool = True) -> None:
        """``token_seconds``: a first estimate, of a short prompt; 0 if there is none. ``compiles``: whether the device
        compiles kernels for new shapes."""
        self._max_tokens = max_tokens
        self._costs: _EvenCosts | _CostsByDepth = (_EvenCosts if compiles else _CostsByDepth)(token_seconds)
        self._decode_seconds: deque[float] = deque(maxlen=MEMORY)

    def observe_decode(self, seconds: float) -> None:
        """A step that only decoded took ``seconds``."""
        self._decode_seconds.append(seconds)

    def observe_prefill(self, shape: Shape, tokens: int, seconds: float, *, decoding: bool) -> None:
        """A step that prefilled ``tokens`` (padding included) in this shape, beside decoding rows or not."""
        cost = max(seconds - (self._decode_step() if decoding else 0.0), 0.0) / tokens
        self._costs.observe(shape, tokens, cost)

    def budget(self, *, decoding: bool, start: int = 0, rows: int = 1) -> int:
        """For so many ``rows``, each ``start`` tokens into its prompt."""
        step = self._decode_step()
        room = max(TARGET_GAP, GAP_FACTOR * step) - step if decoding else ALONE
        tokens = self._costs.within(room, start, rows, self._max_tokens)
        if tokens < self._max_tokens:
            tokens = tokens // GRAIN * GRAIN
        return max(tokens, min(MIN_TOKENS, self._max_tokens))

    @property
    def token_seconds(self) -> float:
        """What a token of a long prompt costs; 0 if that is not known yet."""
        return self._costs.usual()

    def _decode_step(self) -> float:
        return statistics.median(self._decode_seconds) if self._decode_seconds else 0.0


class _EvenCosts:
    """For devices whose prompt tokens cost about the same wherever they are, since starting kernels and reading weights
    is most of it.

    Such a device may compile kernels for a shape that it sees for the first time, which takes seconds on CUDA. Such a
    step must not count: small budgets make new shapes, which would look dear again, and so on for ever.
    """

    def __init__(self, first_estimate: float) -> None:
        self._first_estimate = first_estimate
        self._observed: deque[tuple[int, float]] = deque(maxlen=MEMORY)  # tokens, seconds per token
        self._shapes: set[Shape] = set()

    def observe(self, shape: Shape, tokens: int, cost: float) -> None:
        known = shape in self._shapes
        if not known and len(self._shapes) < MAX_SHAPES:
            self._shapes.add(shape)
        if known or cost <= FIRST_TIME_FACTOR * self.usual():
            self._observed.append((tokens, cost))

    def within(self, room: float, _start: int, _rows: int, most: int) -> int:
        """Tokens that take ``room`` seconds, up to ``most``."""
        cost = self.usual()
        return most if cost * most <= room else int(room / cost)

    def usual(self) -> float:
        """Seconds per token as the larger half of the remembered steps had it: small ones are mostly overhead."""
        if not self._observed:
            return self._first_estimate
        larger = sorted(self._observed)[len(self._observed) // 2 :]
        return statistics.median(cost for _, cost in larger)


class _CostsByDepth:
    """For devices where attention is most of it, which costs the square of a prompt's length, and nothing is compiled:
    MLX's CPU build.

    Depths are levels, each twice as deep as the one before; a level that nothing was computed in yet is taken to cost
    twice as much as the one before. It never costs more.
    """

    def __init__(self, first_estimate: float) -> None:
        self._first_estimate = first_estimate
        self._observed: dict[int, deque[float]] = {}  # by level: seconds per token

    def observe(self, shape: Shape, _tokens: int, cost: float) -> None:
        _, width, start = shape
        self._observed.setdefault(_level(start + width), deque(maxlen=RECENT)).append(cost)

    def within(self, room: float, start: int, rows: int, most: int) -> int:
        """Tokens of ``rows``, from ``start`` on, that take ``room`` seconds, up to ``most``."""
        width, widest = 0, max(1, most // rows)
        for level in range(_level(start + 1), _level(start + widest) + 1):
            cost = self._cost(level) * rows
            here = min(widest, (1 << level) - 1 - start)  # as many as end within this level
            fitting = here if cost * here <= room else int(room / cost)
            width = max(width, fitting)
            if fitting < here:
                break
        return most if width == widest else width * rows

    def usual(self) -> float:
        return self._cost(max(self._observed, default=FIRST_LEVEL))

    def _cost(self, level: int) -> float:
        nearest = max((known for known in self._observed if known <= level), default=None)
        if nearest is None:
            return self._first_estimate * 2.0 ** max(0, level - FIRST_LEVEL)
        return statistics.median(self._observed[nearest]) * 2.0 ** (level - nearest)


def _level(depth: int) -> int:
    return depth.bit_length()
