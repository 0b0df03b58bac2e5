"""What passes between the prefix cache and its disk tier: what is written, and who waits for what is read. No MLX in
here.

Writing goes on behind the requests, piece by piece, from the first node on: a kill loses the last pieces only, and an
eviction costs nothing. A node that is evicted before its turn is not written.

Reading: a request whose prompt the disk has more of than memory waits, as a follower does, while others go on. Each
part is adopted by the tree as it comes, one in a step; what has been adopted is pinned until the last. If the rest
does not come, or there is no room for it, the request computes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from quince.engine.batch import DiskWrite
from quince.engine.disk_files import Digests, Entry, packed
from quince.engine.disk_index import Found, Piece
from quince.engine.disk_tier import DiskTier, Load
from quince.engine.kv_layout import KVLayout
from quince.engine.prefix_cache import Match, Node, PrefixCache
from quince.engine.request import Request

PIECE_BYTES = 16 * 2**20  # of a segment in one file, and what one step hands over
MAX_WRITES = 64  # files that one step hands over
MIN_GAIN = 64  # tokens that make it worth to ask the disk
LOAD_SECONDS = 0.005  # a load takes longer than its bytes do, by so much


@dataclass(eq=False)
class _Waiting:
    """A load, and the requests that wait for it; the first one's tokens up to ``stop`` are what is loaded."""

    requests: list[Request]
    token_ids: list[int]
    key: Hashable
    load: Load
    files: frozenset[str]
    pinned: Match
    resumed: int  # tokens that could be resumed without it


