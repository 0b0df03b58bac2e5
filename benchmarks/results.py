"""Figures from raw results: one run's, and the medians and spreads of repeated runs."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

import msgspec

from quince.bench.figures import gaps, quantile
from quince.bench.workload import RequestResult


class Cpu(msgspec.Struct, frozen=True):
    """CPU seconds in one run, and peak resident MB so far. Zero: not known. Servers of one process have no engine."""

    api_seconds: float = 0.0
    engine_seconds: float = 0.0
    api_peak_rss: float = 0.0
    engine_peak_rss: float = 0.0


class Run(msgspec.Struct, kw_only=True):
    """One measurement of one contender. Times are in milliseconds, ``seconds`` is the wall clock of the run."""

    contender: str
    mode: str
    concurrency: int
    repeat: int
    seconds: float
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    tokens_per_second: float
    ttft_p50: float
    ttft_max: float
    gap_p50: float
    gap_p99: float
    gap_max: float
    client_cpu: float
    api_ms_per_1000: float
    engine_ms_per_1000: float
    api_peak_rss: float
    engine_peak_rss: float
    problems: list[str]
    requests: list[RequestResult]


def problems(requests: Iterable[RequestResult], max_tokens: int) -> list[str]:
    """What makes a run worthless: errors, answers that are not ``max_tokens`` long, text that does not add up."""
    found = []
    for request in requests:
        if request.error:
            found.append(request.error[:200])
        elif request.completion_tokens != max_tokens:
            found.append(f"{request.completion_tokens} tokens instead of {max_tokens} ({request.finish_reason})")
        elif abs(sum(request.counts) - max_tokens) > 1:  # some servers strip the space before the first word
            found.append(f"the text has {sum(request.counts)} tokens, usage says {request.completion_tokens}")
    return found


def summarise(
    labels: tuple[str, str, int, int],
    requests: list[RequestResult],
    max_tokens: int,
    cpu: Cpu,
    client_cpu_seconds: float,
) -> Run:
    """``labels`` are contender, mode, concurrency and repeat; ``client_cpu_seconds`` is the busiest process's."""
    contender, mode, concurrency, repeat = labels
    good = [r for r in requests if r.times]
    seconds = max((r.ended for r in requests), default=0.0) - min((r.sent for r in requests), default=0.0)
    tokens = sum(r.completion_tokens for r in requests)
    ttfts = [1000 * (r.times[0] - r.sent) for r in good]
    all_gaps = [gap for r in good for gap in gaps(r)]
    return Run(
        contender=contender,
        mode=mode,
        concurrency=concurrency,
        repeat=repeat,
        seconds=seconds,
        prompt_tokens=sum(r.prompt_tokens for r in requests),
        completion_tokens=tokens,
        cached_tokens=sum(r.cached_tokens for r in requests),
        tokens_per_second=tokens / seconds,
        ttft_p50=quantile(ttfts, 0.5),
        ttft_max=max(ttfts, default=float("nan")),
        gap_p50=quantile(all_gaps, 0.5),
        gap_p99=quantile(all_gaps, 0.99),
        gap_max=max(all_gaps, default=float("nan")),
        client_cpu=client_cpu_seconds / seconds,
        api_ms_per_1000=1e6 * cpu.api_seconds / max(1, tokens),
        engine_ms_per_1000=1e6 * cpu.engine_seconds / max(1, tokens),
        api_peak_rss=cpu.api_peak_rss,
        engine_peak_rss=cpu.engine_peak_rss,
        problems=problems(requests, max_tokens),
        requests=requests,
    )


def median(runs: Sequence[Run], field: str) -> float:
    return float(statistics.median(getattr(run, field) for run in runs))


def spread(runs: Sequence[Run], field: str) -> tuple[float, float]:
    values = [getattr(run, field) for run in runs]
    return min(values), max(values)
