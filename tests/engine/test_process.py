"""The loop of the engine process, with a core and a socket that only take notes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable
from typing import Any

from quince.engine.messages import AddRequest, EngineStats, Output
from quince.engine.process import EngineServer
from quince.sampling import SamplingParams


class FakeRunner:
    def __init__(self) -> None:
        self.released = 0

    def release_memory(self) -> None:
        self.released += 1


class FakeCore:
    """Every request takes one step."""

    def __init__(self) -> None:
        self.runner = FakeRunner()
        self.waiting: list[Any] = []

    def add(self, message: Any) -> None:
        self.waiting.append(message)

    def abort(self, request_ids: Iterable[str]) -> None: ...

    def has_work(self) -> bool:
        return bool(self.waiting)

    def is_compiling(self) -> bool:
        return False

    def step(self) -> list[Output]:
        return [Output(self.waiting.pop().request_id, token_ids=[1])]

    def fail_step(self, error: str) -> list[Output]:
        raise AssertionError(error)

    def stats(self, *, active_memory: int, peak_memory: int) -> EngineStats:
        return EngineStats(running=0, waiting=0, steps=0, active_memory=active_memory, peak_memory=peak_memory)

    def close(self, seconds: float) -> None: ...


class FakeEnding:
    """``begun`` when the socket's script is over; what is behind it is not reached."""

    begun = False

    def complete(self) -> None:
        raise EndOfScript


class EndOfScript(Exception):
    pass


class FakeSocket:
    """Plays a script: seconds until the next message comes, if the engine waits for so long."""

    def __init__(self, script: list[float], ending: FakeEnding) -> None:
        self._script = script
        self._ending = ending
        self.timeouts: list[float | None] = []
        self.sent = 0

    def receive(self, *, wait: bool, timeout: float | None = None) -> list[Any]:
        if not wait:
            return []
        self.timeouts.append(timeout)
        if not self._script:
            self._ending.begun = True
            return []
        pause = self._script[0]
        if timeout is not None and timeout < pause:
            time.sleep(timeout)
            self._script[0] = pause - timeout
            return []
        self._script.pop(0)
        return [AddRequest(f"request-{len(self._script)}", [1, 2], SamplingParams(max_tokens=1))]

    def send(self, message: Any) -> None:
        self.sent += 1


def serve(script: list[float], *, memory_kept: float) -> tuple[FakeCore, FakeSocket]:
    core, ending = FakeCore(), FakeEnding()
    socket = FakeSocket(script, ending)
    server = EngineServer(core, socket, ending, memory_kept=memory_kept)  # type: ignore[arg-type]
    with contextlib.suppress(EndOfScript):
        server.serve()
    return core, socket


def test_memory_is_kept_for_the_next_request() -> None:
    core, socket = serve([0, 0, 0], memory_kept=60)
    assert (socket.sent, core.runner.released) == (3, 0)
    assert all(timeout is not None and 50 < timeout <= 60 for timeout in socket.timeouts)


def test_memory_is_released_once_when_nothing_comes() -> None:
    core, socket = serve([0, 0.2], memory_kept=0.05)
    assert (socket.sent, core.runner.released) == (2, 1)
    assert None in socket.timeouts, "then it sleeps for as long as nothing comes"
