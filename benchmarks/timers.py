"""Times the phases of a step from outside: methods are wrapped, and a phase's time leaves out the phases within it."""

from __future__ import annotations

import functools
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

TOTAL = "total"


class Phases:
    """Seconds per phase and step. Used by one thread."""

    def __init__(self) -> None:
        self.steps: list[dict[str, float]] = []
        self.missing: list[str] = []
        self._current: dict[str, float] = defaultdict(float)
        self._inner: list[float] = []
        self._undo: list[Callable[[], None]] = []

    def wrap(self, owner: Any, name: str, phase: str) -> None:
        """Count the time of ``owner.name`` (a class's method or a module's function) as ``phase``."""
        original = vars(owner).get(name)
        if not callable(original):
            self.missing.append(f"{getattr(owner, '__name__', owner)}.{name}")
            return

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            return self.call(phase, original, *args, **kwargs)

        setattr(owner, name, timed)
        self._undo.append(lambda: setattr(owner, name, original))

    def call(self, phase: str, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._inner.append(0.0)
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            elapsed = time.perf_counter() - start
            self._current[phase] += elapsed - self._inner.pop()
            if self._inner:
                self._inner[-1] += elapsed

    def step(self, function: Callable[..., Any], *args: Any) -> Any:
        """Run one step; what no phase accounts for is ``rest``."""
        self._current = defaultdict(float)
        start = time.perf_counter()
        result = self.call("rest", function, *args)
        self._current[TOTAL] = time.perf_counter() - start
        self.steps.append(dict(self._current))
        return result

    def restore(self) -> None:
        while self._undo:
            self._undo.pop()()
