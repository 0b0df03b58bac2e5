"""A bound on what requests do at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from quince.errors import QueueFull


class Bound:
    """At most so many at a time."""

    def __init__(self, most: int, refusal: str) -> None:
        self._most = most
        self._refusal = refusal
        self._held = 0

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Raises QueueFull instead of waiting."""
        if self._held >= self._most:
            raise QueueFull(f"{self._refusal}; try again later", retry_after=1)
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
