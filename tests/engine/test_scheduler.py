"""Scenarios: what the scheduler hands out, step by step, without MLX."""

from __future__ import annotations

import random
import time

import pytest

from quince.engine.grouping import DecodeGroups
from quince.engine.kv_layout import COLUMN_STEP, KVLayout
from quince.engine.memory import KVMemory
from quince.engine.messages import FinishReason, Output
from quince.engine.pacing import PrefillPacer
from quince.engine.prefill import LaneRules
from quince.engine.prefix_cache import PrefixCache
from quince.engine.request import Request, RequestStatus
from quince.engine.scheduler import Scheduler, SchedulerConfig
from quince.sampling import SamplingParams
from tests.engine.fake_runner import FakeRunner

LAYOUT = KVLayout(token_bytes=1)


def make(
    *,
    running: int = 4,
    chunk: int = 100,
    layout: KVLayout = LAYOUT,
    memory: int = 2**40,
    cache: int = 0,
    max_padding: int = 2**40,
    width: int | None = None,
    **more: bool,
) -> Scheduler:
    """``chunk``: most tokens of prompts in a step, ``width``: of one prompt (None: no fewer); ``more`` of LaneRules."""
    return Scheduler(
        SchedulerConfig(running, LaneRules(width or chunk, **more), snapshot_interval=64),
        pacer=PrefillPacer(max_tokens=chunk),
        prefix_cache=PrefixCache(layout, max_bytes=cache),
        memory=KVMemory(layout, max_bytes=memory, max_width=chunk),
        groups=DecodeGroups(max_padding=max_padding),
    )


def request(
    name: str, prompt: int, *, max_tokens: int = 3, stop: int | None = None, adapter: str | None = None
) -> Request:
    stops = () if stop is None else (stop,)
    sampling = SamplingParams(max_tokens=max_tokens, stop_token_ids=stops)
    return Request(name, list(range(prompt)), sampling, adapter=adapter)


def step(scheduler: Scheduler, runner: FakeRunner) -> list[Output]:
    return scheduler.update(runner.run(scheduler.schedule()))


def run_out(scheduler: Scheduler, runner: FakeRunner) -> list[Output]:
    outputs: list[Output] = []
    for _ in range(1000):
        if not scheduler.has_work():
            return outputs
        outputs += step(scheduler, runner)
    raise AssertionError("never done")


def tokens_of(outputs: list[Output], name: str) -> list[int]:
    return [token for output in outputs if output.request_id == name for token in output.token_ids]


def test_first_come_first_served_within_the_limit() -> None:
    scheduler = make(running=2)
    for name in "abc":
        scheduler.add(request(name, 5))
    assert [chunk.request_id for chunk in scheduler.schedule().prefill] == ["a", "b"]
    assert (scheduler.num_running, scheduler.num_waiting) == (2, 1)


def test_a_request_starts_once_and_ends_once() -> None:
    scheduler, runner = make(), FakeRunner(LAYOUT)
    scheduler.add(request("a", 5, max_tokens=3))
    outputs = run_out(scheduler, runner)
    assert [output.started for output in outputs] == [True, False, False, False]
    assert tokens_of(outputs, "a") == [1000, 1001, 1002]
    assert [output.finish_reason for output in outputs][-1] is FinishReason.LENGTH
    assert runner.held == 0


def test_prompts_that_fit_one_rectangle_are_prefilled_together_padding_counted() -> None:
    scheduler = make(chunk=100)
    for name, length in (("a", 41), ("b", 11), ("c", 41)):  # 40 and 10 and 40 to prefill
        scheduler.add(request(name, length))
    assert [chunk.request_id for chunk in scheduler.schedule().prefill] == ["a", "b"]


def prefills(scheduler: Scheduler, runner: FakeRunner, steps: int) -> list[list[tuple[str, int]]]:
    """What each step prefills: (request, tokens)."""
    sizes = []
    for _ in range(steps):
        batch = scheduler.schedule()
        sizes.append([(chunk.request_id, len(chunk.token_ids)) for chunk in batch.prefill])
        scheduler.update(runner.run(batch))
    return sizes


