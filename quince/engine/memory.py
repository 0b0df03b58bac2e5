"""How much memory the rows' caches take: the runner's buffers, mirrored as sizes. No MLX in here.

The rules are those of ``RowKVCache``, from the same functions (kv_layout). So the scheduler knows what a Batch will
take before it hands it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from quince.engine.kv_layout import COLUMN_STEP, KVLayout, columns_for, rows_for, shrunk_columns, shrunk_rows


class Rectangle(NamedTuple):
    """Buffers of ``rows`` x ``columns`` tokens."""

    rows: int = 0
    columns: int = 0


@dataclass(frozen=True)
class GroupPlan:
    """A decode group in the Batch that is being made: its rows' lengths after it, those of rows that join, and the
    buffers of a lane that become the group's own because all of the lane joins, and nobody else."""

    lengths: list[int]
    joining: list[int]
    adopted: Rectangle | None = None


class KVMemory:
    """``plan`` what decode groups will take; ``commit`` it when the Batch is handed out. Lanes are sized once.

    ``most_tokens``: the longest row that there is room for.
    """

    def __init__(self, layout: KVLayout, *, max_bytes: int, max_width: int) -> None:
        """``max_bytes``: of all rows and of the prefix cache; ``max_width``: the widest chunk of a prompt."""
        self._layout = layout
        self._max_width = max_width
        self.groups: dict[int, Rectangle] = {}
        self.resize(max_bytes)

    def resize(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.most_tokens = self._most_tokens()

    def _most_tokens(self) -> int:
        """The longest row that there is room for, if it is alone."""
        low, high = 0, 2**32 // COLUMN_STEP
        while low < high:
            middle = (low + high + 1) // 2
            if self.row_bytes(middle * COLUMN_STEP) <= self.max_bytes:
                low = middle
            else:
                high = middle - 1
        return low * COLUMN_STEP

    def row_bytes(self, tokens: int) -> int:
        """A row of so many tokens by itself, with its prompt's buffers."""
        return self.lane_bytes(Rectangle(1, columns_for(tokens)))

    def lane_bytes(self, rectangle: Rectangle) -> int:
        return self._layout.buffer_bytes(rectangle.rows, rectangle.columns, self._max_width)

    def group_bytes(self, rectangles: Iterable[Rectangle]) -> int:
        return sum(self._layout.buffer_bytes(rows, columns, 1) for rows, columns in rectangles)

    def plan(self, groups: Mapping[int, GroupPlan], *, tight: bool) -> dict[int, Rectangle]:
        """The groups' buffers after the Batch. ``tight``: no larger than they must be."""
        return {number: self._plan(number, group, tight) for number, group in groups.items()}

    def commit(self, rectangles: dict[int, Rectangle]) -> None:
        self.groups = rectangles

    def clear(self) -> None:
        self.groups = {}

    def _plan(self, number: int, group: GroupPlan, tight: bool) -> Rectangle:
        count, longest = len(group.lengths), max(group.lengths)
        rows, columns = self.groups.get(number, Rectangle())
        if group.adopted is not None:
            rows, columns = group.adopted
        elif group.joining:
            rows, columns = rows_for(rows, count), max(columns, columns_for(max(group.joining)))
        if tight:
            return Rectangle(count, columns_for(longest))
        columns = max(shrunk_columns(columns, longest - 1), columns_for(longest))
        return Rectangle(shrunk_rows(rows, count), columns)
