"""How much memory models may take together, and how much one will: asked before it is loaded. No MLX here."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Python, MLX and its kernels in an engine process without weights.
ENGINE_OVERHEAD = 256 * 2**20
# Beside the weights, for the KV cache of a few requests and a prefill's intermediates.
WORKING_ROOM = 0.1
# Of the machine's memory: Metal recommends about three quarters to the GPU, and the system needs the rest.
BUDGET_SHARE = 0.75
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def estimate(weights: int) -> int:
    """Bytes that a model with so many bytes of weights takes once it is loaded and serves a little."""
    return ENGINE_OVERHEAD + int(weights * (1 + WORKING_ROOM))


def share(estimate: int, free: int, expected: Sequence[int]) -> int:
    """Of ``free`` bytes, what an engine of this estimate may take: half of what is left once it and those that are
    ``expected`` beside it, by their estimates, have their room; of these, as many as fit, the smallest first."""
    spare = free - estimate
    for other in sorted(expected):
        if other > spare:
            break
        spare -= other
    return estimate + spare // 2


def default_budget() -> int:
    """Bytes that models may take on this machine, if nothing was said."""
    return int(BUDGET_SHARE * min([_physical(), *_container_limits()]))


def gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


def _physical() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _container_limits() -> list[int]:
    if sys.platform != "linux":
        return []
    limits = []
    for path in _CGROUP_LIMITS:
        try:
            text = Path(path).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            continue
        if text.isdecimal():  # else "max"
            limits.append(int(text))
    return limits
