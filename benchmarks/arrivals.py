"""How much running streams feel new prompts: their gaps while prompts arrive steadily, and while none do."""

from __future__ import annotations

import argparse
import itertools
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from benchmarks import report
from benchmarks.contenders import Contender
from quince.bench.figures import gaps, quantile
from quince.bench.workload import ARRIVING, RUNNING, ClientSpec, Load, RequestResult, with_images

# Enough to warm up a device that compiles nothing for the shapes that come.
BRIEF = {"running_tokens": 64, "arrivals": 4, "arrival_prompt_tokens": None, "arrival_delay": 0.5}


# What a gap may be (ms), or so many times what it is at the same place of an answer that nothing disturbs.
TARGET, FACTOR = 100.0, 3
STRETCH = 250  # pieces of an answer that count as the same place


class Arrivals(msgspec.Struct, kw_only=True):
    """One measurement. Gaps are the running streams', in ms, from the first arrival to the end of the last one;
    ``in_target`` is the share of them that keep the target. ``afterwards``: the mean time of a token once the last
    arrival has ended, relative to that before the first one; 1 is what it grows by undisturbed."""

    contender: str
    repeat: int
    arriving: bool
    gap_p50: float
    gap_p99: float
    gap_max: float
    in_target: float
    afterwards: float
    gaps: int
    ttft_p50: float
    problems: list[str]


def measure(
    options: argparse.Namespace, who: Sequence[Contender], images: Iterator[str] | None = None
) -> Iterator[Arrivals]:
    """``images``: where every prompt that arrives takes its own from."""
    warm_up = options if "gpu" in options.device else argparse.Namespace(**{**vars(options), **BRIEF})
    for contender in who:
        _run(warm_up, contender, seed=0, arriving=_arriving(warm_up, 0, images))
    for repeat in range(options.repeats):
        seed = 2 * time.time_ns()
        arriving = _arriving(options, seed, images)
        for contender in who:
            undisturbed = _run(options, contender, seed=seed, arriving=[])
            for clients in ([], arriving):
                results = _run(options, contender, seed=seed + 1, arriving=clients) if clients else undisturbed
                measured = _summarise(options, (contender.name, repeat, bool(clients)), results, undisturbed)
                print(measured, file=sys.stderr, flush=True)
                yield measured


def _arriving(options: argparse.Namespace, seed: int, images: Iterator[str] | None) -> list[ClientSpec]:
    words = options.arrival_prompt_tokens or options.prompt_tokens
    load = Load(options.arrivals, 1, words, options.arrival_tokens, options.modes == ["sampled"], seed)
    clients = load.specs(tag=ARRIVING, offset=options.arrival_delay, interval=options.arrival_interval)
    return clients if images is None else with_images(clients, images)


def _run(
    options: argparse.Namespace, contender: Contender, *, seed: int, arriving: list[ClientSpec]
) -> list[RequestResult]:
    sampled = options.modes == ["sampled"]
    clients = Load(options.running, 1, options.prompt_tokens, options.running_tokens, sampled, seed).specs()
    return [request for result in contender.run(clients + arriving) for request in result.requests]


def _targets(undisturbed: Sequence[RequestResult]) -> list[float]:
    """What a gap may be in each stretch of an answer."""
    longest = max(len(result.times) for result in undisturbed)
    found = []
    for start in range(0, longest, STRETCH):
        there = [result.times[start : start + STRETCH + 1] for result in undisturbed]
        usual = quantile([1000 * (b - a) for times in there for a, b in itertools.pairwise(times)], 0.5)
        found.append(max(TARGET, FACTOR * usual))
    return found


