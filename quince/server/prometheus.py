"""/metrics: what the server knows of itself, in Prometheus's text format. Names and meanings follow vLLM's."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import psutil
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from quince import __version__
from quince.engine.history import Death
from quince.engine.messages import EngineStats
from quince.metrics import Histogram, Metrics, ModelCounts
from quince.models.manager import ModelManager
from quince.models.slot import ModelState, Slot

PREFIX = "quince:"


@dataclass(frozen=True)
class Description:
    """One metric. A counter's samples have ``_total`` behind the name."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: Sequence[str] = ("model_name",)

    @property
    def sample_name(self) -> str:
        return PREFIX + self.name + ("_total" if self.kind == "counter" else "")


METRICS = (
    Description("num_requests_running", "gauge", "Requests that share the engine's running batch; each answer is one."),
    Description("num_requests_waiting", "gauge", "Requests that wait for the engine; each answer is one."),
    Description("num_requests_loading", "gauge", "Requests that wait for the model to be loaded."),
    Description(
        "requests",
        "counter",
        "HTTP requests that asked for answers, vectors or scores, by what they were and what became of them.",
        ("model_name", "type", "outcome"),
    ),
    Description(
        "request_success",
        "counter",
        "Answers that have ended, by why: stop, length, tool_calls or abort.",
        ("model_name", "finished_reason"),
    ),
    Description("prompt_tokens", "counter", "Prompt tokens, as usage counts them."),
    Description("prompt_tokens_cached", "counter", "Those of them that did not have to be computed again."),
    Description("generation_tokens", "counter", "Tokens of answers, as usage counts them."),
    Description("reasoning_tokens", "counter", "Those of them that were thinking."),
    Description("prefix_cache_queries", "counter", "Prompt tokens that were looked up in the prefix cache."),
    Description("prefix_cache_hits", "counter", "Prompt tokens that the prefix cache had."),
    Description("request_queue_time_seconds", "histogram", "How long requests waited in the engine's queue."),
    Description("time_to_first_token_seconds", "histogram", "From a request's first byte to its answer's first token."),
    Description("inter_token_latency_seconds", "histogram", "Between two tokens of an answer."),
    Description("e2e_request_latency_seconds", "histogram", "Whole requests that succeeded."),
    Description("request_prompt_tokens", "histogram", "Prompt tokens of requests that succeeded."),
    Description("request_generation_tokens", "histogram", "Tokens of the answers to requests that succeeded."),
    Description("num_preemptions", "counter", "How often a request had to give up its row for a while."),
    Description("engine_steps", "counter", "Steps of the engine: batches that it ran."),
    Description("engine_restarts", "counter", "How often the engine was started again after it had ended."),
    Description(
        "engine_deaths", "counter", "Engines that ended without being stopped, by why.", ("model_name", "reason")
    ),
    Description(
        "model_state", "gauge", "1 for the state that the model is in, 0 for the others.", ("model_name", "state")
    ),
    Description("prefix_cache_usage_bytes", "gauge", "Keys and values that are kept for later requests."),
    Description("kv_cache_usage_bytes", "gauge", "Keys and values of running requests."),
    Description("kv_cache_limit_bytes", "gauge", "What both may take together."),
    Description("engine_memory_active_bytes", "gauge", "Memory that MLX uses in the engine."),
    Description("engine_memory_peak_bytes", "gauge", "The most that it has used since the engine started."),
    Description(
        "process_resident_memory_bytes",
        "gauge",
        "Memory of the server's own process (process=server) and of each engine's (process=engine).",
        ("process", "model_name"),
    ),
    Description(
        "process_cpu_seconds", "counter", "CPU time of these processes since they started.", ("process", "model_name")
    ),
    Description("start_time_seconds", "gauge", "When the server started, in seconds since 1970.", ()),
    Description("build_info", "gauge", "Always 1; the labels say what runs.", ("version", "python_version")),
)


