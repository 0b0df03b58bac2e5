"""What a model's engines have done, all of their lives together: engines die and models are unloaded, counts go on."""

from __future__ import annotations

import enum
from collections import Counter

import msgspec

from quince.engine.messages import EngineStats

# What is so now, not counted since the engine started.
_NOW = frozenset(
    {"running", "waiting", "active_memory", "peak_memory", "cache_bytes", "kv_bytes", "kv_limit", "disk_bytes"}
)


class Death(enum.Enum):
    """Why an engine process ended that nobody had stopped. HUNG: it was killed, having made no progress."""

    DIED = "died"
    HUNG = "hung"
    LOAD_FAILED = "load_failed"


class EngineHistory:
    """``name`` is the model's, for logs."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.restarts = 0
        self.deaths: Counter[Death] = Counter()
        self._past = EngineStats()

    def end(self, last: EngineStats) -> None:
        """A life of an engine is over, of which this was the last to be heard."""
        self._past = self.total(last)

    def total(self, now: EngineStats) -> EngineStats:
        """With the counts of all lives, and the rest as ``now`` has it."""
        sums = {name: getattr(self._past, name) + getattr(now, name) for name in _COUNTS}
        return msgspec.structs.replace(now, **sums)


_COUNTS = [name for name in EngineStats.__struct_fields__ if name not in _NOW]
