"""Which inputs of which requests are computed together. Plain values, no MLX.

Invariants:
- Every open request leads a batch in turn: one with thousands of inputs keeps no other waiting for more than the
  batches of those before it.
- Whoever leads, a batch is filled from the inputs of all requests, those of nearest length first.
- Padding is bounded: ``rows * longest - tokens`` of a batch is at most MAX_PADDING of its tokens, or what costs less
  than another pass on this device.
- No row of a request is in a batch after ``abort``.
- Of a model that can take a beginning up again, what all inputs of a request begin with is computed once, if that saves
  more than the additional pass costs. Such rows share batches with those that begin with the same alone.
"""

from __future__ import annotations

import bisect
import collections
import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from quince.engine.messages import FinishReason, Output, Pooled, PoolInput, PoolRequest

MAX_PADDING = 0.1
# Tokens of padding that are never worth another pass.
FREE_PADDING = 16
# How long a batch may take: aborts, other requests and, on a device that engines share, a chat's next token wait for
# its end. Long enough for a GPU to be busy with it.
BATCH_SECONDS = 0.05
# However slow the device, a few short inputs share a pass.
MIN_BATCH_TOKENS = 64
# How much of what earlier batches said counts beside the latest one.
KEPT = 0.9
# A shared beginning that saves a smaller part of a request's tokens would only keep its rows from others' batches.
MIN_SAVED = 0.1
# What a token of a shared beginning costs a row beside one that is computed: its keys and values are copied and read.
SHARED_COST = 1 / 16


@dataclass(eq=False)
class PoolJob:
    """One request's state. ``waiting`` counts its inputs that are in no batch yet, ``open`` those without a result.

    ``shared``: the tokens that all of its inputs begin with, if they are to be computed once.
    """

    request_id: str
    label_token_ids: tuple[int, int] | None
    waiting: int
    open: int
    shared: tuple[int, ...] = ()
    started: bool = False


@dataclass(frozen=True, eq=False)
class PoolRow:
    """An input of a request, on its way."""

    job: PoolJob
    index: int
    input: PoolInput

    @property
    def length(self) -> int:
        """Tokens after what is shared: those to compute."""
        return len(self.input.token_ids) - len(self.job.shared)


@dataclass(frozen=True)
class PoolBatch:
    """Rows that are computed together; at least one."""

    rows: Sequence[PoolRow]

    @property
    def shared(self) -> tuple[int, ...]:
        """What comes before every row, and has been computed."""
        return self.rows[0].job.shared

    @property
    def tokens(self) -> int:
        return sum(row.length for row in self.rows)

    @property
    def padded_tokens(self) -> int:
        """What is computed: every row as long as the longest."""
        return len(self.rows) * max(row.length for row in self.rows)

    @property
    def cost(self) -> int:
        """What that costs, with copies of what is shared, in tokens that are computed."""
        return self.padded_tokens + copies(len(self.rows), len(self.shared))


def copies(rows: int, shared: int) -> int:
    """What it costs that so many rows share so many tokens, in tokens that are computed."""
    return int(rows * shared * SHARED_COST)


