"""All layers' caches of a batch of rows, given to mlx-lm's models in place of their own.

A model's ``make_cache`` says what each layer needs; ``BatchCache`` holds the same for many rows:

- ``KVCache`` and ``RotatingKVCache`` become ``RowKVCache``.
- Classes that follow mlx-lm's batching protocol (merge, extend, filter, extract, prepare, finalize) and are rewritten
  as a whole at every step, as ``ArraysCache`` with its convolution and recurrent states, stay mlx-lm's own.
- What cannot batch stays mlx-lm's own too, and has one row only.
- ``CacheList`` holds any of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.models.cache import ArraysCache, CacheList, KVCache, RotatingKVCache, make_prompt_cache

from quince.engine.kv_cache import KVRow, QuantizedRowKVCache, RowKVCache, RowPositions
from quince.engine.kv_layout import COLUMN_STEP, KVLayout, KVQuantization

# What was saved of a layer: arrays with tokens along axis 2 (a segment), or any arrays (a snapshot).
Part = mx.array | list["Part"] | None


@dataclass(frozen=True)
class RowChange:
    """Rows leave, join and move at once.

    ``order[i]`` says which row stands at ``i`` afterwards: below ``rows`` one that was there, from ``rows`` on the
    one of that number among those that join.
    """

    rows: int
    order: list[int]

    @classmethod
    def plan(cls, rows: int, removed: Sequence[int], joining: int) -> RowChange:
        """Who joins takes the place of who leaves; holes that are left are filled from the end."""
        holes, new = sorted(removed), list(range(rows, rows + joining))
        order = list(range(rows))
        for hole, number in zip(holes, new, strict=False):
            order[hole] = number
        order += new[len(holes) :]
        for hole in reversed(holes[joining:]):
            last = order.pop()
            if hole < len(order):
                order[hole] = last
        return cls(rows, order)

    @property
    def moves(self) -> list[tuple[int, int]]:
        """(from, to) of the rows that stay and change places."""
        return [(number, index) for index, number in enumerate(self.order) if number < self.rows and number != index]

    @property
    def arrivals(self) -> list[tuple[int, int]]:
        """(number among those that join, to)."""
        return [(number - self.rows, index) for index, number in enumerate(self.order) if number >= self.rows]


class LayerRows(Protocol):
    """One layer's cache for the rows of a batch; ``RowPositions`` counts the rows.

    ``cache`` is what the model is given; it may be another object after rows have changed, and after ``begin``.
    ``start`` runs when the first rows, empty ones, are there; ``begin`` and ``commit`` frame each call of the model.
    For a RowChange, ``detach`` gives the rows that move, to be evaluated; then, with the positions changed, ``change``
    puts them and the arrivals, (this layer of another batch, row there), in their places.

    ``segment`` copies a row's tokens from position ``start`` to ``stop`` if this layer can be cut at any token, else
    ``snapshot`` copies all of the row's state; the other one gives None. ``restore`` makes one row of them again, to be
    copied from only. ``layout`` is what a row costs, known once the layer has been called.
    """

    @property
    def cache(self) -> Any: ...
    def start(self) -> None: ...
    def begin(self, counts: Sequence[int] | None) -> None: ...
    def commit(self) -> None: ...
    def detach(self, indices: Sequence[int]) -> Any: ...
    def change(self, change: RowChange, moved: Any, arrivals: Sequence[tuple[Any, int]]) -> None: ...
    def arrays(self) -> list[mx.array]: ...
    def segment(self, index: int, start: int, stop: int) -> Part: ...
    def snapshot(self, index: int) -> Part: ...
    def restore(self, segments: Sequence[Part], snapshot: Part) -> None: ...
    def layout(self) -> KVLayout: ...


class _Unframed:
    """What needs nothing done around a call of the model."""

    def start(self) -> None:
        pass

    def begin(self, counts: Sequence[int] | None) -> None:
        pass

    def commit(self) -> None:
        pass


class AttentionRows(_Unframed):
    """Keys and values: see ``RowKVCache``."""

    def __init__(self, cache: RowKVCache) -> None:
        self.cache = cache

    def detach(self, indices: Sequence[int]) -> list[KVRow]:
        return [self.cache.detach(index) for index in indices]

    def change(self, change: RowChange, moved: list[KVRow], arrivals: Sequence[tuple[AttentionRows, int]]) -> None:
        for (_, index), row in zip(change.moves, moved, strict=True):
            self.cache.replace(index, row)
        for first, source, source_first, count in _blocks(change, arrivals):
            self.cache.copy_rows(first, source.cache, source_first, count)
        self.cache.shrink()

    def arrays(self) -> list[mx.array]:
        return list(self.cache.state)

    def segment(self, index: int, start: int, stop: int) -> Part:
        return None if self.cache.has_window else list(self.cache.segment(index, start, stop))

    def snapshot(self, index: int) -> Part:
        return list(self.cache.snapshot(index)) if self.cache.has_window else None

    def restore(self, segments: Sequence[Part], snapshot: Part) -> None:
        self.cache.restore([cast(list[mx.array], part) for part in (segments if snapshot is None else [snapshot])])

    def layout(self) -> KVLayout:
        return self.cache.layout()


class ProtocolRows:
    """A cache of mlx-lm's own, by its batching protocol. A change of rows rewrites it, as every step does."""

    def __init__(self, empty: Any, positions: RowPositions) -> None:
        self._merge = type(empty).merge
        self._empty = empty
        self._positions = positions
        self.cache = empty

    def start(self) -> None:
        rows = len(self._positions.lengths)
        if rows > 1:
            self.cache = self._merge([self._empty] * rows)

    def begin(self, counts: Sequence[int] | None) -> None:
        if counts is not None:
            width = self._positions.width
            if self.cache is self._empty:  # one row's own cache, which may know no padding
                self.cache = self._merge([self._empty])
            self.cache.prepare(lengths=list(counts), right_padding=[width - count for count in counts])

    def commit(self) -> None:
        if self.cache is not self._empty:
            self.cache.finalize()

    def detach(self, indices: Sequence[int]) -> None:
        return None

    def change(self, change: RowChange, moved: None, arrivals: Sequence[tuple[ProtocolRows, int]]) -> None:
        present = change.rows
        for source, index in arrivals:
            row = source.cache if source.cache.empty() else source.cache.extract(index)
            merged = self._merge([row])
            if present == 0:
                self.cache = merged
            else:
                self.cache.extend(merged)
            present += 1
        if not change.order:
            self.cache = self._empty
        elif change.order != list(range(present)):
            self.cache.filter(change.order)

    def arrays(self) -> list[mx.array]:
        return _arrays_in(self.cache.state)

    def segment(self, index: int, start: int, stop: int) -> Part:
        return None

    def snapshot(self, index: int) -> Part:
        arrays: list[mx.array | None] = self.cache.extract(index).cache
        return [None if array is None else mx.contiguous(array) for array in arrays]

    def restore(self, segments: Sequence[Part], snapshot: Part) -> None:
        self.cache = type(self._empty).from_state((list(cast(list[mx.array], snapshot)), None, None))

    def layout(self) -> KVLayout:
        if not isinstance(self._empty, ArraysCache):
            return KVLayout(reusable=False)
        return KVLayout(state_bytes=sum(array.nbytes for array in self.arrays()) // len(self._positions.lengths))


class SoloRow(_Unframed):
    """A cache of mlx-lm's own that cannot batch: one row, which is the cache itself."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def detach(self, indices: Sequence[int]) -> None:
        return None

    def change(self, change: RowChange, moved: None, arrivals: Sequence[tuple[SoloRow, int]]) -> None:
        for source, _ in arrivals:
            self.cache = source.cache

    def arrays(self) -> list[mx.array]:
        return _arrays_in(self.cache.state)

    def segment(self, index: int, start: int, stop: int) -> Part:
        raise NotImplementedError("its layout says that it is not reusable")

    def snapshot(self, index: int) -> Part:
        raise NotImplementedError("its layout says that it is not reusable")

    def restore(self, segments: Sequence[Part], snapshot: Part) -> None:
        raise NotImplementedError("its layout says that it is not reusable")

    def layout(self) -> KVLayout:
        """A guess for the memory that it takes: mlx-lm's caches grow by as many tokens as ours."""
        size = sum(array.nbytes for array in self.arrays())
        return KVLayout(token_bytes=size // COLUMN_STEP, reusable=False)


class ListRows:
    """A layer that keeps several caches."""

    def __init__(self, members: list[LayerRows]) -> None:
        self._members = members

    @property
    def cache(self) -> Any:
        return CacheList(*(member.cache for member in self._members))

    def start(self) -> None:
        for member in self._members:
            member.start()

    def begin(self, counts: Sequence[int] | None) -> None:
        for member in self._members:
            member.begin(counts)

    def commit(self) -> None:
        for member in self._members:
            member.commit()

    def detach(self, indices: Sequence[int]) -> list[Any]:
        return [member.detach(indices) for member in self._members]

    def change(self, change: RowChange, moved: list[Any], arrivals: Sequence[tuple[ListRows, int]]) -> None:
        for number, (member, part) in enumerate(zip(self._members, moved, strict=True)):
            member.change(change, part, [(source._members[number], index) for source, index in arrivals])

    def arrays(self) -> list[mx.array]:
        return [array for member in self._members for array in member.arrays()]

    def segment(self, index: int, start: int, stop: int) -> Part:
        return [member.segment(index, start, stop) for member in self._members]

    def snapshot(self, index: int) -> Part:
        return [member.snapshot(index) for member in self._members]

    def restore(self, segments: Sequence[Part], snapshot: Part) -> None:
        for number, member in enumerate(self._members):
            member.restore(_nth(segments, number), None if snapshot is None else cast(list[Part], snapshot)[number])

    def layout(self) -> KVLayout:
        return sum((member.layout() for member in self._members), KVLayout())


class HasCaches(Protocol):
    """What says which caches a row needs, as mlx-lm's models do that need special ones."""

    def make_cache(self) -> list[Any]: ...


class BatchCache:
    """The caches of a batch. ``layers`` is the list to call the model with, between ``begin`` and ``commit``."""

    def __init__(
        self,
        model: Module | HasCaches,
        *,
        max_width: int,
        expected_length: int = 0,
        mask_axes: int = 4,
        quantization: KVQuantization | None = None,
    ) -> None:
        """``max_width``: the widest call there will be; ``expected_length``: tokens to reserve room for at once;
        ``quantization``: of the layers that keep every token."""
        self._positions = RowPositions(mask_axes=mask_axes)
        self._max_width = max_width
        self._expected_length = expected_length
        self._quantization = quantization
        self._layers = [self._layer(cache) for cache in make_prompt_cache(model)]
        self.layers: list[Any] = [layer.cache for layer in self._layers]

    @property
    def rows(self) -> int:
        return len(self._positions.lengths)

    @property
    def lengths(self) -> list[int]:
        """Tokens held by each row."""
        return self._positions.lengths

    @property
    def width(self) -> int:
        """Tokens of each row in the current call, padding included."""
        return self._positions.width

    @property
    def positions(self) -> mx.array:
        """Of the tokens in the current call, [rows or 1, width]."""
        return self._positions.written_positions()

    def begin(self, width: int, counts: Sequence[int] | None = None) -> None:
        """The model is about to be called with [rows, width] tokens; the first ``counts`` of each row are real."""
        self._positions.begin(width, counts)
        for layer in self._layers:
            layer.begin(counts)
        if counts is not None:
            self._refresh()

    def commit(self) -> None:
        """The call is built: its tokens are part of the rows."""
        self._positions.commit()
        for layer in self._layers:
            layer.commit()

    def add_empty_rows(self, count: int) -> None:
        """Rows of no tokens, in a cache that has no rows yet."""
        self._positions.set_rows([0] * count)
        for layer in self._layers:
            layer.start()
        self._refresh()

    def change(self, change: RowChange, joining: Sequence[tuple[BatchCache, int]], *, tight: bool = False) -> None:
        """Take rows of other batches in, drop and move own ones. Waits for the rows that move, if any do.

        ``tight``: have no room for more than these rows. Batches all of whose rows join must not be used any more.
        """
        self._positions.tight = tight
        old = self.lengths
        moved = [layer.detach([number for number, _ in change.moves]) for layer in self._layers]
        if change.moves:
            mx.eval(moved)
        lengths = [*old, *(source.lengths[index] for source, index in joining)]
        self._positions.set_rows([lengths[number] for number in change.order])
        for number, (layer, part) in enumerate(zip(self._layers, moved, strict=True)):
            layer.change(change, part, [(source._layers[number], index) for source, index in joining])
        self._refresh()

    def arrays(self) -> list[mx.array]:
        return [array for layer in self._layers for array in layer.arrays()]

    # What is kept of a row after it has gone

    def layout(self) -> KVLayout:
        """What a row costs; known once the model has been called."""
        return sum((layer.layout() for layer in self._layers), KVLayout())

    def segment(self, index: int, start: int, stop: int) -> list[Part]:
        """Copies of a row's tokens from position ``start`` to ``stop`` in the layers that can be cut; lazy."""
        return [layer.segment(index, start, stop) for layer in self._layers]

    def snapshot(self, index: int) -> list[Part]:
        """Copies of a row's state in the layers that cannot be cut; lazy."""
        return [layer.snapshot(index) for layer in self._layers]

    def restore(self, length: int, segments: Sequence[list[Part]], snapshot: list[Part] | None) -> None:
        """In a cache that has no rows yet: a row of ``length`` tokens, for another batch's ``change`` to take."""
        self._positions.set_rows([length])
        for number, layer in enumerate(self._layers):
            layer.restore(_nth(segments, number), None if snapshot is None else snapshot[number])
        self._refresh()

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays())

    def _refresh(self) -> None:
        self.layers = [layer.cache for layer in self._layers]

    def _layer(self, cache: Any) -> LayerRows:
        if isinstance(cache, CacheList):
            return ListRows([self._layer(member) for member in cache.caches])
        if type(cache) is KVCache:
            return AttentionRows(self._attention(window=None))
        if type(cache) is RotatingKVCache and cache.keep == 0:
            return AttentionRows(self._attention(window=cache.max_size))
        if callable(getattr(type(cache), "merge", None)) and type(cache) is not RotatingKVCache:
            return ProtocolRows(cache, self._positions)
        return SoloRow(cache)

    def _attention(self, *, window: int | None) -> RowKVCache:
        if self._quantization is not None and window is None:
            return QuantizedRowKVCache(self._positions, self._quantization, expected_length=self._expected_length)
        return RowKVCache(
            self._positions, window=window, max_width=self._max_width, expected_length=self._expected_length
        )


def _blocks(
    change: RowChange, arrivals: Sequence[tuple[AttentionRows, int]]
) -> Iterator[tuple[int, AttentionRows, int, int]]:
    """Arrivals that are neighbours both here and where they come from: (first here, source, first there, how many)."""
    block: tuple[int, AttentionRows, int, int] | None = None
    for number, index in change.arrivals:
        source, there = arrivals[number]
        if block is not None:
            first, same, start, count = block
            if same is source and there == start + count and index == first + count:
                block = (first, source, start, count + 1)
                continue
            yield block
        block = (index, source, there, 1)
    if block is not None:
        yield block


def _nth(parts: Sequence[Part], number: int) -> list[Part]:
    return [cast(list[Part], part)[number] for part in parts]


def _arrays_in(state: Any) -> list[mx.array]:
    return [leaf for leaf in dict(tree_flatten(state)).values() if isinstance(leaf, mx.array)]
