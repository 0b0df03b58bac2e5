from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from quince.engine.ipc import ClientSocket, EngineSocket, SocketDirectory, remove_socket
from quince.engine.messages import Abort, AddRequest, EngineStats, FinishReason, Output, StepOutput, TokenLogprobs
from quince.sampling import SamplingParams


async def test_messages_arrive_as_they_were_sent() -> None:
    sockets = SocketDirectory()
    client = ClientSocket(address := sockets.address("engine"))
    sampling = SamplingParams(max_tokens=3, temperature=0.5, seed=2**64 - 1, stop_token_ids=(1, 2), logprobs=2)
    sent = [AddRequest("a", [1, 2, 3], sampling), Abort(["a", "b"])]
    output = Output("a", [7], FinishReason.STOP, logprobs=[TokenLogprobs(-0.5, [7, 8], [-0.5, -1.0])])
    with EngineSocket(address) as engine:
        for message in sent:
            client.send(message)
        received = await asyncio.to_thread(engine.receive, wait=True)
        while len(received) < 2:
            received += await asyncio.to_thread(engine.receive, wait=True)
        assert received == sent
        engine.send(StepOutput([output], EngineStats(running=1)))
        assert await client.receive() == StepOutput([output], EngineStats(running=1))
    client.close()
    sockets.close()


async def test_nobody_else_can_enter() -> None:
    sockets = SocketDirectory()
    assert stat.S_IMODE(sockets.path.stat().st_mode) == 0o700
    sockets.close()


async def test_a_socket_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nothing"):
        ClientSocket(f"ipc://{tmp_path / 'nothing' / 'engine'}")


async def test_clearing_up_after_a_dead_server_leaves_others_alone() -> None:
    sockets = SocketDirectory()
    first, second = ClientSocket(sockets.address("first")), ClientSocket(sockets.address("second"))
    remove_socket(sockets.address("first"))
    assert [path.name for path in sockets.path.iterdir()] == ["second"]
    remove_socket(sockets.address("second"))
    assert not sockets.path.exists()
    first.close()
    second.close()