@pytest.mark.parametrize(
    ("lengths", "widths"),
    [
        ((460,), [480, 0]),  # 459 to prefill
        ((30, 401, 431), [433, 0]),  # 448 would be more than a third of a step
        ((21,), [32, 0]),
        ((1301,), [1000, 320, 0]),  # the rest of a prompt, too
        ((514,), [514, 0]),  # no more than there is room for, in buffers of two times COLUMN_STEP
        ((2,), [16, 0]),
    ],
)
def test_widths_come_again(lengths: tuple[int, ...], widths: list[int]) -> None:
    scheduler, runner = make(chunk=1300, width=1000, round_widths=True), FakeRunner(LAYOUT)
    for number, length in enumerate(lengths):
        scheduler.add(request(str(number), length))
    seen = []
    for _ in widths:
        batch = scheduler.schedule()
        seen.append(batch.prefill_width)
        assert batch.prefill_size == len(batch.prefill) * batch.prefill_width <= 1300
        scheduler.update(runner.run(batch))
    assert seen == widths


@pytest.mark.parametrize("pad", [True, False])
def test_widths_are_as_they_come_elsewhere(pad: bool) -> None:
    scheduler = make(chunk=1000, round_widths=not pad, pad=pad)
    scheduler.add(request("a", 460))
    assert scheduler.schedule().prefill_shape == (1, 459, 0)


def test_many_short_prompts_share_a_larger_step_than_one_prompt_gets() -> None:
    scheduler, runner = make(chunk=1000, width=100, running=16), FakeRunner(LAYOUT)
    scheduler.add(request("long", 151))
    assert prefills(scheduler, runner, 2) == [[("long", 100)], [("long", 50)]]
    for number in range(11):
        scheduler.add(request(str(number), 91))
    assert [len(sizes) for sizes in prefills(scheduler, runner, 2)] == [11, 0]


def test_short_prompts_do_not_wait_for_a_long_one() -> None:
    scheduler, runner = make(chunk=100), FakeRunner(LAYOUT)
    scheduler.add(request("long", 351))
    scheduler.add(request("short", 5))
    assert prefills(scheduler, runner, 5) == [
        [("long", 100)],
        [("short", 4)],
        [("long", 100)],
        [("long", 100)],
        [("long", 50)],
    ]


def test_the_oldest_prompt_gets_every_second_step_however_many_short_ones_come() -> None:
    scheduler, runner = make(running=100, chunk=100), FakeRunner(LAYOUT)
    scheduler.add(request("long", 1001))
    taken = []
    for step_number in range(20):
        scheduler.add(request(f"short{step_number}", 50))
        taken += prefills(scheduler, runner, 1)
    assert sum(size for chunks in taken for name, size in chunks if name == "long") == 1000
    assert sum(name != "long" for chunks in taken for name, _ in chunks) >= 10


def test_two_long_prompts_at_most_hold_buffers_while_a_third_waits() -> None:
    scheduler, runner = make(chunk=100), FakeRunner(LAYOUT)
    for name, length in (("a", 1001), ("b", 501), ("c", 701), ("d", 11)):
        scheduler.add(request(name, length))
    first = prefills(scheduler, runner, 6)
    assert {name for chunks in first for name, _ in chunks} == {"a", "b", "d"}


def test_very_different_lengths_are_not_prefilled_in_one_rectangle() -> None:
    scheduler = make(chunk=100_000)
    scheduler.add(request("long", 30_000))
    scheduler.add(request("middle", 5_000))
    for index in range(2):
        scheduler.add(request(f"short{index}", 10))
    runner = FakeRunner(LAYOUT)
    assert [{name for name, _ in chunks} for chunks in prefills(scheduler, runner, 3)] == [
        {"long"},
        {"short0", "short1"},
        {"middle"},
    ]


