"""What records leave behind: counted once, whatever happens on the way."""

from __future__ import annotations

import asyncio
import contextvars

import pytest

from quince import metrics
from quince.errors import EngineError, InvalidRequest, QueueFull, QuinceError, RequestCancelled
from quince.metrics import (
    REQUEST_TYPES,
    AnswerRecord,
    Histogram,
    Metrics,
    Outcome,
    RequestKind,
    RequestRecord,
    current_request,
    current_request_id,
    recording,
)


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(metrics, "time", made)
    return made


def make(counts: Metrics, kind: RequestKind | None = RequestKind.TEXT) -> RequestRecord:
    request = RequestRecord("r", kind, counts)
    request.acquired("m")
    request.status = 200
    return request


def answer(request: RequestRecord, *, prompt: int = 0, tokens: int = 3, cached: int = 0) -> None:
    with AnswerRecord(request, prompt, 10) as record:
        record.started(cached)
        for count in range(1, tokens + 1):
            record.advance(count, 0)
        record.finish_reason = "stop"


def test_a_value_on_a_bound_is_in_its_bucket() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (0.0, 1.0, 1.5, 2.0, 2.1):
        histogram.observe(value)
    histogram.observe(3.0, 4)
    assert histogram.counts == [2, 2, 5]
    assert histogram.sum == pytest.approx(18.6)


def test_times_of_a_stream(clock: Clock) -> None:
    counts = Metrics()
    request = make(counts)
    with AnswerRecord(request, 0, 10) as record:
        request.queued(0.25)
        record.started(4)
        clock.now += 2
        record.advance(1, 0)
        clock.now += 0.05
        record.advance(1, 0)  # nothing new: no gap
        clock.now += 0.05
        record.advance(3, 2)  # two at once: 50 ms for each
        record.finish_reason = "length"
    clock.now += 1
    request.end()
    model = counts.models["m"]
    assert (request.queue_time, request.time_to_first_token) == (0.25, 2)
    assert request.duration == pytest.approx(3.1)
    assert sum(model.inter_token_latency.counts) == 2
    assert model.inter_token_latency.sum == pytest.approx(0.1)
    assert model.inter_token_latency.counts[metrics.GAPS.index(0.05)] == 2
    assert model.time_to_first_token.sum == 2
    assert (model.prompt_tokens, model.cached_tokens, model.generation_tokens, model.reasoning_tokens) == (10, 4, 3, 2)
    assert model.finished == {"length": 1}
    assert model.requests == {("text", Outcome.SUCCESS): 1}
    assert counts.recent_speeds[0] == pytest.approx(3 / 3.1)


def test_waiting_for_the_model_is_no_part_of_the_speed(clock: Clock) -> None:
    counts = Metrics()
    request = make(counts)
    clock.now += 60  # the model is loaded, then other requests run
    request.queued(20)
    clock.now += 2
    answer(request, tokens=10)
    request.end()
    assert request.duration == 62
    assert (request.tokens_per_second, counts.total_time, list(counts.recent_speeds)) == (5, 2, [5])


def test_tokens_that_come_first_together_have_no_gap_between_them(clock: Clock) -> None:
    counts = Metrics()
    request = make(counts)
    with AnswerRecord(request, 0, 1) as record:
        record.advance(3, 0)
    assert counts.models["m"].inter_token_latency.counts[0] == 2
    assert counts.models["m"].inter_token_latency.sum == 0


def test_several_answers_are_one_request() -> None:
    counts = Metrics()
    request = make(counts)
    for cached in (0, 9, 9):
        answer(request, cached=cached)
    answer(request, prompt=1, cached=5)
    request.end()
    model = counts.models["m"]
    assert (request.prompt_tokens, request.cached_tokens, request.completion_tokens) == (20, 5, 12)
    assert (model.prompt_tokens, model.cached_tokens, model.generation_tokens) == (20, 5, 12)
    assert (model.cache_queries, model.cache_hits) == (40, 23)
    assert model.finished == {"stop": 4}
    assert sum(model.latency.counts) == sum(model.time_to_first_token.counts) == model.requests.total() == 1


