"""Chooses the next token of every row of a batch in one set of array operations.

A row's draw is decided by one uniform number that is a hash of its seed and of how many tokens it has generated,
computed on the host: the same on every device, alone or in a batch, and free of the order in which requests came.
The number is looked up in the cumulative distribution of what the filters leave. On CUDA a kernel of our own does that
as one operation (cuda/sample.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, cast

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from quince.engine.messages import TokenLogprobs
from quince.engine.penalties import Penalties, RowHistory
from quince.sampling import SamplingParams

# As OpenAI's API reports a token of no probability.
NO_LOGPROB = -9999.0
# A top_p below what float32 can tell from 0 would filter nothing.
MIN_TOP_P = 1e-6
MOST = 2**31 - 1  # as a top_k: more than any vocabulary has
# Alternatives that are looked for whenever somebody asks for any: the same ones, whoever else is in the batch.
TOP_LOGPROBS = 20

# Steps whose random numbers go to the device together: every time costs a GPU what some passes over the vocabulary do.
DRAWS_AHEAD = 32

Seeds = npt.NDArray[np.uint64]


class Sampled(NamedTuple):
    """Lazy arrays. ``token_ids`` int32 [rows]; the others float32/int32 [rows], [rows, n], None if nobody asked.

    The n likeliest tokens are in no order.
    """

    token_ids: mx.array
    logprobs: mx.array | None = None
    top_ids: mx.array | None = None
    top_logprobs: mx.array | None = None

    def row_logprobs(self, params: Sequence[SamplingParams]) -> list[TokenLogprobs | None]:
        """Per row, what it asked for. Waits for the arrays."""
        if self.logprobs is None:
            return [None] * len(params)
        own = cast(list[float], self.logprobs.tolist())
        ids = [[]] * len(params) if self.top_ids is None else cast(list[list[int]], self.top_ids.tolist())
        tops = [[]] * len(params) if self.top_logprobs is None else cast(list[list[float]], self.top_logprobs.tolist())
        return [
            None if row.logprobs is None else _reported(own[i], ids[i], tops[i], row.logprobs)
            for i, row in enumerate(params)
        ]


class Filters(NamedTuple):
    """Of each row, [rows, 1]: float32, but for ``top_k``, which is int32; 0 keeps all tokens."""

    temperature: mx.array
    top_k: mx.array
    top_p: mx.array
    min_p: mx.array

    @classmethod
    def of(cls, params: Sequence[SamplingParams]) -> Filters:
        return cls(
            _column([1.0 if row.greedy else row.temperature for row in params]),
            _column([min(row.top_k, MOST) for row in params], mx.int32),
            _column([max(row.top_p, MIN_TOP_P) for row in params]),
            _column([row.min_p for row in params]),
        )


class SampleKernel(Protocol):
    """The next token of each row of ``logits`` [rows, vocabulary], int32 [rows], by one number of each row's in
    ``draws``, float32 [rows, 1]: what ``Sampler`` computes otherwise, as one operation. ``takes``: whether it is made
    for such logits; when it is asked about a kind for the first time, it may compute."""

    def takes(self, logits: mx.array) -> bool: ...
    def __call__(self, logits: mx.array, filters: Filters, draws: mx.array) -> mx.array: ...


class Sampler:
    """Holds the rows' parameters as arrays; ``set_rows`` when rows come, go or move, ``sample`` every step."""

    def __init__(self, kernel: SampleKernel | None = None) -> None:
        self._kernel = kernel
        self._penalties = Penalties()
        self.set_rows([])

    def set_rows(self, rows: Sequence[RowHistory]) -> None:
        self._penalties.set_rows(rows)
        params = [row.params for row in rows]
        greedy = [row.greedy for row in params]
        self._all_greedy = all(greedy)
        asked = [row.logprobs for row in params if row.logprobs is not None]
        self._top_logprobs = (TOP_LOGPROBS if any(asked) else 0) if asked else None
        if self._all_greedy:
            return
        self._draws = Draws([row.seed for row in params])
        self._greedy_rows = mx.array(greedy) if any(greedy) else None
        self._filters = Filters.of(params)
        sampled = [row for row in params if not row.greedy]
        self._some_top_k = any(row.top_k for row in sampled)
        self._some_top_p = any(row.top_p < 1 for row in sampled)
        self._some_min_p = any(row.min_p > 0 for row in sampled)

    def sample(self, logits: mx.array, generated: Sequence[int], allowed: mx.array | None = None) -> Sampled:
        """Args:
        logits: [rows, vocabulary], any float type.
        generated: how many tokens each row has generated before this one.
        allowed: bool [rows, vocabulary], at least one of each row; None allows all.
        """
        wanted = self._penalties.apply(logits)
        if allowed is not None:
            wanted = mx.where(allowed, wanted, -mx.inf)
        tokens = mx.argmax(wanted, axis=-1).astype(mx.int32)
        if not self._all_greedy:
            draws = self._draws.take(generated)
            if self._kernel is not None and self._kernel.takes(wanted):
                drawn = self._kernel(wanted, self._filters, draws)
            else:
                drawn = self._draw(wanted.astype(mx.float32), draws)
            tokens = drawn if self._greedy_rows is None else mx.where(self._greedy_rows, tokens, drawn)
        self._penalties.count(tokens)
        if self._top_logprobs is None:
            return Sampled(tokens)
        return _with_logprobs(logits.astype(mx.float32), tokens, self._top_logprobs)

    def _draw(self, logits: mx.array, draws: mx.array) -> mx.array:
        scaled = logits / self._filters.temperature
        if not self._some_top_k and not self._some_top_p:
            highest = mx.max(scaled, axis=-1, keepdims=True)
            lowest = None
        else:
            ascending = mx.sort(scaled, axis=-1)
            highest = ascending[:, -1:]
            lowest = self._lowest(ascending, highest)
        if self._some_min_p:
            at_least = highest + mx.log(self._filters.min_p)
            lowest = at_least if lowest is None else mx.maximum(lowest, at_least)
        mass = mx.exp(scaled - highest)
        if lowest is not None:
            mass = mx.where(scaled >= lowest, mass, 0.0)  # ties with the lowest are kept
        cumulative = mx.cumsum(mass, axis=-1)
        point = draws * cumulative[:, -1:]
        # The first token whose cumulative mass exceeds the point: it has a mass of its own.
        return mx.argmax(cumulative > point, axis=-1).astype(mx.int32)

    def _lowest(self, ascending: mx.array, highest: mx.array) -> mx.array | None:
        """The smallest logit that each row's top_k and top_p keep, [rows, 1]."""
        vocabulary = ascending.shape[-1]
        lowest = None
        top_k, top_p = self._filters.top_k, self._filters.top_p
        if self._some_top_k:
            first = mx.where(top_k > 0, mx.maximum(vocabulary - top_k, 0), 0)
            lowest = mx.take_along_axis(ascending, first, axis=-1)
        if self._some_top_p:
            mass = mx.exp(ascending - highest)
            if lowest is not None:
                mass = mx.where(ascending >= lowest, mass, 0.0)
            cumulative = mx.cumsum(mass, axis=-1)
            # A token is kept if those above it do not reach top_p yet: so the largest always is.
            total = cumulative[:, -1:]
            inside = total - cumulative < top_p * total
            nucleus = mx.take_along_axis(ascending, mx.argmax(inside, axis=-1, keepdims=True), axis=-1)
            nucleus = mx.where(top_p < 1, nucleus, -mx.inf)
            lowest = nucleus if lowest is None else mx.maximum(lowest, nucleus)
        return lowest


