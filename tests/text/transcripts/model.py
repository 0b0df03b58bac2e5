"""A transcript: what a model of a family wrote, and what a client is to get of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from quince.text.events import Delta, ReasoningDelta, TextDelta, ToolCallDelta, ToolCallStart
from quince.text.parser import Parser
from quince.text.tool_parsers import Tool


@dataclass(frozen=True)
class Call:
    """``arguments``: the object that the deltas are as JSON, or a string: exactly the deltas, which are no JSON."""

    name: str
    arguments: Any
    id: str | None = None


@dataclass(frozen=True)
class Transcript:
    family: str
    title: str
    text: str
    content: str = ""
    calls: Sequence[Call] = ()
    reasoning: str = ""
    opened: bool = False

    def __str__(self) -> str:
        return f"{self.family}: {self.title}"


@dataclass
class Result:
    content: str = ""
    reasoning: str = ""
    calls: list[ToolCallStart] = field(default_factory=list)
    arguments: list[str] = field(default_factory=list)

    def shown(self) -> list[Call]:
        return [Call(call.name, _loaded(text), call.id) for call, text in zip(self.calls, self.arguments, strict=True)]


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def collect(deltas: Iterable[Delta]) -> Result:
    """Joins deltas and checks the contract on their order: each call's arguments follow its start."""
    result = Result()
    for delta in deltas:
        match delta:
            case TextDelta(text):
                assert text
                result.content += text
            case ReasoningDelta(text):
                assert text
                result.reasoning += text
            case ToolCallStart(index, name):
                assert index == len(result.calls)
                assert name
                result.calls.append(delta)
                result.arguments.append("")
            case ToolCallDelta(index, text):
                assert text
                assert index == len(result.calls) - 1
                result.arguments[index] += text
    ids = [call.id for call in result.calls if call.id is not None]
    assert len(ids) == len(set(ids))
    return result


def run(parser: Parser, pieces: Iterable[str]) -> Result:
    deltas: list[Delta] = []
    for piece in pieces:
        deltas += parser.push(piece)
    return collect([*deltas, *parser.flush()])


def cut(text: str, sizes: Sequence[int]) -> list[str]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    return [*pieces, text[at:]]


_ADDRESS = {
    "type": "object",
    "properties": {"street": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
    "required": ["street"],
}

TOOLS = (
    Tool(
        "get_weather",
        "The weather",
        {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "unit": {"enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer"},
                "detailed": {"type": "boolean"},
            },
            "required": ["city"],
        },
    ),
    Tool(
        "send",
        "Send a parcel",
        {
            "type": "object",
            "properties": {
                "to": {"$ref": "#/$defs/address"},
                "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "weight": {"type": "number"},
            },
            "required": ["to"],
            "$defs": {"address": _ADDRESS},
        },
    ),
    Tool("now"),
)
