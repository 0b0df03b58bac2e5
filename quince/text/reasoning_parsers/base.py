"""What a model family's way to think aloud is: how to recognise, read, end and allow it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from quince.text.parser import Parser
from quince.text.tool_parsers.grammar import Grammar, Rules
from quince.text.tool_parsers.scan import Reader, Reading, Scanned


class ReasoningFormat(ABC):
    """One family's way. Has no state: parsers and grammars are made from it for each request.

    ``markers`` are strings that may be special tokens in the family's vocabulary and that the parser must see.
    ``end_text`` is what ends the thinking when it must end; ``marks`` are what opens and closes it, if that is always
    the same text.
    """

    name: str
    aliases: tuple[str, ...] = ()
    markers: tuple[str, ...]
    end_text: str
    marks: tuple[str, str] | None = None

    @abstractmethod
    def matches(self, template: str) -> bool:
        """This chat template is written for this format."""

    @abstractmethod
    def opened(self, prompt_tail: str) -> bool:
        """The prompt, which ends with ``prompt_tail``, leaves the model in the middle of its thinking."""

    def closed(self, prompt_tail: str) -> bool:
        """The prompt, which ends with ``prompt_tail``, has done the thinking for the model: there is to be none."""
        return self.marks is not None and prompt_tail.rstrip().endswith(self.marks[1].rstrip())

    @abstractmethod
    def read(self, reader: Reader, opened: bool) -> Reading[None]:
        """Read one answer: thinking becomes reasoning, everything else text, calls among it as they are written."""

    @abstractmethod
    def _prefix(self, rules: Rules, opened: bool, content: bool) -> str:
        """The Lark expression for ``grammar``."""

    def parser(self, opened: bool) -> Parser:
        """For one answer."""
        return Scanned(lambda reader: self.read(reader, opened))

    def grammar(self, opened: bool, *, content: bool, special_tokens: Mapping[str, int] | None = None) -> Grammar:
        """What comes before the constrained part of an answer: thinking, free, to be closed if it was opened and else
        to be left out, then whatever the family puts before an answer's text if ``content``, or else before a call."""
        rules = Rules("think", special_tokens or {})
        return rules.grammar(self._prefix(rules, opened, content))
