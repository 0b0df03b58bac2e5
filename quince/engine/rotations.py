"""Rotary positions where MLX has no kernel for them: what they are rotated by is computed once a step.

On a CPU ``mx.fast.rope`` is some twenty operations, most of which find the cosines and sines of positions that are the
same for queries and keys, in every layer. ``SharedRoPE`` stands in the place of mlx's ``RoPE`` and computes them when
the positions change. The numbers are the same, to the last bit (benchmarks/README.md says what it gains).
"""

from __future__ import annotations

import math
from typing import cast

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.positional_encoding import RoPE

Offset = int | mx.array


def share_rotations(model: Module) -> int:
    """Let all rotary layers of a kind share their cosines and sines. Returns how many layers there are."""
    tables: dict[tuple[int, float, float], Rotations] = {}
    shared = 0
    for module in cast(list[Module], model.modules()):  # type: ignore[no-untyped-call]
        for name, child in module.items():
            if type(child) is RoPE and not child.traditional:
                key = (child.dims, child.base, child.scale)
                module[name] = SharedRoPE(child, tables.setdefault(key, Rotations(*key)))
                shared += 1
    return shared


def forget_rotations(model: Module) -> None:
    """A step has failed: what it was computing may never get its values."""
    for module in cast(list[Module], model.modules()):  # type: ignore[no-untyped-call]
        if isinstance(module, SharedRoPE):
            module.rotations.forget()


class Rotations:
    """Cosines and sines of positions, of those that were asked for last."""

    def __init__(self, dims: int, base: float, scale: float) -> None:
        half = dims // 2
        self._frequencies = mx.exp(mx.arange(0, -half, -1) * (math.log(base) / half))
        self._scale = scale
        self._known: tuple[Offset, int, mx.Dtype] | None = None
        self._both: tuple[mx.array, mx.array]

    def at(self, offset: Offset, width: int, dtype: mx.Dtype) -> tuple[mx.array, mx.array]:
        """Of ``width`` positions from ``offset`` on, or from each row's: [rows or 1, 1, width, dims]. Those of a
        vector's first half stand there twice; the sines have the sign that they are added with."""
        if not self._is_known(offset, width, dtype):
            first = mx.array([offset]) if isinstance(offset, int) else offset.reshape(-1)
            positions = (first[:, None] + mx.arange(width)) * self._scale
            angles = positions[:, None, :, None] * self._frequencies
            cosines, sines = mx.cos(angles).astype(dtype), mx.sin(angles).astype(dtype)
            self._both = mx.concatenate([cosines, cosines], axis=-1), mx.concatenate([-sines, sines], axis=-1)
            self._known = (offset, width, dtype)
        return self._both

    def forget(self) -> None:
        self._known = None

    def _is_known(self, offset: Offset, width: int, dtype: mx.Dtype) -> bool:
        """Arrays of offsets are the same if they are one: to compare their values would be to wait for them."""
        if self._known is None or self._known[1:] != (width, dtype):
            return False
        known = self._known[0]
        return known == offset if isinstance(known, int) and isinstance(offset, int) else known is offset


class SharedRoPE(RoPE):
    """Called as the layer in whose place it stands."""

    def __init__(self, layer: RoPE, rotations: Rotations) -> None:
        super().__init__(layer.dims, layer.traditional, layer.base, layer.scale)
        self.rotations = rotations

    def __call__(self, x: mx.array, offset: Offset = 0) -> mx.array:
        if x.ndim != 4:
            return cast(mx.array, super().__call__(x, offset))  # type: ignore[arg-type]  # arrays, too
        cosines, sines = self.rotations.at(offset, x.shape[2], x.dtype)
        half, dims = self.dims // 2, self.dims
        whole = x if x.shape[-1] == dims else x[..., :dims]
        turned = mx.concatenate([whole[..., half:], whole[..., :half]], axis=-1)
        rotated = whole * cosines + turned * sines
        return rotated if whole is x else mx.concatenate([rotated, x[..., dims:]], axis=-1)
