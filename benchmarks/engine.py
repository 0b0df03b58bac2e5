"""The engine alone, in one process: where a step's time goes, beside mlx-lm's BatchGenerator.

python -m benchmarks.engine steps   --model 0.6b         per phase, steady decode and with joins and leaves
python -m benchmarks.engine waiting --model tiny         a step's cost against the number of waiting requests
python -m benchmarks.engine api                          the API process's cost per token (its engine is a stub)
"""

from __future__ import annotations

import argparse
import functools
import gc
import itertools
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from benchmarks import api_cost, report
from benchmarks.models import BYTES, SHAPES, ensure
from benchmarks.timers import TOTAL, Phases
from quince.bench.figures import quantile

PHASES = (
    "schedule",
    "kept",
    "rows",
    "model graph",
    "prefill graph",
    "decode graph",
    "sampling graph",
    "wait",
    "start",
    "update",
    "encode",
    "rest",
    TOTAL,
)
ENDLESS = 10**6
PREFIX_CACHE_BYTES = 2**28


class Outcome(msgspec.Struct, kw_only=True):
    """Milliseconds per phase of every measured step, by phase."""

    engine: str
    mode: str
    batch: int
    scenario: str
    waiting: int = 0
    tokens: int
    seconds: float
    phases: dict[str, list[float]]


class Prompts:
    """Random prompts as token ids, each different."""

    def __init__(self, length: int) -> None:
        self._random = random.Random(length)
        self._length = length
        self._numbers = itertools.count()

    def __next__(self) -> list[int]:
        return [self._random.randrange(BYTES, BYTES + 1700) for _ in range(self._length)]

    def name(self) -> str:
        return f"chatcmpl-{next(self._numbers):032x}"


@functools.cache
def load_plain(path: Path) -> Any:
    """The model as mlx-lm loads it."""
    from mlx_lm.utils import load_model

    return load_model(path)[0]


@functools.cache
def load_prepared(path: Path) -> Any:
    """The model as an engine process loads it."""
    from quince.engine.device import gains_from_fused_projections
    from quince.engine.forward import TextForward
    from quince.engine.fused_projections import fuse_projections
    from quince.engine.loader import load

    model = load(path, max_model_len=None).model
    if gains_from_fused_projections():
        fuse_projections(TextForward(model), model)
    return model


class Quince:
    """EngineCore, driven as the engine process drives it, without the socket."""

    name = "Quince"

    def __init__(self, path: Path, *, max_running: int, chunk: int | None) -> None:
        from quince.engine.core import CoreConfig, make_core
        from quince.engine.device import CHUNK, prefill_tokens
        from quince.engine.forward import TextForward
        from quince.engine.messages import StepOutput
        from quince.engine.structured import GrammarCompiler

        self.model = load_prepared(path)
        self._encode = msgspec.msgpack.Encoder().encode
        self._step_output = StepOutput
        grammars = GrammarCompiler(path / "tokenizer.json", BYTES)
        self.core = make_core(
            TextForward(self.model),
            BYTES,
            grammars,
            CoreConfig(max_running, chunk or CHUNK, chunk or prefill_tokens(), prefix_cache_bytes=PREFIX_CACHE_BYTES),
        )
        self._finished = 0

    def add(self, prompts: Prompts, max_tokens: int, *, sampled: bool) -> None:
        from quince.engine.messages import AddRequest
        from quince.sampling import SamplingParams

        number = random.randrange(21)
        kind = {"temperature": 0.6 + 0.01 * number, "top_p": 0.86 + 0.004 * number} if sampled else {}
        sampling = SamplingParams(max_tokens=max_tokens, seed=number, **kind)  # type: ignore[arg-type]
        self.core.add(AddRequest(prompts.name(), next(prompts), sampling))

    def step(self) -> tuple[int, int]:
        """Returns how many tokens came and how many requests ended."""
        outputs = self.core.step()
        self.encode(outputs)
        tokens = sum(len(output.token_ids) for output in outputs)
        return tokens, sum(output.finish_reason is not None for output in outputs)

    def encode(self, outputs: list[Any]) -> None:
        self._encode(self._step_output(outputs, self.core.stats()))

    def instrument(self, phases: Phases) -> None:
        from quince.engine import model_runner
        from quince.engine.decode_group import DecodeGroup
        from quince.engine.sampler import Sampler
        from quince.engine.scheduler import Scheduler
        from quince.engine.snapshots import SnapshotStore

        runner = model_runner.ModelRunner
        launched = vars(model_runner).get("_Launched", object)
        for owner, name, phase in (
            (Scheduler, "schedule", "schedule"),
            (Scheduler, "update", "update"),
            (runner, "_operate", "kept"),
            (SnapshotStore, "settle", "kept"),
            (runner, "_change_rows", "rows"),
            (DecodeGroup, "_gather_inputs", "rows"),
            (runner, "_prefill", "prefill graph"),
            (runner, "_decode", "decode graph"),
            (Sampler, "sample", "sampling graph"),
            (launched, "wait", "wait"),
            (launched, "start", "start"),
            (type(self.model), "__call__", "model graph"),
            (type(self), "encode", "encode"),
        ):
            phases.wrap(owner, name, phase)


