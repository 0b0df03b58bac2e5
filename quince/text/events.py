"""What every API translates: the events of one answer."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class StopReason(enum.Enum):
    """Why an answer ended, before each API spells it its own way. ABORT: cancelled by someone else than its reader."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of real tokens."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer's text; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event."""

    reason: StopReason
    usage: Usage


Event = TextDelta | Finished
