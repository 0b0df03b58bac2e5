"""How long a text is at least, in tokens, without tokenizing all of it.

Tokenizing takes a second and some 100 MB of memory for a few megabytes of text. So texts that are far too long are
tokenized in slices, until it is certain that they are too long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from quince.errors import ContextLengthExceeded

SLICE = 2**13  # characters
# A slice has at most so many tokens more than its text has within the whole: where it is cut, words and special tokens
# are, too.
CUT = 16
# Texts count as far too long with this factor, and so many tokens more, beyond what is allowed: the end of the last
# slice may be read in another way than within the whole.
FACTOR, MARGIN = 2, 1024
# Texts with fewer characters than this for each of these tokens are tokenized as a whole.
CHARACTERS = 4

T = TypeVar("T")


class LengthBound:
    """For the texts of one tokenizer, on any thread."""

    def __init__(self, backend: Any) -> None:
        """``backend``: a tokenizers.Tokenizer, without truncation and padding."""
        self._backend = backend
        added = backend.get_added_tokens_decoder().values()
        self._strips = any(token.lstrip or token.rstrip for token in added)  # they take all spaces beside them

    def at_least(self, texts: Sequence[str], most: int) -> int | None:
        """So many tokens do these texts have at least, together, which is far more than ``most``. None: it is not
        certain that they have more. Raises what the tokenizer raises for lone surrogates."""
        enough = _enough(most)
        if sum(map(len, texts)) <= CHARACTERS * enough:
            return None
        found = 0
        for text in texts:
            for _, tokens in self._slices(text):
                found += tokens
                if found >= enough:
                    return found
        return None

    def beginning(self, text: str, most: int) -> str:
        """Enough of ``text`` for its first ``most`` tokens, if it has so many; else all of it."""
        enough = _enough(most)
        if len(text) <= CHARACTERS * enough:
            return text
        found = 0
        for end, tokens in self._slices(text):
            found += tokens
            if found >= enough:
                return text[:end]
        return text

    def _slices(self, text: str) -> Iterator[tuple[int, int]]:
        """For each slice where it ends, and how many tokens it has at least."""
        for start in range(0, len(text), SLICE):
            part = text[start : start + SLICE]
            if self._strips:
                part = part.strip()
            (encoding,) = self._backend.encode_batch_fast([part], add_special_tokens=False)
            yield start + SLICE, max(0, len(encoding) - CUT)


def _enough(most: int) -> int:
    return FACTOR * most + MARGIN


def characters(value: object) -> int:
    """About how many characters a JSON value has, without writing it. However deep it is."""
    found = 0
    values = [value]
    while values:
        match values.pop():
            case str() as text:
                found += len(text)
            case Mapping() as fields:
                found += sum(len(str(name)) for name in fields)
                values += fields.values()
            case list() | tuple() as items:
                values += items
            case _:
                found += 1
    return found


def groups(items: Sequence[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """The items in their order, in lists of at most ``most`` in size; an item that is larger is alone."""
    group: list[T] = []
    held = 0
    for item in items:
        if group and held + size(item) > most:
            yield group
            group, held = [], 0
        group.append(item)
        held += size(item)
    if group:
        yield group


def prompt_too_long(max_model_len: int, tokens: str, field: str) -> ContextLengthExceeded:
    """``tokens``: how many the prompt has, in words."""
    return ContextLengthExceeded(
        f"This model's maximum context length is {max_model_len} tokens, "
        f"but the prompt has {tokens} tokens and leaves no room for an answer.",
        param=field,
    )
