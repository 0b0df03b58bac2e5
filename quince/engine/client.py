"""The API process's side of one engine: requests in, outputs out, and an engine process kept alive behind them."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import time
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from quince.engine.history import Death, EngineHistory
from quince.engine.interruptions import Interruptions
from quince.engine.ipc import ClientSocket, SocketDirectory
from quince.engine.messages import (
    Abort,
    AddRequest,
    EngineConfig,
    EngineStats,
    FinishReason,
    LoadFailed,
    Output,
    PoolRequest,
    Ready,
    StepOutput,
    ToEngine,
)
from quince.engine.outbox import Outbox
from quince.engine.preprocess import MediaPreprocessor
from quince.engine.supervisor import ENGINE_COMMAND, ChildProcess
from quince.errors import (
    EngineError,
    EngineUnavailable,
    InvalidRequest,
    ModelLoadError,
    QueueFull,
    QueueTimeout,
    QuinceError,
    RequestCancelled,
)
from quince.metrics import current_request

logger = logging.getLogger(__name__)

# A request for several answers is as many requests here: its id, this mark, the answer's number.
ANSWER_MARK = "#"

FIRST_BACKOFF = 0.5
MAX_BACKOFF = 30.0
STABLE_AFTER = 60.0  # an engine that lived this long starts with the first backoff again


class EngineState(enum.Enum):
    """
    STOPPED --start--> LOADING --ready--> READY
                          ^  |             |
                  backoff |  | failed      | died or hung
                          |  v             v
                        RESTARTING <-------+           any --stop--> STOPPED
    """

    STOPPED = "stopped"
    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"


@dataclass(frozen=True)
class EngineLimits:
    """Times are in seconds; ``max_running_requests`` is the engine's own, ``queue_size`` may wait besides."""

    max_running_requests: int
    queue_size: int
    queue_timeout: float
    engine_timeout: float


class Mailbox:
    """One request's outputs on their way to its reader, who takes all that have come at once.

    It holds at most max_tokens outputs, or as many as the request has inputs, however slow the reader.
    """

    def __init__(self) -> None:
        self._outputs: list[Output] = []
        self._error: QuinceError | None = None
        self._arrived = asyncio.Event()
        self.started = False
        self.finished = False

    def put(self, output: Output) -> None:
        self._outputs.append(output)
        self.started = True
        self.finished = output.finish_reason is not None
        self._arrived.set()

    def fail(self, error: QuinceError) -> None:
        self._error = error
        self.finished = True
        self._arrived.set()

    async def take(self) -> list[Output]:
        """Everything since the last call, at least one. Raises what ``fail`` was given, after the outputs before it."""
        await self._arrived.wait()
        if not self._outputs and self._error is not None:
            raise self._error
        outputs, self._outputs = self._outputs, []
        if self._error is None:
            self._arrived.clear()
        return outputs


def _whole(request_id: str) -> str:
    """The request that this is one answer of."""
    return request_id.split(ANSWER_MARK)[0]


