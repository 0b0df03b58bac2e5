"""Quince's API process with an engine that computes nothing: it hands out tokens at a steady rate.

python -m benchmarks.stub serve MODEL PORT RATE      the server, RATE tokens/s over all streams
python -m benchmarks.stub engine RATE                its engine process
"""

from __future__ import annotations

import functools
import os
import sys
import threading
import time

import msgspec

from benchmarks.models import BYTES
from quince.engine.ipc import EngineSocket
from quince.engine.messages import (
    Abort,
    AddRequest,
    EngineConfig,
    EngineStats,
    FinishReason,
    Output,
    Ready,
    StepOutput,
)

WORDS = 1700


def serve(model: str, port: str, rate: str) -> None:
    """``quince serve``, except for the command that starts the engine."""
    from quince.cli.main import app
    from quince.models.manager import ModelManager

    command = (sys.executable, "-m", "benchmarks.stub", "engine", rate)
    ModelManager.__init__ = functools.partialmethod(ModelManager.__init__, engine_command=command)  # type: ignore[assignment,method-assign]
    app(["serve", model, "--port", port, "--max-running-requests", "1024", "--log-level", "warning"])


def engine(rate: float) -> None:
    """One token for every open request, so often that all of them together get ``rate`` tokens/s."""
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineConfig)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    left: dict[str, int] = {}
    with EngineSocket(config.address) as socket:
        socket.send(Ready(model_type="stub", vocab_size=2048, max_model_len=16384, memory_bytes=0, device="none"))
        due = time.monotonic()
        while True:
            for message in socket.receive(wait=not left):
                match message:
                    case AddRequest():
                        left[message.request_id] = message.sampling.max_tokens
                    case Abort():
                        for request_id in message.request_ids:
                            left.pop(request_id, None)
            due = max(due + len(left) / rate, time.monotonic() - 0.1)
            time.sleep(max(0.0, due - time.monotonic()))
            outputs = _step(left)
            socket.send(StepOutput(outputs, EngineStats(running=len(left))))


def _step(left: dict[str, int]) -> list[Output]:
    outputs = []
    for request_id in list(left):
        left[request_id] -= 1
        output = Output(request_id, [BYTES + left[request_id] % WORDS])
        if not left[request_id]:
            del left[request_id]
            output.finish_reason = FinishReason.LENGTH
        outputs.append(output)
    return outputs


def _exit_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(*sys.argv[2:5])
    else:
        engine(float(sys.argv[2]))
