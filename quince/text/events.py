"""What every API translates: the events of one answer."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class StopReason(enum.Enum):
    """Why an answer ended, before each API spells it its own way. ABORT: cancelled by someone else than its reader."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Usage:
    """Counts of real tokens. ``cached_tokens`` are part of the prompt's, ``reasoning_tokens`` of the completion's."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer's text; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the model's thinking, without the marks around it; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """The model calls a function. ``index`` counts the answer's calls from 0; ``id`` is None unless the model wrote
    one that its template wants to see again."""

    index: int
    name: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of a call's arguments, which are JSON text; never empty. Always belongs to the call that started last."""

    index: int
    arguments: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event."""

    reason: StopReason
    usage: Usage


Delta = TextDelta | ReasoningDelta | ToolCallStart | ToolCallDelta
Event = Delta | Finished
