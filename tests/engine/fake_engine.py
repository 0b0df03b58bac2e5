"""An engine process without a model: answers each prompt with its own tokens, and misbehaves when the prompt says so.

Run as ``python -m tests.engine.fake_engine``. The first prompt token chooses: 1 answer, 2 die with last words, 3 hang,
4 never start the request, 5 fail the request, 6 send
what nobody understands. With the model path "broken" it cannot load.
"""

from __future__ import annotations

import os
import sys
import threading
import time

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


def main() -> None:
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineConfig)
    threading.Thread(target=watch_parent, daemon=True).start()
    with EngineSocket(config.address) as socket:
        if config.model_path == "broken":
            socket.send(LoadFailed("broken: no such model"))
            sys.exit(1)
        socket.send(Ready(model_type="fake", vocab_size=100, max_model_len=50, memory_bytes=0, device="none"))
        waiting = 0
        while True:
            for message in socket.receive(wait=True):
                match message:
                    case AddRequest() if message.prompt_token_ids[0] == 6:
                        socket.send(message)  # type: ignore[arg-type]
                        continue
                    case AddRequest():
                        outputs = answer(message)
                        waiting += not outputs
                    case Abort():
                        outputs = [Output(name, finish_reason=FinishReason.ABORT) for name in message.request_ids]
                        waiting = 0
                socket.send(StepOutput(outputs, EngineStats(waiting=waiting)))


if __name__ == "__main__":
    main()
