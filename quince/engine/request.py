"""A request as the scheduler sees it: token counts and a status."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from quince.engine.messages import FinishReason
from quince.sampling import SamplingParams


class RequestStatus(enum.Enum):
    """
    WAITING --schedule--> RUNNING --token--> FINISHED_STOPPED | FINISHED_LENGTH
       |                     |
       +------- abort -------+--> FINISHED_ABORTED        RUNNING --failed step--> FINISHED_ERROR
    """

    WAITING = enum.auto()
    RUNNING = enum.auto()
    FINISHED_STOPPED = enum.auto()
    FINISHED_LENGTH = enum.auto()
    FINISHED_ABORTED = enum.auto()
    FINISHED_ERROR = enum.auto()

    @property
    def finished(self) -> bool:
        return self not in (RequestStatus.WAITING, RequestStatus.RUNNING)


STATUS_OF = {
    FinishReason.STOP: RequestStatus.FINISHED_STOPPED,
    FinishReason.LENGTH: RequestStatus.FINISHED_LENGTH,
    FinishReason.ABORT: RequestStatus.FINISHED_ABORTED,
    FinishReason.ERROR: RequestStatus.FINISHED_ERROR,
}


@dataclass(slots=True)
class Request:
    """One prompt and its answer so far.

    ``num_prefilled`` prompt tokens are in the KV cache. The last prompt token is never prefilled: it is the input of
    the first decode step. ``num_launched`` decode steps were handed to the runner; ``num_generated`` came back. They
    differ by one while a step is in flight.
    """

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    status: RequestStatus = RequestStatus.WAITING
    num_prefilled: int = 0
    num_launched: int = 0
    num_generated: int = 0
    stop_token_ids: frozenset[int] = field(init=False)

    def __post_init__(self) -> None:
        self.stop_token_ids = frozenset(self.sampling.stop_token_ids)

    @property
    def num_to_prefill(self) -> int:
        return len(self.prompt_token_ids) - 1 - self.num_prefilled
