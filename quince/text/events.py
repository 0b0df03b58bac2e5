"""What every API translates: the events of one answer."""

from __future__ import annotations

import enum
from collections.abc import Sequence
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
class TokenLogprob:
    """A token and its natural-log probability; ``top`` are the likeliest ones in its place, likeliest first.

    ``data`` are its bytes: a token may be a part of a character.
    """

    text: str
    data: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of the answer's text; empty only where ``logprobs``, if they were asked for, outlast it.

    ``logprobs`` are those of the tokens whose text begins here.
    """

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the model's thinking, without the marks around it; never empty."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """The model calls a function. ``index`` counts the answer's calls from 0. A parser leaves ``id`` None unless the
    model wrote one that its template wants to see again; an answer's calls all have one."""

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


def total_usage(ends: Sequence[Finished], answers_per_prompt: int) -> Usage:
    """Of all answers of one request, in their order. A prompt counts once for its answers, as cached only as far as it
    was for all of them: the others find what the first has computed."""
    first = ends[::answers_per_prompt]
    groups = [ends[start : start + answers_per_prompt] for start in range(0, len(ends), answers_per_prompt)]
    return Usage(
        prompt_tokens=sum(end.usage.prompt_tokens for end in first),
        completion_tokens=sum(end.usage.completion_tokens for end in ends),
        cached_tokens=sum(min(end.usage.cached_tokens for end in group) for group in groups),
        reasoning_tokens=sum(end.usage.reasoning_tokens for end in ends),
    )


Delta = TextDelta | ReasoningDelta | ToolCallStart | ToolCallDelta
Event = Delta | Finished
