"""Named formats: found by name, by a chat template, or by a vocabulary."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Generic, Protocol, TypeVar

from quince.errors import UsageError


class Named(Protocol):
    name: str
    aliases: tuple[str, ...]

    def matches(self, template: str) -> bool: ...


F = TypeVar("F", bound=Named)


class Registry(Generic[F]):
    """``formats`` in the order in which templates are asked: one whose marks another's contain, or share, comes first.

    ``vocabularies``: special tokens that tell a format where the template does not (conversions may have lost it).
    """

    def __init__(self, kind: str, formats: Sequence[F], vocabularies: Mapping[str, Sequence[str]]) -> None:
        self.formats = {format_.name: format_ for format_ in formats}
        self._kind = kind
        self._vocabularies = vocabularies

    def detect(self, template: str, special_tokens: Collection[str] = ()) -> F | None:
        for format_ in self.formats.values():
            if format_.matches(template):
                return format_
        for name, tokens in self._vocabularies.items():
            if all(token in special_tokens for token in tokens):
                return self.formats[name]
        return None

    def get(self, name: str) -> F:
        for format_ in self.formats.values():
            if name == format_.name or name in format_.aliases:
                return format_
        known = ", ".join(sorted(self.formats))
        raise UsageError(f"unknown {self._kind} parser '{name}': known are {known}")
