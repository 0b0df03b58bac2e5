"""Random weights, written as fast as the disk takes them: all are taken from one block of noise, in turn."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

BLOCK = 4_194_301  # numbers of noise; odd, so that no two rows of a matrix begin at the same one
_NAMES = {"float32": "F32", "bfloat16": "BF16"}

Bits = npt.NDArray[Any]  # numbers as they are written: float32, or the upper half of each


@dataclass(frozen=True)
class Weight:
    """An array of ``size``: all ``value``, or with ``std`` normally distributed around 0. ``rows``: the first that is
    not all 0, and the one behind the last."""

    size: tuple[int, ...]
    value: float = 0.0
    std: float | None = None
    rows: tuple[int, int] | None = None

    @classmethod
    def linear(cls, *size: int) -> Weight:
        """[out, ...], which keeps the scale of what goes through."""
        return cls(size, std=math.prod(size[1:]) ** -0.5)


def save(path: Path, weights: Mapping[str, Weight], dtype: str) -> None:
    """Write a safetensors file of numbers of type ``dtype``, as MLX calls it."""
    header: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    noise, end = _Noise(dtype), 0
    for name, weight in weights.items():
        start, end = end, end + math.prod(weight.size) * noise.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": weight.size, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for weight in weights.values():
            _write(file, weight, noise)


def _write(file: BinaryIO, weight: Weight, noise: _Noise) -> None:
    width = math.prod(weight.size[1:])
    first, last = weight.rows or (0, weight.size[0])
    for count, std, value in (
        (first * width, None, 0.0),
        ((last - first) * width, weight.std, weight.value),
        ((weight.size[0] - last) * width, None, 0.0),
    ):
        for piece in noise.same(count, value) if std is None else noise.normal(count, std):
            file.write(piece.data)


class _Noise:
    def __init__(self, dtype: str) -> None:
        self._short = dtype == "bfloat16"
        self.itemsize = 2 if self._short else 4
        self._block = np.random.default_rng(0).standard_normal(BLOCK, dtype=np.float32)
        self._scaled: dict[float, Bits] = {}
        self._next = 0

    def normal(self, count: int, std: float) -> Iterator[Bits]:
        """``count`` numbers, going on in the block where the last ones ended."""
        if std not in self._scaled:
            self._scaled[std] = self._bits(self._block * np.float32(std))
        while count:
            piece = self._scaled[std][self._next : self._next + count]
            self._next = (self._next + len(piece)) % BLOCK
            count -= len(piece)
            yield piece

    def same(self, count: int, value: float) -> Iterator[Bits]:
        yield self._bits(np.full(count, value, dtype=np.float32))

    def _bits(self, numbers: npt.NDArray[np.float32]) -> Bits:
        if not self._short:
            return numbers
        bits = numbers.view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)  # to the nearest, to even