def test_a_prompt_of_one_token_needs_no_prefill() -> None:
    scheduler, runner = make(), FakeRunner(LAYOUT)
    scheduler.add(request("a", 1, max_tokens=1))
    outputs = run_out(scheduler, runner)
    assert tokens_of(outputs, "a") == [1000]


def test_a_stop_token_ends_the_request_and_drops_what_is_in_flight() -> None:
    scheduler, runner = make(), FakeRunner(LAYOUT)
    scheduler.add(request("a", 5, max_tokens=50, stop=1002))
    outputs = run_out(scheduler, runner)
    assert tokens_of(outputs, "a") == [1000, 1001, 1002]
    assert outputs[-1].finish_reason is FinishReason.STOP
    assert runner.held == 0


def test_abort_in_every_phase_frees_at_once() -> None:
    for steps in range(8):
        scheduler, runner = make(running=2, chunk=20), FakeRunner(LAYOUT)
        for name in ("bystander", "victim", "queued"):
            scheduler.add(request(name, 51, max_tokens=4))
        outputs = []
        for _ in range(steps):
            outputs += step(scheduler, runner)
        scheduler.abort(["victim", "unknown"])
        outputs += run_out(scheduler, runner)
        victim = [output.finish_reason for output in outputs if output.request_id == "victim"]
        assert victim[-1] is FinishReason.ABORT
        assert tokens_of(outputs, "bystander") == [1000, 1001, 1002, 1003]
        assert tokens_of(outputs, "queued") == [1000, 1001, 1002, 1003]
        assert runner.held == 0


def test_abort_of_a_finished_request_is_ignored() -> None:
    scheduler, runner = make(), FakeRunner(LAYOUT)
    scheduler.add(request("a", 5, max_tokens=1))
    run_out(scheduler, runner)
    scheduler.abort(["a"])
    assert not scheduler.has_work()


def test_a_failed_step_ends_what_ran_and_keeps_what_waits() -> None:
    scheduler, runner = make(running=1), FakeRunner(LAYOUT)
    failed, waits = request("failed", 5), request("waits", 5)
    scheduler.add(failed)
    scheduler.add(waits)
    step(scheduler, runner)
    outputs = scheduler.fail_running("out of memory")
    assert [(output.request_id, output.error) for output in outputs] == [("failed", "out of memory")]
    assert (failed.status, waits.status) == (RequestStatus.FINISHED_ERROR, RequestStatus.WAITING)
    assert tokens_of(run_out(scheduler, FakeRunner(LAYOUT)), "waits") == [1000, 1001, 1002]


def test_the_cost_of_a_step_does_not_grow_with_the_queue() -> None:
    """Counted in touched requests, not in time: schedule looks at the head of the queue only."""

    class Counting(Request):
        __slots__ = ()
        looks = 0

        @property
        def num_to_prefill(self) -> int:
            Counting.looks += 1
            return len(self.prompt_token_ids) - 1 - self.num_prefilled

    looks = []
    for waiting in (10, 1000):
        scheduler, runner = make(running=2), FakeRunner(LAYOUT)
        for index in range(waiting):
            scheduler.add(Counting(str(index), [1, 2, 3], SamplingParams(max_tokens=5)))
        step(scheduler, runner)
        Counting.looks = 0
        step(scheduler, runner)
        looks.append(Counting.looks)
    assert looks[0] == looks[1]


def test_random_timelines_keep_the_invariants() -> None:
    import random

    for seed in range(50):
        rng = random.Random(seed)
        scheduler, runner = make(running=3, chunk=16), FakeRunner(LAYOUT)
        names = [f"r{i}" for i in range(20)]
        pending = [request(n, rng.randint(1, 40), max_tokens=rng.randint(1, 6), stop=1003) for n in names]
        outputs: list[Output] = []
        deadline = time.monotonic() + 30
        while pending or scheduler.has_work():
            assert time.monotonic() < deadline
            if pending and rng.random() < 0.5:
                scheduler.add(pending.pop())
            if rng.random() < 0.1:
                scheduler.abort([rng.choice(names)])
            outputs += step(scheduler, runner)
            assert runner.held <= 3
        ends = [output.request_id for output in outputs if output.finish_reason is not None]
        assert sorted(ends) == sorted(names)
        assert runner.held == 0


