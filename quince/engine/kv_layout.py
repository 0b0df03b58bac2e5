"""What a row's caches cost in bytes, and how large the buffers of a batch are. No MLX in here.

The scheduler counts memory with the same functions that ``RowKVCache`` makes room with, so it knows every buffer's
size before it is there.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

# Buffers grow by so many tokens. Not 256: MLX's CUDA build takes keys in buffers of a multiple of it for mlx-lm's own
# caches, and gives them to cuDNN instead of its vector kernel, which several rows take half as long again with
# (benchmarks/README.md).
COLUMN_STEP = 257


class KVQuantization(NamedTuple):
    """How keys and values are kept: ``bits`` each, in groups of ``group_size`` numbers."""

    bits: int
    group_size: int


class KVLayout(msgspec.Struct, frozen=True, kw_only=True):
    """One row's cost, by kind of layer. Measured at load (see support.py).

    ``token_bytes``: all layers that keep every token, per token. ``windows``: (tokens, bytes per token) of the sliding
    windows. ``state_bytes``: layers whose state does not grow. ``reusable``: whether rows can be saved and restored.
    """

    token_bytes: int = 0
    windows: tuple[tuple[int, int], ...] = ()
    state_bytes: int = 0
    reusable: bool = True

    def __add__(self, other: KVLayout) -> KVLayout:
        """Layers of both."""
        sizes = dict(self.windows)
        for window, size in other.windows:
            sizes[window] = sizes.get(window, 0) + size
        return KVLayout(
            token_bytes=self.token_bytes + other.token_bytes,
            windows=tuple(sorted(sizes.items())),
            state_bytes=self.state_bytes + other.state_bytes,
            reusable=self.reusable and other.reusable,
        )

    @property
    def needs_snapshots(self) -> bool:
        """Whether some layers cannot be cut at any token, so that a row resumes from a snapshot only."""
        return bool(self.windows or self.state_bytes)

    def segment_bytes(self, tokens: int) -> int:
        return tokens * self.token_bytes

    def snapshot_bytes(self, position: int) -> int:
        """The layers that cannot be cut, after ``position`` tokens."""
        return self.state_bytes + sum(min(position, window) * size for window, size in self.windows)

    def buffer_bytes(self, rows: int, columns: int, max_width: int) -> int:
        """A batch's buffers: ``rows`` of ``columns`` tokens, filled by calls of at most ``max_width``."""
        rings = sum(min(columns, window + max_width - 1) * size for window, size in self.windows)
        return rows * (columns * self.token_bytes + rings + self.state_bytes)


def columns_for(length: int) -> int:
    return (length + COLUMN_STEP - 1) // COLUMN_STEP * COLUMN_STEP


def rows_for(have: int, need: int) -> int:
    """How many rows a buffer gets when it must grow from ``have`` to ``need``: more, so that it seldom grows."""
    return have if need <= have else max(need, have + have // 2)


def shrunk_rows(have: int, need: int) -> int:
    """Rows to keep when ``need`` are left."""
    return 2 * need if have > 4 * need else have


def shrunk_columns(have: int, longest: int) -> int:
    """Columns to keep when the longest row that is left has ``longest`` tokens."""
    need = longest + COLUMN_STEP
    return columns_for(need) if have > 2 * need else have
