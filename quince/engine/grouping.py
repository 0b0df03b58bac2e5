"""Which rows decode in one rectangle. No MLX in here.

A rectangle is as wide as its longest row: shorter rows have as many columns, and read them, too, except where the
decode kernel serves them (cuda/decode.py). One more group costs one more forward pass, which reads the weights again
and keeps the host busy. So rows share a group as long as what they read in vain takes no longer than that. Rows of
different kinds, which one pass cannot serve, never share a group.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping

MAX_GROUPS = 8


class DecodeGroups:
    """Places rows by their length in tokens, as it is after the Batch that is being made. All rows of all groups grow
    together, by ``advance``."""

    def __init__(self, *, max_padding: int) -> None:
        """``max_padding``: tokens that a group may read in vain in one step."""
        self._max_padding = max_padding
        self._steps = 0
        self._groups: dict[int, dict[str, int]] = {}  # length of each row, less the steps so far
        self._group_of: dict[str, int] = {}
        self._kinds: dict[int, Hashable] = {}

    def place(self, request_id: str, length: int, kind: Hashable = None) -> int:
        """The group of a new row: of its kind, where it makes the least padding."""
        offset = length - self._steps
        groups = [group for group in self._groups if self._kinds[group] == kind]
        best = min(groups, key=lambda group: self._added_padding(group, offset), default=None)
        if best is None or (self._padding(best, offset) > self._max_padding and len(self._groups) < MAX_GROUPS):
            best = next(number for number in range(len(self._groups) + 1) if number not in self._groups)
        self._groups.setdefault(best, {})[request_id] = offset
        self._kinds[best] = kind
        self._group_of[request_id] = best
        return best

    def remove(self, request_id: str) -> None:
        group = self._group_of.pop(request_id)
        del self._groups[group][request_id]
        if not self._groups[group]:
            del self._groups[group]

    def advance(self) -> None:
        """Every row is one token longer."""
        self._steps += 1

    def clear(self) -> None:
        self._groups.clear()
        self._group_of.clear()

    @property
    def lengths(self) -> Mapping[int, dict[str, int]]:
        """The rows' lengths, by group and request."""
        steps = self._steps
        return {number: {name: at + steps for name, at in rows.items()} for number, rows in self._groups.items()}

    def _added_padding(self, group: int, offset: int) -> int:
        offsets = self._groups[group].values()
        return self._padding(group, offset) - (len(offsets) * max(offsets) - sum(offsets))

    def _padding(self, group: int, offset: int) -> int:
        """Of a group with one more row."""
        offsets = [*self._groups[group].values(), offset]
        return len(offsets) * max(offsets) - sum(offsets)
