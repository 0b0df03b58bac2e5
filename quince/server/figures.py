"""How the server is, for the routes that tell it."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import platform
import time
from typing import Literal

import psutil

from quince import __version__
from quince.engine.client import EngineClient
from quince.metrics import REQUEST_TYPES, Outcome
from quince.models.slot import Slot
from quince.server.dependencies import ServerState
from quince.server.protocol.operations import (
    EngineCounts,
    EngineFigures,
    MlxStatus,
    ModelMemory,
    Performance,
    QueueFigures,
    QueueStats,
    RequestFigures,
    Stats,
    StatusModel,
)

_PACKAGES = ("mlx", "mlx-lm", "transformers")


def queue_stats(state: ServerState) -> QueueStats:
    healthy, _ = state.manager.health()
    metrics, slots = state.metrics, _with_engines(state)
    types, speeds = metrics.by_type(), metrics.recent_speeds
    return QueueStats(
        status=_status(healthy),
        queue_stats=QueueFigures(
            running=healthy,
            queue_size=sum(slot.waiting for slot in state.manager.slots)
            + sum(engine.num_waiting for _, engine in slots),
            max_queue_size=state.config.queue_size,
            active_requests=sum(engine.stats.running for _, engine in slots),
            max_concurrency=state.config.max_running_requests,
        ),
        metrics=RequestFigures(
            total_requests=types.total(),
            total_tokens=metrics.total_tokens,
            total_time=metrics.total_time,
            request_types={type: types[type] for type in REQUEST_TYPES},
            error_count=metrics.by_outcome()[Outcome.ERROR],
            performance=Performance(
                avg_tps=metrics.total_tokens / metrics.total_time if metrics.total_time else 0.0,
                max_tps=max(speeds, default=0.0),
                min_tps=min(speeds, default=0.0),
                recent_requests=len(speeds),
            ),
        ),
    )


def stats(state: ServerState) -> Stats:
    models = {slot.stored.name: _engine_figures(slot, engine) for slot, engine in _with_engines(state)}
    totals = EngineCounts(
        **{name: sum(getattr(one, name) for one in models.values()) for name in EngineCounts.model_fields}
    )
    outcomes = state.metrics.by_outcome()
    return Stats(
        uptime=_uptime(state),
        running=totals.running,
        waiting=totals.waiting,
        max_running_requests=state.config.max_running_requests,
        queue_size=state.config.queue_size,
        totals=totals,
        outcomes={outcome.value: outcomes[outcome] for outcome in Outcome},
        models=models,
    )


def mlx_status(state: ServerState) -> MlxStatus:
    healthy, reason = state.manager.health()
    slots = _with_engines(state)
    models = [_status_model(slot, engine) for slot, engine in slots]
    first = next((model for model in models if model.device is not None), None)
    return MlxStatus(
        status=_status(healthy),
        reason=reason,
        model=None if first is None else first.name,
        device=None if first is None else first.device,
        uptime=_uptime(state),
        versions=_versions(),
        memory=ModelMemory(
            active=sum(model.active_memory for model in models),
            peak=sum(model.peak_memory for model in models),
            resident=psutil.Process().memory_info().rss,
            total=psutil.virtual_memory().total,
        ),
        models=models,
    )


def _with_engines(state: ServerState) -> list[tuple[Slot, EngineClient]]:
    return [(slot, slot.engine) for slot in state.manager.slots if slot.engine is not None]


def _engine_figures(slot: Slot, engine: EngineClient) -> EngineFigures:
    total = slot.history.total(engine.stats)
    return EngineFigures(
        state=slot.shown_state.value,
        running=total.running,
        waiting=engine.num_waiting,
        open_requests=engine.num_requests,
        steps=total.steps,
        prompt_tokens=total.prompt_tokens,
        generation_tokens=total.generation_tokens,
        cached_tokens=total.cached_tokens,
        cache_hits=total.cache_hits,
        preemptions=total.preemptions,
        encoded_media=total.encoded_media,
        restarts=slot.history.restarts,
        deaths={death.value: count for death, count in slot.history.deaths.items()},
        cache_bytes=total.cache_bytes,
        kv_bytes=total.kv_bytes,
        kv_limit=total.kv_limit,
        active_memory=total.active_memory,
        peak_memory=total.peak_memory,
    )


def _status_model(slot: Slot, engine: EngineClient) -> StatusModel:
    ready, stats = engine.ready, engine.stats
    loaded = 0 if ready is None else ready.memory_bytes  # known before the first step
    return StatusModel(
        name=slot.stored.name,
        type=slot.stored.type.value,
        state=slot.shown_state.value,
        path=str(slot.stored.path),
        device=None if ready is None else ready.device,
        context_length=None if ready is None else ready.max_model_len,
        active_memory=max(stats.active_memory, loaded),
        peak_memory=max(stats.peak_memory, loaded),
    )


def _status(healthy: bool) -> Literal["ok", "unavailable"]:
    return "ok" if healthy else "unavailable"


def _uptime(state: ServerState) -> float:
    return time.time() - state.metrics.started_at


@functools.cache
def _versions() -> dict[str, str]:
    versions = {"quince": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # a program in one file may leave it out
            versions[package] = importlib.metadata.version(package)
    return versions
