"""The keys and values of one attention layer for a batch of rows, and where each row stands.

A token at position p of its row stands in column p (modulo the ring's size for a sliding window). Rows start at column
0 whatever their length, so a row joins or leaves by touching itself alone, and a position is read in the same order
alone and in a batch.

Invariants
- A call of the model is framed by ``RowPositions.begin`` and ``commit``; all layers of a batch share one.
- Columns at and beyond a row's length hold garbage; masks keep it out of every sum.
- A buffer is updated in place only if nothing that reads it is still in flight: MLX copies all of it otherwise. Hence
  the runner starts a step's evaluation only after the previous step's has ended, and a row that moves within a buffer
  is evaluated (``detach``) before it is written (``replace``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import mlx.core as mx

from quince.engine.kv_layout import KVLayout, columns_for, rows_for, shrunk_columns, shrunk_rows

Mask = mx.array | str | None


class RowPositions:
    """How many tokens each row holds, before and after the current call; shared by every layer.

    While all rows are equally long the offset is a plain int, so that models and masks take their fast paths.
    """

    def __init__(self, *, mask_axes: int = 4) -> None:
        """``mask_axes``: 5 for models that spread grouped heads over an axis of their own (see support.py)."""
        self._mask_axes = mask_axes
        self.tight = False  # whether buffers are no larger than they must be
        self.lengths: list[int] = []
        self.call = 0
        self.width = 0
        self.before: int | mx.array = 0
        self.after: int | mx.array = 0
        self.end = 0
        self._next: list[int] = []
        self._device: mx.array | None = None  # the array form of ``lengths``, when a call has left one
        self._masks: dict[tuple[int | None, int | None], mx.array] = {}
        self._columns: dict[int | None, mx.array] = {}
        self._places: dict[tuple[int, int | None], tuple[mx.array, mx.array, mx.array]] = {}

    @property
    def uniform(self) -> bool:
        return isinstance(self.before, int)

    def begin(self, width: int, counts: Sequence[int] | None) -> None:
        """The next call writes ``width`` columns of each row; ``counts`` of them are real (all, if None)."""
        lengths = self.lengths
        self.call += 1
        self.width = width
        self.end = max(lengths) + width
        self._next = [length + width for length in lengths]
        self._masks.clear()
        self._columns.clear()
        self._places.clear()
        if lengths.count(lengths[0]) == len(lengths):
            self.before = lengths[0]
        else:
            self.before = mx.array(lengths) if self._device is None else self._device
        if counts is None:
            self.after = self.before + width
        else:
            self._next = [length + count for length, count in zip(lengths, counts, strict=True)]
            self.after = self._next[0] if self._next.count(self._next[0]) == len(lengths) else mx.array(self._next)

    def commit(self) -> None:
        self.lengths = self._next
        self._device = self.after if isinstance(self.after, mx.array) else None

    def set_rows(self, lengths: list[int]) -> None:
        """Rows came, went or moved."""
        self.lengths = lengths
        self._device = None

    def written_positions(self) -> mx.array:
        """Positions of the tokens in the current call, [rows or 1, width]."""
        before = self.before if isinstance(self.before, mx.array) else mx.array([self.before])
        return before[:, None] + mx.arange(self.width)[None]

    def columns(self, ring: int | None) -> mx.array:
        """The columns that the current call writes, [rows or 1, 1, width, 1]."""
        if ring not in self._columns:
            positions = self.written_positions()[:, None, :, None]
            self._columns[ring] = positions % ring if ring is not None and self.end > ring else positions
        return self._columns[ring]

    def places(self, heads: int, ring: int | None) -> tuple[mx.array, mx.array, mx.array]:
        """The same as indices of [rows, heads, columns], each of them broadcast to [rows, heads, width]."""
        key = (heads, ring)
        if key not in self._places:
            rows = mx.arange(len(self.lengths))[:, None, None]
            self._places[key] = (rows, mx.arange(heads)[None, :, None], self.columns(ring)[..., 0])
        return self._places[key]

    def mask(self, window: int | None, ring: int | None) -> mx.array:
        """What each query may read, bool [rows or 1, 1 ..., width, columns]: itself and what its window holds."""
        key = (window, ring)
        if key not in self._masks:
            mask = self._build_mask(window, ring)
            self._masks[key] = mask if self._mask_axes == mask.ndim else mask[:, None]
        return self._masks[key]

    def _build_mask(self, window: int | None, ring: int | None) -> mx.array:
        queries = self.written_positions()[:, None, :, None]
        if ring is None or self.end <= ring:
            keys = mx.arange(self.end)[None, None, None]
            visible = keys <= queries
        else:
            # A column of a ring holds the latest position that falls on it.
            last = queries[:, :, -1:, :]
            keys = last - (last - mx.arange(ring)[None, None, None]) % ring
            visible = (keys <= queries) & (keys >= 0)
        return visible if window is None else visible & (keys > queries - window)


class KVRow(NamedTuple):
    """One row's keys and values in temporal order, [1, heads, tokens, head_dim]; with a window, its last tokens."""

    keys: mx.array | None
    values: mx.array | None