# With the prefix cache and little memory

HYBRID = KVLayout(token_bytes=1, state_bytes=100)
LAYOUTS = {"full": LAYOUT, "window": KVLayout(token_bytes=1, windows=((16, 2),)), "hybrid": HYBRID}


def ask(name: str, prompt: list[int], *, max_tokens: int = 3) -> Request:
    return Request(name, prompt, SamplingParams(max_tokens=max_tokens))


def cached(outputs: list[Output], name: str) -> int:
    return sum(output.cached_tokens for output in outputs if output.request_id == name)


def test_a_turn_resumes_behind_the_last_answer() -> None:
    for layout in LAYOUTS.values():
        scheduler, runner = make(layout=layout, cache=2**30), FakeRunner(layout)
        scheduler.add(ask("first", list(range(50))))
        run_out(scheduler, runner)
        scheduler.add(ask("second", [*range(50), 1000, 1001, 1002, 7, 8, 9]))
        outputs = run_out(scheduler, runner)
        assert cached(outputs, "second") == 52, "the answer's last token was never an input"
        assert runner.computed == 49 + 3


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_a_turn_that_does_not_fit_beside_what_it_begins_with(name: str, share: float) -> None:
    """It begins with less of that, or none, and nobody waits behind it for ever."""
    layout = LAYOUTS[name]
    memory = layout.buffer_bytes(1, 4 * COLUMN_STEP, 100)
    scheduler, runner = make(layout=layout, memory=memory, cache=memory), FakeRunner(layout)
    turn = list(range(4 * COLUMN_STEP - 20))
    scheduler.add(ask("first", turn[: int(share * len(turn))]))
    run_out(scheduler, runner)
    scheduler.add(ask("second", turn))
    scheduler.add(ask("other", [1, 2, 3]))
    outputs = run_out(scheduler, runner)
    assert len(tokens_of(outputs, "second")) == len(tokens_of(outputs, "other")) == 3


def test_prompts_that_resume_at_different_places_stay_in_their_buffers() -> None:
    long, short = list(range(1000, 2700)), list(range(600))
    scheduler, runner = make(chunk=1000, cache=2**30), FakeRunner(LAYOUT)
    for name, prompt in (("a", long), ("b", short)):
        scheduler.add(ask(name, prompt, max_tokens=1))
        run_out(scheduler, runner)
    scheduler.add(ask("c", [*long, *range(300)]))
    scheduler.add(ask("d", [*short, *range(5000, 5460)]))
    outputs = run_out(scheduler, runner)
    assert runner.lanes["c"] == runner.lanes["d"], "they are prefilled together"
    assert (cached(outputs, "c"), cached(outputs, "d")) == (len(long), len(short))


def test_users_of_one_prompt_compute_it_once() -> None:
    system = list(range(500))
    for layout in LAYOUTS.values():
        scheduler, runner = make(running=16, layout=layout, cache=2**30), FakeRunner(layout)
        for user in range(16):
            scheduler.add(ask(f"u{user}", [*system, 600 + user, *range(700, 710)]))
        assert scheduler.num_waiting == 16
        outputs = run_out(scheduler, runner)
        assert [cached(outputs, f"u{user}") for user in range(16)] == [0] + 15 * [500]
        assert runner.computed == 510 + 15 * 10


