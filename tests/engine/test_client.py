"""The API process's side over a real process that speaks the protocol and has no model."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from quince.engine.client import ANSWER_MARK, EngineClient, EngineLimits, EngineState
from quince.engine.history import Death
from quince.engine.ipc import SocketDirectory
from quince.engine.messages import AddRequest, EngineConfig, FinishReason, Output, PoolInput, PoolRequest
from quince.engine.supervisor import _split_level
from quince.errors import (
    EngineError,
    EngineUnavailable,
    InvalidRequest,
    QueueFull,
    QueueTimeout,
    RequestCancelled,
)
from quince.sampling import SamplingParams

COMMAND = (sys.executable, "-m", "tests.engine.fake_engine")
SAMPLING = SamplingParams(max_tokens=10)
ANSWER, DIE, HANG, NEVER_START, FAIL, BABBLE = [1, 7, 8], [2], [3], [4], [5], [6]
# Goes on for a while after its standard input has ended.
LINGERING = (sys.executable, "-c", "import sys, time; sys.stdin.read(); time.sleep(1); open(sys.argv[1], 'w')")


@asynccontextmanager
async def running(
    model: str = "fake",
    *,
    queue_size: int = 2,
    queue_timeout: float = 20,
    engine_timeout: float = 20,
    command: Sequence[str] = COMMAND,
) -> AsyncIterator[EngineClient]:
    sockets = SocketDirectory()
    limits = EngineLimits(
        max_running_requests=1, queue_size=queue_size, queue_timeout=queue_timeout, engine_timeout=engine_timeout
    )
    config = EngineConfig(address="e", model_path=model, max_running_requests=1, prefill_chunk_size=16)
    client = EngineClient(config, limits, sockets, command)
    client.start()
    try:
        yield client
    finally:
        await client.stop()
        sockets.close()
        assert not sockets.path.exists()


async def ask(client: EngineClient, prompt: list[int], name: str = "r") -> list[Output]:
    return [output async for outputs in client.generate(AddRequest(name, prompt, SAMPLING)) for output in outputs]


async def until(client: EngineClient, state: EngineState) -> None:
    async with asyncio.timeout(20):
        while client.state is not state:
            await asyncio.sleep(0.01)


async def test_outputs_come_in_order_and_end() -> None:
    async with running() as client:
        outputs = await ask(client, ANSWER)
        assert [token for output in outputs for token in output.token_ids] == ANSWER
        assert outputs[0].started
        assert outputs[-1].finish_reason is FinishReason.LENGTH
        assert client.num_requests == 0


async def test_what_is_done_before_a_request_is_sent_ends_with_it() -> None:
    async with running(queue_size=3) as client:

        async def wait(name: str) -> None:
            answers = [f"{name}{ANSWER_MARK}{number}" for number in range(2)]
            with client.admit(*answers):
                async with client.interruptible(answers):
                    await asyncio.sleep(20)

        ended, other = asyncio.create_task(wait("ended")), asyncio.create_task(wait("other"))
        await asyncio.sleep(0)
        assert client.abort(["ended"]) == ["ended"]
        with pytest.raises(RequestCancelled):
            await asyncio.wait_for(ended, 1)
        assert not other.done()
        assert client.num_requests == 2
        other.cancel()
        with pytest.raises(asyncio.CancelledError):
            await other
        with pytest.raises(TimeoutError):
            async with client.interruptible(["r"]):
                raise TimeoutError("of its own")
        with client.admit("late"):
            async with client.interruptible(["late"]):
                pass
            assert client.abort() == ["late"]


async def test_requests_that_a_batch_completes_go_on_one_by_one() -> None:
    """In iterations of the event loop of their own, between which it sees to other models' streams."""
    iteration = 0

    def count() -> None:
        nonlocal iteration
        iteration += 1
        asyncio.get_running_loop().call_soon(count)

    async def pool(client: EngineClient, number: int) -> int:
        assert await client.pool(PoolRequest(f"r{number}", [PoolInput([1 if number == 19 else 2])])) == [b"\0" * 4]
        return iteration

    async with running(queue_size=20) as client:
        await client.wait_ready()
        count()
        ended = await asyncio.gather(*(pool(client, number) for number in range(20)))
        assert ended == sorted(set(ended))


async def test_the_first_request_waits_for_the_load() -> None:
    async with running() as client:
        assert client.state is EngineState.LOADING
        assert (await client.wait_ready()).model_type == "fake"
        assert client.state is EngineState.READY


