"""What a model family's tool-call format is: how to recognise, read and force it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from quince.text.events import Delta, TextDelta
from quince.text.parser import Parser, new_call_id
from quince.text.tool_parsers.grammar import MAX_CALLS, Grammar, Rules
from quince.text.tool_parsers.scan import Reader, Reading, Scanned


@dataclass(frozen=True)
class Tool:
    """A function that a request offers. ``parameters`` is a JSON schema; an empty one means no parameters."""

    name: str
    description: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    strict: bool = False


class ToolFormat(ABC):
    """One family's way to write calls. Has no state: parsers and grammars are made from it for each request.

    A call in an answer: ``opening``, calls with ``between`` between them, ``closing``; the grammar writes exactly that,
    the parser reads it more loosely. ``markers`` are strings that may be special tokens in the family's vocabulary and
    that the parser must see. ``several``: one answer may hold several calls.
    """

    name: str
    aliases: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    opening = ""
    between = ""
    closing = ""
    several = True

    @abstractmethod
    def matches(self, template: str) -> bool:
        """This chat template is written for this format."""

    @abstractmethod
    def read(self, reader: Reader, tools: Sequence[Tool]) -> Reading[None]:
        """Read one answer."""

    @abstractmethod
    def call(self, rules: Rules, tool: Tool) -> str:
        """The Lark expression of one call of ``tool``, without what stands around and between calls."""

    def parser(self, tools: Sequence[Tool]) -> Parser:
        """For one answer. Names that are not among ``tools`` are calls too, unless the format says otherwise."""
        return Scanned(lambda reader: self.read(reader, tools))

    def grammar(
        self, tools: Sequence[Tool], *, parallel: bool, special_tokens: Mapping[str, int] | None = None
    ) -> Grammar:
        """One call, or one and more, of one of ``tools`` (at least one) with arguments that its schema allows.

        ``special_tokens`` are the vocabulary's, with their ids. Raises InvalidRequest where the format cannot hold to
        a schema; other schemas that cannot be compiled show only when llguidance compiles the rules.
        """
        rules = Rules("tool", special_tokens or {})
        one = rules.rule(" | ".join(rules.rule(self.call(rules, tool)) for tool in tools))
        calls = one
        if parallel and self.several:
            between = rules.literal(self.between) if self.between else ""
            calls = f"{one} ({between} {one}){{0,{MAX_CALLS - 1}}}"
        around = [rules.literal(mark) if mark else "" for mark in (self.opening, self.closing)]
        return rules.grammar(f"{self.before(rules)} {around[0]} {calls} {around[1]}")

    def before(self, rules: Rules) -> str:
        """What may have to stand between thinking and calls, as a Lark expression."""
        return ""

    def new_id(self, name: str, index: int) -> str:
        """An id for a call that came without one, such as the family's template takes back."""
        return new_call_id(name, index)


class Chain:
    """A Parser of two: what the first leaves as text goes through the second."""

    def __init__(self, first: Parser, second: Parser) -> None:
        self._first = first
        self._second = second

    def push(self, text: str) -> list[Delta]:
        return self._through(self._first.push(text))

    def flush(self) -> list[Delta]:
        return self._through(self._first.flush()) + self._second.flush()

    def _through(self, deltas: Sequence[Delta]) -> list[Delta]:
        result: list[Delta] = []
        for delta in deltas:
            if isinstance(delta, TextDelta):
                result += self._second.push(delta.text)
            else:
                result.append(delta)
        return result


def chain(first: Parser, second: Parser) -> Parser:
    return Chain(first, second)