class MlxLm:
    """mlx-lm's BatchGenerator."""

    name = "BatchGenerator"

    def __init__(self, path: Path, *, max_running: int, chunk: int | None) -> None:
        from mlx_lm.generate import BatchGenerator

        self.model = load_plain(path)
        steps = {} if chunk is None else {"prefill_step_size": chunk}
        self.generator = BatchGenerator(self.model, completion_batch_size=max_running, **steps)

    def add(self, prompts: Prompts, max_tokens: int, *, sampled: bool) -> None:
        from mlx_lm.sample_utils import make_sampler

        number = random.randrange(21)
        sampler = make_sampler(0.6 + 0.01 * number, top_p=0.86 + 0.004 * number) if sampled else make_sampler(0.0)
        self.generator.insert([next(prompts)], [max_tokens], samplers=[sampler])

    def step(self) -> tuple[int, int]:
        _, responses = self.generator.next()
        return len(responses), sum(response.finish_reason is not None for response in responses)

    def instrument(self, phases: Phases) -> None:
        import mlx.core as mx

        phases.wrap(type(self.model), "__call__", "model graph")
        phases.wrap(mx, "async_eval", "start")
        phases.wrap(mx, "eval", "wait")


Engine = Quince | MlxLm


def steady(engine: Engine, prompts: Prompts, batch: int, *, sampled: bool, steps: int) -> tuple[int, int]:
    """``batch`` rows that only decode. Returns the tokens of the measured steps and their nanoseconds."""
    for _ in range(batch):
        engine.add(prompts, ENDLESS, sampled=sampled)
    while engine.step()[0] < batch:
        pass
    for _ in range(10):
        engine.step()
    return _measure(engine.step, steps, lambda ended: None)


def uneven(engine: Engine, prompts: Prompts, batch: int, *, sampled: bool, steps: int) -> tuple[int, int]:
    """The same with rows that came one after the other: none is as long as another."""
    for _ in range(batch):
        engine.add(prompts, ENDLESS, sampled=sampled)
        engine.step()
    while engine.step()[0] < batch:
        pass
    for _ in range(10):
        engine.step()
    return _measure(engine.step, steps, lambda ended: None)


def churn(engine: Engine, prompts: Prompts, batch: int, *, sampled: bool, steps: int) -> tuple[int, int]:
    """``batch`` rows with answers of 16 to 64 tokens: whoever ends is replaced by a new prompt at once."""

    def replace(ended: int) -> None:
        for _ in range(ended):
            engine.add(prompts, random.randrange(16, 65), sampled=sampled)

    replace(batch)
    while engine.step()[0] < batch // 2 + 1:
        pass
    return _measure(engine.step, steps, replace)


def _measure(step: Callable[[], tuple[int, int]], steps: int, after: Callable[[int], None]) -> tuple[int, int]:
    tokens, start = 0, time.perf_counter_ns()
    for _ in range(steps):
        came, ended = step()
        tokens += came
        after(ended)
    return tokens, time.perf_counter_ns() - start


SCENARIOS = {"steady": steady, "uneven": uneven, "joins and leaves": churn}


def measure(options: argparse.Namespace, kind: type[Engine], labels: tuple[str, str, int]) -> Outcome:
    """A fresh engine, measured twice: untouched for the total and the tokens/s, then with its phases timed."""
    import mlx.core as mx

    scenario, mode, batch = labels
    totals: list[Phases] = []
    for instrumented in (False, True):
        engine = kind(options.path, max_running=max(8, batch), chunk=options.chunk)
        phases = Phases()
        if instrumented:
            engine.instrument(phases)
        engine.step = functools.partial(phases.step, engine.step)  # type: ignore[method-assign]
        random.seed(1)
        run = SCENARIOS[scenario]
        counted = run(engine, Prompts(options.prompt_tokens), batch, sampled=mode == "sampled", steps=options.steps)
        if not instrumented:
            tokens, nanoseconds = counted
        phases.restore()
        totals.append(phases)
        del engine
        gc.collect()
        mx.clear_cache()
    if totals[1].missing:
        print(f"not found, counted as part of what calls them: {totals[1].missing}", file=sys.stderr)
    return _outcome(options, (kind.name, *labels), totals, tokens, nanoseconds / 1e9)


def _outcome(
    options: argparse.Namespace, labels: tuple[str, str, str, int], totals: list[Phases], tokens: int, seconds: float
) -> Outcome:
    engine, scenario, mode, batch = labels
    timed = totals[1].steps[-options.steps :]
    phases = {name: [1000 * step.get(name, 0.0) for step in timed] for name in PHASES}
    phases[TOTAL] = [1000 * step[TOTAL] for step in totals[0].steps[-options.steps :]]
    return Outcome(
        engine=engine, scenario=scenario, mode=mode, batch=batch, tokens=tokens, seconds=seconds, phases=phases
    )


