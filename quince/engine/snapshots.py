"""The arrays behind the prefix cache's handles: segments of keys and values, and snapshots of whole states.

Everything kept is a copy, so that no buffer of a running batch is read by anything but the batch: see kv_cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import mlx.core as mx
import numpy as np

from quince.engine.batch import DiskWrite
from quince.engine.batch_cache import Part
from quince.engine.host_arrays import Array, HostArrays, Tree


class SnapshotStore:
    """Holds what it is given until it is dropped. ``settle`` makes the copies: when nothing else is computing."""

    def __init__(self) -> None:
        self._kept: dict[int, list[Part]] = {}
        self._lazy: list[int] = []

    def __contains__(self, handle: object) -> bool:
        return handle in self._kept

    def put(self, handle: int, parts: list[Part]) -> None:
        self._kept[handle] = parts
        self._lazy.append(handle)

    def split(self, handle: int, at: int, head: int) -> None:
        """The first ``at`` tokens of ``handle`` become ``head``; ``handle`` keeps the rest."""
        parts = self._kept[handle]
        self.put(head, [_cut(part, 0, at, copy=True) for part in parts])
        self.put(handle, [_cut(part, at, None, copy=True) for part in parts])

    def load(self, handle: int, host: HostArrays) -> None:
        """Keep a copy of what was read."""
        arrays = [_to_device(array, dtype) for array, dtype in zip(host.arrays, host.dtypes, strict=True)]
        self.put(handle, cast(list[Part], _filled(host.tree, arrays)))

    def host_copy(self, write: DiskWrite) -> HostArrays:
        """What the disk tier is to write; when nothing else is computing."""
        parts: list[Part] = self._kept[write.handle]
        if not write.entry.snapshot:
            parts = [_cut(part, write.start, write.stop, copy=True) for part in parts]
        arrays: list[mx.array] = []
        tree = _places(parts, arrays)
        mx.eval(arrays)
        return HostArrays(tree, [_to_host(array) for array in arrays], [_dtype_name(array) for array in arrays])

    def drop(self, handle: int) -> None:
        del self._kept[handle]

    def get(self, handle: int) -> list[Part]:
        return self._kept[handle]

    def first(self, handle: int, count: int) -> list[Part]:
        """The first ``count`` tokens of a segment."""
        return [_cut(part, 0, count, copy=False) for part in self._kept[handle]]

    def clear(self) -> None:
        self._kept.clear()
        self._lazy.clear()

    def settle(self) -> None:
        """Compute all that was put since the last call."""
        if self._lazy:
            mx.eval([list(_arrays(part)) for handle in self._lazy for part in self._kept.get(handle, [])])
            self._lazy.clear()

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for parts in self._kept.values() for part in parts for array in _arrays(part))


def _cut(part: Part, start: int, stop: int | None, *, copy: bool) -> Part:
    if part is None:
        return None
    if isinstance(part, list):
        return [_cut(member, start, stop, copy=copy) for member in part]
    if start == 0 and stop == part.shape[2]:
        return part
    piece = part[:, :, start:stop]
    return mx.contiguous(piece) if copy else piece


def _places(part: Part, arrays: list[mx.array]) -> Tree:
    """The tree of a part, whose arrays are appended to ``arrays``."""
    if isinstance(part, list):
        return [_places(member, arrays) for member in part]
    if part is None:
        return None
    arrays.append(part)
    return len(arrays) - 1


def _filled(tree: Tree, arrays: list[mx.array]) -> Part:
    """The other way round."""
    if isinstance(tree, list):
        return [_filled(member, arrays) for member in tree]
    return None if tree is None else arrays[tree]


def _dtype_name(array: mx.array) -> str:
    return str(array.dtype).removeprefix("mlx.core.")


def _to_host(array: mx.array) -> Array:
    return np.array(array.view(mx.uint16) if array.dtype == mx.bfloat16 else array)


def _to_device(array: Array, dtype: str) -> mx.array:
    return mx.array(array).view(mx.bfloat16) if dtype == "bfloat16" else mx.array(array)


def _arrays(part: Part) -> Iterator[mx.array]:
    if isinstance(part, list):
        for member in part:
            yield from _arrays(member)
    elif part is not None:
        yield part
