"""The keys and values of one attention layer for a batch of rows, and where each row stands.

A token at position p of its row stands in column p (modulo the ring's size for a sliding window). Rows start at column
0 whatever their length, so a row joins or leaves by touching itself alone, and a position is read in the same order
alone and in a batch; but for a ring that has come round, whose order depends on its size, that is on how much the
prompts that are computed together still have to come. That moves sums by their rounding.

Invariants
- A call of the model is framed by ``RowPositions.begin`` and ``commit``; all layers of a batch share one.
- Columns at and beyond a row's length hold garbage; masks keep it out of every sum.
- A buffer is updated in place only if nothing that reads it is still in flight: MLX copies all of it otherwise. Hence
  the runner starts a step's evaluation only after the previous step's has ended, and a row that moves within a buffer
  is evaluated (``detach``) before it is written (``replace``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import mlx.core as mx

from quince.engine.device import has_reference_blas
from quince.engine.kv_layout import KVLayout, KVQuantization, columns_for, rows_for, shrunk_columns, shrunk_rows
from quince.engine.weight_layout import stored_across

WIDE = 8  # tokens of a row in a call, with which a copy of its keys pays

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
        self._filled: dict[int | None, mx.array] = {}
        self._places: dict[tuple[int, int, int | None], mx.array] = {}

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
        self._filled.clear()
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

    def places(self, heads: int, columns: int, ring: int | None) -> mx.array:
        """Where the current call writes, for rows of different lengths: which vectors of a buffer with so many
        ``columns``, counted through its rows, heads and columns, int32 [rows * heads * width, 1]."""
        key = (heads, columns, ring)
        if key not in self._places:
            positions = self.written_positions()
            if ring is not None and self.end > ring:
                positions = positions % ring
            firsts = mx.arange(len(self.lengths) * heads).reshape(-1, heads, 1) * columns
            self._places[key] = (firsts + positions[:, None]).reshape(-1, 1)
        return self._places[key]

    def mask(self, window: int | None, ring: int | None) -> mx.array:
        """What each query may read, bool [rows or 1, 1 ..., width, columns]: itself and what its window holds."""
        key = (window, ring)
        if key not in self._masks:
            mask = self._build_mask(window, ring)
            self._masks[key] = mask if self._mask_axes == mask.ndim else mask[:, None]
        return self._masks[key]

    def filled(self, window: int | None, mask: Mask) -> mx.array | None:
        """How many columns each row has filled after a call of one token, int32 [rows], if that is what ``mask`` says,
        in rings as large as the window."""
        says_so = self.uniform if mask is None else mask is self._masks.get((window, window))
        if self.width != 1 or not says_so:
            return None
        if window not in self._filled:
            after = self.before + mx.ones(len(self.lengths), dtype=mx.int32)
            self._filled[window] = after if window is None else mx.minimum(after, window)
        return self._filled[window]

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


# One row in temporal order: its buffers, each [1, heads, tokens, ...]; of a window, the last tokens. Empty: no tokens.
KVRow = list[mx.array]


class RowKVCache:
    """Keys and values of one attention layer for a batch of rows. The attribute names are those that models use.

    ``window`` is the sliding window in tokens; ``max_width`` the widest call there will be. The ring is as large as
    both need together, so that a chunk never overwrites what its own first query still reads. ``expected_length``
    tokens are reserved for each row at once.

    Keys and values are one buffer each here; a subclass may keep more. All have rows, heads and columns first.
    """

    def __init__(
        self, positions: RowPositions, *, window: int | None, max_width: int, expected_length: int = 0
    ) -> None:
        self._buffers: list[mx.array] = []
        self._pieces: list[KVRow] = []  # what one restored row is joined of, if that has not been computed
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
    def keys(self) -> mx.array | None:
        return self._buffers[0] if self._buffers else None

    @property
    def columns(self) -> int:
        """How many columns of each row a call reads."""
        return self._positions.end if self._ring is None else min(self._positions.end, self._ring)

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

    def visible_columns(self, mask: Mask) -> mx.array | None:
        """How many columns, from the first on, the token of each row may read, int32 [rows], if ``mask`` says no
        more than that; else None."""
        return self._positions.filled(self._window, mask) if self._ring == self._window else None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[Any, Any]:
        """Write [rows, heads, width, head_dim] at the rows' positions; return all that a mask may show."""
        positions = self._positions
        self._call = positions.call
        parts = self._encode(keys, values)
        self._reserve(parts, positions.end)
        if isinstance(positions.before, int):
            taken = 0
            for column, count in self._spans(positions.before, positions.width):
                self._write(0, column, [part[:, :, taken : taken + count] for part in parts])
                taken += count
        else:
            self._scatter(parts)
        return self.keys_and_values()

    def keys_and_values(self) -> tuple[Any, Any]:
        rows, columns = self.rows, self.columns
        shape = self._buffers[0].shape
        if shape[0] == rows and shape[2] == columns:
            return self._decode(self._buffers)
        return self._decode([buffer[:rows, :, :columns] for buffer in self._buffers])

    def _encode(self, keys: mx.array, values: mx.array) -> list[mx.array]:
        """As they are kept."""
        return [keys, values]

    def _decode(self, parts: list[mx.array]) -> tuple[Any, Any]:
        """As attention reads them."""
        keys, values = parts
        if self._positions.width >= WIDE and keys.dtype == mx.float32 and has_reference_blas():
            keys = stored_across(keys)  # what the copy costs, products of so many queries with it gain
        return keys, values

    def _write(self, row: int, column: int, parts: list[mx.array]) -> None:
        """Write a block [rows, heads, columns, ...] with its first corner at ``row``, ``column``."""
        rows, columns = slice(row, row + parts[0].shape[0]), slice(column, column + parts[0].shape[2])
        for buffer, part in zip(self._buffers, parts, strict=True):
            buffer[rows, :, columns] = part

    def _scatter(self, parts: list[mx.array]) -> None:
        """Write each row at its own columns.

        Along one axis, so that buffers may have room for more rows; a buffer that nobody else holds stays in place.
        """
        heads, columns = self._buffers[0].shape[1:3]
        where = self._positions.places(heads, columns, self._ring)
        self._buffers = [
            mx.put_along_axis(_vectors(buffer), where, _vectors(part), axis=0).reshape(buffer.shape)
            for buffer, part in zip(self._buffers, parts, strict=True)
        ]

    def _spans(self, start: int, count: int) -> Iterator[tuple[int, int]]:
        """The contiguous runs of columns, (first column, how many), that hold positions start .. start+count."""
        while count > 0:
            column = start if self._ring is None else start % self._ring
            run = count if self._ring is None else min(count, self._ring - column)
            yield column, run
            start += run
            count -= run

    def _reserve(self, parts: list[mx.array], length: int) -> None:
        """Make room for all rows at ``length`` tokens, like ``parts`` in all else."""
        rows, columns = self.rows, self._columns_for(length)
        have_rows, have_columns = (self._buffers[0].shape[0], self._buffers[0].shape[2]) if self._buffers else (0, 0)
        if rows <= have_rows and columns <= have_columns:
            return
        columns = max(columns, have_columns)
        rows = max(rows, have_rows) if self._positions.tight else rows_for(have_rows, rows)
        old: Sequence[mx.array | None] = self._buffers or [None] * len(parts)
        self._buffers = [_grown(buffer, part, rows, columns) for buffer, part in zip(old, parts, strict=True)]

    def _columns_for(self, length: int) -> int:
        columns = columns_for(max(length, self._expected_length))
        return columns if self._ring is None else min(columns, self._ring)

    # Rows

    def take(self, index: int) -> KVRow:
        length = self._positions.lengths[index]
        count = length if self._window is None else min(length, self._window)
        spans = list(self._spans(length - count, count))
        return [_gather(buffer, index, spans) for buffer in self._buffers] if spans else []

    def detach(self, index: int) -> KVRow:
        """A row as arrays of their own, to be evaluated before ``replace`` writes them."""
        return [part * 1 for part in self.take(index)]

    def segment(self, index: int, start: int, stop: int) -> KVRow:
        """Positions ``start`` to ``stop`` of a row, as arrays of their own; not with a window."""
        assert self._window is None, "a ring cannot be cut"
        return [mx.contiguous(buffer[index : index + 1, :, start:stop]) for buffer in self._buffers]

    def snapshot(self, index: int) -> KVRow:
        """What a window holds of a row, in temporal order, as arrays of their own."""
        return [mx.contiguous(part) for part in self.take(index)]

    def restore(self, segments: Sequence[KVRow]) -> None:
        """Become one row out of what ``segment`` gave, or out of one ``snapshot``; to be copied from only, since the
        buffers may be the segments themselves. The position count is already the row's."""
        pieces = [segment for segment in segments if segment]
        parts = [_joined(list(piece)) for piece in zip(*pieces, strict=True)]
        if self._window is None:
            self._buffers, self._pieces, self.owned = parts, pieces, False
        else:
            self.replace(0, parts)

    def replace(self, index: int, row: KVRow) -> None:
        """Write ``row`` over the row at ``index``, whose position count is already the new one's."""
        if not row:
            return
        self._reserve(row, self._positions.lengths[index] + 1)
        count = row[0].shape[2]
        taken = 0
        for column, run in self._spans(self._positions.lengths[index] - count, count):
            self._write(index, column, [part[:, :, taken : taken + run] for part in row])
            taken += run

    def copy_rows(self, first: int, source: RowKVCache, source_first: int, count: int) -> None:
        """Copy rows of another batch, or take them over if they are all of both; the positions already count them.

        One block for all of them where no ring has come round; what it copies beyond a row's length is garbage.
        """
        theirs = source._buffers
        if not theirs:
            return
        if not self._buffers and self._ring is None and source.owned and count == theirs[0].shape[0] == self.rows:
            self._buffers = list(theirs)  # the other batch has no more use for them
            return
        width = max(self._positions.lengths[first : first + count])
        if self._ring is not None and source._ring is not None and width > min(self._ring, source._ring):
            for offset in range(count):
                self.replace(first + offset, source.take(source_first + offset))
            return
        self._reserve(theirs, width + 1)
        if source._pieces:  # copied at once, not joined first
            column = 0
            for piece in source._pieces:
                self._write(first, column, piece)
                column += piece[0].shape[2]
            return
        rows = slice(source_first, source_first + count)
        self._write(first, 0, [buffer[rows, :, :width] for buffer in theirs])

    def shrink(self) -> None:
        """Give back rows and columns when much less is needed, or, while memory is tight, all that is not."""
        if not self._buffers:
            return
        if not self._positions.lengths:
            self._buffers = []
            return
        have_rows, have_columns = self._buffers[0].shape[0], self._buffers[0].shape[2]
        longest = max(self._positions.lengths)
        if self._positions.tight:
            rows, columns = self.rows, min(have_columns, self._columns_for(longest + 1))
        else:
            columns = min(have_columns, self._columns_for(shrunk_columns(have_columns, longest)))
            rows = shrunk_rows(have_rows, self.rows)
        if self._ring is not None:
            columns = have_columns  # a ring that has come round cannot be cut
        if (rows, columns) != (have_rows, have_columns):
            self._buffers = [mx.contiguous(buffer[:rows, :, :columns]) for buffer in self._buffers]

    def layout(self) -> KVLayout:
        size = sum(buffer.shape[1] * buffer.shape[3] * buffer.itemsize for buffer in self._buffers)
        if self._window is None:
            return KVLayout(token_bytes=size)
        return KVLayout(windows=((self._window, size),))

    # What models expect of a cache besides

    def empty(self) -> bool:
        return not self._buffers

    def size(self) -> int:
        return max(self._positions.lengths, default=0)

    @property
    def _idx(self) -> int:
        """What mlx-vlm's models ask a batch's cache for instead of waiting for its offset to be computed."""
        return self.size()

    @property
    def state(self) -> list[mx.array]:
        return self._buffers

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers)


