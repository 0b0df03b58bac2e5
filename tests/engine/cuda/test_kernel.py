"""What the kernels have in common: what becomes of one that does not work."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import pytest

from quince.engine.cuda import kernel as kernels
from quince.engine.cuda.chunk import CudaChunkKernel
from quince.engine.cuda.decode import CudaDecodeKernel
from quince.engine.cuda.kernel import CudaKernel

KERNELS = pytest.mark.parametrize(
    ("kernel", "width", "purpose"),
    [
        (CudaDecodeKernel, 1, "rows of different lengths are decoded"),
        (CudaChunkKernel, 5, "chunks of prompts are computed"),
    ],
)


@KERNELS
def test_one_that_cannot_be_compiled_is_not_used(
    kernel: Any, width: int, purpose: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(**_: Any) -> list[mx.array]:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(CudaKernel, "compiled", staticmethod(lambda *_, **__: fails))
    monkeypatch.setattr(kernels, "PAUSES", (0.0, 0.0))
    tried = kernel()  # says nothing until it is used
    queries, keys = mx.zeros((2, 4, width, 64), mx.bfloat16), mx.zeros((2, 2, 9, 64), mx.bfloat16)
    others = [
        (queries[:, :, 0], keys, keys),
        (queries, keys, keys[..., :32]),
        (queries.astype(mx.float32), keys.astype(mx.float32), keys.astype(mx.float32)),
        (queries, keys, keys.astype(mx.float16)),
        (queries, keys.astype(mx.float16), keys),
        (queries[..., :32], keys[..., :32], keys[..., :32]),
        (queries, mx.zeros((2, 2, 9, 128), mx.bfloat16), mx.zeros((2, 2, 9, 128), mx.bfloat16)),
    ]
    assert not any(tried.takes(*arrays) for arrays in others)
    assert not caplog.records
    assert not tried.takes(queries, keys, keys)
    assert not tried.takes(queries, keys, keys)
    assert not tried.in_use
    (record,) = caplog.records  # tried once
    assert f"{purpose} without a kernel of their own: no compiler" in record.message


@KERNELS
def test_one_that_gives_other_numbers_is_not_used(
    kernel: Any, width: int, purpose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def zeros(output_shapes: list[tuple[int, ...]], **_: Any) -> list[mx.array]:
        return [mx.zeros(shape) for shape in output_shapes]

    monkeypatch.setattr(CudaKernel, "compiled", staticmethod(lambda *_, **__: zeros))
    monkeypatch.setattr(kernels, "PAUSES", (0.0, 0.0))
    keys = mx.zeros((2, 2, 9, 64), mx.bfloat16)
    assert not kernel().takes(keys[:, :, :width], keys, keys)
