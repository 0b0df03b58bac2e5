"""Keys and values in few bits: within a tolerance of the model's own, and the same alone, in a batch and resumed."""

from __future__ import annotations

import random

import mlx.core as mx
import pytest

from quince.engine import support
from quince.engine.forward import TextForward
from quince.engine.kv_layout import KVQuantization
from quince.engine.messages import AddRequest
from quince.errors import ModelLoadError
from quince.sampling import SamplingParams
from tests import tiny_models
from tests.engine.driver import make_core, run

# How far the logits of these random models move, relative to their size.
TOLERANCE = {8: 0.03, 4: 0.4}
FAMILIES = ("qwen3", "gemma3_text", "lfm2", "qwen3_next")


def wide_heads(name: str) -> object:
    """Groups of 32 numbers need heads of as many."""
    config = tiny_models.CONFIGS[name]
    tiny_models.CONFIGS[name] = {**config, "head_dim": 32, "hidden_size": 128, "block_dim": 128}
    try:
        return tiny_models.build(name)
    finally:
        tiny_models.CONFIGS[name] = config


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest) -> object:
    return wide_heads(request.param)


def requests() -> list[AddRequest]:
    rng = random.Random(1)
    lengths = (1, 5, 40, 64, 65, 150, 200)
    prompts = [[rng.randrange(tiny_models.VOCAB_SIZE) for _ in range(length)] for length in lengths]
    prompts.append(prompts[5] + prompts[2])
    return [
        AddRequest(f"r{index}", prompt, SamplingParams(max_tokens=25, temperature=float(index % 2), seed=index))
        for index, prompt in enumerate(prompts)
    ]


@pytest.mark.parametrize("bits", [8, 4])
def test_logits_stay_within_the_tolerance(model, bits: int) -> None:
    error = support.quantization_error(TextForward(model), tiny_models.VOCAB_SIZE, KVQuantization(bits, 32), 4)
    assert 0 < error < TOLERANCE[bits]


@pytest.mark.parametrize("bits", [8, 4])
def test_alone_together_and_resumed_are_the_same(model, bits: int) -> None:
    kind = KVQuantization(bits, 32)
    alone = {r.request_id: run(make_core(model, kv_quantization=kind), [r])[r.request_id] for r in requests()}
    engine = make_core(model, kv_quantization=kind, prefix_cache_bytes=2**24)
    arrivals = {f"r{index}": 3 * index for index in range(8)}
    for _ in range(2):  # the second time, all of it is cached
        answers = run(engine, requests(), arrivals=arrivals)
        for name, answer in answers.items():
            assert answer.token_ids == alone[name].token_ids
    assert sum(answer.cached_tokens for answer in answers.values()) > 400


def test_rows_take_a_fraction_of_the_memory() -> None:
    model = wide_heads("qwen3")
    plain, eight, four = (
        make_core(model, kv_quantization=kind).scheduler.memory.row_bytes(1000)
        for kind in (None, KVQuantization(8, 32), KVQuantization(4, 32))
    )
    assert eight == plain * (8 + 2) / 32, "a float32 scale and bias for every 32 numbers are two bits each"
    assert four == plain * (4 + 2) / 32
    mx.clear_cache()


def test_what_cannot_be_quantised_is_told_at_load() -> None:
    with pytest.raises(ModelLoadError, match="4 bits by groups of 64"):
        make_core(tiny_models.build("qwen3"), kv_quantization=KVQuantization(4, 64))
