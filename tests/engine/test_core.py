from __future__ import annotations

import time

import pytest

from quince.engine.core import CoreConfig, _step_tokens
from quince.engine.kv_layout import KVLayout
from quince.engine.messages import AddRequest
from quince.engine.model_runner import _Launched
from quince.engine.pacing import PrefillPacer, Shape
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
