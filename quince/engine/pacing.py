"""How much prompt a step may take, so that streams that run keep flowing while prompts arrive."""

from __future__ import annotations

import itertools
import statistics
from collections import deque
from collections.abc import Collection
from typing import NamedTuple

TARGET_GAP = 0.1  # seconds between two tokens of a running stream that nobody minds
GAP_FACTOR = 3  # on a slow device, that many of its ordinary steps instead
AIM = 0.7  # of that gap: nearly all gaps are to stay within it, on machines that have other work too
LEAST_AIM = 0.5  # on machines that have much of it; with less, a prompt would take too long
NEARLY_ALL = 0.99
ALONE = 0.3  # seconds for a step of prompts only: how long an abort may have to wait
# Budgets are multiples of it, and at least as much. Where kernels are compiled, so that there are few different shapes;
# where attention is most of it, a prompt's last tokens take up to ten milliseconds each.
GRAIN = 32
GRAIN_BY_DEPTH = 2
MEMORY = 32  # steps that only decoded, whose times are remembered
FIRST_TIME_FACTOR = 3  # a new shape that is dearer by more was compiled, not only run
MAX_SHAPES = 10_000
FITTED = 16  # steps that costs are fitted to
APART = 1.5  # steps whose sizes differ by less tell little of what a token costs
MIN_SLOPES = 3
GROWTH = 8  # steps beside streams get larger by at most as much at once
UNKNOWN = 2**30  # tokens: no limit is known
TOKENS_SHARE = 0.25  # of the room of a step, at least, whatever is fixed
FIRST_LEVEL = 6  # of the prompt that a first estimate comes from (see support.py)
RECENT = 8  # steps of each depth, or of those that tell what is fixed
OVERRUNS = 128  # steps, of which at least a quarter are there before any counts

Shape = tuple[int, int, int]  # see Batch.prefill_shape


class PrefillPacer:
    """Learns what a prompt token and a decode step cost, and hands out budgets of prompt tokens.

    Beside decoding rows a budget is what fits AIM of the larger of TARGET_GAP and GAP_FACTOR median decode steps, or
    a little less (see ``_CostsByDepth.aim``), otherwise what fits ALONE; never more than ``max_tokens``.
    """

    def __init__(
        self,
        *,
        max_tokens: int,
        token_seconds: float = 0.0,
        compiles: bool = True,
        known_width: int | None = None,
    ) -> None:
        """``token_seconds``: a first estimate, of a short prompt; 0 if there is none. ``compiles``: whether the device
        compiles kernels for new shapes; ``known_width``: but not for so many tokens of a row, behind others. Wider ones
        might be compiled for at every step of a prompt, which would look as if nothing narrower helped."""
        self._max_tokens = max_tokens
        self._known_width = known_width or max_tokens
        self._costs: _FittedCosts | _CostsByDepth = (_FittedCosts if compiles else _CostsByDepth)(token_seconds)
        self._grain = GRAIN if compiles else GRAIN_BY_DEPTH
        self._decode_seconds: deque[float] = deque(maxlen=MEMORY)

    def observe_decode(self, seconds: float) -> None:
        """A step that only decoded took ``seconds``."""
        self._decode_seconds.append(seconds)

    def observe_prefill(self, shape: Shape, tokens: int, seconds: float, *, decoding: bool) -> None:
        """A step that prefilled ``tokens`` (padding included) in this shape, beside decoding rows or not."""
        self._costs.observe(shape, tokens, seconds, self._decode_step() if decoding else 0.0)

    def budget(self, *, decoding: bool, start: int = 0, rows: int = 1) -> int:
        """For so many ``rows``, each ``start`` tokens into its prompt."""
        step = self._decode_step()
        room = self._costs.aim() * max(TARGET_GAP, GAP_FACTOR * step) - step if decoding else ALONE
        most = self._max_tokens
        if decoding:
            most = min(most, self._costs.reach, self._known_width * rows if start else most)
        tokens = self._costs.within(room, start, rows, most)
        if tokens < self._max_tokens:
            tokens = tokens // self._grain * self._grain
        return max(tokens, min(self._grain, self._max_tokens))

    @property
    def token_seconds(self) -> float:
        """What a token of a long prompt costs; 0 if that is not known yet."""
        return self._costs.usual()

    def _decode_step(self) -> float:
        return statistics.median(self._decode_seconds) if self._decode_seconds else 0.0


