"""How much a chat's stream feels clients that embed texts: its gaps alone, beside them, and beside controls.

    python -m benchmarks.beside [--clients 64] [--tokens 400] [--repeats 5]

alone       the stream of one chat
embedding   64 clients that embed texts of 1 to 30 words with another model, one request after the other each
spinning    as many processes as there are cores that only loop: what the machine alone costs
computing   one process that only multiplies matrices with MLX

The stream's client, the other clients and the controls are processes of their own, none of them niced. All ways run in
turn. The ratio is of the medians of the repeats' 99th percentiles.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.embed_clients import Clients, Embedded
from benchmarks.processes import Worker, children, usage
from benchmarks.report import table
from quince.bench.figures import gaps, quantile
from quince.bench.server import Server, free_port
from quince.bench.workload import ClientSpec, Job, RequestSpec, soon

WAYS = ("alone", "embedding", "spinning", "computing")
PROMPT = "Tell me a story about a river and a garden, please."
SPIN = "while True: pass"
COMPUTE = """
import mlx.core as mx
a, w = mx.random.normal((256, 192)), mx.random.normal((192, 768))
while True: mx.eval((a @ w) @ w.T)
"""
BEFORE = 1.5  # seconds that what disturbs runs before the stream begins


@dataclass(frozen=True)
class Run:
    """One stream: its gaps in ms, what clients embedded meanwhile, and the CPU that API process and engines used."""

    gaps: list[float]
    embedded: Embedded | None
    api_cpu: float
    engine_cpu: float


@contextlib.contextmanager
def controls(way: str) -> Iterator[None]:
    commands: list[list[str]] = []
    if way == "spinning":
        commands = [[sys.executable, "-c", SPIN]] * (os.cpu_count() or 1)
    if way == "computing":
        commands = [[sys.executable, "-c", COMPUTE]]
    started = [subprocess.Popen(command, start_new_session=True) for command in commands]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


class Scene:
    """A server, and who plays its clients."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        port = free_port()
        command = [sys.executable, "-m", "quince", "serve", "--port", str(port), "--log-level", "warning"]
        self._options = options
        self._server = Server(command, port, directory / "log")
        self._player = Worker("quince.bench.client")

    def stream(self, tokens: int) -> list[float]:
        """The gaps of one answer. Raises SystemExit if it fails."""
        client = ClientSpec([RequestSpec(PROMPT, tokens)])
        self._player.send(Job([client], soon(), self._server.url, self._options.chat, count_words=False))
        (request,) = self._player.result().requests
        if request.error:
            raise SystemExit(f"the stream failed: {request.error}")
        return gaps(request)

    def run(self, way: str, tokens: int) -> Run:
        with controls(way), self._clients(way) as clients:
            time.sleep(BEFORE)
            processes = [self._server.pid], children(self._server.pid)
            before, started = [usage(pids).cpu_seconds for pids in processes], time.perf_counter()
            found = self.stream(tokens)
            after, seconds = [usage(pids).cpu_seconds for pids in processes], time.perf_counter() - started
            api, engines = ((now - then) / seconds for now, then in zip(after, before, strict=True))
            embedded = None
            if clients is not None:
                embedded = msgspec.json.decode(clients.communicate()[0], type=Embedded)
                if embedded.errors:
                    raise SystemExit(f"{len(embedded.errors)} clients failed, one with {embedded.errors[0]}")
        return Run(found, embedded, api, engines)

    @contextlib.contextmanager
    def _clients(self, way: str) -> Iterator[subprocess.Popen[bytes] | None]:
        if way != "embedding":
            yield None
            return
        options = self._options
        clients = Clients(self._server.url, options.embedder, options.clients, options.pause, options.words)
        command = [sys.executable, "-m", "benchmarks.embed_clients"]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, start_new_session=True) as process:
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(clients) + b"\n")
            process.stdin.flush()
            yield process

    def stop(self) -> None:
        self._player.stop()
        self._server.stop()


def rows(runs: dict[str, list[Run]]) -> list[list[str]]:
    alone = quantile([quantile(run.gaps, 0.99) for run in runs["alone"]], 0.5)
    made = []
    for way, own in runs.items():
        all_gaps = [gap for run in own for gap in run.gaps]
        each = [quantile(run.gaps, 0.99) for run in own]
        p99 = quantile(each, 0.5)
        cells = [f"{quantile(all_gaps, 0.5):.1f}", f"{p99:.1f} ({min(each):.1f}-{max(each):.1f})", f"{p99 / alone:.2f}"]
        cpu = [f"{100 * sum(getattr(run, name) for run in own) / len(own):.0f} %" for name in ("api_cpu", "engine_cpu")]
        embedded = [run.embedded for run in own if run.embedded]
        seconds = sum(one.seconds for one in embedded)
        rate = f"{sum(len(one.latencies) for one in embedded) / seconds:.0f}" if seconds else "-"
        made.append([way, *cells, f"{max(all_gaps):.0f}", *cpu, rate])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--chat", default="quince-demo")
    parser.add_argument("--embedder", default="quince-demo-embedding")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--words", type=int, default=30, help="of the longest texts")
    parser.add_argument("--pause", type=float, default=0.2, help="most seconds between two requests of a client")
    parser.add_argument("--tokens", type=int, default=400, help="of the stream")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    ways = list(dict.fromkeys(["alone", *options.ways]))
    runs: dict[str, list[Run]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as directory:
        scene = Scene(options, Path(directory))
        try:
            scene.stream(50)
            scene.run("embedding", 50)  # both models are loaded now
            for _ in range(options.repeats):
                for way in ways:
                    runs[way].append(scene.run(way, options.tokens))
        finally:
            scene.stop()
    header = (
        "beside",
        "gap p50 ms",
        "p99 ms (range)",
        "p99 / alone",
        "max ms",
        "API CPU",
        "engines' CPU",
        "requests/s",
    )
    print(table(header, rows(runs)))


if __name__ == "__main__":
    main()
