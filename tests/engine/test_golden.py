"""Rule 8: a batched answer equals the same request's answer alone, over every family of caches."""

from __future__ import annotations

import random
from typing import Any

import mlx.core as mx
import msgspec
import pytest
from mlx_lm.generate import generate_step

from quince.engine.messages import AddRequest, FinishReason
from quince.sampling import SamplingParams, ThinkingBudget
from tests import tiny_models
from tests.engine.driver import make_core, run, run_alone

LENGTHS = (1, 2, 3, 10, 15, 16, 17, 33, 60, 64, 65, 100, 150, 300)


GRAMMARS = (
    'start: %json {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 30}',
    "start: /[a-z ]{5,60}/",
)
THINKING = ThinkingBudget(max_tokens=4, close_token_id=ord("|"), end_token_ids=(ord("|"), ord("!")))


def everything(rng: random.Random) -> dict[str, Any]:
    """Some of what a request may ask for besides sampling: penalties, bias, grammars, budgets, logprobs."""
    kinds: list[dict[str, Any]] = [
        {"repetition_penalty": 1.2},
        {"frequency_penalty": 0.5, "presence_penalty": 0.4},
        {"logit_bias": ((3, 4.0), (100, -100.0))},
        {"grammar": rng.choice(GRAMMARS), "stop_token_ids": (tiny_models.END_TOKEN_ID,)},
        {"thinking": THINKING},
        {"logprobs": 3},
    ]
    return {name: value for kind in rng.sample(kinds, rng.choice([0, 1, 2, 3])) for name, value in kind.items()}


def test_batched_equals_alone_whatever_is_asked(model) -> None:
    """Penalties, bias, grammars, thinking budgets, logprobs, seeds and plain requests in one batch of 16."""
    rng = random.Random(7)
    requests = [
        msgspec.structs.replace(r, sampling=msgspec.structs.replace(r.sampling, **everything(rng)))
        for r in random_requests(7, 20)
    ]
    arrivals = {request.request_id: rng.randrange(25) for request in requests}
    batched = run(make_core(model), requests, arrivals=arrivals)
    for request in requests:
        alone, together = run_alone(model, request), batched[request.request_id]
        assert (together.token_ids, together.finish_reason) == (alone.token_ids, alone.finish_reason)
        assert alone.finish_reason in (FinishReason.STOP, FinishReason.LENGTH)
        assert len(together.logprobs) == (len(together.token_ids) if request.sampling.logprobs is not None else 0)


def random_requests(seed: int, count: int) -> list[AddRequest]:
    """Prompts of 1 to 300 tokens and every kind of sampling; seeded, so that a failure can be repeated."""
    rng = random.Random(seed)
    return [
        AddRequest(
            f"r{index}",
            [rng.randrange(tiny_models.VOCAB_SIZE) for _ in range(rng.choice(LENGTHS))],
            SamplingParams(
                max_tokens=rng.choice([1, 2, 20, 40]),
                temperature=rng.choice([0.0, 0.0, 0.7, 1.0]),
                top_p=rng.choice([1.0, 0.9]),
                top_k=rng.choice([0, 10]),
                min_p=rng.choice([0.0, 0.05]),
                seed=rng.randrange(2**64),
            ),
        )
        for index in range(count)
    ]


@pytest.fixture(scope="module", params=sorted(tiny_models.CONFIGS))
def model(request: pytest.FixtureRequest) -> object:
    return tiny_models.build(request.param)


@pytest.mark.parametrize("seed", [1, 2])
def test_batched_equals_alone(model, seed: int) -> None:
    """Late joins, early leaves and aborts beside, with rows and prompts of all sizes in one batch."""
    requests = random_requests(seed, 24)
    rng = random.Random(seed + 1000)
    arrivals = {request.request_id: rng.randrange(40) for request in requests}
    aborts = {request.request_id: rng.randrange(45) for request in rng.sample(requests, 5)}
    batched = run(make_core(model), requests, arrivals=arrivals, aborts=aborts)
    for request in requests:
        alone = run_alone(model, request)
        together = batched[request.request_id]
        assert len(alone.token_ids) == request.sampling.max_tokens
        if together.finish_reason is FinishReason.ABORT:
            assert together.token_ids == alone.token_ids[: len(together.token_ids)]
        else:
            assert together.token_ids == alone.token_ids
            assert together.finish_reason is FinishReason.LENGTH


