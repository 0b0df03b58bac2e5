"""Questions about images: Quince beside mlx_vlm.server, with the same model, images and clients.

python -m benchmarks.vision --model 3b --out results.json
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import arrivals, report
from benchmarks.ask import Answer, ask
from benchmarks.contenders import Http, mlx_vlm_server, quince
from benchmarks.processes import Worker, stdout_of
from benchmarks.results import Run, median, spread, summarise
from benchmarks.serving import environment, save
from benchmarks.vision_models import SHAPES, ensure, image_tokens, images
from quince.bench.figures import quantile
from quince.bench.workload import Load, random_prompt, with_images
from quince.errors import UsageError

SERVERS = ("quince", "mlx-vlm", "mlx-vlm-apc")
SCENARIOS = ("again", "load", "beside")
FIRST, SECOND, ELSEWHERE = "first", "second", "elsewhere"  # a question, the next one, one in another conversation
WARM_UP_TOKENS = 16
WARM_UP_IMAGES = 2
PAUSE = 0.1  # seconds before the next question: what a server does after an answer has ended is not measured


class Asked(msgspec.Struct, kw_only=True):
    """One question about an image. ``ttft`` is in milliseconds."""

    contender: str
    image: int
    question: str
    ttft: float
    prompt_tokens: int
    cached_tokens: int


class Budget:
    """Seconds for everything. Past them no repeat is started that a table can do without."""

    def __init__(self, seconds: float) -> None:
        self._start = time.monotonic()
        self._seconds = seconds

    def used(self) -> float:
        return time.monotonic() - self._start

    def spent(self) -> bool:
        return self.used() > self._seconds


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.vision", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", help=f"one of {', '.join(SHAPES)}, or a directory  [tiny on a CPU, 3b on a GPU]")
    add("--models-dir", type=Path, default=Path(tempfile.gettempdir()) / "quince-benchmark-models")
    add("--servers", nargs="+", choices=SERVERS, default=list(SERVERS[:2]), help="who takes part, in this order")
    add("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    add("--seconds", type=float, default=600.0, help="begin no more repeats after this time, which starts at once")
    add("--patience", type=float, default=120.0, help="a server that takes longer for a run, or to start, is out")
    add("--repeats", type=int, default=2, help="load, beside: measurements of each server")
    add("--question-tokens", type=int, default=16, help="words of a question, one token each")
    add("--images", type=int, default=5, help="again: images, after two to warm up")
    add("--again-size", type=int, help="again: pixels of an image's side  [448 on a CPU, 1024 on a GPU]")
    add("--answer-tokens", type=int, default=16, help="again: length of the answers")
    add("--concurrency", type=int, nargs="+", default=[1, 4, 16], help="load: clients")
    add("--image-size", type=int, help="load, beside: pixels of an image's side  [112 on a CPU, 448 on a GPU]")
    add("--requests-per-client", type=int, default=2, help="load: each with an image of its own")
    add("--max-tokens", type=int, default=64, help="load: length of the answers")
    add("--running", type=int, default=4, help="beside: text streams that run")
    add("--running-tokens", type=int, default=512, help="beside: length of their answers")
    add("--arrivals", type=int, default=6, help="beside: questions about images that arrive")
    add("--arrival-interval", type=float, default=0.25, help="beside: seconds between them")
    add("--arrival-delay", type=float, default=0.5, help="beside: seconds until the first")
    add("--client-processes", type=int, default=1 if (os.cpu_count() or 1) <= 2 else 4)
    add("--quince-args", default="", help="more arguments for quince serve, in one string")
    add("--logs", type=Path, help="keep the servers' logs in this directory")
    add("--out", type=Path, help="write all results as JSON, after every scenario")
    return _fill_in(parser.parse_args(arguments))


def _fill_in(options: argparse.Namespace) -> argparse.Namespace:
    options.device = stdout_of([sys.executable, "-c", "import mlx.core as mx; print(mx.default_device())"])
    gpu = "gpu" in options.device
    options.budget = Budget(options.seconds)
    options.model = options.model or ("3b" if gpu else "tiny")
    options.image_size = options.image_size or (448 if gpu else 112)
    options.again_size = options.again_size or (1024 if gpu else 448)
    # What arrivals.py wants to know.
    options.modes = ["greedy"]
    options.prompt_tokens = options.question_tokens
    options.arrival_prompt_tokens = options.question_tokens
    options.arrival_tokens = WARM_UP_TOKENS
    return options


@contextlib.contextmanager
def contenders(options: argparse.Namespace) -> Iterator[list[Http]]:
    """The servers, started and running side by side; idle ones use next to nothing."""
    model = ensure(options.model, options.models_dir) if options.model in SHAPES else Path(options.model)
    _say(f"{model} is there after {options.budget.used():.0f} s")
    with contextlib.ExitStack() as stack:
        logs = options.logs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        logs.mkdir(parents=True, exist_ok=True)
        players = [Worker("quince.bench.client") for _ in range(options.client_processes)]
        for player in players:
            stack.callback(player.stop)
        with ThreadPoolExecutor() as pool:
            starting = [pool.submit(_start, name, options, model, players, logs) for name in options.servers]
            try:
                wait(starting)
            finally:
                for one in starting:
                    if one.exception() is None:
                        stack.callback(one.result().stop)
        started: list[Http] = []
        for name, one in zip(options.servers, starting, strict=True):
            try:
                started.append(one.result())
            except UsageError as error:
                _say(f"{name} is left out: {error}")
        _say(f"{', '.join(one.name for one in started)} started after {options.budget.used():.0f} s")
        yield started


def _start(name: str, options: argparse.Namespace, model: Path, players: Sequence[Worker], logs: Path) -> Http:
    """Raises UsageError."""
    patience = options.patience
    if name == "quince":
        size = max(8, options.running + options.arrivals, *options.concurrency)
        contender = quince(model, size, players, logs, options.quince_args.split(), timeout=patience)
    else:
        cached = name == "mlx-vlm-apc"
        contender = mlx_vlm_server(model, players, logs, prefix_cache=cached, timeout=patience)
    contender.patience = patience
    return contender


def _running(who: Sequence[Http]) -> list[Http]:
    return [contender for contender in who if not contender.stopped]


def measure_again(options: argparse.Namespace, who: Sequence[Http], source: Iterator[str]) -> Iterator[Asked | str]:
    """Three questions about each image, image after image: those of one server, then the next one's. Problems, too."""
    words = random.Random(time.time_ns())
    for number in range(-WARM_UP_IMAGES, options.images):
        if number > 0 and options.budget.spent():
            break
        image = next(source)
        questions = [random_prompt(words, options.question_tokens) for _ in range(3)]
        for contender in _running(who):
            try:
                with contender.patiently():
                    answers = _three_questions(options, contender, image, questions)
            except (OSError, http.client.HTTPException) as error:
                yield f"{contender.name}: {error}"
                continue
            times = "  ".join(f"{kind} {answer.ttft:.0f} ms" for kind, answer in answers.items())
            _say(f"again {contender.name:16} {times}" + "  (warm-up)" * (number < 0))
            if number >= 0:
                yield from (_asked(contender.name, number, *pair) for pair in answers.items())


