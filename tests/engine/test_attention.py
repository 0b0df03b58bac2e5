"""Attention as CUDA gets it: who asks the decode kernel and with what, and short turns by products."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.nn.layers.base import Module
from mlx_lm.models import base

from quince.engine import attention, device, preparation
from quince.engine.attention import NAME, by_products, replace_attention, score_bytes
from quince.engine.kv_layout import KVQuantization
from quince.engine.messages import AddRequest
from quince.sampling import SamplingParams
from tests import tiny_models
from tests.engine.driver import make_core, run, run_alone
from tests.engine.test_kv_quantization import wide_heads

MEMORY = 2**40
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


def build(family: str, kernel: ReferenceKernel, memory: int = MEMORY) -> Module:
    model = tiny_models.build(family)
    assert replace_attention(model, kernel, memory) == 1
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
    assert replace_attention(model, kernel, MEMORY) == 1
    engine = make_core(model, kv_quantization=KVQuantization(8, 32))
    kernel.lengths.clear()  # of the model's trial, which is without
    run(engine, [request(5), request(40)])
    assert not kernel.lengths


@pytest.mark.parametrize(
    ("rows", "heads", "key_heads", "width", "columns"), [(1, 4, 2, 5, 9), (2, 6, 2, 3, 40), (1, 3, 3, 2, 3)]
)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16])
def test_products_give_what_mlx_gives(
    rows: int, heads: int, key_heads: int, width: int, columns: int, dtype: mx.Dtype
) -> None:
    queries = mx.random.normal((rows, heads, width, 8)).astype(dtype)
    keys = mx.random.normal((rows, key_heads, columns, 8)).astype(dtype)
    values = mx.random.normal((rows, key_heads, columns, 16)).astype(dtype)
    expected = mx.fast.scaled_dot_product_attention(queries, keys, values, scale=0.3, mask="causal")
    assert mx.allclose(by_products(queries, keys, values, 0.3), expected, atol=1e-6 if dtype == mx.float32 else 0.02)


def test_what_a_short_turn_is() -> None:
    queries, keys = mx.zeros((1, 4, 10, 8), mx.bfloat16), mx.zeros((1, 2, 100, 8), mx.bfloat16)
    assert score_bytes(queries, keys) == 4 * 10 * 100 * 2
    assert score_bytes(queries[:, :, :1], keys) == 0  # a step of decoding
    assert score_bytes(queries, keys[:, :, :10]) == 0  # nothing before it
    assert score_bytes(mx.zeros((1, 4, 300, 8)), mx.zeros((1, 2, 1000, 8))) == 0  # long
    assert score_bytes(mx.zeros((1, 2, 2, 10, 8)), mx.zeros((1, 2, 1, 100, 8))) == 0  # grouped heads on an own axis


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("memory", [MEMORY, 0])
def test_short_turns(family: str, memory: int, kernel: ReferenceKernel, monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[int] = []

    def counted(queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
        turns.append(queries.shape[2])
        return by_products(queries, keys, values, scale)

    monkeypatch.setattr(attention, "by_products", counted)
    first = request(150)
    engine = make_core(build(family, kernel, memory), prefix_cache_bytes=2**24, prefill_chunk_size=256)
    said = run(engine, [first])[first.request_id].token_ids
    second = AddRequest("second", [*prompt(150), *said, *prompt(20, seed=3)], SamplingParams(max_tokens=12))
    turns.clear()
    answer = run(engine, [second])["second"]
    assert answer.cached_tokens > 100
    assert answer.token_ids == run_alone(tiny_models.build(family), second).token_ids
    assert bool(turns) is (memory > 0)


@pytest.mark.parametrize("gains", [True, False])
def test_a_model_is_prepared_where_the_device_gains(
    gains: bool, kernel: ReferenceKernel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(device, "gains_from_own_attention", lambda: gains)
    monkeypatch.setattr(device, "total_memory", lambda: MEMORY)
    monkeypatch.setattr(preparation, "CudaKernel", lambda: kernel)
    model = tiny_models.build("qwen3")
    preparation.prepare(model)
    run(make_core(model), [request(5), request(40)])
    assert bool(kernel.lengths) is gains
