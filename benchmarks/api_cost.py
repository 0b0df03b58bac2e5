"""The API process's CPU time per token, against the length of an answer and the number of streams.

Its engine is a stub that gives out tokens at one steady rate, so that every row of the table asks for the same work.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks import report
from benchmarks.contenders import Http
from benchmarks.models import ensure
from benchmarks.processes import Worker
from benchmarks.results import problems
from quince.bench.server import Server, free_port
from quince.bench.workload import Load


class Cost(msgspec.Struct, kw_only=True):
    """``pieces`` is how many events carried text: fewer than ``tokens`` where the API process fell behind."""

    streams: int
    length: int
    tokens: int
    pieces: int
    api_us_per_token: float
    client_us_per_token: float
    api_peak_rss: float
    problems: list[str]


def main(options: argparse.Namespace) -> None:
    costs: list[Cost] = []
    model = ensure("tiny", options.models_dir)
    player = Worker("quince.bench.client")
    with tempfile.TemporaryDirectory() as logs:
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.stub", "serve", str(model), str(port), str(options.rate)]
        server = Server(command, port, Path(logs) / "stub.log")
        try:
            contender = Http("Quince", server.url, [player], server)
            for streams, length in _cases(options):
                contender.run(Load(streams, 1, 40, 8, False, seed=0).specs())  # warm up
                costs.append(_measure(contender, streams, length))
                print(costs[-1], file=sys.stderr, flush=True)
        finally:
            server.stop()
            player.stop()
    print(f"{options.rate:g} tokens/s in all, 40-word prompts\n\n{table(costs)}")
    if options.out:
        options.out.write_bytes(msgspec.json.encode(costs))


def _cases(options: argparse.Namespace) -> list[tuple[int, int]]:
    """One stream at every length; every number of streams at 512 tokens."""
    return [(1, length) for length in options.lengths] + [(streams, 512) for streams in options.streams]


def _measure(contender: Http, streams: int, length: int) -> Cost:
    repeats = max(1, 2048 // (streams * length))
    results, cpu = contender.measure(Load(streams, repeats, 40, length, False, seed=streams * length).specs())
    requests = [request for result in results for request in result.requests]
    tokens = sum(request.completion_tokens for request in requests)
    return Cost(
        streams=streams,
        length=length,
        tokens=tokens,
        pieces=sum(len(request.times) for request in requests),
        api_us_per_token=1e6 * cpu.api_seconds / max(1, tokens),
        client_us_per_token=1e6 * sum(result.cpu_seconds for result in results) / max(1, tokens),
        api_peak_rss=cpu.api_peak_rss,
        problems=problems(requests, length),
    )


def table(costs: list[Cost]) -> str:
    header = ("streams", "answer", "tokens", "pieces of text", "API CPU us/token", "client CPU us/token", "API peak MB")
    rows = []
    for c in costs:
        figures = (c.streams, c.length, c.tokens, c.pieces, c.api_us_per_token, c.client_us_per_token, c.api_peak_rss)
        rows.append([f"{figure:.0f}" for figure in figures])
    found = [f"PROBLEM: {problem}" for cost in costs for problem in cost.problems[:3]]
    return "\n".join([report.table(header, rows), *found])
