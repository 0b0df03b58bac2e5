"""How fast Quince starts and what it costs when idle.

python -m benchmarks.startup [MODEL]         without MODEL: the embedded demo model, by its name
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks import report
from benchmarks.models import SHAPES, ensure
from benchmarks.processes import children, usage
from quince.bench.server import Server, free_port
from quince.models import demo


class Start(msgspec.Struct, kw_only=True):
    """One start. Seconds; CPU in per cent of one core; memory in MB."""

    healthy: float
    api_idle: float
    engine_idle: float
    api_rss: float
    engine_rss: float


def time_help(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([*command, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def start_once(command: list[str], model: str, idle: float) -> Start:
    port = free_port()
    with tempfile.TemporaryDirectory() as logs:
        server = Server([*command, "serve", model, "--port", str(port)], port, Path(logs) / "log")
        try:
            time.sleep(1.0)
            engines = children(server.pid)
            assert engines, "healthy without a model"
            before = usage([server.pid]), usage(engines)
            time.sleep(idle)
            api, engine = usage([server.pid]), usage(engines)
        finally:
            server.stop()
    return Start(
        healthy=server.started_in,
        api_idle=100 * (api.cpu_seconds - before[0].cpu_seconds) / idle,
        engine_idle=100 * (engine.cpu_seconds - before[1].cpu_seconds) / idle,
        api_rss=api.rss,
        engine_rss=engine.rss,
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.startup", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", nargs="?", default=demo.CHAT, help=f"a directory or one of {', '.join(SHAPES)}")
    parser.add_argument("--models-dir", type=Path, default=Path(tempfile.gettempdir()) / "quince-benchmark-models")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--idle", type=float, default=5.0, help="seconds of idleness that are measured")
    parser.add_argument("--out", type=Path, help="write all results as JSON")
    options = parser.parse_args()
    script = Path(sys.executable).with_name("quince")
    command = [str(script)] if script.exists() else [sys.executable, "-m", "quince"]
    model = str(ensure(options.model, options.models_dir)) if options.model in SHAPES else options.model
    helps = [time_help(command) for _ in range(options.repeats)]
    starts = [start_once(command, model, options.idle) for _ in range(options.repeats)]
    rows = [_row(f"`{Path(command[0]).name} --help` s", helps)]
    rows.append(_row("`quince serve MODEL` to healthy, s", [start.healthy for start in starts]))
    rows.append(_row("idle CPU of the API process, % of a core", [start.api_idle for start in starts]))
    rows.append(_row("idle CPU of the engine process, % of a core", [start.engine_idle for start in starts]))
    rows.append(_row("memory of the API process, MB", [start.api_rss for start in starts]))
    rows.append(_row("memory of the engine process, MB", [start.engine_rss for start in starts]))
    print(report.table(("measure", "median", "min", "max"), rows))
    if options.out:
        options.out.write_bytes(msgspec.json.encode({"help": helps, "starts": starts}))


def _row(name: str, values: list[float]) -> list[str]:
    return [name, *(f"{value:.2f}" for value in (statistics.median(values), min(values), max(values)))]


if __name__ == "__main__":
    main()
