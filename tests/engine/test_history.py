"""Counts go on over the lives of engines, the rest is as it is now."""

from __future__ import annotations

from quince.engine.history import EngineHistory
from quince.engine.messages import EngineStats


def test_counts_of_all_lives() -> None:
    history = EngineHistory("m")
    first = EngineStats(running=2, waiting=1, steps=10, prompt_tokens=100, preemptions=1, cache_bytes=7, kv_limit=9)
    assert history.total(first) == first
    history.end(first)
    history.end(EngineStats())  # stopped twice
    assert history.total(EngineStats()) == EngineStats(steps=10, prompt_tokens=100, preemptions=1)
    second = EngineStats(running=1, steps=5, prompt_tokens=50, cached_tokens=3, active_memory=8, kv_bytes=4)
    total = EngineStats(
        running=1, steps=15, prompt_tokens=150, preemptions=1, cached_tokens=3, active_memory=8, kv_bytes=4
    )
    assert history.total(second) == total == history.total(second)
