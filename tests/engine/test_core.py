from __future__ import annotations

import time

import mlx.core as mx
import pytest

from quince.engine import core
from quince.engine.core import CoreConfig, _step_tokens
from quince.engine.kv_layout import KVLayout
from quince.engine.messages import AddRequest
from quince.engine.model_runner import _Launched
from quince.engine.pacing import PrefillPacer, Shape
from quince.engine.sampler import Filters
from quince.engine.support import Costs
from quince.sampling import SamplingParams
from tests.engine.driver import make_core, run
from tests.tiny_models import build

HANDING_OVER = 0.05


def test_what_a_step_takes_while_it_is_handed_over_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLX's CPU build computes most of a step then: told to the step before, it would make decoding look dear, and
    long prompts cheap."""
    start, observe = _Launched.start, PrefillPacer.observe_prefill
    seen: list[tuple[int, float]] = []

    def slow_start(launched: _Launched) -> None:
        if launched.prefilled:
            time.sleep(HANDING_OVER)
        start(launched)

    def noted(pacer: PrefillPacer, shape: Shape, tokens: int, seconds: float, *, decoding: bool) -> None:
        seen.append((tokens, seconds))
        observe(pacer, shape, tokens, seconds, decoding=decoding)

    monkeypatch.setattr(_Launched, "start", slow_start)
    monkeypatch.setattr(PrefillPacer, "observe_prefill", noted)
    requests = [
        AddRequest("stream", [5], SamplingParams(max_tokens=20)),
        AddRequest("prompt", list(range(5, 45)), SamplingParams(max_tokens=2)),
    ]
    run(make_core(build("qwen3")), requests, arrivals={"prompt": 5})
    assert sum(tokens for tokens, _ in seen) == 39
    assert all(seconds >= HANDING_OVER for _, seconds in seen)


@pytest.mark.parametrize(
    ("asked", "free", "tokens"),
    [
        (None, 2**40, 4096),
        (16384, 2**40, 16384),
        (16384, 4 * 10_000 * 1000, 10_000),  # a quarter of what is free holds so many
        (16384, 1, 4096),
    ],
)
def test_a_step_takes_no_more_prompts_than_there_is_memory_for(asked: int | None, free: int, tokens: int) -> None:
    costs = Costs(token_seconds=0.0, token_memory=1000, padding_tokens=0, layout=KVLayout())
    assert _step_tokens(costs, CoreConfig(32, 4096, asked), free) == tokens


def test_tokens_are_drawn_by_a_kernel_where_the_device_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    class Likeliest:
        def takes(self, logits: mx.array) -> bool:
            tried.append(logits.dtype)
            return True

        def __call__(self, logits: mx.array, filters: Filters, draws: mx.array) -> mx.array:
            return mx.argmax(logits, axis=-1).astype(mx.int32)

    tried: list[mx.Dtype] = []
    greedy = AddRequest("r", [5, 6, 7], SamplingParams(max_tokens=20))
    sampled = AddRequest("r", [5, 6, 7], SamplingParams(max_tokens=20, temperature=5.0, seed=1))
    model = build("qwen3")
    expected = run(make_core(model), [greedy])["r"].token_ids
    assert run(make_core(model), [sampled])["r"].token_ids != expected
    monkeypatch.setattr(core, "gains_from_kernels", lambda: True)
    monkeypatch.setattr(core, "CudaSampleKernel", Likeliest)
    engine = make_core(model)
    assert set(tried) == {mx.bfloat16, mx.float16, mx.float32}  # before the first request
    assert run(engine, [sampled])["r"].token_ids == expected
