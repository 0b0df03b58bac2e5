"""The same model, prompts and clients against mlx-lm's BatchGenerator in process, Quince, mlx_lm.server and others.

python -m benchmarks.serving --model 0.6b --concurrency 1 8 32 --out results.json --chart chart.svg
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import arrivals, chart, mix, report
from benchmarks.contenders import Contender, Http, InProcess, mlx_lm_server, quince
from benchmarks.models import SHAPES, ensure
from benchmarks.processes import Worker, stdout_of
from benchmarks.results import Run, median, summarise
from quince.bench.workload import Load

KNOWN = ("batch-generator", "quince", "mlx-lm")
PACKAGES = ("quince", "mlx", "mlx-cuda-13", "mlx-lm", "mlx-vlm", "uvicorn", "uvloop", "msgspec")
WARM_UP_TOKENS = 16
SCENARIOS: dict[str, Any] = {"arrivals": arrivals, "mix": mix}  # each with measure and table


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.serving", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", help=f"one of {', '.join(SHAPES)}, or a directory  [tiny on a CPU, 0.6b on a GPU]")
    add("--models-dir", type=Path, default=Path(tempfile.gettempdir()) / "quince-benchmark-models")
    add("--servers", nargs="*", choices=KNOWN, default=list(KNOWN), help="who takes part, in this order")
    add("--url", action="append", default=[], metavar="NAME=URL", help="any other OpenAI-compatible server")
    add("--concurrency", type=int, nargs="+", help="[1 4 16 on a CPU, 1 2 4 8 16 32 64 on a GPU]")
    add("--modes", nargs="+", choices=("greedy", "sampled", "json"), default=["greedy", "sampled"])
    add("--requests-per-client", type=int, default=4)
    add("--prompt-tokens", type=int, help="words per prompt, one token each  [40 for tiny, else 440]")
    add("--prompt-spread", type=int, default=0, help="by how many words prompts may be longer or shorter")
    add("--max-tokens", type=int, default=128)
    add("--repeats", type=int, default=3)
    add("--interleave", action="store_true", help="all modes and concurrencies in every repeat, to compare them")
    add("--client-processes", type=int, default=1 if (os.cpu_count() or 1) <= 2 else 4)
    add("--scenario", choices=("load", "arrivals", "mix"), default="load")
    add("--running", type=int, default=8, help="arrivals: streams that run")
    add("--running-tokens", type=int, default=1024, help="arrivals: length of their answers")
    add("--arrivals", type=int, default=30, help="arrivals: prompts that arrive")
    add("--arrival-prompt-tokens", type=int, help="arrivals: words of their prompts  [as many as those of the streams]")
    add("--arrival-interval", type=float, default=0.1, help="arrivals: seconds between them")
    add("--arrival-tokens", type=int, default=16, help="arrivals, mix: length of their answers")
    add("--arrival-delay", type=float, default=1.0, help="arrivals: seconds until the first")
    add(
        "--mix-tokens",
        type=int,
        nargs="+",
        help="mix: words of the prompts  [30000 5000 and 20 x 10; tiny: 8000 2000 ...]",
    )
    add("--quince-args", default="", help="more arguments for quince serve, in one string")
    add("--out", type=Path, help="write all results as JSON")
    add("--keep-times", action="store_true", help="with --out: keep the time of every piece of text")
    add("--chart", type=Path, help="write tokens/s by concurrency as SVG")
    return _fill_in(parser.parse_args(arguments))


def _fill_in(options: argparse.Namespace) -> argparse.Namespace:
    options.device = stdout_of([sys.executable, "-c", "import mlx.core as mx; print(mx.default_device())"])
    gpu = "gpu" in options.device
    options.model = options.model or ("0.6b" if gpu else "tiny")
    options.concurrency = options.concurrency or ([1, 2, 4, 8, 16, 32, 64] if gpu else [1, 4, 16])
    tiny = options.model == "tiny"
    options.prompt_tokens = options.prompt_tokens or (40 if tiny else 440)
    options.mix_tokens = options.mix_tokens or [*((8000, 2000) if tiny else (30000, 5000)), *[10] * 20]
    return options


@contextlib.contextmanager
def contenders(options: argparse.Namespace) -> Iterator[list[Contender]]:
    """Everyone who takes part, started and running side by side; idle ones use next to nothing."""
    model = ensure(options.model, options.models_dir) if options.model in SHAPES else Path(options.model)
    size = {
        "load": max(8, *options.concurrency),
        "arrivals": options.running + options.arrivals,
        "mix": len(options.mix_tokens),
    }[options.scenario]
    started: list[Contender] = []
    players = [Worker("quince.bench.client") for _ in range(options.client_processes)]
    with tempfile.TemporaryDirectory() as logs, contextlib.ExitStack() as stack:
        for player in players:
            stack.callback(player.stop)
        for name in options.servers:
            if name == "batch-generator":
                contender: Contender = InProcess(model, size)
            elif name == "quince":
                contender = quince(model, size, players, Path(logs), options.quince_args.split())
            else:
                contender = mlx_lm_server(model, size, players, Path(logs))
            stack.callback(contender.stop)
            started.append(contender)
        for other in options.url:
            name, _, url = other.partition("=")
            started.append(Http(name, url, players))
        yield started


def measure_load(options: argparse.Namespace, who: Sequence[Contender]) -> Iterator[Run]:
    """Every contender in turn, repeat after repeat, for each mode and concurrency (or all of these in turn, too)."""
    seed = int(time.time())
    loads = list(itertools.product(options.modes, options.concurrency))
    for in_turn in [loads] if options.interleave else [[load] for load in loads]:
        for (mode, concurrency), contender in itertools.product(in_turn, who):
            _warm_up(options, contender, mode, concurrency)
        for repeat, (mode, concurrency), contender in itertools.product(range(options.repeats), in_turn, who):
            seed += 1
            run = _measure(options, contender, (mode, concurrency, repeat), seed)
            _say(run)
            yield run


def _load(options: argparse.Namespace, mode: str, size: tuple[int, int, int], seed: int) -> Load:
    """``size``: clients, requests of each, tokens of an answer."""
    clients, requests, max_tokens = size
    return Load(
        clients,
        requests,
        options.prompt_tokens,
        max_tokens,
        mode == "sampled",
        seed,
        structured=mode == "json",
        prompt_spread=options.prompt_spread,
    )


def _warm_up(options: argparse.Namespace, contender: Contender, mode: str, concurrency: int) -> None:
    """Short answers at the same concurrency: kernels are compiled and buffers are there."""
    load = _load(options, mode, (concurrency, 1, WARM_UP_TOKENS), concurrency)
    for result in contender.run(load.specs()):
        for request in result.requests:
            if request.error:
                raise SystemExit(f"{contender.name} fails: {request.error}")


def _measure(options: argparse.Namespace, contender: Contender, labels: tuple[str, int, int], seed: int) -> Run:
    mode, concurrency, repeat = labels
    load = _load(options, mode, (concurrency, options.requests_per_client, options.max_tokens), seed)
    results, cpu = contender.measure(load.specs())
    return summarise(
        (contender.name, mode, concurrency, repeat),
        [request for result in results for request in result.requests],
        options.max_tokens,
        cpu,
        max(result.cpu_seconds for result in results),
    )


def _say(run: Run) -> None:
    print(
        f"{run.mode:8} c={run.concurrency:<3} {run.contender:26} {run.tokens_per_second:8.0f} tok/s"
        f"  TTFT {run.ttft_p50:6.0f} ms  gap p99 {run.gap_p99:6.1f} ms  {run.seconds:5.1f} s"
        + (f"  PROBLEM: {run.problems[0]}" if run.problems else ""),
        file=sys.stderr,
        flush=True,
    )


def environment(options: argparse.Namespace) -> dict[str, object]:
    versions = {}
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            versions[package] = version(package)
    gpu = ""
    with contextlib.suppress(OSError):
        gpu = stdout_of(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"])
    return {
        "command": " ".join(sys.argv),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "gpu": gpu,
        "versions": versions,
        "options": {name: str(value) for name, value in vars(options).items()},
    }


def draw(runs: Sequence[Run], model: str) -> str:
    mode = runs[0].mode
    shown = [run for run in runs if run.mode == mode]
    levels = sorted({run.concurrency for run in shown})
    series: dict[str, list[float | None]] = {}
    for name in dict.fromkeys(run.contender for run in shown):
        own = {c: [r for r in shown if (r.contender, r.concurrency) == (name, c)] for c in levels}
        series[name] = [median(own[c], "tokens_per_second") if own[c] else None for c in levels]
    title = f"Tokens per second, all streams together ({model}, {mode})"
    return chart.bars(title, "concurrent streams", [str(level) for level in levels], series)


def main() -> None:
    options = parse()
    about = environment(options)
    print(f"model {options.model} on {options.device}; {about['gpu'] or about['platform']}; {about['versions']}\n")
    with contenders(options) as who:
        if options.scenario != "load":
            scenario = SCENARIOS[options.scenario]
            measured = list(scenario.measure(options, who))
            print(scenario.table(measured))
            save(options.out, {"environment": about, options.scenario: measured})
            return
        runs: list[Run] = []
        kept: list[Run] = []
        for run in measure_load(options, who):
            runs.append(run)
            kept.append(run if options.keep_times else _without_times(run))
            save(options.out, {"environment": about, "runs": kept})
            if options.chart:
                options.chart.write_text(draw(runs, options.model))
    print(report.serving(runs))
    print("\n" + report.scaling(runs))


def _without_times(run: Run) -> Run:
    requests = [msgspec.structs.replace(r, times=r.times[:1], counts=[]) for r in run.requests]
    return msgspec.structs.replace(run, requests=requests)


def save(path: Path | None, results: dict[str, object]) -> None:
    """At once or not at all, so that whoever is killed leaves what was there."""
    if path is not None:
        new = path.with_name(f".{path.name}.new")
        new.write_bytes(msgspec.json.encode(results))
        new.replace(path)


if __name__ == "__main__":
    main()
