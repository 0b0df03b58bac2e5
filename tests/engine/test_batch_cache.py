"""Rows of a batch's caches: what they hold, and what they cost."""

from __future__ import annotations

import mlx.core as mx
import pytest

from quince.engine.batch_cache import BatchCache, RowChange
from quince.engine.kv_cache import RowKVCache, RowPositions
from quince.engine.kv_layout import COLUMN_STEP
from quince.engine.messages import AddRequest
from quince.sampling import SamplingParams
from tests import tiny_models
from tests.engine.driver import make_core, run, run_alone


def prefilled(model, length: int) -> BatchCache:
    single = BatchCache(model, max_width=1024)
    single.add_empty_rows(1)
    single.begin(length)
    model(mx.arange(length)[None] % tiny_models.VOCAB_SIZE, cache=single.layers)
    single.commit()
    return single


def change(model, cache: BatchCache, *, leave: list[int] | None = None, join: list[int] | None = None) -> None:
    plan = RowChange.plan(cache.rows, leave or [], len(join or []))
    cache.change(plan, [(prefilled(model, length), 0) for length in join or []])


def filled(model, lengths: list[int]) -> BatchCache:
    """A decode cache with one row per length, each prefilled on its own."""
    cache = BatchCache(model, max_width=1)
    change(model, cache, join=lengths)
    mx.eval(cache.arrays())
    return cache


@pytest.fixture(params=["qwen3", "gemma3_text", "lfm2", "falcon_h1"])
def model(request: pytest.FixtureRequest) -> object:
    return tiny_models.build(request.param)


def step(model, cache: BatchCache) -> mx.array:
    cache.begin(1)
    logits = model(mx.full((cache.rows, 1), 5), cache=cache.layers)[:, -1]
    cache.commit()
    mx.eval(logits, cache.arrays())
    return logits


@pytest.mark.parametrize("removed", [0, 1, 2])
def test_the_last_row_takes_the_place_of_the_removed_one(model, removed: int) -> None:
    lengths = [5, 40, 17]
    cache = filled(model, lengths)
    change(model, cache, leave=[removed])
    expected = list(lengths)
    expected[removed] = expected[-1]
    assert cache.lengths == expected[:-1]
    assert mx.allclose(step(model, cache), step(model, filled(model, expected[:-1])), atol=1e-4)


def test_rows_can_all_leave_and_come_again(model) -> None:
    cache = filled(model, [5, 40])
    change(model, cache, leave=[0, 1])
    assert cache.rows == 0
    change(model, cache, join=[9])
    assert mx.allclose(step(model, cache), step(model, filled(model, [9])), atol=1e-4)


def test_who_joins_takes_the_place_of_who_leaves(model) -> None:
    cache = filled(model, [5, 40, 17, 3])
    change(model, cache, leave=[1, 2], join=[20, 21, 22])
    assert cache.lengths == [5, 20, 21, 3, 22]
    assert mx.allclose(step(model, cache), step(model, filled(model, [5, 20, 21, 3, 22])), atol=1e-4)


def test_rows_of_one_prefill_join_together(model) -> None:
    """Copied as a block, also with different lengths and with the window's ring come round."""
    group = BatchCache(model, max_width=64)
    group.add_empty_rows(3)
    counts = [7, 50, 30]
    tokens = mx.broadcast_to(mx.arange(50)[None] % tiny_models.VOCAB_SIZE, (3, 50))
    group.begin(50, counts)
    model(tokens, cache=group.layers)
    group.commit()
    cache = filled(model, [4])
    cache.change(RowChange.plan(1, [], 3), [(group, index) for index in range(3)])
    assert mx.allclose(step(model, cache), step(model, filled(model, [4, *counts])), atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "leave", "joining", "order"),
    [
        (3, [], 0, [0, 1, 2]),
        (3, [0], 0, [2, 1]),
        (3, [2], 0, [0, 1]),
        (4, [0, 3], 0, [2, 1]),
        (4, [0, 1, 2, 3], 0, []),
        (4, [1, 2], 1, [0, 4, 3]),
        (2, [0], 3, [2, 1, 3, 4]),
        (0, [], 2, [0, 1]),
    ],
)
def test_the_plan_of_a_change(rows: int, leave: list[int], joining: int, order: list[int]) -> None:
    assert RowChange.plan(rows, leave, joining).order == order


