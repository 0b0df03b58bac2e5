"""Figures from raw results."""

from __future__ import annotations

from collections.abc import Sequence

from quince.bench.workload import RequestResult


def quantile(values: Sequence[float], share: float) -> float:
    """Nearest rank: a value that occurred. NaN if there are none."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def gaps(request: RequestResult, *, since: float = 0.0, until: float = float("inf")) -> list[float]:
    """Milliseconds between tokens that came after the first piece of text, for gaps that end in [since, until].

    A piece with k tokens makes k gaps: one of the time since the piece before, and k - 1 of zero.
    """
    found: list[float] = []
    for before, now, count in zip(request.times, request.times[1:], request.counts[1:], strict=False):
        if since <= now <= until:
            found.append(1000 * (now - before))
            found += [0.0] * (count - 1)
    return found
