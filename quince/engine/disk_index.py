"""Which prefixes the files of a model hold, by tokens: what the disk tier looks things up in. No MLX in here.

Segments on disk are pieces of the tree's nodes as they once were; nodes are split and come back in other cuts. So
pieces may overlap, and a prefix is covered by whichever of them follow each other.
"""

from __future__ import annotations

import bisect
from array import array
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

from quince.engine.disk_files import Digests, Entry, packed
from quince.engine.prefix_cache import common_prefix


@dataclass(frozen=True)
class Piece:
    """Tokens ``start`` to ``stop`` of a sequence are in the file of this segment, which may hold more."""

    entry: Entry
    start: int
    stop: int


@dataclass
class Found:
    """What the disk has of a sequence: ``pieces`` follow each other from what memory has up to ``reach``; ``snapshot``
    is the deepest one that can be reached. ``used``: all segments along the way, those that begin first first."""

    reach: int
    pieces: list[Piece] = field(default_factory=list)
    snapshot: Entry | None = None
    used: list[Entry] = field(default_factory=list)

    def until(self, position: int) -> list[Piece]:
        """The pieces up to there."""
        return [
            Piece(piece.entry, piece.start, min(piece.stop, position))
            for piece in self.pieces
            if piece.start < position
        ]


class DiskIndex:
    """The entries of one model's files; used under the tier's lock."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self._segments: dict[bytes, list[Entry]] = {}  # by the digest of the tokens before
        self._snapshots: dict[bytes, Entry] = {}
        self._positions: list[int] = []  # where entries start, ascending
        self._counts: dict[int, int] = {}  # how many start there

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: Entry) -> None:
        if entry.name in self._entries:
            return
        self._entries[entry.name] = entry
        if entry.snapshot:
            self._snapshots[entry.end] = entry
        else:
            self._segments.setdefault(entry.before, []).append(entry)
        if entry.start not in self._counts:
            bisect.insort(self._positions, entry.start)
        self._counts[entry.start] = self._counts.get(entry.start, 0) + 1

    def discard(self, name: str) -> None:
        entry = self._entries.pop(name, None)
        if entry is None:
            return
        if entry.snapshot:
            del self._snapshots[entry.end]
        else:
            siblings = self._segments[entry.before]
            siblings.remove(entry)
            if not siblings:
                del self._segments[entry.before]
        self._counts[entry.start] -= 1
        if not self._counts[entry.start]:
            del self._counts[entry.start]
            del self._positions[bisect.bisect_left(self._positions, entry.start)]

    def clear(self) -> None:
        for table in (self._entries, self._segments, self._snapshots, self._positions, self._counts):
            table.clear()

    def find(self, token_ids: Sequence[int], limit: int, *, have: int, key: Hashable) -> Found:
        """What there is of ``token_ids[:limit]`` beyond the first ``have`` tokens, which need no file."""
        tokens = packed(token_ids[:limit])
        digests = Digests(tokens, key)
        found = Found(have)
        for position in self._positions:
            if position > min(found.reach, limit):
                break
            digest = digests.at(position)
            if snapshot := self._snapshots.get(digest):
                found.snapshot = snapshot
            self._take_longest(digest, position, tokens, found)
        return found

    def _take_longest(self, digest: bytes, position: int, tokens: array[int], found: Found) -> None:
        """Of the segments that begin here, add the one that goes on along ``tokens`` for longest."""
        longest, reach = None, position
        for entry in self._segments.get(digest, ()):
            own = array("q", entry.tokens)
            shared = common_prefix(own, tokens[position : position + len(own)])
            if position + shared > reach:
                longest, reach = entry, position + shared
        if longest is None:
            return
        found.used.append(longest)
        if reach > found.reach:
            found.pieces.append(Piece(longest, found.reach, reach))
            found.reach = reach