def test_followers_of_a_leader_that_leaves_go_on_without_it() -> None:
    for steps in range(1, 8):
        scheduler, runner = make(chunk=100, cache=2**30), FakeRunner(LAYOUT)
        for user in range(3):
            scheduler.add(ask(f"u{user}", [*range(500), 600 + user]))
        outputs = []
        for _ in range(steps):
            outputs += step(scheduler, runner)
        scheduler.abort(["u0"])
        outputs += run_out(scheduler, runner)
        for user in (1, 2):
            assert tokens_of(outputs, f"u{user}") == [1000, 1001, 1002]
        assert runner.computed <= 500 + 100 + 2


def test_a_follower_can_be_aborted() -> None:
    scheduler, runner = make(chunk=100, cache=2**30), FakeRunner(LAYOUT)
    for user in range(3):
        scheduler.add(ask(f"u{user}", [*range(500), 600 + user]))
    outputs = step(scheduler, runner)
    scheduler.abort(["u1"])
    outputs += run_out(scheduler, runner)
    assert [o.finish_reason for o in outputs if o.request_id == "u1"] == [FinishReason.ABORT]
    assert tokens_of(outputs, "u2") == [1000, 1001, 1002]


def test_the_youngest_is_preempted_and_goes_on_later() -> None:
    """Three rows of 200 tokens fit, but not when each has 300."""
    for cache in (0, 2**30):
        scheduler, runner = make(memory=5 * COLUMN_STEP + 100, cache=cache), FakeRunner(LAYOUT)
        for name in "abc":
            scheduler.add(ask(name, list(range(ord(name), ord(name) + 200)), max_tokens=150))
        outputs = run_out(scheduler, runner)
        assert scheduler.preemptions > 0
        ends = [output.request_id for output in outputs if output.finish_reason is FinishReason.LENGTH]
        assert ends[0] == "a", "the oldest is never preempted"
        for name in "abc":
            assert tokens_of(outputs, name) == list(range(1000, 1150)), "no token is lost or said twice"
            assert sum(output.started for output in outputs if output.request_id == name) == 1


def test_what_never_fits_is_refused_at_once() -> None:
    scheduler, runner = make(memory=600), FakeRunner(LAYOUT)
    scheduler.add(ask("long", list(range(600))))
    (output,) = step(scheduler, runner)
    assert (output.finish_reason, output.refused) == (FinishReason.ERROR, True)
    assert not scheduler.has_work()


def test_an_answer_ends_where_memory_does() -> None:
    scheduler, runner = make(memory=2 * COLUMN_STEP + 50), FakeRunner(LAYOUT)
    scheduler.add(ask("a", list(range(500)), max_tokens=10_000))
    outputs = run_out(scheduler, runner)
    assert len(tokens_of(outputs, "a")) == 2 * COLUMN_STEP - 500
    assert outputs[-1].finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("seed", range(12))
