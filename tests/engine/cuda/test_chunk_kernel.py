"""The chunk kernel for CUDA: its arithmetic on a CPU, and itself where there is CUDA."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from quince.engine.cuda.chunk import BLOCK, QUERIES, TILE, CudaChunkKernel, parts_for
from quince.engine.cuda.kernel import CudaKernel
from tests.engine.cuda.emulation import HALF_ULP, emulated_errors


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_its_arithmetic(tmp_path: Path) -> None:
    errors = emulated_errors("chunk", tmp_path, TILE=TILE, QUERIES=QUERIES, BLOCK=BLOCK)
    assert len(errors) == 3 * 9
    assert all(error < 2 * HALF_ULP for error in errors), errors


@pytest.mark.parametrize(
    ("blocks", "columns", "parts"), [(8, 1023, 1), (8, 1024, 2), (8, 40_000, 32), (100, 40_000, 2), (300, 40_000, 1)]
)
def test_parts(blocks: int, columns: int, parts: int) -> None:
    assert parts_for(blocks, columns) == parts


@pytest.mark.skipif(not mx.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize(("width", "columns"), [(1, 65), (16, 600), (112, 112), (150, 5000), (600, 1500)])
@pytest.mark.parametrize(("heads", "key_heads", "head_dim"), [(16, 8, 128), (8, 1, 64), (7, 7, 64), (6, 2, 128)])
@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_on_cuda(dtype: mx.Dtype, heads: int, key_heads: int, head_dim: int, width: int, columns: int) -> None:
    kernel = CudaChunkKernel()
    queries = mx.random.normal((3, width, heads, head_dim)).astype(dtype).swapaxes(1, 2)
    buffers = [mx.random.normal((5, key_heads, columns + 9, head_dim)).astype(dtype) for _ in range(2)]
    keys, values = (buffer[:3, :, :columns] for buffer in buffers)
    assert kernel.takes(queries, keys, values)
    expected = mx.fast.scaled_dot_product_attention(
        *(array.astype(mx.float32) for array in (queries, keys, values)),
        scale=head_dim**-0.5,
        mask=mx.arange(columns)[None] <= mx.arange(columns - width, columns)[:, None],
    )
    found = kernel(queries, keys, values, head_dim**-0.5)
    assert mx.allclose(found.astype(mx.float32), expected, atol=4 * HALF_ULP)


def test_what_it_does_not_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CudaKernel, "compiled", staticmethod(lambda *_, **__: None))
    keys = mx.zeros((2, 2, 9, 256), mx.bfloat16)
    assert not CudaChunkKernel().takes(keys[:, :, :5], keys, keys)


def test_what_is_compiled_and_called(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried whole and in parts, for each type and size of heads once: nothing is compiled in the middle of
    others' answers. What is not cut into parts is written as models go on with it, without another kernel."""
    memory: dict[str, int] = {}
    calls: list[tuple[str, Any, Any]] = []

    def compiled(
        name: str, _inputs: list[str], outputs: list[str], body: str, _sources: list[str], shared_memory: int = 0
    ) -> Any:
        memory[name] = shared_memory
        if name != "merge":  # a null pointer for what it does not give
            in_parts = "parts" in name
            assert outputs == (["outputs", "sums"] if in_parts else ["out"])
            assert ("D, true>" if in_parts else "D, false>") in body
            assert ("nullptr, outputs, sums," if in_parts else "out, nullptr, nullptr,") in body

        def run(
            grid: tuple[int, int, int], output_shapes: list[tuple[int, ...]], threadgroup: object, **_: Any
        ) -> list[mx.array]:
            calls.append((name, grid, threadgroup))
            return [mx.zeros(shape) for shape in output_shapes]

        return run

    monkeypatch.setattr(CudaKernel, "compiled", staticmethod(compiled))
    monkeypatch.setattr(mx, "allclose", lambda *_, **__: mx.array(True))
    kernel = CudaChunkKernel()
    of_64, of_128 = ((128 + 4 * 64) * head_dim * 2 for head_dim in (64, 128))
    assert memory == {
        "merge": 0,
        "chunk_64": of_64,
        "chunk_parts_64": of_64,
        "chunk_128": of_128,
        "chunk_parts_128": of_128,
    }
    for dtype, head_dim in [(mx.bfloat16, 64), (mx.float16, 64), (mx.bfloat16, 128), (mx.bfloat16, 64)]:
        keys = mx.zeros((1, 2, 9, head_dim), dtype)
        assert kernel.takes(mx.zeros((1, 6, 5, head_dim), dtype), keys, keys)
    tries = [[f"chunk_{size}", f"chunk_{size}", f"chunk_parts_{size}", "merge"] for size in (64, 64, 128)]
    assert [call[0] for call in calls] == [name for names in tries for name in names]
    calls.clear()
    keys = mx.zeros((3, 2, 5000, 64), mx.bfloat16)
    queries = mx.zeros((3, 6, 50, 64), mx.bfloat16)
    assert kernel(queries, keys, keys, 0.5).shape == queries.shape
    # Two blocks for 150 queries of each of 6 key heads; 12 in all, so that each part is of 512 columns or more.
    assert calls == [
        ("chunk_parts_64", (2 * 128, 9, 6), (128, 1, 1)),
        ("merge", (3 * 6 * 50 * 64, 1, 1), (64, 1, 1)),
    ]
    calls.clear()
    few = keys[:, :, :600]
    assert kernel(queries, few, few, 0.5).shape == queries.shape
    assert calls == [("chunk_64", (2 * 128, 1, 6), (128, 1, 1))]
