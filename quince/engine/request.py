"""A request as the scheduler sees it: token counts and a status."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from quince.engine.messages import FinishReason
from quince.engine.prefix_cache import Match
from quince.sampling import SamplingParams


class RequestStatus(enum.Enum):
    """
    WAITING --schedule--> RUNNING --token--> FINISHED_STOPPED | FINISHED_LENGTH
       |                  |  ^  |
       |         no memory|  |  +--failed step--> FINISHED_ERROR
       |                  v  |schedule
       |                PREEMPTED
       +--abort--+--------+--------> FINISHED_ABORTED (RUNNING, too)
    """

    WAITING = enum.auto()
    RUNNING = enum.auto()
    PREEMPTED = enum.auto()
    FINISHED_STOPPED = enum.auto()
    FINISHED_LENGTH = enum.auto()
    FINISHED_ABORTED = enum.auto()
    FINISHED_ERROR = enum.auto()

    @property
    def finished(self) -> bool:
        return self not in (RequestStatus.WAITING, RequestStatus.RUNNING, RequestStatus.PREEMPTED)


STATUS_OF = {
    FinishReason.STOP: RequestStatus.FINISHED_STOPPED,
    FinishReason.LENGTH: RequestStatus.FINISHED_LENGTH,
    FinishReason.ABORT: RequestStatus.FINISHED_ABORTED,
    FinishReason.ERROR: RequestStatus.FINISHED_ERROR,
}


@dataclass(slots=True, eq=False)
class Request:
    """One prompt and its answer so far.

    ``num_prefilled`` of ``input_token_ids`` are in the KV cache. The last of them is never prefilled: it is the input
    of the first decode step. They are the prompt and, after a preemption, the answer so far. ``num_launched`` decode
    steps were handed to the runner; ``output_token_ids`` came back, one fewer while a step is in flight. So a row that
    decodes holds the keys and values of all tokens that are known.

    ``boundaries`` are positions in the prompt where messages end; ``number`` counts requests as they arrive. Tokens of
    images and videos have ids below zero (see media.py). ``adapter`` is part of what its keys and values depend on.
    """

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    boundaries: Sequence[int] = ()
    adapter: str | None = None
    number: int = 0
    status: RequestStatus = RequestStatus.WAITING
    num_prefilled: int = 0
    num_launched: int = 0
    output_token_ids: list[int] = field(default_factory=list)
    max_tokens: int = field(init=False)  # of the answer, as far as there is memory for it
    input_token_ids: list[int] = field(init=False)
    match: tuple[int, Match] | None = None  # what the prefix cache had, and its version then
    disk_asked: bool = False  # whether the disk has been asked for what memory has not
    save_points: list[int] = field(default_factory=list)  # positions to come where a snapshot is taken, ascending
    stop_token_ids: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self.max_tokens = self.sampling.max_tokens
        self.input_token_ids = self.prompt_token_ids
        self.stop_token_ids = frozenset(self.sampling.stop_token_ids)

    @property
    def num_generated(self) -> int:
        return len(self.output_token_ids)

    @property
    def num_to_prefill(self) -> int:
        return len(self.input_token_ids) - 1 - self.num_prefilled

    def preempt(self) -> None:
        """It has lost its row and begins again, with the answer so far as part of its input."""
        self.input_token_ids = self.token_ids
        self.num_prefilled = 0
        self.save_points = []
        self.match = None
        self.disk_asked = False

    @property
    def token_ids(self) -> list[int]:
        """The prompt and the answer so far."""
        return self.prompt_token_ids + self.output_token_ids