class RowKVCache:
    """Keys and values of one attention layer for a batch of rows. The attribute names are those that models use.

    ``window`` is the sliding window in tokens; ``max_width`` the widest call there will be. The ring is as large as
    both need together, so that a chunk never overwrites what its own first query still reads. ``expected_length``
    tokens are reserved for each row at once.
    """

    def __init__(
        self, positions: RowPositions, *, window: int | None, max_width: int, expected_length: int = 0
    ) -> None:
        self.keys: mx.array | None = None
        self.values: mx.array | None = None
        self._positions = positions
        self._window = window
        self._ring = None if window is None else window + max_width - 1
        self._expected_length = expected_length
        self._call = 0
        self.owned = True  # whether nobody else holds the buffers

    @property
    def rows(self) -> int:
        return len(self._positions.lengths)

    @property
    def has_window(self) -> bool:
        return self._window is not None

    @property
    def offset(self) -> int | mx.array:
        """Tokens held: before this call's update, or after it."""
        return self._positions.after if self._call == self._positions.call else self._positions.before

    def make_mask(self, width: int, return_array: bool = False, window_size: int | None = None) -> Mask:
        positions = self._positions
        window = min((w for w in (self._window, window_size) if w is not None), default=None)
        outside_window = window is not None and positions.end > window
        if positions.uniform and not outside_window and not return_array:
            return None if width == 1 else "causal"
        if positions.uniform and width == 1 and window == self._ring and not return_array:
            return None  # the ring holds exactly the window
        return positions.mask(window, self._ring)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        """Write [rows, heads, width, head_dim] at the rows' positions; return all that a mask may show."""
        positions = self._positions
        self._call = positions.call
        self._reserve(keys, values, positions.end)
        if isinstance(positions.before, int):
            taken = 0
            for column, count in self._spans(positions.before, positions.width):
                span = slice(taken, taken + count)
                self._write(0, column, keys[:, :, span], values[:, :, span])
                taken += count
        else:
            self._scatter(keys, values)
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[mx.array, mx.array]:
        assert self.keys is not None and self.values is not None
        rows = self.rows
        columns = self._positions.end if self._ring is None else min(self._positions.end, self._ring)
        if self.keys.shape[0] == rows and self.keys.shape[2] == columns:
            return self.keys, self.values
        return self.keys[:rows, :, :columns], self.values[:rows, :, :columns]

    def _write(self, row: int, column: int, keys: mx.array, values: mx.array) -> None:
        """Write a block [rows, heads, columns, head_dim] with its first corner at ``row``, ``column``."""
        assert self.keys is not None and self.values is not None
        rows, columns = slice(row, row + keys.shape[0]), slice(column, column + keys.shape[2])
        self.keys[rows, :, columns] = keys
        self.values[rows, :, columns] = values

    def _scatter(self, keys: mx.array, values: mx.array) -> None:
        """Write each row at its own columns."""
        assert self.keys is not None and self.values is not None
        rows, heads = keys.shape[:2]
        if rows == self.keys.shape[0]:
            index = self._positions.columns(self._ring)
            self.keys = mx.put_along_axis(self.keys, index, keys, axis=2)
            self.values = mx.put_along_axis(self.values, index, values, axis=2)
        else:
            where = self._positions.places(heads, self._ring)
            self.keys[where] = keys
            self.values[where] = values

    def _spans(self, start: int, count: int) -> Iterator[tuple[int, int]]:
        """The contiguous runs of columns, (first column, how many), that hold positions start .. start+count."""
        while count > 0:
            column = start if self._ring is None else start % self._ring
            run = count if self._ring is None else min(count, self._ring - column)
            yield column, run
            start += run
            count -= run

    def _reserve(self, keys: mx.array, values: mx.array, length: int) -> None:
        """Make room for all rows at ``length`` tokens, like ``keys`` and ``values`` in all else."""
        rows, columns = self.rows, self._columns_for(length)
        have_rows, have_columns = (0, 0) if self.keys is None else (self.keys.shape[0], self.keys.shape[2])
        if rows <= have_rows and columns <= have_columns:
            return
        columns = max(columns, have_columns)
        rows = max(rows, have_rows) if self._positions.tight else rows_for(have_rows, rows)
        shape = (rows, keys.shape[1], columns)
        self.keys = _grown(self.keys, keys, shape)
        self.values = _grown(self.values, values, shape)

    def _columns_for(self, length: int) -> int:
        columns = columns_for(max(length, self._expected_length))
        return columns if self._ring is None else min(columns, self._ring)

    # Rows

    def take(self, index: int) -> KVRow:
        if self.keys is None or self.values is None:
            return KVRow(None, None)
        length = self._positions.lengths[index]
        count = length if self._window is None else min(length, self._window)
        spans = list(self._spans(length - count, count))
        return KVRow(_gather(self.keys, index, spans), _gather(self.values, index, spans))

    def detach(self, index: int) -> KVRow:
        """A row as arrays of their own, to be evaluated before ``replace`` writes them."""
        row = self.take(index)
        return row if row.keys is None or row.values is None else KVRow(row.keys * 1, row.values * 1)

    def segment(self, index: int, start: int, stop: int) -> list[mx.array]:
        """Keys and values of positions ``start`` to ``stop`` of a row, as arrays of their own; not with a window."""
        assert self._window is None, "a ring cannot be cut"
        if self.keys is None or self.values is None:
            return []
        where = (slice(index, index + 1), slice(None), slice(start, stop))
        return [mx.contiguous(self.keys[where]), mx.contiguous(self.values[where])]

    def snapshot(self, index: int) -> list[mx.array]:
        """What a window holds of a row, in temporal order, as arrays of their own."""
        return [mx.contiguous(array) for array in self.take(index) if array is not None]

    def restore(self, segments: Sequence[list[mx.array]]) -> None:
        """Become one row out of what ``segment`` gave, or out of one ``snapshot``; to be copied from only, since the
        buffers may be the segments themselves. The position count is already the row's."""
        present = [segment for segment in segments if segment]
        if not present:
            return
        keys, values = (_joined([segment[part] for segment in present]) for part in (0, 1))
        if self._window is None:
            self.keys, self.values, self.owned = keys, values, False
        else:
            self.replace(0, KVRow(keys, values))

    def replace(self, index: int, row: KVRow) -> None:
        """Write ``row`` over the row at ``index``, whose position count is already the new one's."""
        if row.keys is None or row.values is None:
            return
        self._reserve(row.keys, row.values, self._positions.lengths[index] + 1)
        count = row.keys.shape[2]
        taken = 0
        for column, run in self._spans(self._positions.lengths[index] - count, count):
            span = slice(taken, taken + run)
            self._write(index, column, row.keys[:, :, span], row.values[:, :, span])
            taken += run

    def copy_rows(self, first: int, source: RowKVCache, source_first: int, count: int) -> None:
        """Copy rows of another batch, or take them over if they are all of both; the positions already count them.

        One block for all of them where no ring has come round; what it copies beyond a row's length is garbage.
        """
        if source.keys is None or source.values is None:
            return
        if self.keys is None and self._ring is None and source.owned and count == source.keys.shape[0] == self.rows:
            self.keys, self.values = source.keys, source.values  # the other batch has no more use for them
            return
        width = max(self._positions.lengths[first : first + count])
        if self._ring is not None and source._ring is not None and width > min(self._ring, source._ring):
            for offset in range(count):
                self.replace(first + offset, source.take(source_first + offset))
            return
        self._reserve(source.keys, source.values, width + 1)
        rows = slice(source_first, source_first + count)
        self._write(first, 0, source.keys[rows, :, :width], source.values[rows, :, :width])

    def shrink(self) -> None:
        """Give back rows and columns when much less is needed, or, while memory is tight, all that is not."""
        if self.keys is None or self.values is None:
            return
        if not self._positions.lengths:
            self.keys = self.values = None
            return
        have_rows, have_columns = self.keys.shape[0], self.keys.shape[2]
        longest = max(self._positions.lengths)
        if self._positions.tight:
            rows, columns = self.rows, min(have_columns, self._columns_for(longest + 1))
        else:
            columns = min(have_columns, self._columns_for(shrunk_columns(have_columns, longest)))
            rows = shrunk_rows(have_rows, self.rows)
        if self._ring is not None:
            columns = have_columns  # a ring that has come round cannot be cut
        if (rows, columns) != (have_rows, have_columns):
            self.keys = mx.contiguous(self.keys[:rows, :, :columns])
            self.values = mx.contiguous(self.values[:rows, :, :columns])

    def layout(self) -> KVLayout:
        if self.keys is None or self.values is None:
            return KVLayout()
        size = sum(a.shape[1] * a.shape[3] * a.itemsize for a in (self.keys, self.values))
        if self._window is None:
            return KVLayout(token_bytes=size)
        return KVLayout(windows=((self._window, size),))

    # What models expect of a cache besides

    def empty(self) -> bool:
        return self.keys is None

    def size(self) -> int:
        return max(self._positions.lengths, default=0)

    @property
    def state(self) -> tuple[mx.array | None, mx.array | None]:
        return self.keys, self.values

    @property
    def nbytes(self) -> int:
        return 0 if self.keys is None or self.values is None else self.keys.nbytes + self.values.nbytes


def _grown(old: mx.array | None, like: mx.array, shape: tuple[int, int, int]) -> mx.array:
    """A zeroed buffer [*shape, like.head_dim] that holds ``old`` in its first rows and columns."""
    new = mx.zeros((*shape, like.shape[3]), like.dtype)
    if old is not None:
        new[: old.shape[0], :, : old.shape[2]] = old
    return new


def _joined(pieces: list[mx.array]) -> mx.array:
    return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=2)


def _gather(buffer: mx.array, index: int, spans: list[tuple[int, int]]) -> mx.array | None:
    pieces = [buffer[index : index + 1, :, column : column + count] for column, count in spans]
    return _joined(pieces) if pieces else None