def _three_questions(
    options: argparse.Namespace, contender: Http, image: str, questions: Sequence[str]
) -> dict[str, Answer]:
    def put(messages: list[dict[str, Any]]) -> Answer:
        time.sleep(PAUSE)
        return ask(contender.url, contender.model, messages, options.answer_tokens)

    conversation = [_about(image, questions[0])]
    first = put(conversation)
    conversation += [{"role": "assistant", "content": first.text}, {"role": "user", "content": questions[1]}]
    return {FIRST: first, SECOND: put(conversation), ELSEWHERE: put([_about(image, questions[2])])}


def _about(image: str, question: str) -> dict[str, Any]:
    parts = [{"type": "image_url", "image_url": {"url": image}}, {"type": "text", "text": question}]
    return {"role": "user", "content": parts}


def _asked(contender: str, image: int, question: str, answer: Answer) -> Asked:
    return Asked(
        contender=contender,
        image=image,
        question=question,
        ttft=answer.ttft,
        prompt_tokens=answer.prompt_tokens,
        cached_tokens=answer.cached_tokens,
    )


def again_table(asked: Sequence[Asked], size: int) -> str:
    header = (
        "server",
        "first question, TTFT ms",
        "second question, TTFT ms",
        "first / second",
        "cached of prompt tokens",
        "another conversation, TTFT ms",
        "first / another",
        "cached of prompt tokens",
    )
    rows = []
    for name in dict.fromkeys(one.contender for one in asked):
        own = {kind: [a for a in asked if (a.contender, a.question) == (name, kind)] for kind in (FIRST, SECOND)}
        own[ELSEWHERE] = [a for a in asked if (a.contender, a.question) == (name, ELSEWHERE)]
        middle = {kind: statistics.median(a.ttft for a in found) for kind, found in own.items()}
        row = [name, _with_range([a.ttft for a in own[FIRST]])]
        for kind in (SECOND, ELSEWHERE):
            cached, prompt = (
                statistics.median(getattr(a, field) for a in own[kind]) for field in ("cached_tokens", "prompt_tokens")
            )
            row += [_with_range([a.ttft for a in own[kind]]), f"{middle[FIRST] / middle[kind]:.1f}"]
            row.append(f"{cached:.0f} of {prompt:.0f}")
        rows.append(row)
    count = len({one.image for one in asked})
    title = f"### The same image again ({count} images of {size} pixels, {image_tokens(size)} tokens each)"
    return f"{title}\n\n{report.table(header, rows)}"


