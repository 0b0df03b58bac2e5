"""All layers' caches of a batch of rows, given to mlx-lm's models in place of their own.

A model's ``make_cache`` says what each layer needs; ``BatchCache`` holds the same for many rows:

- ``KVCache`` and ``RotatingKVCache`` become ``RowKVCache``.
- Classes that follow mlx-lm's batching protocol (merge, extend, filter, extract, prepare, finalize) and are rewritten
  as a whole at every step, as ``ArraysCache`` with its convolution and recurrent states, stay mlx-lm's own.
- What cannot batch stays mlx-lm's own too, and has one row only.
- ``CacheList`` holds any of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.models.cache import CacheList, KVCache, RotatingKVCache, make_prompt_cache

from quince.engine.kv_cache import KVRow, RowKVCache, RowPositions


@dataclass(frozen=True)
class CacheRow:
    """One row's state in every layer, detached from its batch. ``length`` is in tokens."""

    length: int
    layers: list[Any]


class LayerRows(Protocol):
    """One layer's cache for the rows of a batch. ``RowPositions`` counts the rows; methods run after it changed.

    ``cache`` is what the model is given; it may be another object after rows came or went. ``take`` gives a row that
    stays valid whatever happens to the batch; its type is the layer's own.
    """

    @property
    def cache(self) -> Any: ...
    def start(self) -> None: ...
    def begin(self, counts: Sequence[int] | None) -> None: ...
    def commit(self) -> None: ...
    def take(self, index: int) -> Any: ...
    def append(self, row: Any) -> None: ...
    def detach_last(self) -> Any: ...
    def remove(self, index: int, last: Any) -> None: ...
    def arrays(self) -> list[mx.array]: ...


class AttentionRows:
    """Keys and values: see ``RowKVCache``."""

    def __init__(self, cache: RowKVCache) -> None:
        self.cache = cache

    def start(self) -> None:
        pass

    def begin(self, counts: Sequence[int] | None) -> None:
        pass

    def commit(self) -> None:
        pass

    def take(self, index: int) -> KVRow:
        return self.cache.take(index)

    def append(self, row: KVRow) -> None:
        self.cache.append(row)

    def detach_last(self) -> KVRow:
        return self.cache.detach_last()

    def remove(self, index: int, last: KVRow | None) -> None:
        if last is not None:
            self.cache.replace(index, last)
        self.cache.shrink()

    def arrays(self) -> list[mx.array]:
        return [array for array in self.cache.state if array is not None]


class ProtocolRows:
    """A cache of mlx-lm's own, by its batching protocol. Joining and leaving rewrite it, as every step does."""

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
            self.cache.prepare(lengths=list(counts), right_padding=[width - count for count in counts])

    def commit(self) -> None:
        if self.cache is not self._empty:
            self.cache.finalize()

    def take(self, index: int) -> Any:
        return self.cache if self.cache.empty() else self.cache.extract(index)

    def append(self, row: Any) -> None:
        merged = self._merge([row])
        if len(self._positions.lengths) == 1:
            self.cache = merged
        else:
            self.cache.extend(merged)

    def detach_last(self) -> None:
        return None

    def remove(self, index: int, last: Any) -> None:
        rows = len(self._positions.lengths)
        keep = list(range(rows))
        if index < rows:
            keep[index] = rows
        if keep:
            self.cache.filter(keep)
        else:
            self.cache = self._merge([self._empty])

    def arrays(self) -> list[mx.array]:
        return _arrays_in(self.cache.state)


class SoloRow:
    """A cache of mlx-lm's own that cannot batch: one row, which is the cache itself."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache

    def start(self) -> None:
        pass

    def begin(self, counts: Sequence[int] | None) -> None:
        pass

    def commit(self) -> None:
        pass

    def take(self, index: int) -> Any:
        return self.cache

    def append(self, row: Any) -> None:
        self.cache = row

    def detach_last(self) -> None:
        return None

    def remove(self, index: int, last: Any) -> None:
        pass

    def arrays(self) -> list[mx.array]:
        return _arrays_in(self.cache.state)


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

    def take(self, index: int) -> list[Any]:
        return [member.take(index) for member in self._members]

    def append(self, row: list[Any]) -> None:
        for member, part in zip(self._members, row, strict=True):
            member.append(part)

    def detach_last(self) -> list[Any]:
        return [member.detach_last() for member in self._members]

    def remove(self, index: int, last: list[Any] | None) -> None:
        for member, part in zip(self._members, last or [None] * len(self._members), strict=True):
            member.remove(index, part)

    def arrays(self) -> list[mx.array]:
        return [array for member in self._members for array in member.arrays()]


class BatchCache:
    """The caches of a batch. ``layers`` is the list to call the model with, between ``begin`` and ``commit``."""

    def __init__(self, model: Module, *, max_width: int, expected_length: int = 0, mask_axes: int = 4) -> None:
        """``max_width``: the widest call there will be; ``expected_length``: tokens to reserve room for at once."""
        self._positions = RowPositions(mask_axes=mask_axes)
        self._max_width = max_width
        self._expected_length = expected_length
        self._layers = [self._layer(cache) for cache in make_prompt_cache(model)]
        self.layers: list[Any] = [layer.cache for layer in self._layers]

    @property
    def rows(self) -> int:
        return len(self._positions.lengths)

    @property
    def lengths(self) -> list[int]:
        """Tokens held by each row."""
        return self._positions.lengths

    def begin(self, width: int, counts: Sequence[int] | None = None) -> None:
        """The model is about to be called with [rows, width] tokens; the first ``counts`` of each row are real."""
        self._positions.begin(width, counts)
        for layer in self._layers:
            layer.begin(counts)

    def commit(self) -> None:
        """The call is built: its tokens are part of the rows."""
        self._positions.commit()
        for layer in self._layers:
            layer.commit()

    def add_empty_rows(self, count: int) -> None:
        """Rows of no tokens, in a cache that has no rows yet."""
        for _ in range(count):
            self._positions.append(0)
        for layer in self._layers:
            layer.start()
        self._refresh()

    def take(self, index: int) -> CacheRow:
        return CacheRow(self.lengths[index], [layer.take(index) for layer in self._layers])

    def append(self, row: CacheRow) -> None:
        self._positions.append(row.length)
        for layer, part in zip(self._layers, row.layers, strict=True):
            layer.append(part)
        self._refresh()

    def remove(self, index: int) -> None:
        """Drop a row; the last one takes its place. Waits for the row that moves."""
        moves = index < self.rows - 1
        last = [layer.detach_last() if moves else None for layer in self._layers]
        mx.eval(last)
        self._positions.remove(index)
        for layer, part in zip(self._layers, last, strict=True):
            layer.remove(index, part)
        self._refresh()

    def arrays(self) -> list[mx.array]:
        return [array for layer in self._layers for array in layer.arrays()]

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
        return RowKVCache(
            self._positions, window=window, max_width=self._max_width, expected_length=self._expected_length
        )


def _arrays_in(state: Any) -> list[mx.array]:
    return [leaf for leaf in dict(tree_flatten(state)).values() if isinstance(leaf, mx.array)]