def test_alone_equals_mlx_lm(model) -> None:
    """Our step loop and caches give what mlx-lm's own give."""
    for request in random_requests(3, 8):
        prompt = mx.array(request.prompt_token_ids)
        expected = [token for token, _ in generate_step(prompt, model, max_tokens=20)]
        sampling = SamplingParams(max_tokens=20)
        answer = run_alone(model, AddRequest("r", request.prompt_token_ids, sampling))
        assert answer.token_ids == expected


def test_answers_vary() -> None:
    """The tests above would be empty if the models always said the same."""
    model = tiny_models.build("qwen3")
    answers = {tuple(run_alone(model, request).token_ids) for request in random_requests(4, 12)}
    assert len(answers) == 12


def test_window_is_passed_many_times() -> None:
    """A ring of 16 tokens, written around several times by decoding and by chunks wider than itself."""
    model = tiny_models.build("gemma3_text")
    rng = random.Random(5)
    prompts = [[rng.randrange(tiny_models.VOCAB_SIZE) for _ in range(length)] for length in (5, 40, 200)]
    requests = [AddRequest(str(i), prompt, SamplingParams(max_tokens=90)) for i, prompt in enumerate(prompts)]
    batched = run(make_core(model, prefill_chunk_size=24), requests, arrivals={"1": 7, "2": 30})
    for request in requests:
        expected = [t for t, _ in generate_step(mx.array(request.prompt_token_ids), model, max_tokens=90)]
        assert batched[request.request_id].token_ids == expected


def test_padded_prompts_equal_alone(model) -> None:
    """As on CUDA: prompts are padded to widths that come again, many in one step, and are resumed."""
    requests = random_requests(8, 16)
    requests += [
        msgspec.structs.replace(request, request_id=f"again-{request.request_id}", prompt_token_ids=more)
        for request in random_requests(9, 8)
        for more in [requests[int(request.request_id[1:])].prompt_token_ids + request.prompt_token_ids]
    ]
    core = make_core(model, prefill_tokens=500, round_widths=True, prefix_cache_bytes=2**30)
    arrivals = {request.request_id: 3 * index for index, request in enumerate(requests[6:])}
    batched = run(core, requests, arrivals=arrivals)
    for request in requests:
        assert batched[request.request_id].token_ids == run_alone(model, request).token_ids


@pytest.mark.parametrize("chunk", [16, 31, 64, 1024])
def test_chunks_do_not_change_the_answer(model, chunk: int) -> None:
    request = AddRequest("r", [7 * i % tiny_models.VOCAB_SIZE for i in range(150)], SamplingParams(max_tokens=12))
    answer = run(make_core(model, prefill_chunk_size=chunk), [request])["r"]
    assert answer.token_ids == run_alone(model, request).token_ids


def test_logprobs_do_not_change_the_answer_and_equal_alone(model) -> None:
    plain = AddRequest("plain", [5, 6, 7], SamplingParams(max_tokens=8, temperature=1.0, seed=3))
    asking = [
        AddRequest(f"n{n}", [5, 6, 7], SamplingParams(max_tokens=8, temperature=1.0, seed=3, logprobs=n))
        for n in (0, 2, 5)
    ]
    batched = run(make_core(model), [plain, *asking])
    assert batched["plain"].logprobs == []
    for request in asking:
        answer, alone = batched[request.request_id], run_alone(model, request)
        assert answer.token_ids == batched["plain"].token_ids
        assert len(answer.logprobs) == 8
        for ours, theirs in zip(answer.logprobs, alone.logprobs, strict=True):
            assert ours.logprob == pytest.approx(theirs.logprob, abs=1e-4)
            assert ours.top_ids == theirs.top_ids
            assert len(ours.top_ids) == request.sampling.logprobs


def test_failed_step_leaves_the_engine_usable() -> None:
    model = tiny_models.build("qwen3")
    core = make_core(model)
    request = AddRequest("r", [1, 2, 3], SamplingParams(max_tokens=5))
    core.add(request)
    core.step()
    outputs = core.fail_step("broken on purpose")
    assert [(output.request_id, output.finish_reason, output.error) for output in outputs] == [
        ("r", FinishReason.ERROR, "broken on purpose")
    ]
    assert not core.has_work()
    assert run(core, [request])["r"].token_ids == run_alone(model, request).token_ids