class _FittedCosts:
    """For devices whose prompt tokens cost about the same wherever they are, since starting kernels and reading weights
    is most of it. A step of n tokens takes ``fixed + n * token`` seconds; both are fitted (Theil-Sen) to recent steps.

    Such a device may compile kernels for a shape that it sees for the first time: CUDA, 20 to 100 ms for attention of a
    new size, which are part of ``fixed`` while there are new shapes, and seconds for its first, which do not count.
    """

    def __init__(self, first_estimate: float) -> None:
        self._fixed, self._token = 0.0, first_estimate
        self._shapes: set[Shape] = set()
        self._steps: deque[_Step] = deque(maxlen=FITTED)

    def aim(self) -> float:
        return AIM  # what takes longer than expected is compiling, which takes as long in a smaller step

    def observe(self, shape: Shape, tokens: int, seconds: float, decode: float) -> None:
        """``decode``: what of a step's ``seconds`` rows that decode are taken to need."""
        seconds = max(seconds - decode, 0.0)
        known = shape in self._shapes
        if not known and len(self._shapes) < MAX_SHAPES:
            self._shapes.add(shape)
        if known or seconds <= FIRST_TIME_FACTOR * (self._fixed + self._token * tokens):
            self._steps.append(_Step(known, tokens, seconds))
            self._fixed, self._token = self._fit()

    def within(self, room: float, _start: int, _rows: int, most: int) -> int:
        """Tokens that take ``room`` seconds, up to ``most``. A part of the room is theirs whatever is fixed: smaller
        steps would be more steps, which take about as long."""
        room = max(room - self._fixed, TOKENS_SHARE * room)
        return most if self._token * most <= room else int(room / self._token)

    @property
    def reach(self) -> int:
        """Tokens of a step that the fit still says something of."""
        return GROWTH * max((step.tokens for step in self._steps), default=UNKNOWN)

    def usual(self) -> float:
        return self._token

    def _fit(self) -> tuple[float, float]:
        """Seconds for a step, and for each of its tokens."""
        token = self._slope()
        recent = list(self._steps)[-RECENT:]
        if token is None:  # they are of one size: half is taken to be fixed, and the next size will show
            half = statistics.median(step.seconds for step in recent) / 2
            return half, half / statistics.median(step.tokens for step in recent)
        return max(0.0, statistics.median(step.seconds - token * step.tokens for step in recent)), token

    def _slope(self) -> float | None:
        slopes = [
            (more.seconds - less.seconds) / (more.tokens - less.tokens)
            for less, more in itertools.permutations(self._steps, 2)
            if less.known is more.known and more.tokens >= APART * less.tokens
        ]
        return max(0.0, statistics.median(slopes)) if len(slopes) >= MIN_SLOPES else None


class _Step(NamedTuple):
    """``known``: its shape had been seen before, so that nothing was compiled."""

    known: bool
    tokens: int
    seconds: float


class _CostsByDepth:
    """For devices where attention is most of it, which costs the square of a prompt's length, and nothing is compiled:
    MLX's CPU build.

    Depths are levels, each twice as deep as the one before; a level that nothing was computed in yet is taken to cost
    twice as much as the one before. It never costs more.
    """

    reach = UNKNOWN

    def __init__(self, first_estimate: float) -> None:
        self._first_estimate = first_estimate
        self._observed: dict[int, deque[float]] = {}  # by level: seconds per token
        self._overruns: deque[float] = deque(maxlen=OVERRUNS)  # steps beside streams: how long, by how long expected

    def aim(self) -> float:
        """AIM, or less on a machine whose other work makes too many steps longer than the target."""
        if len(self._overruns) < OVERRUNS // 4:
            return AIM
        return min(AIM, max(LEAST_AIM, 1 / _quantile(self._overruns, NEARLY_ALL)))

    def observe(self, shape: Shape, tokens: int, seconds: float, decode: float) -> None:
        """``decode``: what of a step's ``seconds`` rows that decode are taken to need."""
        _, width, start = shape
        level = _level(start + width)
        if decode:
            self._overruns.append(seconds / (decode + self._cost(level) * tokens))
        self._observed.setdefault(level, deque(maxlen=RECENT)).append(max(seconds - decode, 0.0) / tokens)

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
        # Costs rise within a level, and machines have other work; but not the largest, which may be a mishap.
        return _quantile(self._observed[nearest], 0.75) * 2.0 ** (level - nearest)


def _quantile(values: Collection[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def _level(depth: int) -> int:
    return depth.bit_length()
