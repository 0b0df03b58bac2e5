from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from quince.engine.penalties import RowHistory
from quince.engine.sampler import DRAWS_AHEAD, MIN_TOP_P, Draws, Filters, Sampler, uniform
from quince.sampling import SamplingParams

VOCABULARY = 50


def rows(params: list[SamplingParams]) -> list[RowHistory]:
    return [RowHistory(row, None) for row in params]


def sample(logits: mx.array, params: list[SamplingParams], generated: list[int] | None = None) -> list[int]:
    sampler = Sampler()
    sampler.set_rows(rows(params))
    tokens = sampler.sample(logits, generated or [0] * len(params)).token_ids.tolist()
    assert isinstance(tokens, list)
    return tokens


def draws(logits: mx.array, count: int = 4000, **params: float) -> np.ndarray:
    """``count`` draws from one row of logits, each with a seed of its own."""
    rows = [SamplingParams(max_tokens=1, seed=seed, **{"temperature": 1.0, **params}) for seed in range(count)]
    return np.array(sample(mx.broadcast_to(logits, (count, logits.size)), rows))


@pytest.fixture
def logits() -> mx.array:
    return mx.random.normal((VOCABULARY,), key=mx.random.key(1)) * 2


def test_greedy_takes_the_largest(logits: mx.array) -> None:
    assert sample(logits[None], [SamplingParams(max_tokens=1)]) == [int(mx.argmax(logits))]


def test_frequencies_follow_the_softmax(logits: mx.array) -> None:
    expected = np.array(mx.softmax(logits))
    seen = np.bincount(draws(logits, 20000), minlength=VOCABULARY) / 20000
    assert np.abs(seen - expected).max() < 4 * np.sqrt(expected.max() / 20000)


def test_temperature_sharpens(logits: mx.array) -> None:
    expected = np.array(mx.softmax(logits / 0.5))
    seen = np.bincount(draws(logits, 20000, temperature=0.5), minlength=VOCABULARY) / 20000
    assert np.abs(seen - expected).max() < 4 * np.sqrt(expected.max() / 20000)


@pytest.mark.parametrize("k", [1, 3, 10, 50, 1000])
def test_top_k_keeps_exactly_the_k_largest(logits: mx.array, k: int) -> None:
    largest = set(np.argsort(-np.array(logits))[:k].tolist())
    seen = set(draws(logits, temperature=2.0, top_k=k).tolist())
    assert seen <= largest
    assert len(seen) >= min(k, 10)


@pytest.mark.parametrize("p", [1e-30, 1e-10, 0.01, 0.3, 0.7, 0.95])
def test_top_p_keeps_the_smallest_set_that_reaches_p(logits: mx.array, p: float) -> None:
    probabilities = np.array(mx.softmax(logits))
    order = np.argsort(-probabilities)
    count = int(np.searchsorted(np.cumsum(probabilities[order]), p)) + 1
    seen = set(draws(logits, top_p=p).tolist())
    assert seen <= set(order[:count].tolist())
    assert order[0] in seen


@pytest.mark.parametrize("p", [0.02, 0.3, 1.0])
def test_min_p_keeps_what_is_close_to_the_largest(logits: mx.array, p: float) -> None:
    probabilities = np.array(mx.softmax(logits))
    allowed = set(np.flatnonzero(probabilities >= p * probabilities.max() * (1 - 1e-5)).tolist())
    assert set(draws(logits, min_p=p).tolist()) <= allowed


def test_filters_combine_and_rows_do_not_mix(logits: mx.array) -> None:
    """Each row of a mixed batch draws what it draws alone."""
    rows = [
        SamplingParams(max_tokens=1, seed=n, temperature=t, top_k=k, top_p=p, min_p=m)
        for n, (t, k, p, m) in enumerate(
            (t, k, p, m) for t in (0.0, 0.5, 1.5) for k in (0, 5) for p in (1.0, 0.8) for m in (0.0, 0.1)
        )
    ]
    batch = mx.random.normal((len(rows), VOCABULARY), key=mx.random.key(2)) * 3
    together = sample(batch, rows, list(range(len(rows))))
    alone = [sample(batch[i : i + 1], [row], [i])[0] for i, row in enumerate(rows)]
    assert together == alone


def test_a_draw_depends_on_seed_and_position_only(logits: mx.array) -> None:
    row = SamplingParams(max_tokens=1, temperature=1.0, seed=9)
    first = [sample(logits[None], [row], [n])[0] for n in range(200)]
    again = [sample(logits[None], [row], [n])[0] for n in range(200)]
    other = [sample(logits[None], [SamplingParams(max_tokens=1, temperature=1.0, seed=10)], [n])[0] for n in range(200)]
    assert first == again
    assert first != other
    assert len(set(first)) > 5


def test_uniform_is_uniform_and_independent_of_its_neighbours() -> None:
    values = uniform(np.arange(100_000, dtype=np.uint64), [0] * 100_000)
    assert values.min() >= 0.0
    assert values.max() < 1.0
    assert np.abs(np.histogram(values, 20, (0, 1))[0] / 5000 - 1).max() < 0.1
    steps = uniform(np.full(100_000, 7, dtype=np.uint64), list(range(100_000)))
    assert abs(np.corrcoef(steps[:-1], steps[1:])[0, 1]) < 0.02


def test_a_temperature_too_small_to_divide_by_is_greedy(logits: mx.array) -> None:
    rows = [SamplingParams(max_tokens=1, temperature=t, seed=1) for t in (1e-45, 1e-38, 1e-6, 1e-4)]
    assert sample(mx.broadcast_to(logits, (4, VOCABULARY)), rows) == [int(mx.argmax(logits))] * 4


