"""The API process's side of one model's preprocessor: images and videos in, what the model takes of them out.

What was prepared is kept by its content, within ``CACHE_BYTES`` of files: an image that comes with every turn of a
conversation is decoded once. Files belong to this side from the moment a message names them; each goes when it is not
kept and the last request that uses it has ended, however that was.

What open requests use is bounded, too. How large a file becomes is known when it is prepared: so requests wait for
their turn while half of the bound is used, few have theirs at once, and who goes beyond it is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import logging
import shutil
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from quince import children
from quince.engine.ipc import PreprocessorClientSocket, SocketDirectory
from quince.engine.media_messages import (
    Cancel,
    Mark,
    MediaType,
    NotPrepared,
    Prepare,
    Prepared,
    PreprocessorConfig,
    PreprocessorReady,
)
from quince.engine.messages import LoadFailed, MediaArray
from quince.engine.supervisor import ChildProcess
from quince.errors import EngineUnavailable, InvalidRequest, ModelLoadError, QueueFull, QueueTimeout

logger = logging.getLogger(__name__)

PREPROCESSOR_COMMAND = children.command("quince.engine.preprocess_process")
FILES = "-files"  # how the name of a directory for arrays ends
CACHE_BYTES = 256 * 2**20
MAX_TURNS = 8  # requests whose files are prepared at once: enough to keep all threads of the process busy
FIRST_BACKOFF = 0.5
MAX_BACKOFF = 30.0
STABLE_AFTER = 60.0


@dataclass(frozen=True)
class MediaFile:
    """An encoded file; ``digest`` is a hash of ``data``. ``small``: to be scaled down. ``param`` is for errors."""

    kind: MediaType
    data: bytes
    digest: str
    small: bool
    param: str

    @property
    def key(self) -> str:
        """Files with equal keys are prepared to the same arrays."""
        told = f"{self.kind.value} {self.digest} {self.small}"
        return hashlib.sha256(told.encode()).hexdigest()


@dataclass(frozen=True)
class PreparedMedia:
    """``text`` takes the mark's place in the prompt; it has ``tokens`` tokens of ``mark.token_id``. No text may spell a
    token of ``reserved``, the model's for images and videos: they decide positions."""

    key: str
    mark: Mark
    text: str
    tokens: int
    arrays: list[MediaArray]
    reserved: frozenset[int] = frozenset()


@dataclass(eq=False)
class _Entry:
    """One content: being prepared as ``job``, or prepared. ``users`` are open requests."""

    key: str
    job: int
    done: asyncio.Future[Prepared] = field(repr=False)
    users: int = 0

    @property
    def prepared(self) -> Prepared | None:
        ok = self.done.done() and not self.done.cancelled() and self.done.exception() is None
        return self.done.result() if ok else None

    @property
    def nbytes(self) -> int:
        return self.prepared.nbytes if self.prepared else 0


