"""Tokenizes long prompts again without doing it all again.

Every turn of a conversation brings the whole of it, and most of its text is between the same special tokens as before.
Text on one side of a special token is tokenized independently of what is on the other, so the parts can be remembered.
"""

from __future__ import annotations

import re
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

MIN_LENGTH = 512  # characters: shorter parts are tokenized in less time than it takes to look them up
MAX_CACHED_LENGTH = 4 * 2**20


class SegmentEncoder:
    """``encode`` gives what the tokenizer itself gives for a text, without adding special tokens. For any thread."""

    def __init__(self, backend: Any) -> None:
        """``backend``: a tokenizers.Tokenizer."""
        self._backend = backend
        marks = split_tokens(backend.get_added_tokens_decoder().values())
        self._marks = re.compile("|".join(map(re.escape, marks))) if marks else None
        self._lock = threading.Lock()
        self._known: OrderedDict[str, array[int]] = OrderedDict()
        self._length = 0  # characters in ``_known``

    def encode(self, text: str) -> list[int]:
        if self._marks is None or len(text) < MIN_LENGTH:
            return self._encode(text)
        token_ids: list[int] = []
        start = skip = 0  # where the next part starts, and how many tokens of it are there already: the special token
        for mark in self._marks.finditer(text):
            if mark.start() - start < MIN_LENGTH:
                continue
            token_ids += self._segment(text[start : mark.end()])[skip:]
            start, skip = mark.start(), 1
        return token_ids + self._segment(text[start:])[skip:]

    def _segment(self, text: str) -> list[int]:
        with self._lock:
            known = self._known.get(text)
            if known is not None:
                self._known.move_to_end(text)
                return known.tolist()
        token_ids = self._encode(text)
        if len(text) >= MIN_LENGTH:
            self._remember(text, array("I", token_ids))
        return token_ids

    def _remember(self, text: str, token_ids: array[int]) -> None:
        with self._lock:
            if text not in self._known:
                self._length += len(text)
            self._known[text] = token_ids
            while self._length > MAX_CACHED_LENGTH:
                oldest, _ = self._known.popitem(last=False)
                self._length -= len(oldest)

    def _encode(self, text: str) -> list[int]:
        (encoding,) = self._backend.encode_batch_fast([text], add_special_tokens=False)  # does not hold the GIL
        ids: list[int] = encoding.ids
        return ids


def split_tokens(added: Iterable[Any]) -> list[str]:
    """The special tokens (of tokenizers.AddedToken) that are found wherever their text stands: nothing beside them
    decides whether they are, and they take nothing of what is beside them."""
    added = list(added)
    contents = [token.content for token in added]

    def stands_alone(text: str) -> bool:
        others = (other for other in contents if other != text)
        return not any(text[0] in other[1:] or other.startswith(text) for other in others)

    return [
        token.content
        for token in added
        if token.special
        and not (token.normalized or token.lstrip or token.rstrip or token.single_word)
        and token.content
        and stands_alone(token.content)
    ]
