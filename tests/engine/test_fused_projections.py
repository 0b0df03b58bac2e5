"""Projections that are one product: the same numbers as before, in every family, alone and in a batch."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.nn.layers.base import Module
from mlx_lm.models.switch_layers import SwitchLinear

from quince.engine import process
from quince.engine.forward import TextForward
from quince.engine.fused_projections import FusedProjection, Product, fuse_projections
from quince.engine.messages import AddRequest, EngineConfig
from quince.sampling import SamplingParams
from tests import tiny_models
from tests.engine.driver import make_core, run, run_alone
from tests.engine.test_golden import random_requests
from tests.vision_prompts import VisionFamily

TOKENS = mx.array([[7, 3, 99, 4, 50, 21]])


def fuse(model: Module) -> int:
    return fuse_projections(TextForward(model), model)


def names_of(model: Module, kind: type) -> set[str]:
    return {name.split(".")[-1] for name, module in model.named_modules() if type(module) is kind}


@pytest.mark.parametrize("name", sorted(tiny_models.CONFIGS))
def test_logits_are_what_they_were(name: str) -> None:
    model = tiny_models.build(name)
    before = model(TOKENS)
    fuse(model)
    assert mx.allclose(model(TOKENS), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "groups"), [("qwen3", 2), ("gemma3_text", 2), ("falcon_h1", 2), ("mamba", 0), ("gpt_bigcode", 0)]
)
def test_attention_and_feed_forward_of_every_layer(name: str, groups: int) -> None:
    model = tiny_models.build(name)
    assert fuse(model) == groups * len(model.layers)


@pytest.mark.parametrize("name", ["qwen3", "gemma3_text", "lfm2", "qwen3_next", "falcon_h1"])
def test_batched_equals_alone(name: str) -> None:
    """Late joins and early leaves, prompts and rows of all sizes."""
    model = tiny_models.build(name)
    assert fuse(model)
    requests = random_requests(5, 20)
    rng = random.Random(5)
    batched = run(make_core(model), requests, arrivals={r.request_id: rng.randrange(30) for r in requests})
    for request in requests:
        assert batched[request.request_id].token_ids == run_alone(model, request).token_ids


@pytest.mark.parametrize(("bits", "mode"), [(4, "affine"), (8, "affine"), (4, "mxfp4")])
def test_quantized_weights(bits: int, mode: str) -> None:
    model = tiny_models.build("qwen3")
    nn.quantize(model, group_size=32, bits=bits, mode=mode)
    before = model(TOKENS)
    assert fuse(model) == 2 * len(model.layers)
    assert mx.allclose(model(TOKENS), before, rtol=1e-4, atol=1e-4)


def test_layers_of_different_kinds_stay_apart() -> None:
    model = tiny_models.build("qwen3")
    attention = model.layers[0].self_attn
    attention.k_proj = attention.k_proj.to_quantized(group_size=32, bits=4)
    attention = model.layers[1].self_attn
    attention.k_proj = attention.k_proj.to_quantized(group_size=32, bits=4)
    attention.q_proj = attention.q_proj.to_quantized(group_size=32, bits=4)
    attention.v_proj = attention.v_proj.to_quantized(group_size=32, bits=8)
    before = model(TOKENS)
    assert fuse(model) == 2 * len(model.layers) - 2
    assert mx.allclose(model(TOKENS), before, rtol=1e-4, atol=1e-4)


def test_experts_stay_apart() -> None:
    model = tiny_models.build("qwen3_next")
    before = names_of(model, SwitchLinear)
    assert before and fuse(model)
    assert names_of(model, SwitchLinear) == before


class TwoInputs(Module):
    """Attention to something else than what asks: the layers have the names, but not the same input."""

    def __init__(self, model: Module) -> None:
        super().__init__()
        self.model = model
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(tiny_models.VOCAB_SIZE, 8) for _ in range(3))

    @property
    def layers(self) -> Any:
        return self.model.layers

    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        x = self.model(tokens, cache=cache)
        y = x + 1
        return mx.concatenate([self.q_proj(x), self.k_proj(y), self.v_proj(y)], axis=-1)


class ReadsWeights(TwoInputs):
    def __call__(self, tokens: mx.array, cache: Any = None) -> mx.array:
        x = self.model(tokens, cache=cache)
        return self.q_proj(x) + self.k_proj(x) + self.v_proj(x) @ self.v_proj.weight @ self.v_proj.weight.T


def test_layers_that_are_not_called_together_are_left_alone() -> None:
    model = TwoInputs(tiny_models.build("qwen3"))
    layers = model.q_proj, model.k_proj, model.v_proj
    before = model(TOKENS)
    assert fuse(model) == 2 * len(model.layers)
    assert (model.q_proj, model.k_proj, model.v_proj) == layers
    assert mx.allclose(model(TOKENS), before, rtol=1e-4, atol=1e-4)


def test_a_model_that_looks_into_its_layers_is_left_alone() -> None:
    model = ReadsWeights(tiny_models.build("qwen3"))
    before = model(TOKENS)
    assert fuse(model) == 0
    assert names_of(model, FusedProjection) == set()
    assert mx.array_equal(model(TOKENS), before)


def test_parts_may_be_taken_in_any_order_and_from_different_inputs() -> None:
    layer = nn.Linear(4, 6)
    product = Product(layer, [1, 2, 3])
    x, y = mx.random.normal((2, 5, 4))
    assert mx.array_equal(product.take(2, x), layer(x)[:, 3:])
    assert mx.array_equal(product.take(0, y), layer(y)[:, :1])
    assert mx.array_equal(product.take(1, x), layer(x)[:, 1:3])
    assert mx.array_equal(product.take(1, x), layer(x)[:, 1:3]), "asked for twice"


def test_nothing_is_held_when_all_parts_are_taken() -> None:
    product = Product(nn.Linear(4, 6), [3, 3])
    x = mx.ones((2, 4))
    product.take(0, x)
    assert not product.complete
    product.take(1, x)
    assert product.complete
    assert (product._input, product._parts) == (None, {})


def test_weights_are_there_once() -> None:
    model = tiny_models.build("qwen3")
    before = mx.get_active_memory()
    assert fuse(model)
    model(TOKENS)
    assert mx.get_active_memory() <= before + 4096


@pytest.mark.parametrize("gains", [True, False])
def test_an_engine_fuses_where_the_device_gains(
    gains: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tiny_models.save("qwen3", tmp_path / "model")
    shutil.copy(tiny_models.tokenizer_file(), path)
    monkeypatch.setattr("quince.engine.device.gains_from_fused_projections", lambda: gains)
    monkeypatch.setattr("quince.engine.device.share_cores", lambda: None)
    caplog.set_level("INFO", "quince.engine")
    config = EngineConfig(address="", model_path=str(path), max_running_requests=2, prefill_chunk_size=64)
    core, _ = process._make_generating(config, lambda: None)
    request = AddRequest("r", list(range(40)), SamplingParams(max_tokens=20))
    assert run(core, [request])["r"].token_ids == run_alone(tiny_models.build("qwen3"), request).token_ids
    assert ("projections fused" in caplog.text) is gains


@pytest.mark.parametrize("name", ["qwen2_vl", "gemma3", "lfm2_vl"])
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_models_that_see(name: str, tmp_path: Path) -> None:
    family = VisionFamily(name, tmp_path / name)
    request = family.request("r", "see # and # now", [1, 2])
    before = family.alone(request).token_ids
    engine, forward = family.core()
    assert fuse_projections(forward, family.model)
    assert run(engine, [request])["r"].token_ids == before