class MediaPreprocessor:
    """``start``, ``prepare`` from any number of tasks, ``stop``. Its process is started again when it dies."""

    def __init__(
        self,
        config: PreprocessorConfig,
        sockets: SocketDirectory,
        *,
        timeout: float,
        used_bytes: int,
        command: Sequence[str] = PREPROCESSOR_COMMAND,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """``config.address`` is a name here; every life of the process gets a socket of its own in ``sockets``, all
        share a directory there. ``timeout``: seconds without a result after which a busy process counts as hung and is
        killed. ``used_bytes``: what is prepared for open requests, besides what was kept."""
        self._config = config
        self._name = Path(config.model_path).name
        self._sockets = sockets
        self._timeout = timeout
        self._command = command
        self._cache_bytes = cache_bytes
        self._used_bytes = used_bytes
        self._turns = asyncio.Semaphore(MAX_TURNS)
        self._freed = asyncio.Event()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # who was used last is last
        self._jobs: dict[int, _Entry] = {}
        self._numbers = itertools.count(1)
        self._nbytes = 0
        self._lives = 0
        self._last_progress = time.monotonic()
        self._socket: PreprocessorClientSocket | None = None
        self._child: ChildProcess | None = None
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self._error: EngineUnavailable | None = None  # why it cannot be used now; None while it is loading
        self._marks: dict[MediaType, Mark] | None = None

    @property
    def pid(self) -> int | None:
        return self._child.pid if self._child else None

    # What the rest of the API process sees

    @contextlib.asynccontextmanager
    async def prepare(self, files: Sequence[MediaFile]) -> AsyncIterator[list[PreparedMedia]]:
        """What the model takes of ``files``, in their order; it can be used until the block ends. Their bytes are not
        held so long.

        Raises InvalidRequest for a file that is at fault, EngineUnavailable if the process cannot work, QueueTimeout or
        QueueFull for what there is no room for.
        """
        marks = await self._wait_ready()
        if refused := next((file for file in files if file.kind not in marks), None):
            raise InvalidRequest(f"{refused.param}: this model takes no {refused.kind.value}s", param=refused.param)
        entries: list[_Entry] = []
        reserved = frozenset(mark.token_id for mark in marks.values())
        try:
            async with self._turn(files):
                entries += map(self._take, files)
                results = [await self._result(file, entry, entries) for file, entry in zip(files, entries, strict=True)]
            found = [
                PreparedMedia(file.key, marks[file.kind], one.text, one.tokens, one.arrays, reserved)
                for file, one in zip(files, results, strict=True)
            ]
            del files
            yield found
        finally:
            for entry in entries:
                self._leave(entry)

    async def _wait_ready(self) -> dict[MediaType, Mark]:
        try:
            async with asyncio.timeout(self._timeout), self._changed:
                await self._changed.wait_for(lambda: self._marks is not None or self._error is not None)
        except TimeoutError:
            raise EngineUnavailable("what reads images is still loading", retry_after=5) from None
        if self._marks is None:
            raise self._unavailable()
        return self._marks

    async def _result(self, file: MediaFile, entry: _Entry, entries: Sequence[_Entry]) -> Prepared:
        """``entries`` are those of the whole request."""
        try:
            while not entry.done.done():
                await asyncio.wait([entry.done], timeout=self._timeout)
                if not entry.done.done() and time.monotonic() - self._last_progress >= self._timeout:
                    self._kill()
            return await asyncio.shield(entry.done)
        except _Refused as refusal:
            raise InvalidRequest(f"{file.param}: it cannot be read: {refusal}", param=file.param) from None
        except _NoRoom as full:
            own = sum(entry.nbytes for entry in {*entries})
            if full.used > own:
                raise QueueFull("the images of other requests leave no room; try again later", retry_after=1) from None
            raise InvalidRequest(
                f"{file.param}: prepared, the images and videos of the request take more than {self._used_bytes} bytes "
                "(max_prepared_bytes)",
                param=file.param,
            ) from None

    @contextlib.asynccontextmanager
    async def _turn(self, files: Sequence[MediaFile]) -> AsyncIterator[None]:
        """While something is prepared for a request. One that waits uses nothing yet, so that none waits for itself."""
        kept = [self._entries.get(file.key) for file in files]
        if all(entry is not None and entry.prepared is not None for entry in kept):
            yield
            return
        async with self._turns:
            try:
                async with asyncio.timeout(self._timeout):
                    while self._used() > self._used_bytes // 2:
                        self._freed.clear()
                        await self._freed.wait()
            except TimeoutError:
                waited = f"{self._timeout:g} s"
                raise QueueTimeout(f"the request waited {waited} for the images of others to be done with") from None
            yield

    def _used(self) -> int:
        """Bytes of what open requests use."""
        return sum(entry.nbytes for entry in self._entries.values() if entry.users)

    def _kill(self) -> None:
        logger.error("%s: the preprocessor made no progress for %g s: killing it", self._name, self._timeout)
        self._last_progress = time.monotonic()
        if self._child is not None:
            self._child.kill()

    # Entries and their files

    def _take(self, file: MediaFile) -> _Entry:
        """Raises EngineUnavailable if the process has ended while the request waited for its turn."""
        key = file.key
        entry = self._entries.get(key)
        if entry is None:
            if self._socket is None:
                raise self._unavailable()
            if not self._jobs:
                self._last_progress = time.monotonic()
            job = next(self._numbers)
            entry = _Entry(key, job, asyncio.get_running_loop().create_future())
            self._entries[key] = self._jobs[job] = entry
            self._socket.send(Prepare(job, file.kind, file.small, file.data))
        self._entries.move_to_end(key)
        entry.users += 1
        return entry

    def _leave(self, entry: _Entry) -> None:
        entry.users -= 1
        self._freed.set()
        if entry.users == 0 and entry.prepared is None:
            self._drop(entry)
            if self._jobs.pop(entry.job, None) is not None and self._socket is not None:
                self._socket.send(Cancel(entry.job))
            if not entry.done.cancel():
                entry.done.exception()  # was told to those who waited
        self._shrink()

    def _drop(self, entry: _Entry) -> None:
        """Whoever asks for the same content next begins anew."""
        if self._entries.get(entry.key) is entry:
            del self._entries[entry.key]

    def _shrink(self) -> None:
        for entry in list(self._entries.values()):
            if self._nbytes <= self._cache_bytes:
                return
            if entry.users == 0 and entry.prepared is not None:
                del self._entries[entry.key]
                self._nbytes -= entry.prepared.nbytes
                _remove(entry.prepared.arrays)

    def _deliver(self, message: Prepared | NotPrepared) -> None:
        self._last_progress = time.monotonic()
        entry = self._jobs.pop(message.job, None)
        match message:
            case Prepared() if entry is None:  # nobody waits any more
                _remove(message.arrays)
            case Prepared():
                assert entry is not None
                used = self._used()
                if used + message.nbytes > self._used_bytes:
                    self._drop(entry)
                    _remove(message.arrays)
                    entry.done.set_exception(_NoRoom(used))
                    return
                self._nbytes += message.nbytes
                entry.done.set_result(message)
                self._shrink()
            case NotPrepared() if entry is not None:
                self._drop(entry)
                entry.done.set_exception(_Refused(message.error))

    def _fail_jobs(self) -> None:
        """The process has ended, with what it was asked for."""
        jobs, self._jobs = self._jobs, {}
        for entry in jobs.values():
            self._drop(entry)
            entry.done.set_exception(self._unavailable())

    def _unavailable(self) -> EngineUnavailable:
        error = self._error or EngineUnavailable("the server is shutting down", retry_after=2)
        return type(error)(error.message, retry_after=error.retry_after)

    # Lifecycle

    def start(self) -> None:
        self._error = None
        self._task = asyncio.create_task(self._keep_alive(), name="preprocessor-keep-alive")

    async def stop(self) -> None:
        """End the process and every request that waits for it, and remove all files. May be called again."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._set(None, EngineUnavailable("the server is shutting down", retry_after=2))
        self._fail_jobs()
        self._entries.clear()
        self._nbytes = 0
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _keep_alive(self) -> None:
        backoff = FIRST_BACKOFF
        while True:
            started = time.monotonic()
            error = await self._live()
            if time.monotonic() - started > STABLE_AFTER:
                backoff = FIRST_BACKOFF
            logger.error("%s: %s; restarting in %g s", self._name, error.message, backoff)
            await self._set(None, error)
            self._fail_jobs()
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, MAX_BACKOFF)
            await self._set(None, None)  # from now on, requests wait for it

    async def _live(self) -> EngineUnavailable:
        """One life of the process, from its start to its end; returns why it ended. What it has prepared outlives it:
        the next life writes to the same directory, under the numbers of other jobs."""
        self._lives += 1
        try:
            address = self._sockets.address(f"{self._config.address}-{self._lives}")
            config = msgspec.structs.replace(self._config, address=address, directory=str(self._directory))
            self._socket = PreprocessorClientSocket(address)
            self._child = await ChildProcess.start(config, self._command, self._name, "preprocessor")
            return await self._attend(self._child, self._socket)
        except OSError as error:  # no memory, no file descriptors, no room for the socket
            return EngineUnavailable(f"the preprocessor cannot be started: {error}", retry_after=5)
        finally:
            self._marks = None
            if self._child is not None:
                await self._child.stop()
            if self._socket is not None:
                self._socket.close()
            self._socket = self._child = None
            self._clear()

    async def _attend(self, child: ChildProcess, socket: PreprocessorClientSocket) -> EngineUnavailable:
        """Deliver what the process sends until it ends."""
        receiver = asyncio.create_task(self._receive(socket), name="preprocessor-receive")
        ended = asyncio.create_task(child.wait(), name="preprocessor-wait")
        try:
            await asyncio.wait([receiver, ended], return_when=asyncio.FIRST_COMPLETED)
            if receiver.done() and receiver.exception() is not None:
                logger.error("a message of the preprocessor could not be read", exc_info=receiver.exception())
                child.kill()
            reason = await ended
            if receiver.done() and receiver.exception() is None:
                return ModelLoadError(f"the model cannot read images: {receiver.result()}", retry_after=5)
            return EngineUnavailable(f"what reads images is restarting: {reason}", retry_after=2)
        finally:
            for task in (receiver, ended):
                task.cancel()
            await asyncio.gather(receiver, ended, return_exceptions=True)

    async def _receive(self, socket: PreprocessorClientSocket) -> str:
        """Returns only when the process reports that it cannot load: why."""
        while True:
            match await socket.receive():
                case PreprocessorReady(marks):
                    await self._set(marks, None)
                case LoadFailed(message):
                    return message
                case message:
                    self._deliver(message)

    async def _set(self, marks: dict[MediaType, Mark] | None, error: EngineUnavailable | None) -> None:
        async with self._changed:
            self._marks, self._error = marks, error
            self._changed.notify_all()

    @property
    def _directory(self) -> Path:
        return self._sockets.path / f"{self._config.address}{FILES}"

    def _clear(self) -> None:
        """The process that wrote here has ended: what no message has named is nobody's."""
        kept = {one.path for entry in self._entries.values() if entry.prepared for one in entry.prepared.arrays}
        for file in self._directory.glob("*"):
            if str(file) not in kept:
                file.unlink(missing_ok=True)


class _Refused(Exception):
    """The file is at fault."""


@dataclass(eq=False)
class _NoRoom(Exception):
    """What was prepared is too much beside the bytes that are ``used``."""

    used: int


def _remove(arrays: Iterable[MediaArray]) -> None:
    for one in arrays:
        if one.path:
            Path(one.path).unlink(missing_ok=True)