async def test_death_fails_open_requests_with_the_last_words_and_the_engine_comes_back() -> None:
    async with running() as client:
        await client.wait_ready()
        first = client.pid
        with pytest.raises(EngineUnavailable, match="out of memory, says the fake"):
            await ask(client, DIE)
        with pytest.raises(EngineUnavailable) as refused:
            await client.wait_ready()
        assert refused.value.retry_after is not None
        await until(client, EngineState.READY)
        assert client.pid != first
        assert client.restarts == 1
        assert client.last_error is not None and "exited with code 3" in client.last_error.message
        assert len(await ask(client, ANSWER)) == 4


async def test_a_killed_engine_is_named_by_its_signal() -> None:
    async with running() as client:
        await client.wait_ready()
        assert client.pid is not None
        waiting = asyncio.create_task(ask(client, NEVER_START))
        await asyncio.sleep(0.1)
        os.kill(client.pid, signal.SIGKILL)
        with pytest.raises(EngineUnavailable, match="killed by signal 9"):
            await waiting


async def test_a_hung_engine_is_killed_and_replaced() -> None:
    async with running(engine_timeout=0.5) as client:
        await client.wait_ready()
        with pytest.raises(EngineUnavailable):
            await ask(client, HANG)
        await until(client, EngineState.READY)
        assert client.restarts == 1


async def test_an_engine_that_is_not_understood_is_replaced() -> None:
    async with running() as client:
        await client.wait_ready()
        with pytest.raises(EngineUnavailable):
            await ask(client, BABBLE)
        await until(client, EngineState.READY)
        assert client.restarts == 1
        assert len(await ask(client, ANSWER)) == 4


async def test_an_engine_that_cannot_be_started_is_tried_again() -> None:
    async with running(command=("/nowhere/python",)) as client:
        await until(client, EngineState.RESTARTING)
        with pytest.raises(EngineUnavailable, match="cannot be started"):
            await ask(client, ANSWER)


async def test_an_idle_engine_is_left_alone() -> None:
    async with running(engine_timeout=0.2) as client:
        await ask(client, ANSWER)
        await asyncio.sleep(1.0)
        assert client.restarts == 0
        assert len(await ask(client, ANSWER)) == 4


async def test_a_model_that_cannot_load_says_why_and_is_tried_again() -> None:
    async with running("broken") as client:
        await until(client, EngineState.RESTARTING)
        assert client.reason == "broken: no such model"
        with pytest.raises(EngineUnavailable, match="no such model"):
            await ask(client, ANSWER)


async def test_a_failed_request_leaves_the_engine_alone() -> None:
    async with running() as client:
        with pytest.raises(EngineError, match="refused by the fake"):
            await ask(client, FAIL)
        assert client.restarts == 0


async def test_the_queue_is_bounded() -> None:
    async with running(queue_size=2) as client:
        await client.wait_ready()
        waiting = [asyncio.create_task(ask(client, NEVER_START, f"w{n}")) for n in range(3)]
        await asyncio.sleep(0.1)
        assert client.num_waiting == 3
        with pytest.raises(QueueFull) as refused:
            await ask(client, ANSWER)
        assert refused.value.retry_after == 1
        client.abort()
        ends = [(await task)[-1].finish_reason for task in waiting]
        assert ends == [FinishReason.ABORT] * 3
        assert client.num_requests == 0


async def test_places_are_taken_before_there_is_a_prompt() -> None:
    """Who has one asks with it; who has none is refused as long as all are taken."""
    async with running(queue_size=2) as client:
        with client.admit("a"), client.admit("b", "c"):
            assert (client.num_requests, client.num_waiting) == (3, 3)
            with pytest.raises(QueueFull), client.admit("d"):
                raise AssertionError("admitted")
            with pytest.raises(QueueFull):
                await ask(client, ANSWER, "d")
            assert len(await ask(client, ANSWER, "a")) == 4
            assert client.num_requests == 3
        assert client.num_requests == client.num_waiting == 0
        assert len(await ask(client, ANSWER, "d")) == 4


async def test_places_are_taken_all_or_none() -> None:
    async with running(queue_size=2) as client:
        with client.admit("a"):
            with pytest.raises(QueueFull), client.admit("b", "c", "d"):
                raise AssertionError("admitted")
            assert client.num_requests == 1
        with pytest.raises(InvalidRequest, match="more than 3"), client.admit("a", "b", "c", "d"):
            raise AssertionError("admitted")
        with pytest.raises(ZeroDivisionError), client.admit("b", "c", "d"):
            _ = 1 / 0
        assert client.num_requests == 0


