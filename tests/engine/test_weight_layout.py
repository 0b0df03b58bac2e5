"""Weights and keys in another order in memory: the same numbers but for rounding."""

from __future__ import annotations

import sys
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx_lm.tuner.lora import LoRALinear

from quince.engine import device, kv_cache
from quince.engine.kv_cache import WIDE, RowKVCache, RowPositions
from quince.engine.loader import load
from quince.engine.messages import AddRequest
from quince.engine.weight_layout import arrange_weights, store_by_inputs
from quince.sampling import SamplingParams
from tests import tiny_adapters, tiny_models
from tests.engine.driver import make_core, run

TOKENS = mx.array([[7, 3, 99, 4, 50, 21]])
REFERENCE_BLAS = sys.platform == "linux" and mx.default_device().type == mx.cpu


def lies_by_inputs(weight: mx.array) -> bool:
    """NumPy sees an MLX array as it lies in memory."""
    return bool(np.asarray(weight).flags.f_contiguous)


@pytest.mark.parametrize("name", sorted(tiny_models.CONFIGS))
def test_logits_are_the_same(name: str) -> None:
    model = tiny_models.build(name)
    before = [model(TOKENS), model(TOKENS[:, :1])]
    mx.eval(before)
    store_by_inputs(model)
    for tokens, logits in zip((TOKENS, TOKENS[:, :1]), before, strict=True):
        assert mx.allclose(model(tokens), logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("blas", [True, False])
@pytest.mark.parametrize(("width", "dtype"), [(WIDE, mx.float32), (WIDE - 1, mx.float32), (WIDE, mx.bfloat16)])
def test_keys_lie_across_for_many_queries(
    monkeypatch: pytest.MonkeyPatch, blas: bool, width: int, dtype: mx.Dtype
) -> None:
    monkeypatch.setattr(kv_cache, "has_reference_blas", lambda: blas)
    positions = RowPositions()
    cache = RowKVCache(positions, window=None, max_width=width)
    positions.set_rows([0, 0])
    positions.begin(width, None)
    new = mx.random.normal((2, 3, width, 4)).astype(dtype)
    keys, values = cache.update_and_fetch(new, new)
    assert mx.array_equal(keys, new) and mx.array_equal(values, new)
    if dtype == mx.float32:
        assert np.asarray(keys.swapaxes(-1, -2)).flags.c_contiguous == (blas and width >= WIDE)


@pytest.mark.skipif(not REFERENCE_BLAS, reason="elsewhere keys stay as they are")
@pytest.mark.parametrize("name", ["qwen3", "gemma3_text", "deepseek_v3"])
def test_attention_is_the_same_to_the_last_bit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_models.build(name)
    prompt = [(5 * i * i) % tiny_models.VOCAB_SIZE for i in range(150)]
    request = AddRequest("r", prompt, SamplingParams(max_tokens=4, logprobs=3))
    answers = []
    for wide in (WIDE, 10**9):
        monkeypatch.setattr(kv_cache, "WIDE", wide)
        answers.append(run(make_core(model, prefill_chunk_size=40), [request])["r"])
    assert answers[0] == answers[1]


def test_linear_layers_and_embeddings_of_float32() -> None:
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 4, bias=False), nn.LayerNorm(4))
    store_by_inputs(model)
    assert all(lies_by_inputs(layer.weight) for layer in model.layers[:2])
    assert [layer.weight.shape for layer in model.layers[:2]] == [(5, 3), (4, 3)]


def test_other_types_stay_as_they_are() -> None:
    layer = nn.Linear(64, 4)
    layer.weight = layer.weight.astype(mx.float16)
    quantized = nn.Linear(64, 4).to_quantized(group_size=32, bits=4)
    weights = layer.weight, quantized.weight
    store_by_inputs(nn.Sequential(layer, quantized))
    assert (layer.weight, quantized.weight) == weights


def test_weights_are_there_once() -> None:
    model = tiny_models.build("qwen3")
    before = mx.get_active_memory()
    store_by_inputs(model)
    store_by_inputs(model)
    assert mx.get_active_memory() <= before + 4096


@pytest.mark.parametrize("gains", [True, False])
def test_only_where_the_device_gains(gains: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_reference_blas", lambda: gains)
    layer = nn.Linear(8, 4)
    arrange_weights(nn.Sequential(layer))
    assert lies_by_inputs(layer.weight) is gains


@pytest.mark.skipif(not REFERENCE_BLAS, reason="for MLX's CPU build for Linux")
def test_a_loaded_model_and_the_layers_below_its_adapter(tmp_path: Path) -> None:
    assert device.has_reference_blas()
    path = tiny_models.save("qwen3", tmp_path / "model")
    adapter = tiny_adapters.save(tiny_models.build("qwen3"), tmp_path / "adapter", seed=1)
    for model in (load(path, max_model_len=None).model, load(path, max_model_len=None, adapter=adapter).model):
        linear = [module for module in model.modules() if type(module) is nn.Linear]
        assert linear
        assert all(lies_by_inputs(layer.weight) for layer in linear)
    assert any(type(module) is LoRALinear for module in model.modules())
