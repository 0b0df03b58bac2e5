"""The sampling kernel for CUDA: its arithmetic on a CPU, and itself where there is CUDA."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from quince.engine.cuda import kernel as kernels
from quince.engine.cuda.kernel import CudaKernel
from quince.engine.cuda.sample import DTYPES, CudaSampleKernel
from quince.engine.penalties import RowHistory
from quince.engine.sampler import Sampler
from quince.sampling import SamplingParams


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_its_arithmetic(tmp_path: Path) -> None:
    from tests.engine.cuda.emulation import emulated_errors

    wrong = emulated_errors("sample", tmp_path)  # tokens, of each case
    assert wrong == [0] * 11


def sampled(sampler: Sampler, logits: mx.array, params: list[SamplingParams]) -> list[int]:
    sampler.set_rows([RowHistory(row, None, [], []) for row in params])
    found: list[int] = sampler.sample(logits, [3] * len(params)).token_ids.tolist()
    return found


PARAMS = [
    SamplingParams(max_tokens=9, temperature=0.7, top_p=0.9, seed=1),
    SamplingParams(max_tokens=9, temperature=1.3, top_k=40, seed=2),
    SamplingParams(max_tokens=9, temperature=0.0, seed=3),
    SamplingParams(max_tokens=9, temperature=1.0, min_p=0.05, top_p=0.5, top_k=7, seed=4),
    SamplingParams(max_tokens=9, temperature=2.0, seed=5),
] * 8


@pytest.mark.skipif(not mx.cuda.is_available(), reason="no CUDA")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [7, 3001, 151_936])
def test_on_cuda(dtype: mx.Dtype, vocabulary: int) -> None:
    """As the operations that it stands for, but where their rounding decides."""
    kernel = CudaSampleKernel()
    logits = (3 * mx.random.normal((len(PARAMS), vocabulary))).astype(dtype)
    assert kernel.takes(logits)
    with_it, without = sampled(Sampler(kernel), logits, PARAMS), sampled(Sampler(), logits, PARAMS)
    assert sum(a == b for a, b in zip(with_it, without, strict=True)) >= 0.9 * len(PARAMS)
    alone = [sampled(Sampler(kernel), logits[i : i + 1], [row])[0] for i, row in enumerate(PARAMS)]
    assert alone == with_it


def test_without_a_compiler_it_takes_nothing(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def fails(**_: Any) -> list[mx.array]:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(CudaKernel, "compiled", staticmethod(lambda *_, **__: fails))
    monkeypatch.setattr(kernels, "PAUSES", (0.0, 0.0))
    kernel = CudaSampleKernel()
    assert not kernel.takes(mx.zeros((1, 1)))
    assert "tokens are sampled without a kernel of their own: no compiler" in caplog.text


def test_one_that_draws_other_tokens_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def zeros(output_shapes: list[tuple[int, ...]], **_: Any) -> list[mx.array]:
        return [mx.zeros(shape, dtype=mx.int32) for shape in output_shapes]

    monkeypatch.setattr(CudaKernel, "compiled", staticmethod(lambda *_, **__: zeros))
    monkeypatch.setattr(kernels, "PAUSES", (0.0, 0.0))
    assert not CudaSampleKernel().takes(mx.zeros((1, 1)))
