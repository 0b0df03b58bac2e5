"""Markdown tables from runs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from benchmarks.results import Run, median, spread

HEADER = (
    "server",
    "tokens/s (range)",
    "vs first",
    "TTFT p50 / max ms",
    "gap p50 / p99 / max ms",
    "API CPU ms/1000 tok",
    "engine CPU ms/1000 tok",
    "client CPU",
)
TEMPLATE_HEAD = 8  # tokens: the beginning of the chat template, which all prompts share


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def serving(runs: Sequence[Run]) -> str:
    """One table per mode and concurrency. Cells are medians over the repeats; ``vs first`` compares with its row."""
    parts = []
    for mode, concurrency in dict.fromkeys((run.mode, run.concurrency) for run in runs):
        here = [run for run in runs if (run.mode, run.concurrency) == (mode, concurrency)]
        names = list(dict.fromkeys(run.contender for run in here))
        first = median([run for run in here if run.contender == names[0]], "tokens_per_second")
        rows = [_row(name, [run for run in here if run.contender == name], first) for name in names]
        repeats = len({run.repeat for run in here})
        prompt = round(here[0].prompt_tokens / max(1, len(here[0].requests)))
        title = (
            f"### {mode}, c={concurrency} ({repeats} repeats, {len(here[0].requests)} requests, {prompt}-token prompts)"
        )
        parts.append(f"{title}\n\n{table(HEADER, rows)}")
    return "\n\n".join([*parts, *_memory(runs), *_problems(runs)])


def scaling(runs: Sequence[Run]) -> str:
    """Tokens/s of each server by concurrency (medians), as a multiple of the step before."""
    levels = sorted({run.concurrency for run in runs})
    rows = []
    for name, mode in dict.fromkeys((run.contender, run.mode) for run in runs):
        own = [[run for run in runs if (run.contender, run.mode, run.concurrency) == (name, mode, c)] for c in levels]
        speeds = [median(one, "tokens_per_second") for one in own]
        steps = [f"x {here / before:.2f}" for before, here in pairwise(speeds)]
        rows.append([name, mode, f"{speeds[0]:.0f}", *steps])
    header = ("server", "mode", f"tokens/s at c={levels[0]}", *(f"c={level}" for level in levels[1:]))
    return f"### Each concurrency against the one before\n\n{table(header, rows)}"


def _row(name: str, runs: Sequence[Run], first: float) -> list[str]:
    low, high = spread(runs, "tokens_per_second")
    speed = median(runs, "tokens_per_second")
    return [
        name,
        f"{speed:.0f} ({low:.0f}-{high:.0f})",
        f"{speed / first:.2f}",
        f"{median(runs, 'ttft_p50'):.0f} / {median(runs, 'ttft_max'):.0f}",
        f"{median(runs, 'gap_p50'):.2f} / {median(runs, 'gap_p99'):.2f} / {median(runs, 'gap_max'):.1f}",
        f"{median(runs, 'api_ms_per_1000'):.0f}",
        _or_none(median(runs, "engine_ms_per_1000")),
        f"{100 * median(runs, 'client_cpu'):.0f} %",
    ]


def _or_none(value: float) -> str:
    return f"{value:.0f}" if value else "-"


def _memory(runs: Sequence[Run]) -> list[str]:
    names = list(dict.fromkeys(run.contender for run in runs))
    rows = []
    for name in names:
        own = [run for run in runs if run.contender == name]
        api, engine = (max(getattr(run, field) for run in own) for field in ("api_peak_rss", "engine_peak_rss"))
        rows.append([name, _or_none(api), _or_none(engine)])
    return ["### Peak resident memory (MB, host)\n\n" + table(("server", "API process", "engine process"), rows)]


def _problems(runs: Sequence[Run]) -> list[str]:
    found = [f"- {r.contender} {r.mode} c={r.concurrency} repeat {r.repeat}: {p}" for r in runs for p in r.problems]
    cached = {run.contender: run.cached_tokens for run in runs if run.cached_tokens > TEMPLATE_HEAD * len(run.requests)}
    found += [f"- {name}: a prefix cache served {count} prompt tokens of one run" for name, count in cached.items()]
    return ["### PROBLEMS (figures of these runs do not count)\n\n" + "\n".join(found[:20])] if found else []