def _summarise(
    options: argparse.Namespace,
    labels: tuple[str, int, bool],
    results: Sequence[RequestResult],
    undisturbed: Sequence[RequestResult],
) -> Arrivals:
    targets = _targets(undisturbed)
    running = [r for r in results if r.tag == RUNNING]
    arriving = [r for r in results if r.tag == ARRIVING]
    start = min(r.sent for r in running) + options.arrival_delay
    until = max((r.ended for r in arriving), default=float("inf"))
    found = [gap for r in running for gap in gaps(r, since=start, until=until)]
    kept = [
        1000 * (after - before) <= targets[min(place // STRETCH, len(targets) - 1)]
        for r in running
        for place, (before, after) in enumerate(itertools.pairwise(r.times))
        if start <= after <= until
    ]
    problems = [r.error for r in results if r.error]
    ended = min(r.ended for r in running)
    if arriving and ended < until:
        problems.append(f"a running stream ended {until - ended:.1f} s before the last arrival: use --running-tokens")
    return Arrivals(
        contender=labels[0],
        repeat=labels[1],
        arriving=labels[2],
        gap_p50=quantile(found, 0.5),
        gap_p99=quantile(found, 0.99),
        gap_max=max(found, default=float("nan")),
        in_target=sum(kept) / len(kept) if kept else float("nan"),
        afterwards=_afterwards(running, undisturbed, start, until),
        gaps=len(found),
        ttft_p50=quantile([1000 * (r.times[0] - r.sent) for r in arriving if r.times], 0.5),
        problems=problems,
    )


def _afterwards(
    running: Sequence[RequestResult], undisturbed: Sequence[RequestResult], first_arrival: float, last_end: float
) -> float:
    """Whether streams that have made room are as fast again. Two runs' streams are not alike, so each run is compared
    with itself: by how much a token's time has grown from before the arrivals to after them, and undisturbed from and
    to the same places. Not a number if there is nothing before or after."""
    growth = []
    for results in (running, undisturbed):
        before, after = _TokenTime(), _TokenTime()
        for result, disturbed in zip(results, running, strict=True):
            pieces = zip(result.times, result.times[1:], result.counts[1:], disturbed.times[1:], strict=False)
            for start, end, tokens, now in pieces:
                if now < first_arrival:
                    before.add(end - start, tokens)
                elif now > last_end:
                    after.add(end - start, tokens)
        growth.append(after.mean / before.mean)
    return growth[0] / growth[1]


@dataclass
class _TokenTime:
    seconds: float = 0.0
    tokens: int = 0

    def add(self, seconds: float, tokens: int) -> None:
        self.seconds += seconds
        self.tokens += tokens

    @property
    def mean(self) -> float:
        return self.seconds / self.tokens if self.tokens else float("nan")


def table(measured: Sequence[Arrivals]) -> str:
    header = (
        "server",
        "arriving",
        "gap p50 ms",
        "p99 ms",
        "max ms",
        "p99 / p50",
        "in target",
        "afterwards",
        "TTFT p50 of arrivals ms",
    )
    rows = []
    for name, arriving in dict.fromkeys((m.contender, m.arriving) for m in measured):
        own = [m for m in measured if (m.contender, m.arriving) == (name, arriving)]
        fields = ("gap_p50", "gap_p99", "gap_max", "in_target", "ttft_p50")
        p50, p99, top, kept, ttft = (quantile([getattr(m, field) for m in own], 0.5) for field in fields)
        ratio = quantile([m.gap_p99 / m.gap_p50 for m in own if m.gap_p50], 0.5)
        later = quantile([m.afterwards for m in own if not math.isnan(m.afterwards)], 0.5)
        last = [f"{later:.3f}", f"{ttft:.0f}"] if arriving else ["-", "-"]
        cells = [name, "yes" if arriving else "none"]
        rows.append([*cells, f"{p50:.2f}", f"{p99:.2f}", f"{top:.1f}", f"{ratio:.2f}", f"{100 * kept:.2f} %", *last])
    problems = sorted({problem for m in measured for problem in m.problems})
    return "\n".join([report.table(header, rows), "", *(f"PROBLEM: {problem}" for problem in problems[:10])])
