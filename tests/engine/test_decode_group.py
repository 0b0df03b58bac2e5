"""Rows that nobody needs any more: they stay where they are, or others take their places."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx

from quince.engine.batch import DecodeRow, PrefillChunk
from quince.engine.batch_cache import BatchCache, RowChange
from quince.engine.decode_group import DecodeGroup
from quince.engine.forward import TextForward
from quince.engine.kv_layout import COLUMN_STEP
from quince.sampling import SamplingParams
from tests import tiny_models


class Group:
    """A decode group of a real model, whose rows are named by letters and hold prompts of any length."""

    def __init__(self, lengths: Sequence[int], *, vacant_tokens: int) -> None:
        self.forward = TextForward(tiny_models.build("qwen3"))
        self.group = DecodeGroup(BatchCache(self.forward, max_width=1), vacant_tokens=vacant_tokens)
        self.changes: list[RowChange] = []
        change = self.group.cache.change

        def noted(plan: RowChange, *args: object, **options: bool) -> None:
            self.changes.append(plan)
            change(plan, *args, **options)

        self.group.cache.change = noted
        self.change("", dict(zip("abcdefgh", lengths, strict=False)))
        self.changes.clear()

    def change(self, leaving: str, joining: dict[str, int] | None = None, *, tight: bool = False) -> None:
        rows = []
        for name, length in (joining or {}).items():
            cache = BatchCache(self.forward, max_width=length, expected_length=length + 1)
            cache.add_empty_rows(1)
            cache.begin(length)
            self.forward.prefill([PrefillChunk(name, [ord(name) % 50 + 1] * length, 0, length)], cache)
            cache.commit()
            rows.append((DecodeRow(name, 7, SamplingParams(max_tokens=99)), cache, 0))
        self.group.change(set(leaving), rows, tight=tight)
        if self.group.rows:
            mx.eval(self.group.sample(self.group.forward(self.forward), None).token_ids)

    @property
    def names(self) -> list[str]:
        return [row.request_id for row in self.group.rows]

    @property
    def lengths(self) -> list[int]:
        return self.group.cache.lengths


def test_a_row_that_is_left_stays_and_the_next_takes_its_place() -> None:
    group = Group([5, 6, 7], vacant_tokens=1000)
    group.change("a")
    assert group.names == ["", "b", "c"] and group.changes == []
    group.change("", {"d": 4})
    assert group.names == ["d", "b", "c"]
    assert [change.moves for change in group.changes] == [[]]


def test_otherwise_the_last_row_moves_there() -> None:
    group = Group([5, 6, 7], vacant_tokens=0)
    group.change("a")
    assert group.names == ["c", "b"]
    assert [change.moves for change in group.changes] == [[(2, 0)]]


def test_no_more_rows_are_vacant_than_in_use() -> None:
    group = Group([5] * 6, vacant_tokens=1000)
    group.change("ac")
    group.change("e")
    assert group.names == ["", "b", "", "d", "", "f"] and group.changes == []
    group.change("b")
    assert group.names == ["f", "d"]


def test_nor_than_there_are_tokens_for() -> None:
    group = Group([5, 20, 5], vacant_tokens=24)
    group.change("a")  # 21 tokens are read in vain
    assert group.names == ["", "b", "c"]
    for _ in range(2):
        group.change("x")
    group.change("c")
    assert group.names == ["b"]


def test_a_vacant_row_is_no_longer_than_those_in_use() -> None:
    group = Group([50, 6, 7], vacant_tokens=1000)
    group.change("a")
    assert group.names == ["", "b", "c"]
    assert group.lengths == [9, 8, 9]  # with the token of this step
    group.change("c", {"d": 3})
    assert group.names == ["d", "b", ""]
    assert group.lengths == [4, 9, 9]


def test_memory_is_given_back_as_without_them() -> None:
    """The scheduler counts on it: see memory.py."""
    group = Group([2 * COLUMN_STEP, 5, 5, 5], vacant_tokens=10**6)
    group.change("a")
    assert group.names == ["d", "b", "c"], "buffers for three times as many tokens are not kept for the others"
    assert group.group.cache.fits(3, 6)
    group.change("", tight=True)
    assert {array.shape[0] for array in group.group.cache.arrays()} == {3}


def test_tight_memory_leaves_no_room_for_them() -> None:
    group = Group([5, 6, 7], vacant_tokens=1000)
    group.change("a")
    group.change("", tight=True)
    assert group.names == ["c", "b"]


def test_a_group_that_all_leave_has_no_rows() -> None:
    group = Group([5, 6, 7], vacant_tokens=1000)
    group.change("a")
    group.change("bc")
    assert group.names == []
