"""Which tokens the rows of a batch may say next, as arrays.

Bits are computed on a thread of its own while the engine thread hands the forward pass to the device. Handing bits to
the device is what costs there: on an H200 0.6 ms for 16 rows of 152 k tokens, a tenth of a step. So masks that were
used lately stay on the device, and a step hands over only those that are new. Grammars come back to few masks: most of
an answer is in the middle of a string.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from llguidance import LLExecutor
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask_par

from quince.engine.structured import Bits, Constraint

KEPT_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Allowed:
    """What rows may say next, bool [rows, vocabulary]; ``errors`` of those that cannot go on, by their index."""

    tokens: mx.array
    errors: dict[int, str]


@dataclass(frozen=True)
class _Masks:
    """A step's masks: every row's place in the table, and the bits of those places that are to be filled."""

    places: list[int]
    filled: list[int]
    bits: Bits
    errors: dict[int, str]


class TokenMasks:
    """``start`` computes the masks of all rows of a batch, ``result`` waits for them."""

    def __init__(self, vocab_size: int, *, kept: int | None = None) -> None:
        """``kept``: how many masks stay on the device [8 MiB of them]; never fewer than a step needs."""
        self._vocab_size = vocab_size
        self._executor = LLExecutor()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="token-masks")
        self._future: Future[_Masks] | None = None
        words = allocate_token_bitmask(1, vocab_size).shape[1]
        self._kept = max(1, KEPT_BYTES // (4 * words)) if kept is None else kept
        self._places: OrderedDict[bytes, int] = OrderedDict()  # by the mask's bits; used last is last
        self._table = mx.zeros((0, words), dtype=mx.int32)
        self._bits = mx.array(np.left_shift(np.uint32(1), np.arange(32, dtype=np.uint32)).view(np.int32))

    def start(self, rows: Sequence[Constraint | None], said: Sequence[int | None]) -> None:
        """``said`` are the tokens that rows have said since they were asked last, if any. None: a row that may say
        anything."""
        self._future = self._thread.submit(self._compute, list(rows), list(said))

    def result(self) -> Allowed:
        assert self._future is not None, "result() before start()"
        masks = self._future.result()
        self._fill(masks)
        words = self._table[mx.array(masks.places)]
        spread = (words[:, :, None] & self._bits) != 0
        return Allowed(spread.reshape(len(masks.places), -1)[:, : self._vocab_size], masks.errors)

    def _fill(self, masks: _Masks) -> None:
        """Put new masks into the table. No step that reads it is in flight, so that happens in place."""
        if not masks.filled:
            return
        missing = max(masks.filled) + 1 - self._table.shape[0]
        if missing > 0:  # it grows by doubling
            rows = max(missing, self._table.shape[0])
            self._table = mx.concatenate([self._table, mx.zeros((rows, self._table.shape[1]), dtype=mx.int32)])
        self._table[mx.array(masks.filled)] = mx.array(masks.bits)

    # On the other thread, which alone uses the matchers and ``_places``

    def _compute(self, rows: list[Constraint | None], said: list[int | None]) -> _Masks:
        errors = {}
        for index, (row, token_id) in enumerate(zip(rows, said, strict=True)):
            if row is not None and token_id is not None and (error := row.advance(token_id)):
                errors[index] = error
        bits: Bits = allocate_token_bitmask(len(rows), self._vocab_size)
        matchers = [(row.matcher, index) for index, row in enumerate(rows) if row is not None and row.matcher]
        if matchers:
            fill_next_token_bitmask_par(self._executor, matchers, bits)
        for index, row in enumerate(rows):
            if row is not None:
                row.restrict(bits[index])
        return self._place(bits, errors)

    def _place(self, bits: Bits, errors: dict[int, str]) -> _Masks:
        """Find each row's mask in the table, or a place for it: that of the mask that was used longest ago."""
        keys = [row.tobytes() for row in bits]
        for key in keys:
            if key in self._places:
                self._places.move_to_end(key)
        new: dict[int, int] = {}  # by the place, the row whose mask it gets
        for index, key in enumerate(keys):
            if key not in self._places:
                self._places[key] = self._free_place(len(keys))
                new[self._places[key]] = index
        return _Masks([self._places[key] for key in keys], list(new), bits[list(new.values())], errors)

    def _free_place(self, rows: int) -> int:
        if len(self._places) < max(self._kept, rows):
            return len(self._places)
        _, place = self._places.popitem(last=False)
        return place
