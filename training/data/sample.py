"""What a skill hands out: a conversation, the answer that is wanted, and how the answer is judged."""

import json
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, Protocol

Split = Literal["train", "eval"]
Message = dict[str, Any]
Tool = dict[str, Any]


@dataclass(frozen=True)
class Sample:
    """`answer` follows the rendered `messages`; with `thinking` it is preceded by `thought` in a think block.

    `prefix` is text of the answer that a server forces (no loss is taken on it). A sample with `raw` is plain text
    without any chat markup: `raw` is the prompt and `answer` goes on from there.
    """

    skill: str
    messages: list[Message]
    answer: str
    tools: list[Tool] = field(default_factory=list)
    thought: str = ""
    thinking: bool = False
    prefix: str = ""
    raw: str = ""
    system_free: bool = True  # a system prompt may be put in front


class Skill(Protocol):
    def __call__(self, rng: Random, split: Split) -> Sample: ...


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def dumps(value: Any) -> str:
    """JSON as the chat template's tojson writes it."""
    return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class Call:
    name: str
    arguments: dict[str, Any]

    def block(self) -> str:
        return f'<tool_call>\n{{"name": {dumps(self.name)}, "arguments": {dumps(self.arguments)}}}\n</tool_call>'

    def message_part(self) -> dict[str, Any]:
        return {"type": "function", "function": {"name": self.name, "arguments": self.arguments}}


def calls_text(calls: list[Call]) -> str:
    return "\n".join(call.block() for call in calls)


def calls_message(calls: list[Call]) -> Message:
    return {"role": "assistant", "content": "", "tool_calls": [call.message_part() for call in calls]}
