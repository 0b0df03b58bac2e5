"""Attention as CUDA gets it: when the kernels are asked, and with what."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import pytest
from mlx.nn.layers.base import Module

from quince.engine import attention, device, preparation
from quince.engine.attention import NAME, replace_attention, widest_chunk
from quince.engine.kv_cache import RowKVCache, RowPositions
from quince.engine.kv_layout import KVQuantization
from quince.engine.messages import AddRequest
from quince.sampling import SamplingParams
from tests import tiny_models
from tests.engine.driver import make_core, run, run_alone
from tests.engine.test_kv_quantization import wide_heads
from tests.vision_prompts import VisionFamily

FAMILIES = ["qwen3", "gemma3_text", "lfm2", "qwen3_next", "falcon_h1"]


class ReferenceDecode:
    """What the decode kernel is to give, by operations that read nothing behind a row's last column."""

    def __init__(self) -> None:
        self.lengths: list[list[int]] = []
        self.asked = False

    def takes(self, queries: mx.array, keys: mx.array, values: mx.array) -> bool:
        self.asked = True
        return queries.shape[2] == 1

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


class ReferenceChunk:
    """What the chunk kernel is to give."""

    def __init__(self) -> None:
        self.widths: list[tuple[int, int]] = []  # of queries, and of keys
        self.asked = self.in_use = False

    def takes(self, queries: mx.array, keys: mx.array, values: mx.array) -> bool:
        self.asked = True
        self.in_use = self.in_use or queries.ndim == 4
        return queries.ndim == 4

    def __call__(self, queries: mx.array, keys: mx.array, values: mx.array, scale: float) -> mx.array:
        width, columns = queries.shape[2], keys.shape[2]
        self.widths.append((width, columns))
        mask = mx.arange(columns)[None] <= mx.arange(columns - width, columns)[:, None]
        return mx.fast.scaled_dot_product_attention(queries, keys, values, scale=scale, mask=mask)


class Kernels(NamedTuple):
    decode: ReferenceDecode
    chunk: ReferenceChunk

    def clear(self) -> None:
        """Of the model's trial."""
        self.decode.lengths.clear()
        self.chunk.widths.clear()


LIBRARIES = ("mlx_lm.models.", "mlx_vlm.models.")


@pytest.fixture
def kernels() -> Iterator[Kernels]:
    """Puts back what models import, which is there once for all tests of a process."""
    yield Kernels(ReferenceDecode(), ReferenceChunk())
    for name, module in list(sys.modules.items()):
        if name.startswith(LIBRARIES) and getattr(vars(module).get(NAME), "__module__", "") == attention.__name__:
            setattr(module, NAME, getattr(sys.modules[".".join(name.split(".")[:2]) + ".base"], NAME))


def build(family: str, kernels: Kernels) -> Module:
    model = tiny_models.build(family)
    assert replace_attention(model, *kernels) == 1
    return model