def measure_steps(options: argparse.Namespace) -> Iterator[Outcome]:
    for scenario, mode, batch in itertools.product(options.scenarios, options.modes, options.batch):
        for kind in (Quince, MlxLm):
            yield measure(options, kind, (scenario, mode, batch))


def steps_table(outcomes: Sequence[Outcome]) -> str:
    shown = [name for name in PHASES if any(sum(o.phases[name]) > 0 for o in outcomes)]
    header = ("scenario", "mode", "batch", "engine", "tokens/s", *shown[:-1], "total p50", "p99", "max")
    rows = []
    for o in outcomes:
        means = [sum(o.phases[name]) / max(1, len(o.phases[name])) for name in shown[:-1]]
        total = o.phases[TOTAL]
        ends = [quantile(total, 0.5), quantile(total, 0.99), max(total)]
        cells = [o.scenario, o.mode, str(o.batch), o.engine, f"{o.tokens / o.seconds:.0f}"]
        rows.append([*cells, *(f"{value:.3f}" if value else "-" for value in means), *(f"{end:.2f}" for end in ends)])
    return report.table(header, rows)


def measure_waiting(options: argparse.Namespace) -> Iterator[Outcome]:
    """Quince's steps with 8 rows decoding and more and more requests waiting."""
    for waiting in options.waiting:
        engine = Quince(options.path, max_running=8, chunk=options.chunk)
        prompts = Prompts(options.prompt_tokens)
        phases = Phases()
        for _ in range(8):
            engine.add(prompts, ENDLESS, sampled=False)
        while engine.step()[0] < 8:
            pass
        for _ in range(waiting):
            engine.add(prompts, ENDLESS, sampled=False)
        engine.instrument(phases)
        tokens, nanoseconds = _measure(functools.partial(phases.step, engine.step), options.steps, lambda ended: None)
        phases.restore()
        values = {name: [1000 * step.get(name, 0.0) for step in phases.steps] for name in PHASES}
        yield Outcome(
            engine=engine.name,
            mode="greedy",
            batch=8,
            scenario="waiting",
            waiting=waiting,
            tokens=tokens,
            seconds=nanoseconds / 1e9,
            phases=values,
        )


def waiting_table(outcomes: Sequence[Outcome]) -> str:
    rows = []
    for o in outcomes:
        own = [sum(step) for step in zip(o.phases["schedule"], o.phases["update"], o.phases["encode"], strict=True)]
        cells = [
            quantile(own, 0.5),
            quantile(own, 0.99),
            quantile(o.phases[TOTAL], 0.5),
            quantile(o.phases[TOTAL], 0.99),
        ]
        rows.append([str(o.waiting), *(f"{cell:.4f}" for cell in cells)])
    header = ("waiting", "schedule + update + encode p50 ms", "p99", "step p50 ms", "p99")
    return report.table(header, rows)


def main() -> None:
    options = parse()
    if options.what == "api":
        api_cost.main(options)
        return
    options.path = ensure(options.model, options.models_dir) if options.model in SHAPES else Path(options.model)
    options.prompt_tokens = options.prompt_tokens or (40 if options.model == "tiny" else 460)
    show = steps_table if options.what == "steps" else waiting_table
    outcomes: list[Outcome] = []
    for outcome in measure_steps(options) if options.what == "steps" else measure_waiting(options):
        outcomes.append(outcome)
        print(show([outcome]), file=sys.stderr, flush=True)
    print("Means per phase in ms, phases timed in a run of their own; total and tokens/s in a run without timers.\n")
    print(show(outcomes))
    if options.out:
        options.out.write_bytes(msgspec.json.encode(outcomes))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.engine", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("what", choices=("steps", "waiting", "api"))
    add("--model", default="tiny", help=f"one of {', '.join(SHAPES)}, or a directory")
    add("--models-dir", type=Path, default=Path(tempfile.gettempdir()) / "quince-benchmark-models")
    add("--batch", type=int, nargs="+", default=[1, 8, 32])
    add("--modes", nargs="+", choices=("greedy", "sampled"), default=["greedy", "sampled"])
    add("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS))
    add("--prompt-tokens", type=int, help="[40 for tiny, else 460]")
    add("--steps", type=int, default=200, help="steps that are measured")
    add("--chunk", type=int, help="prefill_chunk_size and prefill_step_size [each engine's own]")
    add("--waiting", type=int, nargs="+", default=[0, 10, 100, 1000])
    add("--lengths", type=int, nargs="+", default=[128, 512, 2048, 8192], help="api: lengths of one stream's answer")
    add("--streams", type=int, nargs="+", default=[1, 4, 16, 64], help="api: concurrent streams")
    add("--rate", type=float, default=2000.0, help="api: tokens/s of all streams together")
    add("--out", type=Path, help="write all results as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