@pytest.mark.parametrize(
    ("error", "status", "outcome"),
    [
        (None, 200, Outcome.SUCCESS),
        (None, None, Outcome.ABORTED),
        (None, 499, Outcome.ABORTED),
        (InvalidRequest("no"), 400, Outcome.ERROR),
        (QueueFull("full"), 429, Outcome.REJECTED),
        (EngineError("late"), 200, Outcome.ERROR),
        (RequestCancelled("by someone"), 499, Outcome.ABORTED),
    ],
)
def test_outcomes(error: QuinceError | None, status: int | None, outcome: Outcome) -> None:
    counts = Metrics()
    request = make(counts)
    request.status = status
    if error is not None:
        request.fail(error)
        request.fail(EngineError("what came of it"))
    request.end()
    assert counts.by_outcome() == {outcome: 1}
    assert sum(counts.models["m"].latency.counts) == (outcome is Outcome.SUCCESS)


def test_a_client_that_leaves_has_aborted() -> None:
    counts = Metrics()
    request = make(counts)
    with pytest.raises(GeneratorExit), AnswerRecord(request, 0, 10) as record:
        record.started(0)
        record.advance(2, 0)
        raise GeneratorExit
    request.client_left = True
    request.end()
    model = counts.models["m"]
    assert counts.by_outcome() == {Outcome.ABORTED: 1}
    assert (model.finished, model.generation_tokens, counts.total_tokens) == ({"abort": 1}, 2, 2)


def test_what_is_cancelled_has_aborted() -> None:
    counts = Metrics()
    request = make(counts)
    with AnswerRecord(request, 0, 10) as record:
        record.finish_reason = "abort"
    request.end()
    assert counts.by_outcome() == {Outcome.ABORTED: 1}


def test_a_failure_ends_the_other_answers_and_is_an_error() -> None:
    counts = Metrics()
    request = make(counts)
    with pytest.raises(EngineError), AnswerRecord(request, 0, 10):
        raise EngineError("one fails")
    with AnswerRecord(request, 0, 10):
        pass  # the other is closed
    request.end()
    assert counts.by_outcome() == {Outcome.ERROR: 1}
    assert not counts.models["m"].finished


@pytest.mark.parametrize("error", [ValueError("a bug"), EngineError("a fault")])
def test_a_failed_answer_has_no_reason_to_finish(error: Exception) -> None:
    request = make(Metrics())
    with pytest.raises(type(error)), AnswerRecord(request, 0, 10):
        raise error
    assert request.finish_reasons == []


def test_types() -> None:
    found = set()
    for kind in RequestKind:
        for vision in (False, True):
            for streamed in (False, kind in (RequestKind.TEXT, RequestKind.COMPLETION)):
                request = make(Metrics(), kind)
                request.vision, request.streamed = vision, streamed
                found.add(request.type)
    assert found == set(REQUEST_TYPES)


def test_other_routes_are_not_counted() -> None:
    counts = Metrics()
    make(counts, None).end()
    assert not counts.by_outcome()


def test_models_that_are_not_known_share_a_name() -> None:
    counts = Metrics()
    for _ in range(3):
        request = RequestRecord("r", RequestKind.TEXT, counts)
        request.status = 404
        request.end()
    assert set(counts.models) == {""}
    assert counts.by_outcome() == {Outcome.ERROR: 3}


def test_recent_speeds_are_bounded() -> None:
    counts = Metrics()
    for _ in range(metrics.RECENT_REQUESTS + 5):
        request = make(counts)
        answer(request, tokens=1)
        request.end()
    assert len(counts.recent_speeds) == metrics.RECENT_REQUESTS


async def test_tasks_of_a_request_work_for_it_and_others_do_not() -> None:
    async def see() -> str:
        return current_request_id()

    request = make(Metrics())
    with recording(request):
        assert current_request() is request
        assert await asyncio.create_task(see()) == "r"
        assert await asyncio.to_thread(current_request_id) == "r"
        assert await asyncio.create_task(see(), context=contextvars.Context()) == ""
    assert current_request_id() == ""
    assert current_request() is not current_request()
