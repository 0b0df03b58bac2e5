"""The decode kernel for CUDA: its arithmetic on a CPU, and itself where there is CUDA."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from quince.engine.cuda import kernel as kernels
from quince.engine.cuda.decode import CudaDecodeKernel, parts_for
from quince.engine.cuda.kernel import CudaKernel
from tests.engine.cuda.emulation import HALF_ULP, emulated_errors


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_its_arithmetic(tmp_path: Path) -> None:
    errors = emulated_errors("decode", tmp_path)
    assert len(errors) == 2 * 7
    assert all(error < 2 * HALF_ULP for error in errors), errors


@pytest.mark.parametrize(
    ("blocks", "columns", "parts"),
    [(8, 1024, 1), (8, 1025, 2), (8, 30_000, 32), (64, 8192, 4), (256, 2000, 1), (256, 30_000, 8), (1000, 5000, 2)],
)
def test_parts(blocks: int, columns: int, parts: int) -> None:
    assert parts_for(blocks, columns) == parts


@pytest.mark.skipif(not mx.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("columns", [7, 600, 5000])
@pytest.mark.parametrize(("heads", "key_heads", "head_dim"), [(16, 8, 128), (8, 1, 64), (7, 7, 256), (6, 3, 128)])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_on_cuda(dtype: mx.Dtype, heads: int, key_heads: int, head_dim: int, columns: int) -> None:
    kernel = CudaDecodeKernel()
    queries = mx.random.normal((3, 1, heads, head_dim)).astype(dtype).swapaxes(1, 2)
    buffers = [mx.random.normal((5, key_heads, columns + 9, head_dim)).astype(dtype) for _ in range(2)]
    keys, values = (buffer[:3, :, :columns] for buffer in buffers)
    lengths = mx.array([1, columns // 2, columns])
    assert kernel.takes(queries, keys, values)
    found = kernel(queries, keys, values, lengths, head_dim**-0.5)
    for row, length in enumerate(lengths.tolist()):
        expected = mx.fast.scaled_dot_product_attention(
            queries[row : row + 1].astype(mx.float32),
            keys[row : row + 1, :, :length].astype(mx.float32),
            values[row : row + 1, :, :length].astype(mx.float32),
            scale=head_dim**-0.5,
        )
        assert mx.allclose(found[row : row + 1].astype(mx.float32), expected, atol=4 * HALF_ULP)


def test_what_it_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CudaKernel, "compiled", staticmethod(lambda *_: None))
    keys = mx.zeros((2, 2, 9, 64), mx.bfloat16)
    assert not CudaDecodeKernel().takes(mx.zeros((2, 4, 3, 64), mx.bfloat16), keys, keys)


@pytest.mark.parametrize("group", [1, 2, 5, 8, 128])
def test_it_is_tried_whole_and_in_parts_and_again_if_that_fails(monkeypatch: pytest.MonkeyPatch, group: int) -> None:
    """With every number of heads: nothing is compiled later, in the middle of others' answers."""
    asked: list[str] = []
    fails = [True]

    def compiled(part: str, *_: Any) -> Any:
        def run(output_shapes: list[tuple[int, ...]], **_: Any) -> list[mx.array]:
            asked.append(part)
            if fails:
                raise RuntimeError(fails.pop())
            return [mx.zeros(shape) for shape in output_shapes]

        return run

    monkeypatch.setattr(CudaKernel, "compiled", staticmethod(compiled))
    monkeypatch.setattr(kernels, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(mx, "allclose", lambda *_, **__: mx.array(True))
    keys = mx.zeros((2, 1, 9, 64), mx.bfloat16)
    assert CudaDecodeKernel().takes(mx.zeros((2, group, 1, 64), mx.bfloat16), keys, keys)
    assert asked == ["decode", "decode", "decode_parts", "merge"]
