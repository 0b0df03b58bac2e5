"""Prefixes of earlier prompts and answers that can be taken up again: a radix tree over token ids. No MLX in here.

A node holds the tokens between its parent's end and its own. Its *segment* is their keys and values in the layers that
can be cut at any token; its *snapshot*, if it has one, is the state of all other layers at the node's end. The arrays
are kept elsewhere under handles: whatever the tree decides becomes a CacheOperation for the runner, in ``operations``.

Invariants
- A token sequence stands in the tree once: what two sequences share is one path.
- ``nbytes`` is the sum of all segments and snapshots. It exceeds ``max_bytes`` by what is pinned at the most.
- A pinned node keeps its segment and its snapshot; so do the segments of its ancestors, since only leaves are evicted.
- A model whose layers can all be cut resumes anywhere; any other resumes at a snapshot, and every leaf has one, or is
  pinned because its snapshot is still being read from disk.
- Who was used last is evicted last. A snapshot counts as used when a request resumes from it; a node also when one
  passes through it. So the inner snapshots of a long conversation go before another conversation does.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field

from quince.engine.batch import CacheOperation, Drop, Restore, SplitSegment
from quince.engine.host_arrays import LoadedPart
from quince.engine.kv_layout import KVLayout
from quince.engine.sources import Disk, Row, Source

MIN_MATCH = 16  # tokens: taking up fewer costs more than computing them


class Node:
    """``written`` and ``snapshot_written``: how many of its tokens, and whether its snapshot, are on disk."""

    __slots__ = (
        "children",
        "end",
        "parent",
        "pins",
        "segment",
        "snapshot",
        "snapshot_used",
        "snapshot_written",
        "tokens",
        "used",
        "written",
    )

    def __init__(self, parent: Node | None, tokens: list[int], segment: int) -> None:
        self.parent = parent
        self.tokens = tokens
        self.end: int = (0 if parent is None else parent.end) + len(tokens)
        self.children: dict[int, Node] = {}
        self.segment = segment
        self.snapshot: int | None = None
        self.pins = 0
        self.used = 0
        self.snapshot_used = 0
        self.written = 0
        self.snapshot_written = False

    def path(self) -> list[Node]:
        """From the first node below the root to this one."""
        nodes: list[Node] = []
        node: Node = self
        while node.parent is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


# When it was last used, a tie-break, whose it is, and whether the snapshot is meant or the (leaf) node. An entry is
# stale once it was used again; stale ones are skipped when they come up.
_Entry = tuple[int, int, Node, bool]


@dataclass(frozen=True)
class Match:
    """A prefix, the longest that can be resumed or is held: ``length`` tokens, 0 for none. Valid until the next insert
    or evict, or, pinned, until ``unpin``."""

    length: int = 0
    _node: Node | None = field(default=None, repr=False)


class PrefixCache:
    """``match`` and ``pin`` what a request can resume, ``restore`` it, ``insert`` what it has computed, ``evict``."""

    def __init__(self, layout: KVLayout, *, max_bytes: int, is_stored: Callable[[int], bool] = lambda _: True) -> None:
        """``is_stored``: whether a handle's arrays are still there and sound; asked before a request relies on it."""
        self.enabled = max_bytes > 0 and layout.reusable
        self.max_bytes = max_bytes if self.enabled else 0
        self.nbytes = 0
        self.version = 0  # rises whenever a match may come out differently
        self.operations: list[CacheOperation] = []
        self._layout = layout
        self._is_stored = is_stored
        self._roots: dict[Hashable, Node] = {}
        self._nodes = 0
        self._handles = itertools.count(1)
        self._clock = itertools.count(1)
        self._oldest: list[_Entry] = []
        self._pending: set[int] = set()  # handles whose arrays the runner has not been told to make yet
        self.unwritten: deque[tuple[Hashable, Node]] | None = None  # with a disk tier: keys and new leaves, in order

    @property
    def needs_snapshots(self) -> bool:
        return self.enabled and self._layout.needs_snapshots

    def take_operations(self) -> list[CacheOperation]:
        """What the runner has to do, in this order."""
        operations, self.operations = self.operations, []
        self._pending.clear()
        return operations

    # Match

    def match(self, token_ids: Sequence[int], limit: int, key: Hashable = None) -> Match:
        """The longest resumable prefix of ``token_ids[:limit]``. ``key``: what else the keys and values depend on."""
        root = self._roots.get(key)
        if root is None:
            return Match()
        if self._layout.needs_snapshots:
            match = self._match_snapshot(root, token_ids, limit)
        else:
            match = self._match_anywhere(root, token_ids, limit)
        return match if match.length >= MIN_MATCH else Match()

    def _match_anywhere(self, root: Node, token_ids: Sequence[int], limit: int) -> Match:
        best = Match()
        for node, length in self._walk(root, token_ids, limit):
            if not self._sound(node.segment):
                self._remove_subtree(node)
                break
            best = Match(length, node)
        return best

    def _match_snapshot(self, root: Node, token_ids: Sequence[int], limit: int) -> Match:
        """Falls back to an older snapshot where a newer one, or a segment below it, is gone."""
        path: list[Node] = []
        for node, length in self._walk(root, token_ids, limit):
            if not self._sound(node.segment):
                self._remove_subtree(node)
                break
            if length == node.end:
                path.append(node)
        for node in reversed(path):
            if node.snapshot is None:
                continue
            if self._sound(node.snapshot):
                return Match(node.end, node)
            self._drop_snapshot(node)
        return Match()

    def held(self, token_ids: Sequence[int], limit: int, key: Hashable = None) -> Match:
        """The longest prefix whose segments are kept, whether it can be resumed or not."""
        best, root = Match(), self._roots.get(key)
        for node, length in self._walk(root, token_ids, limit) if root is not None else ():
            if not self._sound(node.segment):
                break
            best = Match(length, node)
        return best

    def _sound(self, handle: int) -> bool:
        return handle in self._pending or self._is_stored(handle)

    def _walk(self, root: Node, token_ids: Sequence[int], limit: int) -> Iterator[tuple[Node, int]]:
        """The nodes along ``token_ids[:limit]`` with how many tokens match up to (and in) each; the last may be cut."""
        node, position = root, 0
        while position < limit:
            child = node.children.get(token_ids[position])
            if child is None:
                return
            shared = common_prefix(child.tokens, token_ids[position : min(limit, child.end)])
            node, position = child, position + shared
            yield node, position
            if position < node.end:
                return

    def pin(self, match: Match) -> None:
        """Keep what was matched until ``unpin``."""
        assert match._node is not None, "nothing was matched"
        match._node.pins += 1

    def unpin(self, match: Match) -> None:
        assert match._node is not None, "nothing was matched"
        match._node.pins -= 1
        self._prune(match._node)
        self._remember(match._node)

    def restore(self, match: Match, request_id: str) -> None:
        """Have the runner make a row out of what was matched, and count it as used."""
        assert match._node is not None, "nothing was matched"
        path = match._node.path()
        segments = [(node.segment, min(node.end, match.length) - node.end + len(node.tokens)) for node in path]
        snapshot = match._node.snapshot if self._layout.needs_snapshots else None
        self.operations.append(Restore(request_id, match.length, segments, snapshot))
        self._touch(path)
        if snapshot is not None:
            match._node.snapshot_used = next(self._clock)
            self._remember(match._node)

    # Insert

    def insert(self, token_ids: list[int], request_id: str, key: Hashable = None) -> int:
        """The request's row holds exactly these tokens now: keep what the tree does not have yet.

        Returns how many tokens of them can be resumed afterwards. Evicts what was used least recently to make room;
        keeps less, or nothing, if there is not enough.
        """
        if not self.enabled or not token_ids:
            return 0
        kept = self._insert(token_ids, Row(request_id, key))
        return min(kept.end, len(token_ids))

    def adopt(self, token_ids: list[int], part: LoadedPart, key: Hashable = None) -> Match:
        """Keep what was read from disk of these tokens, the last of which are the part's. Returns what is kept of all
        of them, to be pinned until the next part: in models with snapshots it cannot be resumed before that comes."""
        if not self.enabled:
            return Match()
        kept = self._insert(token_ids, Disk(part, key))
        return Match(min(kept.end, len(token_ids)), kept) if kept.parent is not None else Match()

    def _insert(self, token_ids: list[int], source: Source) -> Node:
        """The node where what is kept of these tokens ends."""
        root = self._roots.setdefault(source.key, Node(None, [], 0))
        node, position = root, 0
        for child, length in self._walk(root, token_ids, len(token_ids)):
            if length < child.end and not (length == len(token_ids) and not self._layout.needs_snapshots):
                child = self._split(child, length)
            node, position = child, length
        if position < source.start:
            return node
        node.pins += 1
        try:
            kept = self._extend(node, position, token_ids, source)
        finally:
            node.pins -= 1
        self._prune(node)
        self._touch(kept.path())
        return kept

    def _extend(self, node: Node, position: int, token_ids: list[int], source: Source) -> Node:
        """Add what is missing behind ``node``, which is pinned, as far as there is room."""
        layout = self._layout
        with_snapshot = layout.needs_snapshots and source.has_snapshot
        snapshot_bytes = layout.snapshot_bytes(len(token_ids)) if with_snapshot else 0
        need = layout.segment_bytes(len(token_ids) - position)
        if node.end == len(token_ids) == position and node.snapshot is not None:
            snapshot_bytes = 0
        if layout.needs_snapshots and need + snapshot_bytes + layout.segment_bytes(position) > self.max_bytes:
            return node
        self.evict_to(self.max_bytes - need - snapshot_bytes)
        room = self.max_bytes - self.nbytes
        stop = len(token_ids)
        if need + snapshot_bytes > room:  # what is pinned takes the rest
            if layout.needs_snapshots:
                return node
            stop = position + room // layout.token_bytes
        if stop > position:
            node = self._add_leaf(node, token_ids[position:stop], source)
        if with_snapshot and node.snapshot is None and node.parent is not None:
            self._add_snapshot(node, source)
        return node

    def _add_leaf(self, parent: Node, tokens: list[int], source: Source) -> Node:
        node = Node(parent, tokens, next(self._handles))
        parent.children[tokens[0]] = node
        self.version += 1
        self._nodes += 1
        self.nbytes += self._layout.segment_bytes(len(tokens))
        self._pending.add(node.segment)
        self.operations.append(source.segment(node.segment, parent.end, node.end))
        if source.on_disk:
            node.written = len(tokens)
        else:
            self._note_unwritten(source.key, node)
        return node

    def _add_snapshot(self, node: Node, source: Source) -> None:
        node.snapshot = next(self._handles)
        node.snapshot_used = next(self._clock)
        self.version += 1
        self.nbytes += self._layout.snapshot_bytes(node.end)
        self._pending.add(node.snapshot)
        self.operations.append(source.snapshot(node.snapshot))
        node.snapshot_written = source.on_disk
        if not source.on_disk:
            self._note_unwritten(source.key, node)
        self._remember(node)

    def _note_unwritten(self, key: Hashable, node: Node) -> None:
        if self.unwritten is None:
            return
        if len(self.unwritten) > 64 + 4 * self._nodes:
            left = {id(entry[1]): entry for entry in self.unwritten if entry[1].parent is not None}
            self.unwritten = deque(left.values())
        self.unwritten.append((key, node))

    def _split(self, node: Node, end: int) -> Node:
        """A new node between ``node`` and its parent that ends at ``end``. Returns it."""
        parent, at = node.parent, end - (node.end - len(node.tokens))
        assert parent is not None
        head = Node(parent, node.tokens[:at], next(self._handles))
        head.used = node.used
        head.written, node.written = min(node.written, at), max(node.written - at, 0)
        self.version += 1
        parent.children[head.tokens[0]] = head
        head.children[node.tokens[at]] = node
        node.parent, node.tokens = head, node.tokens[at:]
        self._nodes += 1
        self._pending.add(head.segment)
        self.operations.append(SplitSegment(node.segment, at, head.segment))
        return head

    # Evict

    def evict_to(self, nbytes: int) -> None:
        """Drop what was used least recently until at most ``nbytes`` are kept, or only what is pinned is left."""
        kept: list[_Entry] = []
        while self.nbytes > max(nbytes, 0) and self._oldest:
            entry = heapq.heappop(self._oldest)
            _, _, node, snapshot = entry
            if not self._current(entry):
                continue
            if node.pins:
                kept.append(entry)
            elif snapshot:
                self._drop_snapshot(node)
                self._prune(node)
            else:
                parent = node.parent
                self._remove(node)
                assert parent is not None
                self._prune(parent)
                self._remember(parent)
        for entry in kept:
            heapq.heappush(self._oldest, entry)

    def evict(self, nbytes: int) -> int:
        """Free at least ``nbytes`` if what is not pinned has as many. Returns how many were freed."""
        before = self.nbytes
        self.evict_to(before - nbytes)
        return before - self.nbytes

    def resize(self, max_bytes: int) -> None:
        """From now on, keep at most so many bytes."""
        self.max_bytes = max(0, max_bytes)
        self.evict_to(self.max_bytes)

    def clear(self) -> None:
        """Forget everything, arrays included, without operations: the runner has lost them."""
        for root in self._roots.values():
            _detach(root)
        self._roots.clear()
        self._oldest.clear()
        self.operations.clear()
        self._pending.clear()
        self.nbytes = self._nodes = 0
        self.version += 1

    def _current(self, entry: _Entry) -> bool:
        used, _, node, snapshot = entry
        if node.parent is None:
            return False
        if snapshot:
            return node.snapshot is not None and node.snapshot_used == used
        return not node.children and node.used == used

    def _touch(self, path: list[Node]) -> None:
        now = next(self._clock)
        for node in path:
            node.used = now
        if path:
            self._remember(path[-1])

    def _remember(self, node: Node) -> None:
        """Put what can be evicted of this node where ``evict_to`` finds it."""
        if node.parent is None:
            return
        if len(self._oldest) > 64 + 4 * self._nodes:
            current = {(id(entry[2]), entry[3]): entry for entry in self._oldest if self._current(entry)}
            self._oldest = list(current.values())
            heapq.heapify(self._oldest)
        if not node.children:
            heapq.heappush(self._oldest, (node.used, next(self._clock), node, False))
        if node.snapshot is not None:
            heapq.heappush(self._oldest, (node.snapshot_used, next(self._clock), node, True))

    def _prune(self, node: Node) -> None:
        """Remove leaves that nothing can resume from, upwards: in models with snapshots, those without one."""
        while self._layout.needs_snapshots and node.parent is not None:
            if node.children or node.snapshot is not None or node.pins:
                return
            parent = node.parent
            self._remove(node)
            node = parent
            self._remember(node)

    def _drop_snapshot(self, node: Node) -> None:
        assert node.snapshot is not None
        self.version += 1
        self.nbytes -= self._layout.snapshot_bytes(node.end)
        self.operations.append(Drop(node.snapshot))
        node.snapshot = None

    def _remove(self, node: Node) -> None:
        """Take a leaf out of the tree."""
        assert node.parent is not None and not node.children
        if node.snapshot is not None:
            self._drop_snapshot(node)
        del node.parent.children[node.tokens[0]]
        node.parent = None
        self._nodes -= 1
        self.version += 1
        self.nbytes -= self._layout.segment_bytes(len(node.tokens))
        self.operations.append(Drop(node.segment))

    def _remove_subtree(self, node: Node) -> None:
        """A segment is gone: nothing behind it can be resumed."""
        parent = node.parent
        for child in list(node.children.values()):
            self._remove_subtree(child)
        self._remove(node)
        if parent is not None:
            self._prune(parent)
            self._remember(parent)


def _detach(node: Node) -> None:
    """Cut a subtree into single nodes, so that the pins that are left mean nothing."""
    for child in node.children.values():
        _detach(child)
    node.children.clear()
    node.parent = None


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two sequences have in common from their beginning."""
    low, high = 0, min(len(a), len(b))
    if a[:high] == b[:high]:
        return high
    while low < high - 1:
        middle = (low + high) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle
    return low
