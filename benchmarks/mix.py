"""Prompts of very different lengths: all sent at once, and one after the other. Together must not take longer."""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence

import msgspec

from benchmarks import report
from benchmarks.contenders import Contender
from quince.bench.figures import quantile
from quince.bench.workload import ClientSpec, RequestSpec, random_prompt


class Mix(msgspec.Struct, kw_only=True):
    """One repeat: seconds from the first request sent to the last answer ended, both ways."""

    contender: str
    repeat: int
    together: float
    one_by_one: float
    problems: list[str]


def measure(options: argparse.Namespace, who: Sequence[Contender]) -> Iterator[Mix]:
    for contender in who:
        _run(contender, _requests(options, seed=0), together=True)  # warm up
    for repeat in range(options.repeats):
        seed = time.time_ns()
        for contender in who:
            seconds, problems = [], []
            for together in (True, False):
                seed += 1  # other prompts: no cache helps
                taken, errors = _run(contender, _requests(options, seed), together=together)
                seconds.append(taken)
                problems += errors
            measured = Mix(
                contender=contender.name,
                repeat=repeat,
                together=seconds[0],
                one_by_one=seconds[1],
                problems=problems,
            )
            print(measured, file=sys.stderr, flush=True)
            yield measured


def _requests(options: argparse.Namespace, seed: int) -> list[RequestSpec]:
    source = random.Random(seed)
    return [RequestSpec(random_prompt(source, length), options.arrival_tokens) for length in options.mix_tokens]


def _run(contender: Contender, requests: list[RequestSpec], *, together: bool) -> tuple[float, list[str]]:
    clients = [ClientSpec([request]) for request in requests] if together else [ClientSpec(requests)]
    results = [request for result in contender.run(clients) for request in result.requests]
    seconds = max(one.ended for one in results) - min(one.sent for one in results)
    return seconds, [one.error for one in results if one.error]


def table(measured: Sequence[Mix]) -> str:
    header = ("server", "together s", "one by one s", "ratio (range)")
    rows = []
    for name in dict.fromkeys(one.contender for one in measured):
        own = [one for one in measured if one.contender == name]
        together, alone = (quantile([getattr(m, way) for m in own], 0.5) for way in ("together", "one_by_one"))
        ratios = [one.together / one.one_by_one for one in own]
        spread = f"{quantile(ratios, 0.5):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        rows.append([name, f"{together:.2f}", f"{alone:.2f}", spread])
    problems = sorted({problem for one in measured for problem in one.problems})
    return "\n".join([report.table(header, rows), "", *(f"PROBLEM: {problem}" for problem in problems[:10])])