class QuantizedRowKVCache(RowKVCache):
    """Keeps keys and values in ``bits`` bits, by groups of ``group_size`` along head_dim, each with a scale and a bias.

    mlx-lm's attention knows such a cache by these two attributes and takes what ``keys_and_values`` gives it.
    """

    def __init__(self, positions: RowPositions, quantization: KVQuantization, *, expected_length: int = 0) -> None:
        super().__init__(positions, window=None, max_width=1, expected_length=expected_length)
        self.bits, self.group_size = quantization

    def _encode(self, keys: mx.array, values: mx.array) -> list[mx.array]:
        return [
            part for array in (keys, values) for part in mx.quantize(array, group_size=self.group_size, bits=self.bits)
        ]

    def _decode(self, parts: list[mx.array]) -> tuple[Any, Any]:
        return tuple(parts[:3]), tuple(parts[3:])


def _grown(old: mx.array | None, like: mx.array, rows: int, columns: int) -> mx.array:
    """A zeroed buffer [rows, columns] like ``like`` in all else that holds ``old`` in its first rows and columns."""
    new = mx.zeros((rows, like.shape[1], columns, like.shape[3]), like.dtype)
    if old is not None:
        new[: old.shape[0], :, : old.shape[2]] = old
    return new


def _vectors(array: mx.array) -> mx.array:
    """All but the last axis as one."""
    return array.flatten(0, -2)


def _joined(pieces: list[mx.array]) -> mx.array:
    return pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=2)


def _gather(buffer: mx.array, index: int, spans: list[tuple[int, int]]) -> mx.array:
    return _joined([buffer[index : index + 1, :, column : column + count] for column, count in spans])