def _with_range(values: Sequence[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


def measure_load(options: argparse.Namespace, who: Sequence[Http], source: Iterator[str]) -> Iterator[Run]:
    """For each concurrency: everybody once with short answers to warm up, then A B A B."""
    for concurrency in options.concurrency:
        for repeat in range(-1, options.repeats):
            if repeat != 0 and options.budget.spent():
                break
            tokens = WARM_UP_TOKENS if repeat < 0 else options.max_tokens
            load = Load(
                concurrency, options.requests_per_client, options.question_tokens, tokens, False, time.time_ns()
            )
            clients = with_images(load.specs(), source)
            for contender in _running(who):
                results, cpu = contender.measure(clients)
                requests = [request for result in results for request in result.requests]
                busiest = max(result.cpu_seconds for result in results)
                run = summarise((contender.name, "greedy", concurrency, repeat), requests, tokens, cpu, busiest)
                _say(
                    f"load c={concurrency:<3} {contender.name:16} {run.tokens_per_second:7.1f} tok/s"
                    f"  TTFT p50 {run.ttft_p50:6.0f} ms  {run.seconds:5.1f} s" + "  (warm-up)" * (repeat < 0)
                )
                for request in requests:
                    request.times, request.counts = request.times[:1], []
                if repeat >= 0:
                    yield run


def load_table(runs: Sequence[Run], size: int) -> str:
    """Tokens/s are medians over the repeats; times are quantiles over the requests of all repeats."""
    header = (
        "clients",
        "server",
        "tokens/s (range)",
        "vs first",
        "TTFT p50 / p99 ms",
        "gap p50 / p99 / max ms",
        "prompt tokens",
    )
    rows = []
    for concurrency, name in dict.fromkeys((run.concurrency, run.contender) for run in runs):
        here = [run for run in runs if run.concurrency == concurrency]
        own = [run for run in here if run.contender == name]
        first = median([run for run in here if run.contender == here[0].contender], "tokens_per_second")
        speed, (low, high) = median(own, "tokens_per_second"), spread(own, "tokens_per_second")
        ttfts = [1000 * (r.times[0] - r.sent) for run in own for r in run.requests if r.times]
        prompt = sum(run.prompt_tokens for run in own) / sum(len(run.requests) for run in own)
        rows.append(
            [
                str(concurrency),
                name,
                f"{speed:.0f} ({low:.0f}-{high:.0f})",
                f"{speed / first:.2f}" if first else "-",
                f"{quantile(ttfts, 0.5):.0f} / {quantile(ttfts, 0.99):.0f}",
                f"{median(own, 'gap_p50'):.2f} / {median(own, 'gap_p99'):.1f} / {median(own, 'gap_max'):.1f}",
                f"{prompt:.0f}",
            ]
        )
    repeats = {c: len({run.repeat for run in runs if run.concurrency == c}) for c in {run.concurrency for run in runs}}
    counted = ", ".join(f"c={c}: {count}" for c, count in sorted(repeats.items()))
    title = (
        f"### Every request with an image of its own ({size} pixels, {image_tokens(size)} tokens; repeats {counted})"
    )
    return f"{title}\n\n{report.table(header, rows)}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


class Results(msgspec.Struct):
    environment: dict[str, object]
    again: list[Asked] = []
    load: list[Run] = []
    beside: list[arrivals.Arrivals] = []
    problems: list[str] = []

    def add(self, found: Asked | Run | arrivals.Arrivals | str) -> None:
        match found:
            case Asked():
                self.again.append(found)
            case Run():
                self.load.append(found)
                self.problems += [f"{found.contender} c={found.concurrency}: {problem}" for problem in found.problems]
            case arrivals.Arrivals():
                self.beside.append(found)
            case problem:
                self.problems.append(problem)


def measure(options: argparse.Namespace, who: Sequence[Http], results: Results) -> None:
    """Every scenario in turn. What is measured is written to ``--out`` at once; a table is printed when its scenario
    ends, however it does."""
    seed = time.time_ns()
    large, small = images(options.again_size, seed), images(options.image_size, seed + 1)
    scenarios: dict[str, Callable[[], Iterator[Asked | Run | arrivals.Arrivals | str]]] = {
        "again": lambda: measure_again(options, who, large),
        "load": lambda: measure_load(options, who, small),
        "beside": lambda: arrivals.measure(options, _running(who), small),
    }
    for name in options.scenarios:
        if options.budget.spent():
            results.problems.append(f"no time was left for {name}")
            continue
        try:
            for found in scenarios[name]():
                results.add(found)
                save(options.out, msgspec.structs.asdict(results))
        finally:
            print(_table(name, options, results) + "\n", flush=True)
            _say(f"{name} ended after {options.budget.used():.0f} s")


def _table(scenario: str, options: argparse.Namespace, results: Results) -> str:
    if scenario == "again":
        return again_table(results.again, options.again_size)
    if scenario == "load":
        return load_table(results.load, options.image_size)
    title = f"### {options.running} text streams while images of {options.image_size} pixels arrive"
    return f"{title}\n\n{arrivals.table(results.beside)}"


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to end"))  # the servers, too
    results = Results(environment(options))
    versions, gpu = results.environment["versions"], results.environment["gpu"]
    print(
        f"model {options.model} on {options.device}; {gpu or results.environment['platform']}; {versions}\n", flush=True
    )
    with contenders(options) as who:
        if not who:
            raise SystemExit("no server started")
        measure(options, who, results)
        stopped = [one.name for one in who if one.stopped]
    results.problems += [f"{name} took more than {options.patience:g} s for a measurement" for name in stopped]
    if results.problems:
        print("### PROBLEMS\n\n" + "\n".join(f"- {problem}" for problem in dict.fromkeys(results.problems)))
    save(options.out, msgspec.structs.asdict(results))


if __name__ == "__main__":
    main()