class Families:
    """All metrics, filled with samples one by one. ``labels`` are values, in the order of the description's names."""

    def __init__(self) -> None:
        self._descriptions = {one.name: one for one in METRICS}
        self.all = {one.name: Metric(PREFIX + one.name, one.help, one.kind) for one in METRICS}

    def add(self, name: str, value: float, *labels: str) -> None:
        described = self._descriptions[name]
        self.all[name].add_sample(described.sample_name, dict(zip(described.labels, labels, strict=True)), value)

    def add_histogram(self, name: str, histogram: Histogram, *labels: str) -> None:
        own = dict(zip(self._descriptions[name].labels, labels, strict=True))
        bounds = [*map(repr, histogram.bounds), "+Inf"]
        for bound, count in zip(bounds, accumulate(histogram.counts), strict=True):
            self.all[name].add_sample(f"{PREFIX}{name}_bucket", {**own, "le": bound}, count)
        self.all[name].add_sample(f"{PREFIX}{name}_count", own, sum(histogram.counts))
        self.all[name].add_sample(f"{PREFIX}{name}_sum", own, histogram.sum)


def scrape(metrics: Metrics, manager: ModelManager, accept: str) -> tuple[bytes, str]:
    """The text and its content type, as ``accept`` wants it (Prometheus's format or OpenMetrics)."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_ServerCollector(metrics, manager))
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # a version that is none
        encode, content_type = choose_encoder("")
    return encode(registry), content_type


class _ServerCollector(Collector):
    def __init__(self, metrics: Metrics, manager: ModelManager) -> None:
        self._metrics = metrics
        self._manager = manager

    def collect(self) -> Iterable[Metric]:
        families = Families()
        for name, counts in self._metrics.models.items():
            _add_counts(families, name, counts)
        for slot in self._manager.slots:
            _add_engine(families, slot)
        _add_process(families, os.getpid(), "server", "")
        families.add("start_time_seconds", self._metrics.started_at)
        families.add("build_info", 1, __version__, platform.python_version())
        return families.all.values()


def _add_counts(families: Families, name: str, counts: ModelCounts) -> None:
    for (type, outcome), count in counts.requests.items():
        families.add("requests", count, name, type, outcome.value)
    for reason, count in counts.finished.items():
        families.add("request_success", count, name, reason)
    if not name:  # nothing else is known of requests without a model
        return
    for metric, value in (
        ("prompt_tokens", counts.prompt_tokens),
        ("prompt_tokens_cached", counts.cached_tokens),
        ("generation_tokens", counts.generation_tokens),
        ("reasoning_tokens", counts.reasoning_tokens),
        ("prefix_cache_queries", counts.cache_queries),
        ("prefix_cache_hits", counts.cache_hits),
    ):
        families.add(metric, value, name)
    for metric, histogram in (
        ("request_queue_time_seconds", counts.queue_time),
        ("time_to_first_token_seconds", counts.time_to_first_token),
        ("inter_token_latency_seconds", counts.inter_token_latency),
        ("e2e_request_latency_seconds", counts.latency),
        ("request_prompt_tokens", counts.prompt_length),
        ("request_generation_tokens", counts.generation_length),
    ):
        families.add_histogram(metric, histogram, name)


def _add_engine(families: Families, slot: Slot) -> None:
    name, engine, history = slot.stored.name, slot.engine, slot.history
    for state in ModelState:
        families.add("model_state", state is slot.shown_state, name, state.value)
    for death in Death:
        families.add("engine_deaths", history.deaths[death], name, death.value)
    total = history.total(EngineStats() if engine is None else engine.stats)
    for metric, value in (
        ("num_requests_loading", slot.waiting),
        ("num_requests_running", total.running),
        ("num_requests_waiting", 0 if engine is None else engine.num_waiting),
        ("num_preemptions", total.preemptions),
        ("engine_steps", total.steps),
        ("engine_restarts", history.restarts),
        ("prefix_cache_usage_bytes", total.cache_bytes),
        ("kv_cache_usage_bytes", total.kv_bytes),
        ("kv_cache_limit_bytes", total.kv_limit),
        ("engine_memory_active_bytes", total.active_memory),
        ("engine_memory_peak_bytes", total.peak_memory),
    ):
        families.add(metric, value, name)
    if engine is not None and engine.pid is not None:
        _add_process(families, engine.pid, "engine", name)


def _add_process(families: Families, pid: int, *labels: str) -> None:
    try:
        found = psutil.Process(pid)
        memory, times = found.memory_info().rss, found.cpu_times()
    except psutil.Error:  # it has just ended
        return
    families.add("process_resident_memory_bytes", memory, *labels)
    families.add("process_cpu_seconds", times.user + times.system, *labels)
