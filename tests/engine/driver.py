"""Runs requests through a real EngineCore, alone or together, with arrivals and aborts at chosen steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mlx.nn.layers.base import Module

from quince.engine.core import EngineCore
from quince.engine.messages import AddRequest, FinishReason, TokenLogprobs
from quince.engine.model_runner import ModelRunner
from quince.engine.scheduler import Scheduler
from quince.engine.support import probe

MAX_STEPS = 5000


@dataclass
class Answer:
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None


def make_core(model: Module, *, prefill_chunk_size: int = 64) -> EngineCore:
    """An engine like the one that the engine process makes."""
    support = probe(model)
    return EngineCore(
        Scheduler(
            max_running_requests=16 if support.batches else 1,
            prefill_chunk_size=prefill_chunk_size,
            pad_prefill=support.pads,
        ),
        ModelRunner(model, prefill_chunk_size=prefill_chunk_size, mask_axes=support.mask_axes),
    )


def run(
    core: EngineCore,
    requests: Sequence[AddRequest],
    *,
    arrivals: Mapping[str, int] | None = None,
    aborts: Mapping[str, int] | None = None,
) -> dict[str, Answer]:
    """All answers. ``arrivals`` and ``aborts`` say at which step; without an arrival a request starts at once."""
    arrivals, aborts = arrivals or {}, aborts or {}
    answers = {request.request_id: Answer() for request in requests}
    due = sorted(requests, key=lambda request: arrivals.get(request.request_id, 0))
    for step in range(MAX_STEPS):
        while due and arrivals.get(due[0].request_id, 0) <= step:
            core.add(due.pop(0))
        core.abort([name for name, at in aborts.items() if at == step])
        if not due and not core.has_work():
            return answers
        for output in core.step():
            answer = answers[output.request_id]
            answer.token_ids += output.token_ids
            answer.logprobs += output.logprobs
            answer.finish_reason = output.finish_reason or answer.finish_reason
    raise AssertionError(f"not finished after {MAX_STEPS} steps")


def run_alone(model: Module, request: AddRequest) -> Answer:
    return run(make_core(model), [request])[request.request_id]
