"""The engine's centre: schedule, run, update."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from quince.engine.batch import Batch
from quince.engine.messages import AddRequest, EngineStats, Output
from quince.engine.model_runner import ModelRunner
from quince.engine.request import Request
from quince.engine.scheduler import Scheduler

logger = logging.getLogger(__name__)


class EngineCore:
    """Drives one model. Every method is called by the engine thread, which owns MLX."""

    def __init__(self, scheduler: Scheduler, runner: ModelRunner) -> None:
        self.scheduler = scheduler
        self.runner = runner
        self._steps = 0
        self._prompt_tokens = 0
        self._generation_tokens = 0

    def add(self, message: AddRequest) -> None:
        self.scheduler.add(Request(message.request_id, message.prompt_token_ids, message.sampling))

    def abort(self, request_ids: Iterable[str]) -> None:
        self.scheduler.abort(request_ids)

    def has_work(self) -> bool:
        return self.scheduler.has_work()

    def step(self) -> list[Output]:
        batch = self.scheduler.schedule()
        tokens = self.runner.run(batch)
        outputs = self.scheduler.update(tokens)
        self._count(batch, outputs)
        return outputs

    def fail_step(self, error: str) -> list[Output]:
        """After ``step`` raised: end the requests that ran and start over with those that wait."""
        self.runner.reset()
        return self.scheduler.fail_running(error)

    def stats(self, *, active_memory: int = 0, peak_memory: int = 0) -> EngineStats:
        return EngineStats(
            running=self.scheduler.num_running,
            waiting=self.scheduler.num_waiting,
            steps=self._steps,
            prompt_tokens=self._prompt_tokens,
            generation_tokens=self._generation_tokens,
            active_memory=active_memory,
            peak_memory=peak_memory,
        )

    def _count(self, batch: Batch, outputs: list[Output]) -> None:
        self._steps += 1
        self._prompt_tokens += sum(len(chunk.token_ids) for chunk in batch.prefill) + len(batch.join)
        self._generation_tokens += sum(len(output.token_ids) for output in outputs)