async def test_waiting_for_a_load_is_waiting() -> None:
    async with running(queue_size=2) as client:
        assert client.state is EngineState.LOADING
        waiting = [asyncio.create_task(ask(client, ANSWER, f"w{n}")) for n in range(3)]
        await asyncio.sleep(0)
        assert client.state is EngineState.LOADING
        with pytest.raises(QueueFull):
            await ask(client, ANSWER)
        assert [len(outputs) for outputs in await asyncio.gather(*waiting)] == [4] * 3


async def test_a_request_does_not_wait_for_ever() -> None:
    async with running(queue_timeout=0.3) as client:
        async with asyncio.timeout(20):
            while client.state is not EngineState.READY:
                await asyncio.sleep(0.01)
        with pytest.raises(QueueTimeout):
            await ask(client, NEVER_START)
        assert client.num_requests == 0


async def test_leaving_aborts() -> None:
    async with running() as client:
        task = asyncio.create_task(ask(client, NEVER_START))
        await client.wait_ready()
        while client.stats.waiting == 0:
            await asyncio.sleep(0.01)
        task.cancel()
        async with asyncio.timeout(5):
            while client.stats.waiting:
                await asyncio.sleep(0.01)
        assert client.num_requests == 0


async def test_abort_by_id_names_what_it_found() -> None:
    async with running() as client:
        task = asyncio.create_task(ask(client, NEVER_START, "mine"))
        while client.stats.waiting == 0:
            await asyncio.sleep(0.01)
        assert client.abort(["other"]) == []
        assert client.abort(["mine", "other"]) == ["mine"]
        assert (await task)[-1].finish_reason is FinishReason.ABORT


async def test_stop_ends_the_process_and_what_is_open() -> None:
    async with running() as client:
        await client.wait_ready()
        pid = client.pid
        task = asyncio.create_task(ask(client, NEVER_START))
        await asyncio.sleep(0.1)
        await client.stop()
        with pytest.raises(EngineUnavailable, match="shutting down"):
            await task
        assert pid is not None
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_stop_tells_readers_first_and_lets_the_process_end(tmp_path: Path) -> None:
    ended = tmp_path / "ended"
    async with running(command=(*LINGERING, str(ended))) as client:
        waiting = asyncio.create_task(ask(client, ANSWER))
        while client.pid is None:
            await asyncio.sleep(0.01)
        stopping = asyncio.create_task(client.stop())
        with pytest.raises(EngineUnavailable, match="shutting down"):
            await waiting
        assert not stopping.done()
        await stopping
        assert ended.exists()


async def test_a_request_can_be_cancelled_before_it_is_sent() -> None:
    """Its prompt is still being tokenized."""
    async with running() as client:
        await client.wait_ready()
        with client.admit("a#0", "a#1", "b"):
            assert client.abort(["a"]) == ["a"]
            for name in ("a#0", "a#1"):
                assert [output.finish_reason for output in await ask(client, ANSWER, name)] == [FinishReason.ABORT]
            assert (await ask(client, ANSWER, "b"))[-1].finish_reason is FinishReason.LENGTH
        assert (await ask(client, ANSWER, "a#0"))[-1].finish_reason is FinishReason.LENGTH, "forgotten with the block"


async def test_deaths_and_restarts_are_counted_by_why() -> None:
    async with running(engine_timeout=0.5) as client:
        for prompt in (DIE, HANG):
            with pytest.raises(EngineUnavailable):
                await ask(client, prompt)
            await until(client, EngineState.READY)
        assert client.history.deaths == {Death.DIED: 1, Death.HUNG: 1}
        assert client.history.restarts == client.restarts == 2
    async with running("broken") as client:
        await until(client, EngineState.RESTARTING)
        assert client.history.deaths == {Death.LOAD_FAILED: 1}


async def test_what_the_engine_says_is_logged_with_its_model_and_level(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as client:
        await until(client, EngineState.READY)
        pid = client.pid
        with pytest.raises(EngineUnavailable):
            await ask(client, DIE)
    (record,) = [record for record in caplog.records if record.name == "quince.engine"]
    assert (record.levelname, record.getMessage()) == ("WARNING", "out of memory, says the fake")
    assert vars(record)["fields"] == {"model": "fake", "engine": pid}


def test_levels_are_read_from_the_engine_s_lines() -> None:
    assert _split_level("ERROR a step failed") == (logging.ERROR, "a step failed")
    assert _split_level("INFO 5 MiB") == (logging.INFO, "5 MiB")
    assert _split_level("Traceback (most recent call last):") == (logging.WARNING, "Traceback (most recent call last):")
