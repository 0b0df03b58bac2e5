"""Rule 8 with the prefix cache on: a request that resumes from what others left says what it says alone without."""

from __future__ import annotations

import random

import pytest

from quince.engine.messages import AddRequest, FinishReason
from quince.sampling import SamplingParams
from tests import tiny_models
from tests.engine.driver import Answer, make_core, run, run_alone

BUDGET = 2**24
SNAPSHOTS = {"gemma3_text", "lfm2", "qwen3_next", "falcon_h1", "mamba"}


@pytest.fixture(scope="module", params=sorted(tiny_models.CONFIGS))
def model(request: pytest.FixtureRequest) -> object:
    return tiny_models.build(request.param)


@pytest.fixture
def family(request: pytest.FixtureRequest) -> str:
    return str(request.node.callspec.params["model"])


def words(seed: int, count: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(tiny_models.VOCAB_SIZE) for _ in range(count)]


def ask(name: str, prompt: list[int], *, tokens: int = 12, boundaries: list[int] | None = None) -> AddRequest:
    """Greedy for even seeds, sampled for odd ones."""
    seed = len(prompt)
    kind = {"temperature": 0.8, "seed": seed} if seed % 2 else {}
    return AddRequest(name, prompt, SamplingParams(max_tokens=tokens, **kind), boundaries or [])  # type: ignore[arg-type]


def check(model, request: AddRequest, answer: Answer) -> None:
    assert answer.token_ids == run_alone(model, request).token_ids
    assert answer.finish_reason is FinishReason.LENGTH


def test_turns_of_a_conversation(model) -> None:
    """Each turn finds the one before with its answer, but for the last token, which was never an input."""
    core = make_core(model, prefix_cache_bytes=BUDGET)
    prompt = words(1, 70)
    known = 0
    for turn in range(5):
        request = ask(f"t{turn}", prompt, tokens=9 + turn)
        answer = run(core, [request])[request.request_id]
        check(model, request, answer)
        assert answer.cached_tokens == known
        known = len(prompt) + len(answer.token_ids) - 1
        prompt = prompt + answer.token_ids + words(10 + turn, 5 + 8 * turn)


def test_the_same_prompt_again(model) -> None:
    core = make_core(model, prefix_cache_bytes=BUDGET)
    for prompt in (words(1, 90), words(1, 90), words(1, 91)):
        request = ask("r", prompt)
        check(model, request, run(core, [request])["r"])
    assert run(core, [request])["r"].cached_tokens == 90


def test_an_edited_middle(model, family: str) -> None:
    core = make_core(model, prefix_cache_bytes=BUDGET)
    tokens = words(2, 200)
    run(core, [ask("first", tokens, boundaries=[50, 120])])
    for at in (30, 119, 130, 199):
        request = ask("edited", [*tokens[:at], *words(100 + at, 40)], boundaries=[50, 120])
        answer = run(core, [request])["edited"]
        check(model, request, answer)
        if family in SNAPSHOTS:
            assert answer.cached_tokens == max(p for p in (0, 50, 64, 120, 128, 192, 199) if p <= at)
        else:
            assert at <= answer.cached_tokens <= at + 1


def test_users_of_one_system_prompt_together(model) -> None:
    """The first computes it, the others wait for that and go on from there."""
    core = make_core(model, prefix_cache_bytes=BUDGET)
    system = words(3, 150)
    requests = [ask(f"u{user}", system + words(20 + user, 5 + 3 * user)) for user in range(8)]
    answers = run(core, requests)
    for request in requests:
        check(model, request, answers[request.request_id])
    assert answers["u0"].cached_tokens == 0
    assert all(150 <= answers[f"u{user}"].cached_tokens <= 152 for user in range(1, 8))
    computed = core.stats().prompt_tokens
    assert computed <= 150 + sum(len(request.prompt_token_ids) - 150 for request in requests)


def test_a_leader_that_leaves_early_leaves_nobody_waiting(model) -> None:
    core = make_core(model, prefix_cache_bytes=BUDGET)
    system = words(4, 300)
    requests = [ask(f"u{user}", system + words(30 + user, 10)) for user in range(4)]
    answers = run(core, requests, aborts={"u0": 2})
    assert answers["u0"].finish_reason is FinishReason.ABORT
    for request in requests[1:]:
        check(model, request, answers[request.request_id])


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("budget", [BUDGET, 2**17])
def test_random_conversations_with_aborts(model, seed: int, budget: int) -> None:
    """Sessions that go on, branch, are edited and aborted beside each other; the small budget evicts all the time."""
    rng = random.Random(seed)
    core = make_core(model, prefix_cache_bytes=budget)
    sessions = [words(40 + index, rng.choice([20, 60, 130])) for index in range(4)]
    sessions[1] = sessions[0][:50] + sessions[1]
    cached = 0
    for turn in range(4):
        requests = []
        for index, session in enumerate(sessions):
            cut = rng.randrange(20, len(session) + 1) if rng.random() < 0.3 else len(session)
            sessions[index] = session[:cut] + words(1000 * seed + 10 * turn + index, rng.randrange(1, 40))
            requests.append(ask(f"{turn}-{index}", sessions[index], tokens=rng.randrange(1, 15), boundaries=[cut]))
        arrivals = {request.request_id: rng.randrange(12) for request in requests}
        aborts = {request.request_id: rng.randrange(2, 25) for request in requests if rng.random() < 0.25}
        answers = run(core, requests, arrivals=arrivals, aborts=aborts)
        for index, request in enumerate(requests):
            answer = answers[request.request_id]
            cached += answer.cached_tokens
            alone = run_alone(model, request)
            assert answer.token_ids == alone.token_ids[: len(answer.token_ids)]
            if answer.finish_reason is not FinishReason.ABORT:
                assert len(answer.token_ids) == len(alone.token_ids)
            sessions[index] = sessions[index] + answer.token_ids
        store, tree = core.runner.store, core.scheduler.prefix_cache
        assert tree.nbytes <= budget
    run(core, [ask("flush", words(7, 5))])  # carries out what the last finish asked for
    run(core, [ask("flush", words(8, 5))])
    pending = sum(1 for _ in tree.operations)
    assert pending == 0 or store.nbytes >= 0
    assert cached > 0 or budget < BUDGET


def test_a_failed_step_empties_the_cache(model) -> None:
    core = make_core(model, prefix_cache_bytes=BUDGET)
    request = ask("r", words(5, 100))
    run(core, [request])
    core.add(request)
    core.step()
    core.fail_step("broken on purpose")
    assert core.stats().cache_bytes == core.runner.store.nbytes == 0
    answer = run(core, [request])["r"]
    check(model, request, answer)
    assert answer.cached_tokens == 0


def test_a_running_request_gives_its_prompt_to_one_that_comes_later(model, family: str) -> None:
    """It is kept for good only when it ends; nobody has to wait for that."""
    shared = words(8, 150)
    first = ask("first", shared + words(9, 30), tokens=60)
    second = ask("second", shared + words(10, 21), tokens=20, boundaries=[150])
    third = ask("third", shared + words(11, 40), tokens=20)
    core = make_core(model, prefix_cache_bytes=BUDGET)
    answers = run(core, [first, second, third], arrivals={"second": 20, "third": 25})
    for request in (first, second, third):
        check(model, request, answers[request.request_id])
    if core.scheduler.prefix_cache.enabled and family not in SNAPSHOTS:
        assert answers["second"].cached_tokens == answers["third"].cached_tokens == 150
