"""Runs requests through a real EngineCore, alone or together, with arrivals and aborts at chosen steps."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from mlx.nn.layers.base import Module

from quince.engine import core
from quince.engine.core import CoreConfig, EngineCore
from quince.engine.disk_tier import DiskTier
from quince.engine.forward import Forward, TextForward
from quince.engine.kv_layout import KVQuantization
from quince.engine.messages import AddRequest, FinishReason, TokenLogprobs
from quince.engine.structured import GrammarCompiler
from tests.tiny_models import VOCAB_SIZE, tokenizer_file

MAX_STEPS = 5000


@dataclass
class Answer:
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: str | None = None
    refused: bool = False
    cached_tokens: int = 0


def make_core(
    model: Module | Forward,
    *,
    prefill_chunk_size: int = 64,
    prefix_cache_bytes: int = 0,
    kv_quantization: KVQuantization | None = None,
    tier: DiskTier | None = None,
    **more: Any,
) -> EngineCore:
    """``more``: of CoreConfig."""
    forward = TextForward(model) if isinstance(model, Module) else model
    grammars = GrammarCompiler(tokenizer_file(), VOCAB_SIZE)
    config = CoreConfig(
        max_running_requests=16,
        prefill_chunk_size=prefill_chunk_size,
        prefix_cache_bytes=prefix_cache_bytes,
        snapshot_interval=64,
        kv_quantization=kv_quantization,
        **more,
    )
    return core.make_core(forward, VOCAB_SIZE, grammars, config, tier)


def run(
    engine: EngineCore,
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
            engine.add(due.pop(0))
        engine.abort([name for name, at in aborts.items() if at == step])
        while not engine.has_work() and engine.stats().waiting:
            time.sleep(0.001)  # a grammar is being compiled, or the disk is read
        if not due and not engine.has_work():
            return answers
        outputs = engine.step()
        # With a prefix cache, rows that are restored may be what the cache keeps, and not be there twice.
        if not engine.scheduler.prefix_cache.enabled:
            assert engine.runner.kv_bytes <= engine.scheduler.row_bytes, "the scheduler knows what rows take"
        for output in outputs:
            answer = answers[output.request_id]
            answer.token_ids += output.token_ids
            answer.logprobs += output.logprobs
            answer.finish_reason = output.finish_reason or answer.finish_reason
            answer.cached_tokens += output.cached_tokens
            answer.error, answer.refused = output.error, output.refused
    raise AssertionError(f"not finished after {MAX_STEPS} steps")


def run_alone(model: Module | Forward, request: AddRequest) -> Answer:
    """Without the prefix cache, in an engine that has nothing else to do. The same model is asked the same but once."""
    if _alone[0] is not model:
        _alone[:] = [model, make_core(model), {}]
    _, engine, answers = _alone
    asked = msgspec.json.encode(msgspec.structs.replace(request, request_id=""))
    if asked not in answers:
        answers[asked] = run(engine, [request])[request.request_id]
    answer: Answer = answers[asked]
    return answer


_alone: list[Any] = [None, None, {}]  # a model, an engine for it, and its answers by what was asked
