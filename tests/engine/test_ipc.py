from __future__ import annotations

import asyncio
import contextlib
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from quince.engine.ipc import ClientSocket, EngineSocket, Frames, SocketDirectory, frame, remove_socket
from quince.engine.messages import (
    Abort,
    AddRequest,
    EngineStats,
    FinishReason,
    Output,
    StepOutput,
    ToEngine,
    TokenLogprobs,
)
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


@contextlib.asynccontextmanager
async def connection() -> AsyncIterator[tuple[ClientSocket, EngineSocket]]:
    sockets = SocketDirectory()
    client = ClientSocket(address := sockets.address("engine"))
    with EngineSocket(address) as engine:
        yield client, engine
    client.close()
    sockets.close()


def prompt(name: str, length: int) -> AddRequest:
    return AddRequest(name, list(range(length)), SamplingParams(max_tokens=1))


async def receive(engine: EngineSocket, count: int) -> list[ToEngine]:
    received: list[ToEngine] = []
    while len(received) < count:
        received += await asyncio.to_thread(engine.receive, wait=True, timeout=5)
    return received


async def test_what_is_sent_before_the_engine_is_there_waits_for_it() -> None:
    sockets = SocketDirectory()
    client = ClientSocket(address := sockets.address("engine"))
    client.send(Abort(["a"]), Abort(["b"]))
    client.send(Abort(["c"]))
    with EngineSocket(address) as engine:
        assert await receive(engine, 3) == [Abort(["a"]), Abort(["b"]), Abort(["c"])]
    client.close()
    sockets.close()


async def test_messages_of_any_length_come_whole_and_in_order() -> None:
    """Longer than what either side reads at once, and many that one read has."""
    long = [
        prompt("a", 200_000),
        prompt("b", 0),
        *(Abort([str(number)]) for number in range(500)),
        prompt("c", 200_000),
    ]
    steps = [StepOutput([Output("a", list(range(200_000)))], EngineStats(steps=1))]
    steps += [StepOutput([], EngineStats(steps=number)) for number in range(500)]
    async with connection() as (client, engine):
        for message in long:
            client.send(message)
        assert await receive(engine, len(long)) == long
        sending = asyncio.create_task(asyncio.to_thread(lambda: [engine.send(step) for step in steps]))
        assert [await client.receive() for _ in steps] == steps
        await sending


def test_a_message_is_put_together_wherever_it_was_cut() -> None:
    stream = b"".join(frame(list(range(count))) for count in (0, 3, 1))
    whole = list(Frames().take(stream))
    assert [msgspec.msgpack.decode(payload) for payload in whole] == [[], [0, 1, 2], [0]]
    for first in range(len(stream)):
        for second in range(first, len(stream)):
            frames = Frames()
            parts = [stream[:first], stream[first:second], stream[second:]]
            assert [payload for part in parts for payload in frames.take(part)] == whole


async def test_without_the_server_there_is_nothing_more() -> None:
    sockets = SocketDirectory()
    client = ClientSocket(address := sockets.address("engine"))
    with EngineSocket(address) as engine:
        client.send(Abort(["last"]))
        assert await receive(engine, 1) == [Abort(["last"])]
        client.close()
        started = time.monotonic()
        for _ in range(2):  # the end itself wakes it once
            assert await asyncio.to_thread(engine.receive, wait=True, timeout=0.2) == []
        assert time.monotonic() - started >= 0.2, "it must sleep"
        engine.send(StepOutput([], EngineStats()))
        engine.wake()
        assert engine.receive(wait=True) == []
    sockets.close()


async def test_without_the_engine_messages_are_lost() -> None:
    sockets = SocketDirectory()
    client = ClientSocket(address := sockets.address("engine"))
    with EngineSocket(address) as engine:
        engine.send(StepOutput([], EngineStats()))
        await client.receive()
    for _ in range(3):
        client.send(prompt("b", 100_000))
        await asyncio.sleep(0.01)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(client.receive(), 0.01)
    client.close()
    sockets.close()


async def test_a_server_may_close_as_its_engine_comes() -> None:
    sockets = SocketDirectory()
    client = ClientSocket(address := sockets.address("engine"))
    with EngineSocket(address):
        await asyncio.sleep(0)
        client.close()
    sockets.close()


async def test_nobody_else_can_enter() -> None:
    sockets = SocketDirectory()
    assert stat.S_IMODE(sockets.path.stat().st_mode) == 0o700
    sockets.close()


async def test_a_socket_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nothing"):
        ClientSocket(str(tmp_path / "nothing" / "engine"))


async def test_clearing_up_after_a_dead_server_leaves_others_alone() -> None:
    sockets = SocketDirectory()
    first, second = ClientSocket(sockets.address("first")), ClientSocket(sockets.address("second"))
    remove_socket(sockets.address("first"))
    assert [path.name for path in sockets.path.iterdir()] == ["second"]
    remove_socket(sockets.address("second"))
    assert not sockets.path.exists()
    first.close()
    second.close()
