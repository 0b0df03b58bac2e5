"""Batches of a pooling engine: fair, of like lengths, bounded, and what aborts and failures leave behind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quince.engine.messages import FinishReason, Output, PoolInput, PoolRequest
from quince.engine.pooling_scheduler import (
    BATCH_SECONDS,
    FREE_PADDING,
    MAX_PADDING,
    MIN_BATCH_TOKENS,
    Costs,
    PoolBatch,
    PoolingScheduler,
)

FAST = 1e-9  # seconds per token


def request(name: str, *lengths: int) -> PoolRequest:
    return PoolRequest(name, [PoolInput([7] * length) for length in lengths])


def scheduler(max_tokens: int = 1000) -> PoolingScheduler:
    costs = Costs(max_tokens)
    costs.observe(1, FAST)
    return PoolingScheduler(costs)


def run(made: PoolingScheduler, batch: PoolBatch | None) -> list[Output]:
    """Compute the batch: the result of an input is its length."""
    rows = batch.rows if batch else ()
    return made.update(batch, [str(len(row.input.token_ids)).encode() for row in rows])


def names(batch: PoolBatch | None) -> list[tuple[str, int]]:
    return [] if batch is None else [(row.job.request_id, row.index) for row in batch.rows]


def test_a_small_request_waits_for_one_batch_of_a_large_one() -> None:
    made = scheduler(100)
    made.add(request("large", *[100] * 50))
    run(made, made.schedule())
    made.add(request("small", 3))
    led_by = [{name for name, _ in names(batch)} for batch in (made.schedule(), made.schedule())]
    assert {"small"} in led_by


def test_inputs_of_like_length_go_together_whoever_sent_them() -> None:
    made = scheduler()
    made.add(request("a", 100, 10))
    made.add(request("b", 99, 9))
    assert sorted(names(made.schedule())) == [("a", 0), ("b", 0)]
    assert sorted(names(made.schedule())) == [("a", 1), ("b", 1)]


def test_a_batch_stays_within_the_budget_but_for_one_input_that_is_larger() -> None:
    made = scheduler(100)
    made.add(request("a", *[30] * 5, 500))
    sizes = []
    while made.has_work():
        batch = made.schedule()
        assert batch is not None
        sizes.append((len(batch.rows), batch.padded_tokens))
        run(made, batch)
    assert sizes == [(1, 500), (3, 90), (2, 60)]


def test_results_come_with_the_batch_that_made_them_and_the_last_one_ends_the_request() -> None:
    made = scheduler(100)
    made.add(request("a", 100, 50, 50))
    first, second = run(made, made.schedule()), run(made, made.schedule())
    assert [(one.started, one.finish_reason, [(p.index, p.values) for p in one.pooled]) for one in first + second] == [
        (True, None, [(0, b"100")]),
        (False, FinishReason.STOP, [(1, b"50"), (2, b"50")]),
    ]
    assert not made.has_work() and made.num_running == 0 and made.num_waiting == 0


def test_an_aborted_request_is_in_no_later_batch_and_is_told() -> None:
    made = scheduler(100)
    made.add(request("a", 100, 100))
    made.add(request("b", 100))
    run(made, made.schedule())
    made.abort(["a", "unknown"])
    batch = made.schedule()
    assert names(batch) == [("b", 0)]
    outputs = run(made, batch)
    assert [(one.request_id, one.finish_reason) for one in outputs] == [
        ("a", FinishReason.ABORT),
        ("b", FinishReason.STOP),
    ]
    assert not made.has_work()


def test_an_abort_of_the_only_request_is_told_without_a_batch() -> None:
    made = scheduler()
    made.add(request("a", 5))
    made.abort(["a"])
    assert made.has_work()
    assert made.schedule() is None
    assert [one.finish_reason for one in run(made, None)] == [FinishReason.ABORT]
    assert not made.has_work()


def test_a_batch_that_fails_ends_its_requests_only() -> None:
    made = scheduler(100)
    made.add(request("a", 100, 20))
    made.add(request("b", 60))
    assert names(made.schedule()) == [("a", 0)]
    failures = made.fail_running("broken")
    assert [(one.request_id, one.finish_reason, one.error) for one in failures] == [
        ("a", FinishReason.ERROR, "broken")
    ]  # fmt: skip
    assert names(made.schedule()) == [("b", 0)]


def test_a_batch_is_what_the_device_does_in_its_time() -> None:
    costs = Costs(4096)
    assert MIN_BATCH_TOKENS <= costs.max_batch_tokens < 4096
    costs.observe(1000, 0.1)
    assert costs.max_batch_tokens == int(BATCH_SECONDS * 10_000)
    for _ in range(100):
        costs.observe(1000, 1e-3)
    assert costs.max_batch_tokens == 4096
    for _ in range(200):
        costs.observe(1, 10.0)
    assert costs.max_batch_tokens == MIN_BATCH_TOKENS


def test_padding_is_free_as_far_as_another_pass_would_cost_more() -> None:
    costs = Costs(4096)
    assert costs.free_padding == FREE_PADDING
    for tokens in (10, 500, 60, 200) * 5:
        costs.observe(tokens, 0.01 + tokens * 1e-4)
    assert costs.free_padding in (99, 100)
    assert costs.max_batch_tokens in (399, 400)
    for tokens in (10, 500, 60, 200) * 20:
        costs.observe(tokens, 0.01)
    assert costs.free_padding == 4096


def test_short_texts_of_all_lengths_share_a_pass_where_passes_are_dear() -> None:
    costs = Costs(4096)
    for tokens in (10, 2000) * 5:
        costs.observe(tokens, 0.01 + tokens * 1e-6)
    made = PoolingScheduler(costs)
    made.add(request("a", 5, 90, 17))
    assert sorted(names(made.schedule())) == [("a", 0), ("a", 1), ("a", 2)]


def beginning(name: str, shared: list[int], *lengths: int) -> PoolRequest:
    """Inputs that begin alike and go on for so many tokens, each with a first token of its own."""
    return PoolRequest(
        name, [PoolInput([*shared, 100 + number, *[7] * (length - 1)]) for number, length in enumerate(lengths)]
    )


def sharing(max_tokens: int = 1000) -> PoolingScheduler:
    costs = Costs(max_tokens)
    costs.observe(1, FAST)
    return PoolingScheduler(costs, shares=True)


def test_what_all_inputs_of_a_request_begin_with_is_left_out_of_its_rows() -> None:
    made = sharing()
    made.add(beginning("a", [1, 2, 3, 4] * 10, 20, 18))
    made.add(beginning("b", [1, 2, 3, 4] * 10, 19))  # has nothing to share it with
    batch = made.schedule()
    assert names(batch) == [("a", 0), ("a", 1)]
    assert batch is not None and batch.shared == (1, 2, 3, 4) * 10
    assert (batch.tokens, batch.padded_tokens, batch.cost) == (38, 40, 40 + 80 // 16)
    run(made, batch)
    batch = made.schedule()
    assert batch is not None and batch.shared == () and batch.tokens == 59


def test_requests_that_begin_alike_share_batches_and_others_do_not() -> None:
    made = sharing()
    made.add(beginning("a", [1] * 50, 20, 20))
    made.add(beginning("b", [2] * 50, 20, 20))
    made.add(beginning("c", [1] * 50, 20, 20))
    made.add(request("d", 20))
    batches = [sorted({name for name, _ in names(made.schedule())}) for _ in range(3)]
    assert batches == [["a", "c"], ["b"], ["d"]]


def test_every_input_keeps_a_token_of_its_own() -> None:
    made = sharing()
    made.add(PoolRequest("a", [PoolInput([5] * length) for length in (60, 60, 61)]))
    batch = made.schedule()
    assert batch is not None and len(batch.shared) == 59
    assert sorted(row.length for row in batch.rows) == [1, 1, 2]


def test_a_beginning_that_saves_little_is_not_shared() -> None:
    for shared, lengths, expected in (
        ([1] * 8, (20, 20), 0),  # less than a pass
        ([1] * 20, (500, 500), 0),  # a small part of the request
        ([1] * 20, (50, 50), 20),
    ):
        made = sharing()
        made.add(beginning("a", shared, *lengths))
        batch = made.schedule()
        assert batch is not None and len(batch.shared) == expected


def test_copies_of_a_long_beginning_count_for_the_budget() -> None:
    made = sharing(1000)
    made.add(beginning("a", [1] * 1600, *[10] * 50))
    batch = made.schedule()
    assert batch is not None and len(batch.rows) == 1000 // (10 + 1600 // 16)


def test_an_aborted_request_leaves_those_that_begin_alike() -> None:
    made = sharing(40)
    made.add(beginning("a", [1] * 50, 20, 20, 20))
    made.add(beginning("b", [1] * 50, 20, 20, 20))
    made.abort(["a"])
    rows = []
    while made.has_work():
        batch = made.schedule()
        rows += names(batch)
        run(made, batch)
    assert sorted(rows) == [("b", 0), ("b", 1), ("b", 2)]


@given(
    lengths=st.lists(st.lists(st.integers(1, 120), min_size=1, max_size=20), min_size=1, max_size=6),
    budget=st.integers(64, 600),
    late=st.integers(0, 5),
    shares=st.booleans(),
)
def test_every_input_gets_its_result_once(lengths: list[list[int]], budget: int, late: int, shares: bool) -> None:
    made = sharing(budget) if shares else scheduler(budget)
    waiting = [request(f"r{number}", *one) for number, one in enumerate(lengths)]
    results: dict[str, dict[int, bytes]] = {one.request_id: {} for one in waiting}
    ended: list[str] = []
    for one in waiting[late:]:
        made.add(one)
    waiting = waiting[:late]
    while made.has_work() or waiting:
        if waiting:
            made.add(waiting.pop())
        batch = made.schedule()
        assert batch is not None
        assert batch.cost <= budget or len(batch.rows) == 1
        assert batch.padded_tokens - batch.tokens <= max(FREE_PADDING, MAX_PADDING * batch.tokens)
        for output in run(made, batch):
            for pooled in output.pooled:
                assert pooled.index not in results[output.request_id]
                results[output.request_id][pooled.index] = pooled.values
            if output.finish_reason is not None:
                ended.append(output.request_id)
    assert sorted(ended) == sorted(results)
    assert [[int(results[f"r{n}"][i]) for i in range(len(one))] for n, one in enumerate(lengths)] == lengths
