"""The sampler alone: what drawing the next tokens takes, by MLX's operations and by the kernel that CUDA has for it.

python -m benchmarks.sampling --rows 1 8 32
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import mlx.core as mx

from benchmarks import report
from quince.engine.core import sample_kernel
from quince.engine.penalties import RowHistory
from quince.engine.sampler import Sampler
from quince.sampling import SamplingParams

STEPS = 60  # that are handed over one behind the other, before the last is waited for
SPREAD = 3  # of the logits, which are normally distributed

KINDS: dict[str, Callable[[int], SamplingParams]] = {
    "greedy": lambda row: SamplingParams(max_tokens=1),
    "temperature": lambda row: SamplingParams(max_tokens=1, temperature=0.7, seed=row),
    "top_p": lambda row: SamplingParams(max_tokens=1, temperature=0.7 + row / 100, top_p=0.9, seed=row),
    "top_k, top_p": lambda row: SamplingParams(max_tokens=1, temperature=0.7, top_k=20, top_p=0.9, seed=row),
}


def measure(sampler: Sampler, logits: mx.array, params: list[SamplingParams], repeats: int) -> float:
    """Milliseconds a step, of the best repeat."""
    sampler.set_rows([RowHistory(row, None) for row in params])
    best = float("inf")
    for repeat in range(repeats + 1):  # the first warms up
        started = time.perf_counter()
        for step in range(STEPS):
            tokens = sampler.sample(logits, [repeat * STEPS + step] * len(params)).token_ids
            mx.async_eval(tokens)  # type: ignore[no-untyped-call]
        mx.eval(tokens)
        best = min(best, time.perf_counter() - started) if repeat else best
    return 1000 * best / STEPS


def main() -> None:
    options = parse()
    kernel = sample_kernel()
    rows = []
    for count in options.rows:
        logits = (SPREAD * mx.random.normal((count, options.vocabulary))).astype(getattr(mx, options.dtype))
        mx.eval(logits)
        for name, kind in KINDS.items():
            params = [kind(row) for row in range(count)]
            samplers = (Sampler(), *(() if kernel is None else (Sampler(kernel),)))
            times = [measure(sampler, logits, params, options.repeats) for sampler in samplers]
            rows.append([str(count), name, *(f"{milliseconds:.3f}" for milliseconds in times)])
    header = ("rows", "sampling", "by operations, ms", *(() if kernel is None else ("by the kernel, ms",)))
    print(f"{options.vocabulary} logits in {options.dtype} on {mx.default_device()}\n")
    print(report.table(header, rows))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.sampling", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--rows", type=int, nargs="+", default=[1, 8, 32])
    add("--vocabulary", type=int, default=151_936)
    add("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    add("--repeats", type=int, default=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
