"""Measures one server at several levels of concurrency."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from quince.bench.client import run as run_job
from quince.bench.figures import gaps, quantile
from quince.bench.server import free_port
from quince.bench.workload import Job, Load, soon
from quince.chat.own_server import PrivateServer, running
from quince.errors import UsageError
from quince.models import demo


@dataclass(frozen=True)
class BenchConfig:
    """Lengths are in tokens (of the prompt: words of four letters), ``requests`` per client."""

    concurrency: Sequence[int]
    requests: int
    prompt_tokens: int
    max_tokens: int
    temperature: float


class Figures(msgspec.Struct, frozen=True):
    """One level. Times are in milliseconds; ``gap`` is the time between two pieces of text of one stream."""

    concurrency: int
    tokens_per_second: float
    ttft_p50: float
    ttft_max: float
    gap_p50: float
    gap_p99: float
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Target:
    """A server to measure, and what of it. ``key``: if it wants one; ``model`` None: the server's first."""

    url: str
    key: str | None = None
    model: str | None = None


def measure(target: Target, config: BenchConfig) -> Iterator[Figures]:
    """Figures of each level, as they are ready. Raises UsageError if a request fails."""
    _run(target, config, clients=1, requests=1)  # warm-up
    for clients in config.concurrency:
        yield _run(target, config, clients=clients, requests=config.requests)


def _run(target: Target, config: BenchConfig, *, clients: int, requests: int) -> Figures:
    load = Load(clients, requests, config.prompt_tokens, config.max_tokens, config.temperature > 0, int(time.time()))
    url = target.url.rstrip("/").removesuffix("/v1")
    job = Job(load.specs(), soon(), url, target.model, target.key, count_words=False)
    results = asyncio.run(run_job(job)).requests
    for result in results:
        if result.error:
            raise UsageError(f"the server at {target.url} failed: {result.error}")
    seconds = max(r.ended for r in results) - min(r.sent for r in results)
    tokens = sum(r.completion_tokens for r in results)
    ttfts = [1000 * (r.times[0] - r.sent) for r in results if r.times]
    between = [gap for r in results for gap in gaps(r)]
    return Figures(
        concurrency=clients,
        tokens_per_second=tokens / seconds,
        ttft_p50=quantile(ttfts, 0.5),
        ttft_max=max(ttfts, default=float("nan")),
        gap_p50=quantile(between, 0.5),
        gap_p99=quantile(between, 0.99),
        prompt_tokens=sum(r.prompt_tokens for r in results),
        completion_tokens=tokens,
    )


@contextlib.contextmanager
def own_server(model: str | None, size: int) -> Iterator[Target]:
    """A server of this model for the time of the measurement; it ends with this process, however that ends."""
    spec = PrivateServer(
        port=free_port(),
        key=secrets.token_urlsafe(24),
        model=model or demo.CHAT,
        max_running_requests=max(32, size),
    )
    with running(spec) as client:
        yield Target(client.url, spec.key)
