"""Rows of a batch's caches: what they hold, and what they cost."""

from __future__ import annotations

import mlx.core as mx
import pytest

from quince.engine.batch_cache import BatchCache
from quince.engine.messages import AddRequest
from quince.sampling import SamplingParams
from tests import tiny_models
from tests.engine.driver import make_core, run, run_alone


def filled(model, lengths: list[int]) -> BatchCache:
    """A decode cache with one row per length, each prefilled on its own."""
    cache = BatchCache(model, max_width=1)
    for length in lengths:
        single = BatchCache(model, max_width=1024)
        single.add_empty_rows(1)
        single.begin(length)
        model(mx.arange(length)[None] % tiny_models.VOCAB_SIZE, cache=single.layers)
        single.commit()
        cache.append(single.take(0))
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
    cache.remove(removed)
    expected = list(lengths)
    expected[removed] = expected[-1]
    assert cache.lengths == expected[:-1]
    assert mx.allclose(step(model, cache), step(model, filled(model, expected[:-1])), atol=1e-4)


def test_rows_can_all_leave_and_come_again(model) -> None:
    cache = filled(model, [5, 40])
    cache.remove(0)
    cache.remove(0)
    assert cache.rows == 0
    cache.append(filled(model, [9]).take(0))
    assert mx.allclose(step(model, cache), step(model, filled(model, [9])), atol=1e-4)


def test_a_row_that_was_taken_is_not_touched_by_its_batch(model) -> None:
    cache = filled(model, [6, 30])
    row = cache.take(1)
    for _ in range(3):
        step(model, cache)
    other = BatchCache(model, max_width=1)
    other.append(row)
    assert mx.allclose(step(model, other), step(model, filled(model, [30])), atol=1e-4)


def test_room_is_given_back_when_a_long_row_leaves() -> None:
    model = tiny_models.build("qwen3")
    cache = filled(model, [5, 900, 7])
    before = cache.nbytes
    cache.remove(1)
    assert cache.nbytes < before / 2
    assert mx.allclose(step(model, cache), step(model, filled(model, [5, 7])), atol=1e-4)
    cache.remove(0)
    cache.remove(0)
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
    assert columns == {config["sliding_window"] + 8 - 1, 512}


def test_answers_do_not_change_when_room_is_given_back() -> None:
    model = tiny_models.build("qwen3")
    requests = [
        AddRequest("long", [3] * 900, SamplingParams(max_tokens=3)),
        AddRequest("short", [4, 5, 6], SamplingParams(max_tokens=40)),
    ]
    answers = run(make_core(model, prefill_chunk_size=1024), requests)
    for request in requests:
        assert answers[request.request_id].token_ids == run_alone(model, request).token_ids