def test_numbers_made_ahead_are_those_of_their_steps() -> None:
    """Over more steps than are made at once, and after a jump."""
    seeds, draws = [3, 2**64 - 1], Draws([3, 2**64 - 1])
    for step in [*range(3 * DRAWS_AHEAD), 7, 8, 1000, 7]:
        counters = [step, 5 + step]
        expected = uniform(np.array(seeds, dtype=np.uint64), counters)
        assert draws.take(counters).tolist() == expected[:, None].tolist()


def test_large_seeds() -> None:
    assert uniform(np.array([2**64 - 1], dtype=np.uint64), [3])[0] >= 0


def test_a_token_of_no_probability_is_never_drawn() -> None:
    logits = mx.array([[0.0, -1e9, 0.0, -mx.inf, 0.0]])
    assert set(draws(logits[0], 3000).tolist()) == {0, 2, 4}


def test_logprobs_are_the_models_own(logits: mx.array) -> None:
    params = [SamplingParams(max_tokens=1, temperature=0.3, top_k=2, logprobs=n, seed=n) for n in (0, 4)]
    sampler = Sampler()
    sampler.set_rows(rows(params))
    sampled = sampler.sample(mx.broadcast_to(logits, (2, VOCABULARY)), [0, 0])
    expected = np.log(np.array(mx.softmax(logits), dtype=np.float64))
    own, four = sampled.row_logprobs(params)
    tokens = sampled.token_ids.tolist()
    assert own is not None and four is not None and isinstance(tokens, list)
    assert own.top_ids == []
    assert own.logprob == pytest.approx(expected[tokens[0]], abs=1e-4)
    assert four.top_ids == np.argsort(-expected)[:4].tolist()
    assert four.top_logprobs == pytest.approx(np.sort(-expected)[:4] * -1, abs=1e-4)


def test_nobody_asks_nobody_pays(logits: mx.array) -> None:
    sampler = Sampler()
    sampler.set_rows(rows([SamplingParams(max_tokens=1)]))
    assert sampler.sample(logits[None], [0]).logprobs is None


def test_equally_likely_alternatives_are_the_same_whatever_others_ask() -> None:
    logits = mx.zeros((2, VOCABULARY)).at[:, 7].add(1.0)
    few, many = SamplingParams(max_tokens=1, logprobs=3), SamplingParams(max_tokens=1, logprobs=20)
    reported = []
    for params in ([few], [few, many]):
        sampler = Sampler()
        sampler.set_rows(rows(params))
        reported.append(sampler.sample(logits[: len(params)], [0] * len(params)).row_logprobs(params)[0])
    assert reported[0] == reported[1]
    assert reported[0] is not None and reported[0].top_ids[0] == 7


def test_a_top_p_too_small_for_float32_keeps_the_largest(logits: mx.array) -> None:
    assert set(draws(logits, 50, top_p=1e-46).tolist()) == {int(mx.argmax(logits).item())}


class Kernel:
    """A SampleKernel that takes logits of one kind, and says what it was asked."""

    def __init__(self, dtype: mx.Dtype) -> None:
        self.dtype = dtype
        self.logits: mx.array | None = None

    def takes(self, logits: mx.array) -> bool:
        return logits.dtype == self.dtype

    def __call__(self, logits: mx.array, filters: Filters, draws: mx.array) -> mx.array:
        self.logits, self.filters, self.draws = logits, filters, draws
        return mx.full((logits.shape[0],), 49, dtype=mx.int32)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float32])
def test_a_kernel_draws_for_the_rows_that_are_sampled(logits: mx.array, dtype: mx.Dtype) -> None:
    params = [
        SamplingParams(max_tokens=1, seed=1, temperature=0.5, top_p=1e-9),
        SamplingParams(max_tokens=1, seed=2),
        SamplingParams(max_tokens=1, seed=3, temperature=2.0, top_k=7, min_p=0.1),
    ]
    kernel = Kernel(dtype)
    sampler = Sampler(kernel)
    sampler.set_rows(rows(params))
    batch = mx.broadcast_to(logits, (3, VOCABULARY)).astype(dtype)
    allowed = mx.arange(VOCABULARY)[None] != mx.array([[0], [1], [2]])
    tokens = sampler.sample(batch, [4, 5, 6], allowed).token_ids
    assert tokens.tolist() == [49, int(mx.argmax(logits)), 49]
    assert kernel.logits is not None
    assert kernel.logits.dtype == dtype
    assert mx.isinf(kernel.logits).tolist() == (~allowed).tolist()
    temperature, top_k, top_p, min_p = kernel.filters
    assert temperature.tolist() == [[0.5], [1.0], [2.0]]
    assert top_k.tolist() == [[0], [0], [7]]
    assert np.allclose(np.array(top_p), [[MIN_TOP_P], [1], [1]])
    assert np.allclose(np.array(min_p), [[0], [0], [0.1]])
    assert kernel.draws.tolist() == uniform(np.array([1, 2, 3], dtype=np.uint64), [4, 5, 6])[:, None].tolist()


def test_a_kernel_is_not_asked_for_what_it_does_not_take_nor_for_greedy_rows(logits: mx.array) -> None:
    for dtype, temperature in ((mx.float16, 1.0), (mx.float32, 0.0)):
        kernel, params = Kernel(dtype), [SamplingParams(max_tokens=1, temperature=temperature, seed=5)]
        sampler = Sampler(kernel)
        sampler.set_rows(rows(params))
        assert sampler.sample(logits[None], [0]).token_ids.tolist() == sample(logits[None], params)
        assert kernel.logits is None