class Costs:
    """What batches cost here: ``overhead + tokens * token_seconds``, fitted to those that have run, the latest most.

    A CPU has next to no overhead; on a GPU a small model's pass costs the same for one text as for dozens.
    """

    def __init__(self, max_tokens: int) -> None:
        self._max_tokens = max_tokens
        self._weight = self._tokens = self._seconds = self._squares = self._products = 0.0

    def observe(self, tokens: int, seconds: float) -> None:
        """A batch of so many padded tokens took that long."""
        self._weight = KEPT * self._weight + 1
        self._tokens = KEPT * self._tokens + tokens
        self._seconds = KEPT * self._seconds + seconds
        self._squares = KEPT * self._squares + tokens * tokens
        self._products = KEPT * self._products + tokens * seconds

    @property
    def max_batch_tokens(self) -> int:
        """How many padded tokens a batch may have: what takes BATCH_SECONDS."""
        if not self._weight:
            return min(self._max_tokens, max(MIN_BATCH_TOKENS, self._max_tokens // 4))
        overhead, token_seconds = self._fit()
        tokens = (BATCH_SECONDS - overhead) / token_seconds
        return int(min(self._max_tokens, max(MIN_BATCH_TOKENS, tokens)))

    @property
    def free_padding(self) -> int:
        """Tokens of padding that cost less than another pass."""
        if not self._weight:
            return FREE_PADDING
        overhead, token_seconds = self._fit()
        return int(min(self._max_tokens, max(FREE_PADDING, overhead / token_seconds)))

    def _fit(self) -> tuple[float, float]:
        """Overhead and seconds per token, by least squares; neither is negative, the latter is not 0."""
        mean_tokens, mean_seconds = self._tokens / self._weight, self._seconds / self._weight
        variance = self._squares / self._weight - mean_tokens**2
        if variance < mean_tokens**2 / 100:  # batches of one size say nothing of the overhead
            return 0.0, mean_seconds / mean_tokens
        slope = (self._products / self._weight - mean_tokens * mean_seconds) / variance
        slope = min(max(slope, mean_seconds / mean_tokens / 1000), mean_seconds / mean_tokens)
        return mean_seconds - slope * mean_tokens, slope


class PoolingScheduler:
    """``add``, then ``schedule`` and ``update`` for every batch, in turn.

    ``shares``: the model can compute once what the inputs of a request begin with.
    """

    def __init__(self, costs: Costs, *, shares: bool = False) -> None:
        self._costs = costs
        self._shares = shares
        self._waiting: dict[tuple[int, ...], list[PoolRow]] = {}  # by what they share, then by length
        self._turns: collections.deque[PoolJob] = collections.deque()  # those with inputs waiting; the next leads
        self._open: dict[str, PoolJob] = {}
        self._outputs: list[Output] = []
        self._running: Sequence[PoolRow] = ()

    @property
    def num_running(self) -> int:
        return sum(job.started for job in self._open.values())

    @property
    def num_waiting(self) -> int:
        return len(self._open) - self.num_running

    def has_work(self) -> bool:
        return bool(self._turns or self._outputs)

    def add(self, request: PoolRequest) -> None:
        count = len(request.inputs)
        shared = self._beginning(request.inputs) if self._shares else ()
        job = PoolJob(request.request_id, request.label_token_ids, waiting=count, open=count, shared=shared)
        self._open[job.request_id] = job
        self._turns.append(job)
        waiting = self._waiting.setdefault(shared, [])
        waiting += [PoolRow(job, index, one) for index, one in enumerate(request.inputs)]
        waiting.sort(key=_length)  # stable: of equal lengths, the older first

    def abort(self, request_ids: Iterable[str]) -> None:
        """Their outputs, with finish_reason abort, come with the next ``update``."""
        for request_id in request_ids:
            job = self._open.get(request_id)
            if job is not None:
                self._end(job)
                self._outputs.append(Output(request_id, finish_reason=FinishReason.ABORT))

    def schedule(self) -> PoolBatch | None:
        """The next batch; None if only aborts are to be told."""
        if not self._turns:
            return None
        leader = self._turns.popleft()
        waiting = self._waiting[leader.shared]
        taken = self._choose(waiting, _first_of(leader, waiting))
        self._running = [waiting[number] for number in taken]
        gone = set(taken)
        self._keep(leader.shared, [row for number, row in enumerate(waiting) if number not in gone])
        for row in self._running:
            row.job.waiting -= 1
        self._turns = collections.deque(job for job in self._turns if job.waiting)
        if leader.waiting:
            self._turns.append(leader)
        return PoolBatch(self._running)

    def update(self, batch: PoolBatch | None, values: Sequence[bytes]) -> list[Output]:
        """The batch's results, one output for each request that has any."""
        outputs: dict[str, Output] = {}
        for row, value in zip(batch.rows if batch else (), values, strict=True):
            job = row.job
            output = outputs.setdefault(job.request_id, Output(job.request_id, started=not job.started))
            output.pooled.append(Pooled(row.index, value))
            job.open -= 1
            if not job.open:
                output.finish_reason = FinishReason.STOP
                del self._open[job.request_id]
        for request_id in outputs:
            if request_id in self._open:
                self._open[request_id].started = True
        self._running = ()
        return [*self._take_outputs(), *outputs.values()]

    def fail_running(self, error: str) -> list[Output]:
        """Ends the requests that had inputs in the batch which failed."""
        failed = {row.job.request_id: row.job for row in self._running}
        for job in failed.values():
            self._end(job)
        self._running = ()
        failures = [Output(name, finish_reason=FinishReason.ERROR, error=error) for name in failed]
        return [*self._take_outputs(), *failures]

    def _beginning(self, inputs: Sequence[PoolInput]) -> tuple[int, ...]:
        """What all inputs begin with, if it is worth a pass of its own; every input has at least one token more."""
        first, last = (edge(one.token_ids for one in inputs) for edge in (min, max))  # the least alike
        most = min(len(one.token_ids) for one in inputs) - 1
        pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
        shared = sum(1 for _ in itertools.islice(pairs, most))
        saved = shared * (len(inputs) - 1)
        tokens = sum(len(one.token_ids) for one in inputs)
        return tuple(first[:shared]) if saved > max(self._costs.free_padding, MIN_SAVED * tokens) else ()

    def _choose(self, waiting: Sequence[PoolRow], first: int) -> list[int]:
        """Numbers of the waiting rows that go with number ``first``: those of nearest length, as many as fit."""
        most, free = self._costs.max_batch_tokens, self._costs.free_padding
        shared = len(waiting[first].job.shared)
        length = width = tokens = waiting[first].length
        taken, below, above = [first], first - 1, first + 1
        while below >= 0 or above < len(waiting):
            shorter = length - waiting[below].length if below >= 0 else math.inf
            longer = waiting[above].length - length if above < len(waiting) else math.inf
            number = above if longer <= shorter else below
            added = waiting[number].length
            rows, longest = len(taken) + 1, max(width, added)
            padded = rows * longest
            padding = padded - tokens - added
            fits = padded + copies(rows, shared) <= most and padding <= max(free, MAX_PADDING * (tokens + added))
            if fits:
                taken.append(number)
                width, tokens = longest, tokens + added
            # What is further away on a side fits no better.
            if number == above:
                above = above + 1 if fits else len(waiting)
            else:
                below = below - 1 if fits else -1
        return taken

    def _end(self, job: PoolJob) -> None:
        del self._open[job.request_id]
        self._keep(job.shared, [row for row in self._waiting.get(job.shared, ()) if row.job is not job])
        self._turns = collections.deque(other for other in self._turns if other is not job)

    def _keep(self, shared: tuple[int, ...], waiting: list[PoolRow]) -> None:
        """Of the rows that share this, these wait from now on."""
        self._waiting[shared] = waiting
        if not waiting:
            del self._waiting[shared]

    def _take_outputs(self) -> list[Output]:
        outputs, self._outputs = self._outputs, []
        return outputs


def _first_of(leader: PoolJob, waiting: Sequence[PoolRow]) -> int:
    """The number of the leader's longest waiting row; of several, the oldest."""
    own = (row.length for row in reversed(waiting) if row.job is leader)
    begin = bisect.bisect_left(waiting, next(own), key=_length)
    return next(number for number in range(begin, len(waiting)) if waiting[number].job is leader)


def _length(row: PoolRow) -> int:
    return row.length