def test_random_timelines_with_cache_and_little_memory(name: str, seed: int) -> None:
    """Conversations that share, go on and are aborted: rows hold what they should, bytes stay within the budget, and
    every request says all of its answer once."""
    rng = random.Random(seed)
    layout = LAYOUTS[name]
    memory = rng.choice([2_000, 4_000, 20_000])
    scheduler = make(running=4, chunk=32, layout=layout, memory=memory, cache=memory // 2, max_padding=300)
    runner = FakeRunner(layout)
    longest = rng.choice([150, scheduler.memory.most_tokens - 60])
    stems = [[rng.randrange(50) for _ in range(longest)] for _ in range(3)]
    requests = {}
    for index in range(25):
        stem = rng.choice(stems)[: rng.randrange(1, longest)]
        prompt = stem + [rng.randrange(50) for _ in range(rng.randrange(1, 60))]
        boundaries = sorted(rng.sample(range(1, len(prompt) + 1), k=min(2, len(prompt))))
        sampling = SamplingParams(max_tokens=rng.randrange(1, 80))
        requests[f"r{index}"] = Request(f"r{index}", prompt, sampling, boundaries)
    due, outputs = list(requests.values()), []
    for _ in range(5000):
        if due and rng.random() < 0.3:
            scheduler.add(due.pop())
        if rng.random() < 0.02:
            scheduler.abort([rng.choice(list(requests))])
        outputs += step(scheduler, runner)
        assert runner.held <= 4
        rows = scheduler._row_bytes()
        assert runner.kept_bytes == scheduler.prefix_cache.nbytes or scheduler.prefix_cache.operations
        assert rows + runner.kept_bytes <= memory
        if not due and not scheduler.has_work():
            break
    assert not scheduler.has_work() and runner.held == 0 and scheduler.num_waiting == 0
    for name, request in requests.items():
        said = tokens_of(outputs, name)
        assert said == list(range(1000, 1000 + len(said)))
        (end,) = [o.finish_reason for o in outputs if o.request_id == name and o.finish_reason is not None]
        if end is FinishReason.LENGTH:
            assert len(said) == request.max_tokens


# Adapters

ADAPTERS = {"x": None, "a1": "a", "b1": "b", "a2": "a"}


@pytest.mark.parametrize("mix", [True, False])
def test_requests_for_different_adapters_share_passes_only_where_the_model_can(mix: bool) -> None:
    scheduler, runner = make(mix_adapters=mix), FakeRunner(LAYOUT)
    for name, adapter in ADAPTERS.items():
        scheduler.add(request(name, 11, max_tokens=50, adapter=adapter))
    prefilled: list[set[str | None]] = []
    groups: dict[int, set[str | None]] = {}
    for _ in range(10):
        batch = scheduler.schedule()
        prefilled.append({ADAPTERS[chunk.request_id] for chunk in batch.prefill})
        for row in batch.join:
            groups.setdefault(row.group, set()).add(ADAPTERS[row.request_id])
        scheduler.update(runner.run(batch))
    apart: list[set[str | None]] = [{"a"}, {"b"}, {None}]
    expected = [{None, "a", "b"}] if mix else apart
    assert sorted(filter(None, prefilled), key=str) == expected
    assert sorted(groups.values(), key=str) == expected
    run_out(scheduler, runner)
    assert runner.held == 0


def test_a_group_that_is_empty_takes_rows_of_any_adapter() -> None:
    scheduler, runner = make(mix_adapters=False), FakeRunner(LAYOUT)
    for name, adapter in (("a", "a"), ("b", "b")):
        scheduler.add(request(name, 11, adapter=adapter))
        groups = set()
        while scheduler.has_work():
            batch = scheduler.schedule()
            groups |= {row.group for row in batch.join}
            scheduler.update(runner.run(batch))
        assert groups == {0}


def test_nobody_follows_or_resumes_from_a_request_with_another_adapter() -> None:
    scheduler, runner = make(cache=2**20, chunk=1000), FakeRunner(LAYOUT)
    for name, adapter in ADAPTERS.items():
        scheduler.add(request(name, 300, adapter=adapter))
    outputs = step(scheduler, runner)
    assert (scheduler.num_running, scheduler.num_waiting) == (3, 1)
    outputs += run_out(scheduler, runner)
    started = {output.request_id: output.cached_tokens for output in outputs if output.started}
    assert started == {"x": 0, "a1": 0, "b1": 0, "a2": 299}
    assert runner.computed == 3 * 299


def test_rows_that_decode_give_their_prompts_to_their_own_adapter_only() -> None:
    scheduler, runner = make(cache=2**20, chunk=1000), FakeRunner(LAYOUT)
    scheduler.add(request("first", 300, max_tokens=50, adapter="a"))
    for _ in range(5):
        step(scheduler, runner)
    scheduler.add(request("other", 300, max_tokens=50))
    outputs = step(scheduler, runner)
    assert scheduler.num_running == 2 and scheduler.prefix_cache.nbytes == 0
    scheduler.add(request("same", 300, adapter="a"))
    outputs += run_out(scheduler, runner)
    started = {output.request_id: output.cached_tokens for output in outputs if output.started}
    assert started == {"other": 0, "same": 299}