class EngineClient:
    """One model's engine: ``start``, ``generate`` from any number of tasks, ``stop``."""

    def __init__(
        self,
        config: EngineConfig,
        limits: EngineLimits,
        sockets: SocketDirectory,
        command: Sequence[str] = ENGINE_COMMAND,
        history: EngineHistory | None = None,
        preprocessor: MediaPreprocessor | None = None,
    ) -> None:
        """``config.address`` is a name here; every life of the engine gets a socket of its own in ``sockets``.

        ``history`` goes on with what the model's earlier engines have left there. ``preprocessor`` is started and
        stopped with it.
        """
        self.preprocessor = preprocessor
        self._config = config
        self._limits = limits
        self._sockets = sockets
        self._command = command
        self.history = history or EngineHistory(Path(config.model_path).name)
        self._hung = False
        self._admitted: set[str] = set()
        self._cancelled: set[str] = set()  # of those
        self._preparing = Interruptions()
        self._mailboxes: dict[str, Mailbox] = {}  # of those admitted, the ones that the engine has been given
        self._outbox = Outbox(self._send)
        self._socket: ClientSocket | None = None
        self._child: ChildProcess | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Condition()
        self._busy = asyncio.Event()
        self._last_progress = time.monotonic()
        self.state = EngineState.STOPPED
        self.reason = "not started"
        self.ready: Ready | None = None
        self.stats = EngineStats()
        self.restarts = 0
        self.last_error: EngineUnavailable | None = None

    # What the rest of the API process sees

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    @property
    def adapters(self) -> Collection[str]:
        """What ``AddRequest.adapter`` may be."""
        return self._config.adapters.keys()

    @property
    def num_requests(self) -> int:
        return len(self._admitted)

    @property
    def num_waiting(self) -> int:
        return len(self._admitted) - sum(mailbox.started for mailbox in self._mailboxes.values())

    @contextlib.contextmanager
    def admit(self, *request_ids: str) -> Iterator[None]:
        """Keep places for these requests until the block ends: the bound on all work for this model.

        Taken before a prompt is tokenized; ``generate`` takes one for a request that has none. Raises QueueFull if
        there is no room for all of them, InvalidRequest if there never can be.
        """
        places = self._limits.max_running_requests + self._limits.queue_size
        new = set(request_ids) - self._admitted
        if len(new) > places:
            raise InvalidRequest(f"a request cannot have more than {places} answers on this server", param="n")
        if len(self._admitted) + len(new) > places:
            raise QueueFull("too many requests are waiting; try again later", retry_after=1)
        self._admitted |= new
        try:
            yield
        finally:
            self._admitted -= new
            self._cancelled -= new

    def interruptible(self, request_ids: Sequence[str]) -> AbstractAsyncContextManager[None]:
        """For what admitted requests wait for before ``generate``: ``abort`` ends the block at once, which then raises
        RequestCancelled. The block must not yield."""
        return self._preparing.block(request_ids)

    async def wait_ready(self) -> Ready:
        """The loaded model's facts, waiting through a load. Raises EngineUnavailable if it fails or takes too long."""
        try:
            async with asyncio.timeout(self._limits.queue_timeout), self._changed:
                await self._changed.wait_for(lambda: self.state is not EngineState.LOADING)
        except TimeoutError:
            raise EngineUnavailable("the model is still loading", retry_after=5) from None
        if self.state is not EngineState.READY or self.ready is None:
            raise self._unavailable()
        return self.ready

    async def generate(self, request: AddRequest) -> AsyncGenerator[list[Output], None]:
        """The request's outputs as they come, several at once if the reader was slow; the last has a finish_reason.

        The files of ``request.media`` must be there until the iterator has ended.
        Closing the iterator aborts the request. Raises QueueFull, QueueTimeout, EngineError, EngineUnavailable.
        """
        async with contextlib.aclosing(self._run(request)) as batches:
            async for outputs in batches:
                yield outputs

    async def pool(self, request: PoolRequest) -> list[bytes]:
        """The results of all inputs, in their order: float32 numbers, little-endian (see Pooled).

        Cancelling the task aborts the request. Raises RequestCancelled for one that ``abort`` has ended, and what
        ``generate`` raises.
        """
        found: dict[int, bytes] = {}
        async with contextlib.aclosing(self._run(request)) as batches:
            async for outputs in batches:
                found.update((one.index, one.values) for output in outputs for one in output.pooled)
                if outputs[-1].finish_reason is FinishReason.ABORT:
                    raise RequestCancelled("the request was cancelled")
        return [found[index] for index in range(len(request.inputs))]

    async def _run(self, request: AddRequest | PoolRequest) -> AsyncGenerator[list[Output], None]:
        with self.admit(request.request_id):
            await self.wait_ready()
            if request.request_id in self._cancelled:
                yield [Output(request.request_id, finish_reason=FinishReason.ABORT)]
                return
            submitted = time.monotonic()
            mailbox = self._submit(request)
            try:
                outputs = await self._take_first(mailbox)
                if outputs[0].started:
                    current_request().queued(time.monotonic() - submitted)
                yield outputs
                while outputs[-1].finish_reason is None:
                    outputs = await mailbox.take()
                    yield outputs
            finally:
                self._mailboxes.pop(request.request_id, None)
                if not mailbox.finished:
                    self._abort([request.request_id])

    def abort(self, request_ids: Sequence[str] | None = None) -> list[str]:
        """End these requests (None: all); their readers get finish_reason abort. Returns those that there were."""
        found = [name for name in self._admitted if request_ids is None or _whole(name) in request_ids]
        self._cancelled.update(found)  # some are not sent yet: their prompts are being tokenized
        if sent := [name for name in found if name in self._mailboxes]:
            self._abort(sent)
        self._preparing.end(found)
        return sorted({_whole(name) for name in found})

    # Requests

    def _submit(self, request: AddRequest | PoolRequest) -> Mailbox:
        mailbox = self._mailboxes[request.request_id] = Mailbox()
        if not self._busy.is_set():
            self._last_progress = time.monotonic()
            self._busy.set()
        self._outbox.put(request)
        return mailbox

    def _abort(self, request_ids: Sequence[str]) -> None:
        self._outbox.put(Abort(list(request_ids)))
        self._outbox.flush()

    async def _take_first(self, mailbox: Mailbox) -> list[Output]:
        try:
            async with asyncio.timeout(self._limits.queue_timeout):
                return await mailbox.take()
        except TimeoutError:
            waited = f"{self._limits.queue_timeout:g}"
            raise QueueTimeout(f"the request waited {waited} s in the queue and was not started") from None

    def _send(self, messages: Sequence[ToEngine]) -> None:
        if self._socket is not None:
            self._socket.send(*messages)

    # Lifecycle

    def start(self) -> None:
        self.state, self.reason = EngineState.LOADING, "loading"
        if self.preprocessor is not None:
            self.preprocessor.start()
        self._tasks = [
            asyncio.create_task(self._keep_alive(), name="engine-keep-alive"),
            asyncio.create_task(self._watch_progress(), name="engine-watchdog"),
        ]

    async def stop(self) -> None:
        """End the engine process and every request that is left. May be called again."""
        for task in self._tasks:
            task.cancel()
        await self._end_requests()  # at once: the process may take a while to end
        if self.preprocessor is not None:
            await self.preprocessor.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._end_requests()  # the engine's last message may have changed the state

    async def _end_requests(self) -> None:
        await self._set_state(EngineState.STOPPED, "the server is shutting down")
        self._fail_requests()

    async def _keep_alive(self) -> None:
        backoff = FIRST_BACKOFF
        while True:
            started = time.monotonic()
            reason = await self._live()
            if time.monotonic() - started > STABLE_AFTER:
                backoff = FIRST_BACKOFF
            logger.error("%s: %s; restarting in %g s", self.history.name, reason, backoff)
            self.history.deaths[self._death()] += 1
            await self._set_state(EngineState.RESTARTING, reason)
            self._fail_requests()
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF)
            self.restarts += 1
            self.history.restarts += 1
            await self._set_state(EngineState.LOADING, f"loading again, after: {reason}")

    def _death(self) -> Death:
        """What ended the life that is over, whose error is the last one."""
        hung, self._hung = self._hung, False
        if hung:
            return Death.HUNG
        return Death.LOAD_FAILED if isinstance(self.last_error, ModelLoadError) else Death.DIED

    async def _live(self) -> str:
        """One life of the engine process, from its start to its end; returns why it ended."""
        try:
            address = self._sockets.address(f"{self._config.address}-{self.restarts}")
            self._socket = ClientSocket(address)
            self._child = await ChildProcess.start(self._config_at(address), self._command, self.history.name)
            return await self._attend(self._child, self._socket)
        except OSError as error:  # no memory, no file descriptors, no room for the socket
            self.last_error = EngineUnavailable(f"the engine cannot be started: {error}", retry_after=5)
            return self.last_error.message
        finally:
            if self._child is not None:
                await self._child.stop()
            if self._socket is not None:
                self._socket.close()
            self._socket = self._child = None

    async def _attend(self, child: ChildProcess, socket: ClientSocket) -> str:
        """Deliver what the engine sends until its process ends."""
        receiver = asyncio.create_task(self._receive(socket), name="engine-receive")
        ended = asyncio.create_task(child.wait(), name="engine-wait")
        try:
            await asyncio.wait([receiver, ended], return_when=asyncio.FIRST_COMPLETED)
            if receiver.done() and receiver.exception() is not None:
                logger.error("a message of the engine could not be delivered: ending it", exc_info=receiver.exception())
                child.kill()
            reason = await ended
            if receiver.done() and receiver.exception() is None:
                reason = receiver.result()
                self.last_error = ModelLoadError(f"the model cannot be loaded: {reason}", retry_after=5)
            else:
                self.last_error = EngineUnavailable(f"the model is restarting: {reason}", retry_after=2)
            return reason
        finally:
            for task in (receiver, ended):
                task.cancel()
            await asyncio.gather(receiver, ended, return_exceptions=True)

    def _config_at(self, address: str) -> EngineConfig:
        return msgspec.structs.replace(self._config, address=address)

    async def _receive(self, socket: ClientSocket) -> str:
        """Deliver the engine's messages. Returns only when it reports that it cannot load: why."""
        while True:
            match await socket.receive():
                case StepOutput() as step:
                    await self._deliver(step)
                case Ready() as ready:
                    self.ready = ready
                    logger.info("%s is ready on %s", self.history.name, ready.device)
                    await self._set_state(EngineState.READY, "ready")
                case LoadFailed(message):
                    return message

    async def _deliver(self, step: StepOutput) -> None:
        """Requests that a batch has completed are told one by one: all of their readers at once would hold up the
        streams of other models for as long as all their answers take to write."""
        self._last_progress = time.monotonic()
        self.stats = step.stats
        for output in step.outputs:
            mailbox = self._mailboxes.get(output.request_id)
            if mailbox is None:
                continue
            if output.finish_reason is FinishReason.ERROR:
                kind = InvalidRequest if output.refused else EngineError
                mailbox.fail(kind(output.error or "the engine failed while it ran this request"))
            else:
                mailbox.put(output)
            if output.pooled and mailbox.finished:
                await asyncio.sleep(0)
        idle = not step.stats.running and not step.stats.waiting
        if idle and all(mailbox.finished for mailbox in self._mailboxes.values()):
            self._busy.clear()  # else a request is on its way to the engine

    async def _watch_progress(self) -> None:
        """Kill an engine that has work and says nothing for ``engine_timeout``. Sleeps while there is no work."""
        timeout = self._limits.engine_timeout
        while True:
            await self._busy.wait()
            silent = time.monotonic() - self._last_progress
            if silent < timeout:
                await asyncio.sleep(min(timeout - silent, timeout / 4))
            elif self._child is not None:
                logger.error("%s: the engine made no progress for %g s: killing it", self.history.name, silent)
                self._last_progress = time.monotonic()
                self._hung = True
                self._child.kill()

    def _fail_requests(self) -> None:
        self._busy.clear()
        self._outbox.clear()
        self.history.end(self.stats)
        self.stats = EngineStats()
        for mailbox in self._mailboxes.values():
            if not mailbox.finished:
                mailbox.fail(self._unavailable())

    def _unavailable(self) -> EngineUnavailable:
        """Why no request can be served now."""
        if self.state is EngineState.STOPPED or self.last_error is None:
            return EngineUnavailable(self.reason, retry_after=2)
        return type(self.last_error)(self.last_error.message, retry_after=self.last_error.retry_after)

    async def _set_state(self, state: EngineState, reason: str) -> None:
        async with self._changed:
            self.state, self.reason = state, reason
            self._changed.notify_all()