class DiskCache:
    """Used by the scheduler. ``loaded_tokens`` did not have to be computed because the disk had them."""

    def __init__(
        self, tier: DiskTier, prefix_cache: PrefixCache, layout: KVLayout, token_seconds: Callable[[], float]
    ) -> None:
        """``token_seconds``: what it takes to compute a token of a prompt."""
        self.tier = tier
        self.token_seconds = token_seconds
        self.loaded_tokens = self.loads = 0
        self._cache = prefix_cache
        self._layout = layout
        self._waiting: list[_Waiting] = []
        prefix_cache.unwritten = deque()

    def __len__(self) -> int:
        """Requests that wait."""
        return sum(len(waiting.requests) for waiting in self._waiting)

    @property
    def request_ids(self) -> list[str]:
        """Of those that wait."""
        return [request.request_id for waiting in self._waiting for request in waiting.requests]

    def get(self, request_id: str) -> Request | None:
        for request in (request for waiting in self._waiting for request in waiting.requests):
            if request.request_id == request_id:
                return request
        return None

    def discard(self, request: Request) -> None:
        """The load goes on: somebody else may come for it."""
        for waiting in self._waiting:
            if request in waiting.requests:
                waiting.requests.remove(request)

    def is_ready(self) -> bool:
        """Whether a step would get on with a load or a write."""
        if any(waiting.load.parts or waiting.load.finished for waiting in self._waiting):
            return True
        return bool(self._cache.unwritten) and self.tier.has_room(PIECE_BYTES)

    # Reading

    def start(self, request: Request, match: Match, key: Hashable = None) -> bool:
        """Whether the request waits for the disk from now on. ``match``: what can be resumed without it."""
        if request.disk_asked or self.tier.off:
            return False
        token_ids = request.input_token_ids
        limit = len(token_ids) - 1
        if limit - match.length < MIN_GAIN:
            return False
        request.disk_asked = True
        held = self._cache.held(token_ids, limit, key)
        found = self.tier.find(token_ids, limit, have=held.length, key=key)
        stop, wanted = self._plan(found, match)
        if stop - match.length < MIN_GAIN or not self._is_worth_it(stop, held, match):
            return False
        files = frozenset((one.entry if isinstance(one, Piece) else one).name for one in wanted)
        for waiting in self._waiting:
            if waiting.files & files:
                waiting.requests.append(request)
                request.disk_asked = False  # there may be more than the other one needs
                return True
        if held.length:
            self._cache.pin(held)
        load = self.tier.load(wanted, found.used)
        self._waiting.append(_Waiting([request], token_ids[:stop], key, load, files, held, match.length))
        self.loads += 1
        return True

    def _plan(self, found: Found, match: Match) -> tuple[int, list[Piece | Entry]]:
        """Where the request could resume, and the files for that."""
        if not self._layout.needs_snapshots:
            return found.reach, [*found.pieces]
        if found.snapshot is None or found.snapshot.start <= match.length:
            return 0, []
        stop = found.snapshot.start
        return stop, [*found.until(stop), found.snapshot]

    def _is_worth_it(self, stop: int, held: Match, match: Match) -> bool:
        layout = self._layout
        nbytes = layout.segment_bytes(max(0, stop - held.length))
        nbytes += layout.snapshot_bytes(stop) if layout.needs_snapshots else 0
        if nbytes + layout.segment_bytes(held.length) > self._cache.max_bytes:
            return False
        return LOAD_SECONDS + nbytes / self.tier.rate < (stop - match.length) * self.token_seconds()

    def advance(self) -> list[Request]:
        """Adopt the next part that was read. Returns the requests that wait no longer."""
        for waiting in self._waiting:
            part = self.tier.take(waiting.load)
            if part is not None:
                self._adopt(waiting, part.stop, self._cache.adopt(waiting.token_ids[: part.stop], part, waiting.key))
                break
        done = [one for one in self._waiting if one.load.finished and not one.load.parts]
        for waiting in done:
            self._waiting.remove(waiting)
            if waiting.pinned.length:
                self._cache.unpin(waiting.pinned)
            found = self._cache.match(waiting.token_ids, len(waiting.token_ids), waiting.key)
            self.loaded_tokens += max(0, found.length - waiting.resumed)
        return [request for waiting in done for request in waiting.requests]

    def _adopt(self, waiting: _Waiting, stop: int, kept: Match) -> None:
        if kept.length:
            self._cache.pin(kept)
        if waiting.pinned.length:
            self._cache.unpin(waiting.pinned)
        waiting.pinned = kept
        if kept.length < stop:  # no room, or what was before it is gone
            self.tier.cancel(waiting.load)

    # Writing

    def has_unwritten(self) -> bool:
        return bool(self._cache.unwritten)

    def wait_for_room(self, seconds: float) -> bool:
        """Until more can be handed over; False if it cannot."""
        return self.tier.wait_for_room(PIECE_BYTES, seconds)

    def writes(self) -> list[DiskWrite]:
        """What this step hands over: the next pieces that are not on disk."""
        writes: list[DiskWrite] = []
        nbytes = 0
        unwritten = self._cache.unwritten
        if unwritten and self.tier.off:
            unwritten.clear()
        for _ in range(MAX_WRITES):
            if not unwritten or nbytes >= PIECE_BYTES or not self.tier.has_room(nbytes + PIECE_BYTES):
                break
            key, node = unwritten[0]
            write = None if node.parent is None else self._next_write(key, node)
            if write is None:
                unwritten.popleft()
            else:
                writes.append(write)
                nbytes += self._bytes(write.entry)
        return writes

    def _bytes(self, entry: Entry) -> int:
        layout = self._layout
        return layout.snapshot_bytes(entry.start) if entry.snapshot else layout.segment_bytes(entry.stop - entry.start)

    def _next_write(self, key: Hashable, node: Node) -> DiskWrite | None:
        """The first piece on the way to this node, its snapshot last, that is not on disk; it counts as written."""
        path = node.path()
        tokens = [token for member in path for token in member.tokens]
        for member in path:
            while member.written < len(member.tokens):
                if write := self._segment_write(key, member, tokens):
                    return write
        if node.snapshot is None or node.snapshot_written:
            return None
        node.snapshot_written = True
        digest = Digests(packed(tokens), key).at(node.end)
        entry = Entry(True, node.end, digest, digest)
        if entry in self.tier:
            return None
        return DiskWrite(node.snapshot, entry, used=self.tier.find(tokens, node.end, have=node.end, key=key).used)

    def _segment_write(self, key: Hashable, node: Node, tokens: list[int]) -> DiskWrite | None:
        """The next piece of a segment, unless the disk has it."""
        first = node.end - len(node.tokens)
        start = first + node.written
        found = self.tier.find(tokens, node.end, have=start, key=key)
        if found.reach > start:
            node.written = found.reach - first
            return None
        stop = min(node.end, start + max(1, PIECE_BYTES // max(1, self._layout.token_bytes)))
        digests = Digests(packed(tokens), key)
        entry = Entry(False, start, digests.at(start), digests.at(stop), packed(tokens[start:stop]).tobytes())
        node.written = stop - first
        return DiskWrite(node.segment, entry, start - first, stop - first, found.used)
