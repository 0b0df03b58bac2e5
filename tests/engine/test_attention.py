"""Attention as CUDA gets it: when the decode kernel is asked, and with what."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.nn.layers.base import Module
from mlx_lm.models import base

from quince.engine import attention, device, preparation
from quince.engine.attention import NAME, replace_attention
from quince.engine.kv_layout import KVQuantization
from quince.engine.messages import AddRequest
from quince.sampling import SamplingParams
from tests import tiny_models
from tests.engine.driver import make_core, run, run_alone
from tests.engine.test_kv_quantization import wide_heads

FAMILIES = ["qwen3", "gemma3_text", "lfm2", "qwen3_next", "falcon_h1"]


class ReferenceKernel:
    """What the kernel is to give, by operations that read nothing behind a row's last column."""

    def __init__(self) -> None:
        self.lengths: list[list[int]] = []

    def takes(self, queries: mx.array, keys: mx.array, values: mx.array) -> bool:
        return True

    def __call__(
        self, queries: mx.array, keys: mx.array, values: mx.array, lengths: mx.array, scale: float
    ) -> mx.array:
        assert queries.shape[2] == 1
        counts: list[int] = lengths.tolist()
        self.lengths.append(counts)
        assert max(counts) == keys.shape[2]
        rows = [
            mx.fast.scaled_dot_product_attention(
                queries[row : row + 1], keys[row : row + 1, :, :count], values[row : row + 1, :, :count], scale=scale
            )
            for row, count in enumerate(counts)
        ]
        return mx.concatenate(rows)


@pytest.fixture
def kernel() -> Iterator[ReferenceKernel]:
    """Puts back what models import, which is there once for all tests of a process."""
    yield ReferenceKernel()
    for name, module in list(sys.modules.items()):
        if name.startswith("mlx_lm.models") and getattr(vars(module).get(NAME), "__module__", "") == attention.__name__:
            setattr(module, NAME, base.scaled_dot_product_attention)


def build(family: str, kernel: ReferenceKernel) -> Module:
    model = tiny_models.build(family)
    assert replace_attention(model, kernel) == 1
    return model


def prompt(length: int, *, seed: int = 0) -> list[int]:
    return [1 + (7 * index + index * index // 5 + 31 * seed) % 90 for index in range(length)]


def request(length: int, *, max_tokens: int = 12, seed: int = 0) -> AddRequest:
    return AddRequest(f"r{length}-{seed}", prompt(length, seed=seed), SamplingParams(max_tokens=max_tokens))


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_different_lengths_say_what_each_says_alone(family: str, kernel: ReferenceKernel) -> None:
    requests = [request(5), request(40), request(73)]  # around the windows, of 16 and 32 tokens
    alone = [run_alone(tiny_models.build(family), request).token_ids for request in requests]
    engine = make_core(build(family, kernel))
    kernel.lengths.clear()  # of the model's trial
    together = run(engine, requests)
    assert [together[request.request_id].token_ids for request in requests] == alone
    assert any(len(set(counts)) > 1 for counts in kernel.lengths)


@pytest.mark.parametrize("family", FAMILIES)
def test_many_columns_without_a_mask(family: str, kernel: ReferenceKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MANY", 2)
    expected = run_alone(tiny_models.build(family), request(50)).token_ids
    engine = make_core(build(family, kernel))
    kernel.lengths.clear()
    assert run(engine, [request(50)])["r50-0"].token_ids == expected
    assert {len(counts) for counts in kernel.lengths} == {1}


def test_few_columns_without_a_mask_are_left_to_mlx(kernel: ReferenceKernel) -> None:
    engine = make_core(build("qwen3", kernel))
    kernel.lengths.clear()
    run(engine, [request(30)])
    assert not kernel.lengths


def test_quantised_keys_are_left_to_mlx_lm(kernel: ReferenceKernel) -> None:
    model = wide_heads("qwen3")
    assert replace_attention(model, kernel) == 1
    engine = make_core(model, kv_quantization=KVQuantization(8, 32))
    kernel.lengths.clear()  # of the model's trial, which is without
    run(engine, [request(5), request(40)])
    assert not kernel.lengths


@pytest.mark.parametrize("gains", [True, False])
def test_a_model_is_prepared_where_the_device_gains(
    gains: bool, kernel: ReferenceKernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(device, "gains_from_decode_kernel", lambda: gains)
    monkeypatch.setattr(preparation, "CudaKernel", lambda: kernel)
    model = tiny_models.build("qwen3")
    preparation.prepare(model)
    run(make_core(model), [request(5), request(40)])
    assert bool(kernel.lengths) is gains
