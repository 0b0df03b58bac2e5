"""The contract of everything that finds reasoning and tool calls in an answer's text."""

from __future__ import annotations

import secrets
from typing import Protocol

from quince.text.events import Delta


class Parser(Protocol):
    """Takes one answer's text as it comes and gives out its parts as soon as they are certain.

    The deltas, with neighbours of one kind joined, are the same however the text is cut into pieces: text that may be
    the beginning of a mark is held back until it is known. No text makes a parser raise: what it cannot read as a call
    comes out as text.
    """

    def push(self, text: str) -> list[Delta]: ...

    def flush(self) -> list[Delta]:
        """The answer is over: whatever was held back."""
        ...


def new_call_id(name: str, index: int) -> str:
    """The id of a call by its name and number, for models whose templates do not care."""
    return f"call_{secrets.token_hex(12)}"
