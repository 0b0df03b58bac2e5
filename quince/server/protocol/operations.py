"""Wire format of the routes that tell how the server is."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class QueueFigures(BaseModel):
    running: bool = Field(description="Whether requests can be served.")
    queue_size: int = Field(description="Requests that wait, for an engine or for a model to be loaded.")
    max_queue_size: int = Field(description="How many may wait at one model (--queue-size).")
    active_requests: int = Field(description="Requests that run.")
    max_concurrency: int = Field(description="How many may run at one model (--max-running-requests).")


class Performance(BaseModel):
    """Tokens per second of single requests, queueing and prefill included."""

    avg_tps: float = Field(description="total_tokens / total_time")
    max_tps: float
    min_tps: float
    recent_requests: int = Field(description="Over how many requests max_tps and min_tps are: the last 1000 at most.")


class RequestFigures(BaseModel):
    """Of requests that have ended, since the server started."""

    total_requests: int
    total_tokens: int = Field(description="Generated tokens.")
    total_time: float = Field(description="Seconds, the sum over all requests that generated tokens.")
    request_types: dict[str, int]
    error_count: int = Field(description="Requests that failed. Those that were rejected or aborted are no errors.")
    performance: Performance


class QueueStats(BaseModel):
    status: Literal["ok", "unavailable"]
    queue_stats: QueueFigures
    metrics: RequestFigures


class EngineCounts(BaseModel):
    """Counts go on when an engine is restarted or the model is loaded again. Memory is in bytes."""

    running: int
    waiting: int
    steps: int
    prompt_tokens: int = Field(description="Computed by the engine: what the prefix cache had is not among them.")
    generation_tokens: int = Field(description="Computed by the engine, also those that nobody waited for.")
    cached_tokens: int = Field(description="Prompt tokens that the prefix cache had.")
    cache_hits: int = Field(description="Answers whose prompts it had a part of.")
    preemptions: int
    encoded_media: int = Field(description="Images and videos that went through the vision tower.")
    restarts: int
    cache_bytes: int = Field(description="Keys and values that are kept for later requests.")
    kv_bytes: int = Field(description="Keys and values of running requests.")
    active_memory: int
    peak_memory: int


class EngineFigures(EngineCounts):
    state: str
    open_requests: int = Field(description="Answers that were asked for and are not finished.")
    kv_limit: int = Field(description="What both kinds of keys and values may take.")
    deaths: dict[str, int] = Field(description="Engines that ended without being stopped, by why.")


class Stats(BaseModel):
    uptime: float = Field(description="Seconds.")
    running: int
    waiting: int
    max_running_requests: int
    queue_size: int
    totals: EngineCounts
    outcomes: dict[str, int] = Field(description="Requests that have ended, by what became of them.")
    models: dict[str, EngineFigures] = Field(description="Those that have an engine.")


class ModelMemory(BaseModel):
    """In bytes."""

    active: int = Field(description="What MLX uses in the engines.")
    peak: int = Field(description="The sum of the most that each of them has used.")
    resident: int = Field(description="The server's own process.")
    total: int = Field(description="The machine's.")


class StatusModel(BaseModel):
    name: str
    type: str
    state: str
    path: str
    device: str | None
    context_length: int | None
    active_memory: int
    peak_memory: int


class MlxStatus(BaseModel):
    status: Literal["ok", "unavailable"]
    reason: str
    model: str | None = Field(description="The server's first model that is loaded.")
    device: str | None = Field(description="Where that computes, as MLX names it; unknown until a model is loaded.")
    uptime: float = Field(description="Seconds.")
    versions: dict[str, str]
    memory: ModelMemory
    models: list[StatusModel] = Field(description="Those that have an engine.")
