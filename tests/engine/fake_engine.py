"""An engine process without a model: answers each prompt with its own tokens, and misbehaves when the prompt says so.

Run as ``python -m tests.engine.fake_engine``. The first prompt token chooses: 1 answer, 2 die with last words, 3 hang,
4 never start the request, 5 fail the request, 6 send what nobody understands, 7 answer slowly. With the model path
"broken" it cannot load; a model directory may hold files named broken, dies and slow, which make its load do that.
Requests to pool are answered together, when one comes whose only token is 1.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import msgspec

from quince.engine.ipc import EngineSocket
from quince.engine.messages import (
    Abort,
    AddRequest,
    EngineConfig,
    EngineStats,
    FinishReason,
    LoadFailed,
    Output,
    Pooled,
    PoolRequest,
    Ready,
    StepOutput,
)


def watch_parent() -> None:
    while sys.stdin.buffer.read(1):
        pass
    os._exit(0)


def answer(message: AddRequest) -> list[Output]:
    name, prompt = message.request_id, message.prompt_token_ids
    match prompt[0]:
        case 2:
            print("out of memory, says the fake", file=sys.stderr, flush=True)
            os._exit(3)
        case 3:
            time.sleep(60)
        case 4:
            return []
        case 5:
            return [Output(name, finish_reason=FinishReason.ERROR, error="refused by the fake")]
    steps = [Output(name, [token]) for token in prompt]
    steps[-1].finish_reason = FinishReason.LENGTH
    return [Output(name, started=True), *steps]


def pooled(message: PoolRequest) -> Output:
    return Output(message.request_id, finish_reason=FinishReason.STOP, started=True, pooled=[Pooled(0, b"\0" * 4)])


def send_slowly(socket: EngineSocket, outputs: list[Output]) -> list[Output]:
    """Returns what is left to send."""
    for output in outputs:
        socket.send(StepOutput([output], EngineStats(running=1)))
        time.sleep(0.05)
    return []


def main() -> None:
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineConfig)
    threading.Thread(target=watch_parent, daemon=True).start()
    path = Path(config.model_path)
    if (path / "dies").exists():
        print("killed while loading, says the fake", file=sys.stderr, flush=True)
        os._exit(9)
    with EngineSocket(config.address) as socket:
        time.sleep(0.5 if (path / "slow").exists() else 0)
        if config.model_path == "broken" or (path / "broken").exists():
            socket.send(LoadFailed("broken: no such model"))
            sys.exit(1)
        socket.send(Ready(model_type="fake", vocab_size=100, max_model_len=50, memory_bytes=0, device="none"))
        waiting = 0
        pooling: list[Output] = []
        while True:
            for message in socket.receive(wait=True):
                match message:
                    case AddRequest() if message.prompt_token_ids[0] == 6:
                        socket.send(message)  # type: ignore[arg-type]
                        continue
                    case AddRequest():
                        outputs = answer(message)
                        waiting += not outputs
                    case PoolRequest():
                        pooling.append(pooled(message))
                        outputs, pooling = (pooling, []) if message.inputs[0].token_ids == [1] else ([], pooling)
                    case Abort():
                        outputs = [Output(name, finish_reason=FinishReason.ABORT) for name in message.request_ids]
                        waiting = 0
                if isinstance(message, AddRequest) and message.prompt_token_ids[0] == 7:
                    outputs = send_slowly(socket, outputs)
                socket.send(StepOutput(outputs, EngineStats(waiting=waiting)))


if __name__ == "__main__":
    main()