def prompt(length: int, *, seed: int = 0) -> list[int]:
    return [1 + (7 * index + index * index // 5 + 31 * seed) % 90 for index in range(length)]


def request(length: int, *, max_tokens: int = 12, seed: int = 0) -> AddRequest:
    return AddRequest(f"r{length}-{seed}", prompt(length, seed=seed), SamplingParams(max_tokens=max_tokens))


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_different_lengths_say_what_each_says_alone(family: str, kernels: Kernels) -> None:
    requests = [request(5), request(40), request(73)]  # around the windows, of 16 and 32 tokens
    alone = [run_alone(tiny_models.build(family), request).token_ids for request in requests]
    engine = make_core(build(family, kernels))
    kernels.clear()
    together = run(engine, requests)
    assert [together[request.request_id].token_ids for request in requests] == alone
    assert any(len(set(counts)) > 1 for counts in kernels.decode.lengths)


@pytest.mark.parametrize("family", FAMILIES)
def test_many_columns_without_a_mask(family: str, kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "MANY", 2)
    expected = run_alone(tiny_models.build(family), request(50)).token_ids
    engine = make_core(build(family, kernels))
    kernels.clear()
    assert run(engine, [request(50)])["r50-0"].token_ids == expected
    assert {len(counts) for counts in kernels.decode.lengths} == {1}


def test_few_columns_without_a_mask_are_left_to_mlx(kernels: Kernels) -> None:
    engine = make_core(build("qwen3", kernels))
    kernels.clear()
    run(engine, [request(30)])
    assert not kernels.decode.lengths


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_in_chunks(family: str, kernels: Kernels) -> None:
    requests = [request(30), request(20, seed=1)]
    expected = [run_alone(tiny_models.build(family), request).token_ids for request in requests]
    engine = make_core(build(family, kernels), prefill_chunk_size=16)
    kernels.clear()
    found = run(engine, requests)
    assert [found[request.request_id].token_ids for request in requests] == expected
    assert {width < columns for width, columns in kernels.chunk.widths} == {True, False}


@pytest.mark.parametrize("family", FAMILIES)
def test_whole_prompts_of_different_lengths(family: str, kernels: Kernels) -> None:
    requests = [request(12), request(9, seed=1), request(15, seed=2)]  # shorter than the windows
    expected = [run_alone(tiny_models.build(family), request).token_ids for request in requests]
    engine = make_core(build(family, kernels))
    kernels.clear()
    found = run(engine, requests)
    assert [found[request.request_id].token_ids for request in requests] == expected
    assert kernels.chunk.widths
    assert all(width == columns for width, columns in kernels.chunk.widths)


def test_chunks_beside_streams_are_no_wider_than_the_kernel_serves(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "WIDEST", 32)
    engine = make_core(build("qwen3", kernels))
    kernels.clear()
    run(engine, [request(5, max_tokens=60), request(150)], arrivals={"r150-0": 10})
    assert len(kernels.chunk.widths) >= 3
    assert max(width for width, _ in kernels.chunk.widths) == 32


def test_where_the_kernel_does_not_work_chunks_are_as_wide_as_ever(kernels: Kernels) -> None:
    model = build("qwen3", kernels)
    assert widest_chunk(model) is None  # it was not tried yet
    make_core(model)
    assert widest_chunk(model) == attention.WIDEST
    kernels.chunk.in_use = False
    assert widest_chunk(model) is None
    assert widest_chunk(tiny_models.build("mamba")) is None


def test_a_turn_behind_what_is_cached(kernels: Kernels) -> None:
    turn = AddRequest("turn", [*prompt(100), *prompt(20, seed=1)], SamplingParams(max_tokens=8))
    expected = run_alone(tiny_models.build("qwen3"), turn).token_ids
    engine = make_core(build("qwen3", kernels), prefix_cache_bytes=10**7)
    run(engine, [request(100)])
    kernels.clear()
    answer = run(engine, [turn])["turn"]
    assert answer.token_ids == expected
    assert answer.cached_tokens == 100
    assert set(kernels.chunk.widths) == {(19, 119)}


def test_which_chunks_are_left_to_mlx(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[object] = []

    def mlx_own(*arrays: mx.array, mask: object, **_: object) -> mx.array:
        left.append(mask)
        return arrays[0]

    attend = attention.KernelAttention(mlx_own, *kernels)

    def attend_to(
        width: int, columns: int, mask: mx.array | str = "causal", *, sinks: mx.array | None = None, rows: int = 1
    ) -> None:
        cache = call_after([columns - width] * rows, width=width)
        keys = mx.zeros((rows, 2, columns, 4))
        attend(mx.zeros((rows, 4, width, 4)), keys, keys, cache, 1.0, mask, sinks=sinks)

    attend_to(8, 20)
    attend_to(20, 20)
    assert kernels.chunk.widths == [(8, 20), (20, 20)] and not left
    attend_to(8, 20, "full")
    attend_to(8, 20, mx.ones((8, 20), dtype=mx.bool_))
    attend_to(8, 20, sinks=mx.zeros(4))
    monkeypatch.setattr(attention, "WIDEST", 8)
    monkeypatch.setattr(attention, "MOST_SCORES", 4 * 8 * 20)
    attend_to(9, 17)
    attend_to(8, 21)
    attend_to(4, 21, rows=2)
    assert len(left) == 6 and len(kernels.chunk.widths) == 2
    attend_to(8, 20)
    assert len(kernels.chunk.widths) == 3


def test_quantised_keys_are_left_to_mlx_lm(kernels: Kernels) -> None:
    model = wide_heads("qwen3")
    assert replace_attention(model, *kernels) == 1
    engine = make_core(model, kv_quantization=KVQuantization(8, 32))
    kernels.clear()  # it is tried without
    run(engine, [request(5), request(40)])
    assert not kernels.decode.lengths


def call_after(lengths: list[int], *, width: int = 1, window: int | None = None, max_width: int = 1) -> RowKVCache:
    """A cache whose rows have these lengths, in a call of ``width`` more tokens."""
    positions = RowPositions()
    positions.set_rows(lengths)
    cache = RowKVCache(positions, window=window, max_width=max_width)
    positions.begin(width, None)
    tokens = mx.zeros((len(lengths), 1, width, 4))
    cache.update_and_fetch(tokens, tokens)
    return cache


def visible(cache: RowKVCache, mask: mx.array | str | None) -> list[int] | None:
    found = cache.visible_columns(mask)
    return None if found is None else found.tolist()


def test_what_a_mask_says() -> None:
    uneven, even = call_after([3, 9]), call_after([5, 5])
    assert visible(uneven, uneven.make_mask(1)) == [4, 10]
    assert visible(even, even.make_mask(1)) == [6, 6]
    assert visible(even, even.make_mask(1, return_array=True)) == [6, 6]
    assert visible(uneven, None) is None  # everything, of rows that have not filled it
    mask = uneven.make_mask(1)
    assert visible(uneven, mask[..., :10]) is None  # whatever is made of it
    assert visible(uneven, uneven.make_mask(1, window_size=2)) is None


def test_what_a_mask_of_several_tokens_says() -> None:
    even, uneven = call_after([5, 5], width=2), call_after([3, 9], width=2)
    assert visible(even, "causal") is None
    assert visible(even, None) is None
    assert visible(uneven, uneven.make_mask(2)) is None


def test_what_a_mask_of_a_window_says() -> None:
    cache = call_after([3, 9], window=6)
    assert visible(cache, cache.make_mask(1)) == [4, 6]
    assert visible(cache, cache.make_mask(1, window_size=4)) is None
    wider = call_after([3, 9], window=6, max_width=4)  # the ring holds more than a token may read
    assert visible(wider, wider.make_mask(1)) is None
    assert visible(call_after([9, 9], window=6, max_width=4), None) is None


def test_what_is_left_to_mlx(kernels: Kernels) -> None:
    asked: list[object] = []

    def mlx_own(*arrays: mx.array, sinks: mx.array | None = None, **_: object) -> mx.array:
        asked.append(sinks)
        return arrays[0]

    attend = attention.KernelAttention(mlx_own, *kernels)
    cache = call_after([3, 9])
    queries, keys = mx.zeros((2, 2, 1, 4)), mx.zeros((2, 1, 10, 4))
    attend(queries, keys, keys, cache, scale=1.0, mask=cache.make_mask(1))
    assert kernels.decode.lengths == [[4, 10]] and not asked
    sinks = mx.zeros(2)
    attend(queries, keys, keys, cache=cache, scale=1.0, mask=cache.make_mask(1), sinks=sinks)
    attend(queries, keys[:, :, :7], keys[:, :, :7], cache, 1.0, cache.make_mask(1))  # not what the cache holds
    attend(queries, keys, keys, None, 1.0, None)
    assert len(kernels.decode.lengths) == 1
    assert asked == [sinks, None, None]


# Qwen2-VL cuts a piece off every mask, even where nothing is left over.
@pytest.mark.parametrize(("name", "uses_it"), [("lfm2_vl", True), ("gemma3", True), ("qwen2_vl", False)])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_models_that_see(name: str, uses_it: bool, kernels: Kernels, tmp_path: Path) -> None:
    family = VisionFamily(name, tmp_path / name)
    requests = [family.request(f"r{count}", "see # now" * count, list(range(count))) for count in (1, 3)]
    alone = [family.alone(request).token_ids for request in requests]
    assert replace_attention(family.model, *kernels) >= 1
    engine, _ = family.core()
    assert kernels.decode.asked and kernels.chunk.asked  # and compiled, before anybody waits for an answer
    kernels.clear()
    together = run(engine, requests)
    assert [together[request.request_id].token_ids for request in requests] == alone
    assert any(len(set(counts)) > 1 for counts in kernels.decode.lengths) is uses_it


@pytest.mark.parametrize("gains", [True, False])
def test_a_model_is_prepared_where_the_device_gains(
    gains: bool, kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "gains_from_kernels", lambda: gains)
    monkeypatch.setattr(preparation, "CudaDecodeKernel", lambda: kernels.decode)
    monkeypatch.setattr(preparation, "CudaChunkKernel", lambda: kernels.chunk)
    model = tiny_models.build("qwen3")
    preparation.prepare(model)
    run(make_core(model), [request(5), request(140)])
    assert bool(kernels.decode.lengths) is gains
    assert bool(kernels.chunk.widths) is gains