class Draws:
    """The rows' random numbers, made and handed to the device for several steps at once."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = np.array(seeds, dtype=np.uint64)
        self._numbers: mx.array | None = None  # float32 [DRAWS_AHEAD, rows, 1]
        self._step = 0
        self._counters: list[int] = []  # of that step

    def take(self, counters: Sequence[int]) -> mx.array:
        """float32 [rows, 1], one number for each row's seed and count of generated tokens."""
        if self._numbers is None or self._step == DRAWS_AHEAD or self._counters != counters:
            steps = np.arange(DRAWS_AHEAD)[:, None] + np.asarray(counters)
            self._numbers, self._step = mx.array(uniform(self._seeds, steps)[:, :, None]), 0
        numbers = self._numbers[self._step]
        self._step += 1
        self._counters = [counter + 1 for counter in counters]
        return numbers


def uniform(seeds: Seeds, counters: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """One float32 in [0, 1) per (seed, counter): the SplitMix64 finaliser (Steele et al., 2014) over both."""
    with np.errstate(over="ignore"):
        x = _mix(seeds + np.uint64(0x9E3779B97F4A7C15))
        x = _mix(x + np.asarray(counters, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    draws: npt.NDArray[np.float32] = (x >> np.uint64(40)).astype(np.float32) * np.float32(2**-24)
    return draws


def _mix(x: Seeds) -> Seeds:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _reported(own: float, ids: list[int], tops: list[float], count: int) -> TokenLogprobs:
    """The first ``count`` alternatives; of equally likely ones those with lower ids, however they were found."""
    order = sorted(range(len(ids)), key=lambda i: (-tops[i], ids[i]))[:count]
    return TokenLogprobs(_finite(own), [ids[i] for i in order], [_finite(tops[i]) for i in order])


def _finite(logprob: float) -> float:
    return logprob if logprob > NO_LOGPROB else NO_LOGPROB


def _column(values: list[int] | list[float], dtype: mx.Dtype = mx.float32) -> mx.array:
    return mx.array(values, dtype=dtype)[:, None]


def _with_logprobs(logits: mx.array, tokens: mx.array, count: int) -> Sampled:
    normaliser = mx.logsumexp(logits, axis=-1, keepdims=True)
    own = mx.take_along_axis(logits, tokens[:, None], axis=-1) - normaliser
    if count == 0:
        return Sampled(tokens, own[:, 0])
    count = min(count, logits.shape[-1])
    top = mx.argpartition(-logits, count - 1, axis=-1)[:, :count]
    return Sampled(tokens, own[:, 0], top, mx.take_along_axis(logits, top, axis=-1) - normaliser)