def test_room_is_given_back_when_a_long_row_leaves() -> None:
    model = tiny_models.build("qwen3")
    cache = filled(model, [5, 900, 7])
    before = cache.nbytes
    change(model, cache, leave=[1])
    assert cache.nbytes <= before / 2
    assert mx.allclose(step(model, cache), step(model, filled(model, [5, 7])), atol=1e-4)
    change(model, cache, leave=[0, 1])
    assert cache.nbytes == 0


def test_a_sliding_window_keeps_no_more_than_its_window_and_chunk() -> None:
    model = tiny_models.build("gemma3_text")
    config = tiny_models.CONFIGS["gemma3_text"]
    cache = BatchCache(model, max_width=8, expected_length=400)
    cache.add_empty_rows(1)
    for _ in range(50):
        cache.begin(8)
        model(mx.full((1, 8), 3), cache=cache.layers)
        cache.commit()
        mx.eval(cache.arrays())
    columns = {layer.keys.shape[2] for layer in cache.layers}
    assert columns == {config["sliding_window"] + 8 - 1, 2 * COLUMN_STEP}


def test_a_turn_behind_what_is_kept_has_a_ring_for_its_own_tokens() -> None:
    """Not for the widest chunk: a model of windows would read, and hold, several times as much."""
    engine = make_core(tiny_models.build("gemma3_text"), prefill_chunk_size=1024, prefix_cache_bytes=2**24)
    prompt = [number % 50 + 3 for number in range(200)]
    answer = run(engine, [AddRequest("first", prompt, SamplingParams(max_tokens=4))])["first"]
    turn = [*prompt, *answer.token_ids, *[7] * 10]
    engine.add(AddRequest("turn", turn, SamplingParams(max_tokens=4)))
    engine.step()
    whole_rings = engine.scheduler.memory.row_bytes(len(turn))
    assert 0 < engine.runner.kv_bytes < 0.6 * whole_rings  # half of the layers keep everything


def test_answers_do_not_change_when_room_is_given_back() -> None:
    model = tiny_models.build("qwen3")
    requests = [
        AddRequest("long", [3] * 900, SamplingParams(max_tokens=3)),
        AddRequest("short", [4, 5, 6], SamplingParams(max_tokens=40)),
    ]
    answers = run(make_core(model, prefill_chunk_size=1024), requests)
    for request in requests:
        assert answers[request.request_id].token_ids == run_alone(model, request).token_ids


@pytest.mark.parametrize("room", [3, 5])
def test_rows_of_different_lengths_are_written_in_place(room: int) -> None:
    """Whether or not there is room for more rows."""
    positions = RowPositions()
    cache = RowKVCache(positions, window=None, max_width=1)
    positions.set_rows([5, 70, 9])
    keys = mx.arange(3.0)[:, None, None, None] + mx.zeros((3, 2, 1, 64))
    cache._buffers = [mx.zeros((room, 2, COLUMN_STEP, 64)) for _ in range(2)]
    mx.eval(cache.state)
    size = cache.nbytes // 2
    for step in range(3):
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        positions.begin(1, None)
        cache.update_and_fetch(keys + step + 1, -keys)
        mx.eval(cache.state)
        positions.commit()
        assert mx.get_peak_memory() - before < size
    assert cache.keys is not None
    written = mx.sum(cache.keys[:, :, :, 0], axis=1)
    expected = mx.zeros((room, COLUMN_STEP))
    for row, length in enumerate((5, 70, 9)):
        for step in range(3):
            expected[row, length + step] = 2 * (row + step + 1)
    assert mx.array_equal(written, expected)
