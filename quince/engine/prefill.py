"""Which prompts are computed in the next step: lanes of requests that are prefilled together. No MLX in here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from quince.engine.batch import PrefillChunk
from quince.engine.kv_layout import columns_for
from quince.engine.memory import Rectangle
from quince.engine.request import Request

MAX_LANES = 4
MAX_LONG_LANES = 2  # each holds a buffer for a whole prompt
MAX_PADDING = 256  # tokens that a lane may compute in vain, besides half of its own
MAX_DRAG = 2048  # tokens that a lane may read in vain, besides as many as its own
# Widths that come again: so many between each power of two and the next, but none closer than MIN_STEP.
WIDTHS_PER_OCTAVE = 8
MIN_STEP = 16
APART = 16  # tokens between two snapshots, at least, but for those that are always taken


@dataclass(frozen=True)
class LaneRules:
    """``max_width``: most tokens of one prompt in a step. ``pad``: whether prompts of different lengths may be computed
    together; ``mix_adapters``: and those for different adapters; ``round_widths``: whether they are padded to widths
    that come again."""

    max_width: int
    pad: bool = True
    mix_adapters: bool = True
    round_widths: bool = False


@dataclass
class Lane:
    """Requests whose prompts are computed in the same forward passes, from their first chunk on."""

    rules: LaneRules
    requests: list[Request] = field(default_factory=list)
    rectangle: Rectangle = field(default_factory=Rectangle)  # its buffers, until the last of its requests has left

    def add(self, request: Request) -> None:
        self.requests.append(request)
        self.rectangle = self.grown(request)

    def grown(self, request: Request) -> Rectangle:
        """Its buffers if this request begins in it, too."""
        rows, columns = self.rectangle
        return Rectangle(rows + 1, max(columns, columns_for(len(request.input_token_ids))))

    @property
    def pending(self) -> list[Request]:
        return [request for request in self.requests if request.num_to_prefill > 0]

    @property
    def work(self) -> int:
        """Tokens to come, padding included."""
        pending = self.pending
        return len(pending) * max((request.num_to_prefill for request in pending), default=0)

    def chunks(self, budget: int) -> tuple[list[PrefillChunk], int]:
        """The next tokens of every request: up to its next save point, within ``budget`` padding included; and the
        width that they are padded to."""
        pending = self.pending
        furthest = max(request.num_prefilled for request in pending)  # what is to come of it bounds the width of all
        most = max(1, min(budget // len(pending), self.rules.max_width, self.rectangle.columns - furthest))
        counts = [min(most, _next_stop(request) - request.num_prefilled) for request in pending]
        if not self.rules.pad:
            counts = [min(counts)] * len(counts)
        width = max(counts)
        if self.rules.pad and self.rules.round_widths:
            width = max(width, min(rounded_width(width), most))
        return [_chunk(request, count) for request, count in zip(pending, counts, strict=True)], width

    def takes(self, request: Request, cached: int, budget: int) -> bool:
        """Whether a request, of which ``cached`` tokens are there, can begin together with those that are in it.

        Padding counts against the budget; and very different lengths do not drag each other.
        """
        if not self.rules.mix_adapters and request.adapter != self.requests[0].adapter:
            return False
        own = len(request.input_token_ids) - 1
        widths = [member.num_to_prefill for member in self.requests]
        if not self.rules.pad and (own - cached != widths[0] or cached != self.requests[0].num_prefilled):
            return False
        widths.append(own - cached)
        ends = [own, *(len(member.input_token_ids) - 1 for member in self.requests)]
        area = len(widths) * max(widths)
        return (
            area <= min(budget, 1.5 * sum(widths) + MAX_PADDING) and len(ends) * max(ends) <= 2 * sum(ends) + MAX_DRAG
        )


class PrefillLanes:
    """Takes turns between the oldest lane, so that none starves, and the one with the least work left, so that short
    prompts do not wait for long ones."""

    def __init__(self, rules: LaneRules) -> None:
        self._rules = rules
        self._lanes: list[Lane] = []
        self._oldest_next = True

    def may_add(self, work: int, budget: int) -> bool:
        """Whether there may be one more lane, of so many tokens: there is always room for short ones."""
        if len(self._lanes) >= MAX_LANES:
            return False
        return work <= budget or sum(lane.work > budget for lane in self._lanes) < MAX_LONG_LANES

    def new(self) -> Lane:
        """One that is not in use."""
        return Lane(self._rules)

    def add(self) -> Lane:
        """A new lane, to be filled before the next ``next_chunks``."""
        self._lanes.append(self.new())
        return self._lanes[-1]

    @property
    def rectangles(self) -> list[Rectangle]:
        """The buffers of all lanes."""
        return [lane.rectangle for lane in self._lanes if lane.requests]

    def whole(self, requests: Sequence[Request]) -> Rectangle | None:
        """The buffers of the lane that these requests are all of, and always were, if there is one."""
        for lane in self._lanes:
            if lane.requests == requests and lane.rectangle.rows == len(requests):
                return lane.rectangle
        return None

    def remove(self, request: Request) -> None:
        for lane in self._lanes:
            if request in lane.requests:
                lane.requests.remove(request)

    def clear(self) -> None:
        self._lanes.clear()

    def next_chunks(self, budget: Callable[[int, int], int]) -> tuple[list[PrefillChunk], int]:
        """See ``Lane.chunks``. ``budget``: of a lane that is so far, with so many rows."""
        self._lanes = [lane for lane in self._lanes if lane.pending]
        if not self._lanes:
            return [], 0
        lane = self._lanes[0] if self._oldest_next else min(self._lanes, key=lambda lane: lane.work)
        self._oldest_next = not self._oldest_next
        pending = lane.pending
        return lane.chunks(budget(max(request.num_prefilled for request in pending), len(pending)))


def save_points(boundaries: Iterable[int], start: int, end: int, interval: int) -> list[int]:
    """Where to take snapshots while the tokens from ``start`` to ``end`` are computed, ascending; ``end`` is one.

    The first and the last boundary (the end of the system prompt, the end of the conversation) always are, and the next
    one if it is not right behind ``start``, where there is one already (a turn begins with the few tokens that close an
    answer); those between if they are not close to another; and, besides, multiples of ``interval``, which prompts with
    one beginning share.
    """
    inside = sorted({boundary for boundary in boundaries if 0 < boundary < end})
    to_come = [boundary for boundary in inside if boundary > start]
    always = {*inside[:1], *inside[-1:], end, *(boundary for boundary in to_come[:1] if boundary - start >= APART)}
    points: list[int] = []
    last = start
    for boundary in (*to_come, end):
        points += range(last - last % interval + interval, boundary, interval)
        if boundary in always or boundary - last >= interval // 4:
            points.append(boundary)
            last = boundary
    return sorted(set(points))


def rounded_width(width: int) -> int:
    """The next width that comes again: for devices that build a kernel for each size that they see. At most an eighth
    of what is computed is padding then, or MIN_STEP tokens."""
    step = max(MIN_STEP, (1 << width.bit_length()) // (2 * WIDTHS_PER_OCTAVE))
    return (width + step - 1) // step * step


def _next_stop(request: Request) -> int:
    end = len(request.input_token_ids) - 1
    return next((point for point in request.save_points if point > request.num_prefilled), end)


def _chunk(request: Request, count: int) -> PrefillChunk:
    start = request.num_prefilled
    request.num_prefilled = stop = start + count
    tokens: Sequence[int] = request.input_token_ids[start:stop]
    return PrefillChunk(request.request_id, list(tokens), start, len(request.input_token_ids) - 1)
