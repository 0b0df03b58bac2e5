"""Where the prefix cache's arrays come from: a request's row, or the disk. No MLX in here."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from quince.engine.batch import CacheOperation, LoadSegment, LoadSnapshot, SaveSegment, SaveSnapshot
from quince.engine.host_arrays import LoadedPart


class Source(Protocol):
    """Gives the operations that make a segment or a snapshot. ``start``: the first token that it has a segment for;
    ``on_disk``: whether what it gives is there already; ``key``: see PrefixCache.match."""

    @property
    def key(self) -> Hashable: ...
    @property
    def start(self) -> int: ...
    @property
    def has_snapshot(self) -> bool: ...
    @property
    def on_disk(self) -> bool: ...
    def segment(self, handle: int, start: int, stop: int) -> CacheOperation: ...
    def snapshot(self, handle: int) -> CacheOperation: ...


@dataclass(frozen=True)
class Row:
    """The row of a request, which holds exactly the tokens that are inserted."""

    request_id: str
    key: Hashable
    start = 0
    has_snapshot = True
    on_disk = False

    def segment(self, handle: int, start: int, stop: int) -> CacheOperation:
        return SaveSegment(handle, self.request_id, start, stop)

    def snapshot(self, handle: int) -> CacheOperation:
        return SaveSnapshot(handle, self.request_id)


@dataclass(frozen=True)
class Disk:
    """A part of a prefix that was read."""

    part: LoadedPart
    key: Hashable
    on_disk = True

    @property
    def start(self) -> int:
        return self.part.start

    @property
    def has_snapshot(self) -> bool:
        return self.part.snapshot

    def segment(self, handle: int, start: int, stop: int) -> CacheOperation:
        return LoadSegment(handle, self.part.host.cut(start - self.part.start, stop - self.part.start))

    def snapshot(self, handle: int) -> CacheOperation:
        return LoadSnapshot(handle, self.part.host)
