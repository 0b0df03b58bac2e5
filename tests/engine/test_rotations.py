"""Rotary positions that layers share: the same numbers as mlx's own, to the last bit."""

from __future__ import annotations

import random
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import pytest
from mlx.nn.layers.base import Module

from quince.engine import device
from quince.engine.loader import load
from quince.engine.messages import AddRequest
from quince.engine.rotations import Rotations, SharedRoPE, share_rotations
from quince.sampling import SamplingParams
from tests import tiny_models
from tests.engine.driver import make_core, run, run_alone
from tests.engine.test_golden import random_requests

TOKENS = mx.array([[7, 3, 99, 4, 50, 21]])
FAMILIES = ["qwen3", "llama", "gemma3_text", "lfm2", "qwen3_next", "falcon_h1"]  # all that attend with plain RoPE


def rotary(model: Module) -> list[Module]:
    return [module for module in model.modules() if isinstance(module, nn.RoPE)]


class Attention(Module):
    def __init__(self, **kind: object) -> None:
        super().__init__()
        self.rope = nn.RoPE(**kind)


@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
@pytest.mark.parametrize("dims", [64, 16])
@pytest.mark.parametrize("width", [1, 13])
@pytest.mark.parametrize("scale", [1.0, 0.37])
def test_equal_to_the_last_bit(dtype: mx.Dtype, dims: int, width: int, scale: float) -> None:
    x = mx.random.normal((3, 4, width, 64)).astype(dtype)
    attention = Attention(dims=dims, base=1e6, scale=scale)
    plain = attention.rope
    assert share_rotations(attention) == 1
    for offset in (0, 7, 5000, mx.array(9), mx.array([3, 900, 77])):
        for _ in range(2):
            rotated = attention.rope(x, offset)
            assert rotated.dtype == dtype
            assert mx.array_equal(rotated, plain(x, offset))


def test_other_shapes_are_rotated_by_mlx() -> None:
    attention = Attention(dims=8)
    plain, x = attention.rope, mx.random.normal((4, 5, 8))
    share_rotations(attention)
    assert mx.array_equal(attention.rope(x, 3), plain(x, 3))


def test_what_only_looks_alike_stays_as_it_is() -> None:
    class Scaled(nn.RoPE):
        pass

    attention = Attention(dims=8, traditional=True)
    attention.other = Scaled(8)
    assert share_rotations(attention) == 0
    assert {type(module) for module in rotary(attention)} == {nn.RoPE, Scaled}


def test_positions_are_computed_when_they_change(monkeypatch: pytest.MonkeyPatch) -> None:
    rotations, seen = Rotations(8, 1e4, 1.0), []
    cos = mx.cos
    monkeypatch.setattr(mx, "cos", lambda x: seen.append(x.shape) or cos(x))
    rows = mx.array([1, 2])
    for offset in (3, 3, rows, rows, mx.array([1, 2]), 3, 4):
        rotations.at(offset, 1, mx.float32)
    rotations.at(4, 2, mx.float32)
    rotations.at(4, 2, mx.float16)
    assert seen == [(1, 1, 1, 4), (2, 1, 1, 4), (2, 1, 1, 4), (1, 1, 1, 4), (1, 1, 1, 4), (1, 1, 2, 4), (1, 1, 2, 4)]


@pytest.mark.parametrize("name", sorted(tiny_models.CONFIGS))
def test_logits_are_what_they_were(name: str) -> None:
    model = tiny_models.build(name)
    before = model(TOKENS)
    share_rotations(model)
    assert mx.array_equal(model(TOKENS), before)


@pytest.mark.parametrize("name", FAMILIES)
def test_batched_equals_alone(name: str) -> None:
    """With joins, leaves and rows of all lengths; alone by mlx's own layers."""
    shared, plain = tiny_models.build(name), tiny_models.build(name)
    assert share_rotations(shared) > 0
    requests = random_requests(11, 12)
    rng = random.Random(11)
    batched = run(make_core(shared), requests, arrivals={r.request_id: rng.randrange(30) for r in requests})
    for request in requests:
        assert batched[request.request_id].token_ids == run_alone(plain, request).token_ids


def test_what_a_failed_step_was_computing_is_forgotten() -> None:
    model = tiny_models.build("qwen3")
    share_rotations(model)
    core, request = make_core(model), AddRequest("r", list(range(20)), SamplingParams(max_tokens=8))
    before = run(core, [request])["r"].token_ids
    for fails in (False, True):
        cosines, _ = rotary(model)[0].rotations.at(0, 19, mx.float32)
        cosines *= 0  # as if it had never been computed
        if fails:
            core.fail_step("broken on purpose")
        assert (run(core, [request])["r"].token_ids == before) is fails


@pytest.mark.parametrize("kernel", [True, False])
def test_only_where_the_device_has_no_kernel(kernel: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "has_rotation_kernel", lambda: kernel)
    loaded = load(tiny_models.save("qwen3", tmp_path / "model"), max_model_len=None)
    assert {type(module) for module in rotary(loaded.model)} == {nn.RoPE if kernel else SharedRoPE}
