"""More prompts than there is memory for: no crash, the budget holds, and no text changes."""

from __future__ import annotations

import functools
import random
from typing import Any

import mlx.core as mx
import pytest
from mlx.nn.layers.base import Module

from quince.engine import pacing
from quince.engine.core import EngineCore
from quince.engine.messages import AddRequest, FinishReason
from quince.sampling import SamplingParams
from tests import tiny_models
from tests.engine.driver import make_core, run_alone


@functools.cache
def built(name: str) -> Module:
    """One for both sizes of the prefix cache, so that what it says alone is computed once."""
    return tiny_models.build(name)


def restrict(core: EngineCore, max_bytes: int) -> EngineCore:
    core.scheduler.memory.resize(max_bytes)
    return core


def kept(core: EngineCore) -> int:
    """Bytes of arrays: rows and what is kept of others."""
    return core.runner.kv_bytes + core.runner.store.nbytes


def flood(core: EngineCore, requests: list[AddRequest], *, limit: int, rng: random.Random) -> dict[str, list[int]]:
    """Run all, checking the arrays against the limit after every step. Returns the answers."""
    answers: dict[str, list[int]] = {request.request_id: [] for request in requests}
    due = list(requests)
    for _ in range(20_000):
        for _ in range(rng.randrange(4)):
            if due:
                core.add(due.pop(0))
        if not due and not core.has_work():
            return answers
        for output in core.step():
            answers[output.request_id] += output.token_ids
            assert output.finish_reason in (None, FinishReason.LENGTH), output
        assert kept(core) <= limit, f"{kept(core)} of {limit} bytes"
    raise AssertionError("not finished")


# With and without the prefix cache, and as on CUDA.
KINDS: list[dict[str, Any]] = [
    {"prefix_cache_bytes": 0},
    {"prefix_cache_bytes": 2**30},
    {"prefix_cache_bytes": 2**30, "prefill_tokens": 256, "round_widths": True},
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["qwen3", "gemma3_text", "lfm2", "qwen3_next", "mamba"])
def test_every_answer_is_the_same_with_little_memory(name: str, kind: dict[str, Any]) -> None:
    model = built(name)
    rng = random.Random(name)
    prompts = [[rng.randrange(tiny_models.VOCAB_SIZE) for _ in range(rng.randrange(1, 500))] for _ in range(16)]
    prompts[3] = prompts[2][:200] + prompts[3]
    requests = [
        AddRequest(
            f"r{index}",
            prompt,
            SamplingParams(
                max_tokens=rng.randrange(1, 60),
                temperature=rng.choice([0, 1]),
                seed=index,
                frequency_penalty=rng.choice([0, 0.5]),
                repetition_penalty=rng.choice([1.0, 1.2]),
            ),
        )
        for index, prompt in enumerate(prompts)
    ]
    core = make_core(model, **kind)
    limit = int(2.5 * core.scheduler.memory.row_bytes(600))
    restrict(core, limit)
    answers = flood(core, requests, limit=limit, rng=rng)
    for request in requests:
        assert answers[request.request_id] == run_alone(model, request).token_ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["qwen3", "gemma3_text", "qwen3_next"])
def test_preempted_requests_go_on_where_they_were(
    name: str, kind: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that all fit when they begin and do not when they grow."""
    for limit_of_a_step in ("TARGET_GAP", "ALONE"):  # on a slow machine, they would begin one after the other
        monkeypatch.setattr(pacing, limit_of_a_step, 1000.0)
    model = built(name)
    requests = [
        AddRequest(
            f"r{index}",
            [(7 * index + 3 * i * i) % tiny_models.VOCAB_SIZE for i in range(170 + 10 * index)],
            SamplingParams(
                max_tokens=330, temperature=float(index % 2), seed=index, presence_penalty=0.3 * (index % 3 == 2)
            ),
        )
        for index in range(6)
    ]
    core = make_core(model, **kind)
    limit = 6 * core.scheduler.memory.row_bytes(512)
    restrict(core, limit)
    answers = flood(core, requests, limit=limit, rng=random.Random(1))
    assert core.scheduler.preemptions > 0
    for request in requests:
        assert answers[request.request_id] == run_alone(model, request).token_ids


def test_a_flood_of_long_prompts() -> None:
    """200 prompts of 1 to 8k tokens against memory for about three of the longest."""
    model = tiny_models.build("qwen3")
    rng = random.Random(1)
    requests = [
        AddRequest(
            f"r{index}",
            [rng.randrange(tiny_models.VOCAB_SIZE) for _ in range(int(2 ** rng.uniform(0, 13)))],
            SamplingParams(max_tokens=rng.randrange(1, 24)),
        )
        for index in range(200)
    ]
    core = make_core(model, prefill_chunk_size=1024, prefix_cache_bytes=2**40)
    limit = 3 * core.scheduler.memory.row_bytes(8200)
    restrict(core, limit)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    answers = flood(core, requests, limit=limit, rng=rng)
    scores = 4 * 1024 * 8192 * 4  # what attention needs for a moment on a CPU: heads x chunk x tokens
    assert mx.get_peak_memory() - before <= limit + 1.2 * scores
    for request in rng.sample(requests, 20):
        assert answers[request.request_id] == run_alone(model, request).token_ids
    core.scheduler.prefix_cache.resize(0)
    core.add(AddRequest("last", [1, 2, 3], SamplingParams(max_tokens=1)))
    while core.has_work():
        core.step()
    mx.clear_cache()
    assert core.runner.kv_bytes == 0
    assert core.runner.store.nbytes == core.scheduler.prefix_cache.nbytes < 2**12
    assert mx.get_active_memory() - before < 2**20


def test_a_prompt_that_can_never_fit_is_refused_with_the_bytes() -> None:
    core = restrict(make_core(tiny_models.build("qwen3")), 300_000)
    core.add(AddRequest("r", [1] * 5000, SamplingParams(max_tokens=1)))
    (output,) = core.step()
    assert output.finish_reason is FinishReason.ERROR and output.refused
    assert output.error is not None and "5000 tokens" in output.error and "MiB" in output.error
    most = core.scheduler.memory.most_tokens
    assert 0 < most < 5000
    core.add(AddRequest("long", [1] * (most - 7), SamplingParams(max_tokens=100)))
    tokens = []
    while core.has_work():
        for output in core.step():
            tokens += output.token_ids
            assert output.finish_reason in (None, FinishReason.LENGTH)
            assert kept(core) <= 300_000
    assert len(tokens) == 7, "the answer ends where memory does"
