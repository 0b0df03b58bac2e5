"""The centre of a pooling engine: schedule, run, update."""

from __future__ import annotations

import time
from collections.abc import Iterable

from quince.engine.messages import EngineStats, Output, PoolRequest
from quince.engine.pooling_runner import PoolingRunner
from quince.engine.pooling_scheduler import Costs, PoolBatch, PoolingScheduler


class PoolingCore:
    """Drives one model. Every method is called by the engine thread, which owns MLX.

    A batch is computed to its end before the next one is chosen: nothing depends on what it finds, so there is no gap
    to fill, and an abort waits for one batch at most.
    """

    def __init__(self, runner: PoolingRunner, *, max_batch_tokens: int) -> None:
        self.runner = runner
        self._costs = Costs(max_batch_tokens)
        self._scheduler = PoolingScheduler(self._costs, shares=runner.shares)
        self._steps = 0
        self._tokens = 0

    def add(self, message: PoolRequest) -> None:
        self._scheduler.add(message)

    def abort(self, request_ids: Iterable[str]) -> None:
        self._scheduler.abort(request_ids)

    def has_work(self) -> bool:
        return self._scheduler.has_work()

    def is_compiling(self) -> bool:
        return False

    def step(self) -> list[Output]:
        batch = self._scheduler.schedule()
        values = self._run(batch) if batch else []
        return self._scheduler.update(batch, values)

    def fail_step(self, error: str) -> list[Output]:
        """After ``step`` raised: end the requests that were in its batch."""
        self.runner.release_memory()
        return self._scheduler.fail_running(error)

    def stats(self, *, active_memory: int = 0, peak_memory: int = 0) -> EngineStats:
        return EngineStats(
            running=self._scheduler.num_running,
            waiting=self._scheduler.num_waiting,
            steps=self._steps,
            prompt_tokens=self._tokens,
            active_memory=active_memory,
            peak_memory=peak_memory,
        )

    def close(self, seconds: float) -> None:
        """There is nothing to save."""

    def _run(self, batch: PoolBatch) -> list[bytes]:
        if batch.shared and not self.runner.has_read(batch.shared):
            started = time.perf_counter()
            self.runner.read(batch.shared)
            self._count(len(batch.shared), len(batch.shared), started)
        started = time.perf_counter()
        values = self.runner.run(batch)
        self._count(batch.tokens, batch.cost, started)
        return values

    def _count(self, tokens: int, cost: int, started: float) -> None:
        """A pass over so many tokens has ended that began at ``started``."""
        self._costs.observe(cost, time.perf_counter() - started)
        self._steps += 1
        self._tokens += tokens
