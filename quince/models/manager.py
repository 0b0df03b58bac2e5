"""The models that this server has loaded, by the names that requests use.

Invariants:
- Loads are one at a time and shared by all who wait: an engine that makes room has ended before the next one starts.
- An engine is not stopped while a request runs on it, except when the server stops.
- All state changes happen on the event loop, between two awaits.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import logging
import os
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from quince.config import ServeConfig
from quince.engine.client import EngineClient, EngineState
from quince.engine.interruptions import Interruptions
from quince.engine.ipc import SocketDirectory
from quince.engine.supervisor import ENGINE_COMMAND
from quince.errors import (
    EngineUnavailable,
    InsufficientMemory,
    InvalidRequest,
    ModelLoadError,
    ModelNotFound,
    QueueFull,
    QueueTimeout,
    QuinceError,
    RepositoryNotFound,
)
from quince.models import memory
from quince.models.bound import Bound
from quince.models.loaded import (
    EnginePlace,
    LoadedModel,
    ModelText,
    check_settings,
    make_engine,
    make_model,
    writes,
)
from quince.models.memory import gigabytes
from quince.models.model_type import ModelType
from quince.models.registry import ModelRegistry, Served
from quince.models.slot import ModelState, ModelStatus, Slot
from quince.models.store import ModelStore, StoredModel
from quince.models.texts import TextCache

if TYPE_CHECKING:
    from quince.models.downloads import Downloads

logger = logging.getLogger(__name__)

# What chat and completions can be asked of; the engine reads a vision model's text side.
GENERATING = (ModelType.LLM, ModelType.VLM)
LOAD_TIMEOUT = 1800.0  # a hung load would keep every other model out
HOUSEKEEPING = 0.25  # seconds between two looks at idle models


class ModelManager:
    """Loads models on use and finds them for requests. Lifecycle: start, acquire ..., stop."""

    def __init__(self, config: ServeConfig, engine_command: Sequence[str] = ENGINE_COMMAND) -> None:
        """Raises UsageError if ``config.model`` or ``config.preload`` names nothing that is there, or a setting means
        nothing to the only model."""
        self._config = config
        self._engine_command = engine_command
        self.store = ModelStore(config.home, directory=config.models_dir)
        self.registry = ModelRegistry(config, self.store)
        if self.registry.only is not None:
            check_settings(self.registry.only, config)
        self._preload = [self.registry.resolve(name).stored for name in config.preload]
        self._budget = memory.default_budget() if config.memory_budget is None else config.memory_budget
        self._slots: dict[str, Slot] = {}
        self._sockets: SocketDirectory | None = None
        self._load_lock = asyncio.Lock()
        self._texts = TextCache()
        # What requests do before, or without, a place in an engine's queue has bounds of the same size.
        self._searches = Bound(config.places, "too many requests name models that have to be looked for")
        self._awaited = Bound(config.places, "too many requests wait for models to be downloaded")
        self._texts_used = Bound(config.places, "too many texts are being tokenized")
        self._waits = Interruptions()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._preloading: set[str] = set()
        self._downloads: Downloads | None = None
        self._engines = 0
        self._started = False
        self._stopped = False

    # Lifecycle

    async def start(self) -> None:
        """Begin loading; returns before the engines are ready. Raises ModelLoadError for an unusable tokenizer."""
        self._sockets = SocketDirectory()
        if self.registry.only is not None:
            await self._start_only(self._slot(self.registry.only))
        else:
            self._spawn(self._housekeep())
            for stored in self._preload:
                self._preloading.add(stored.name)
                self._spawn(self._preload_one(stored))
        self._started = True

    async def stop(self) -> None:
        """End every engine and what still runs on it. Also after a ``start`` that failed, and again."""
        self._stopped = True
        self._notify()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        endings = [slot.engine.stop() for slot in self._slots.values() if slot.engine is not None]
        if self._downloads is not None:
            endings.append(self._downloads.stop())
        # At once: the streams that an engine leaves are told while others still end.
        await asyncio.gather(*tasks, *endings, return_exceptions=True)
        if self._sockets is not None:
            self._sockets.close()

    async def _start_only(self, slot: Slot) -> None:
        """The single-model server's promise: the engine is there from the start, and kept by its client."""
        slot.state = ModelState.READY
        slot.engine = self._make_engine(slot)
        slot.engine.start()
        # Importing and reading the tokenizer takes as long as loading a small model: side by side.
        slot.model = await asyncio.to_thread(make_model, slot.stored, self._settings(slot), slot.engine)

    async def _preload_one(self, stored: StoredModel) -> None:
        try:
            await self._ready(self._slot(stored))
        except QuinceError as error:
            logger.error("%s cannot be preloaded: %s", stored.name, error)
        finally:
            self._preloading.discard(stored.name)

    # What the routes use

    @contextlib.asynccontextmanager
    async def acquire(
        self,
        name: str | None,
        request_id: str,
        *,
        types: Sequence[ModelType] = GENERATING,
        keep_alive: float | None = None,
    ) -> AsyncIterator[LoadedModel]:
        """The model (and the adapter) that ``name`` means, loaded, and kept loaded until the block ends.

        ``keep_alive`` (seconds, infinite for ever) takes the place of the idle time until another request says
        otherwise. Raises ModelNotFound, InvalidRequest for a model that is for something else, what loading raises, and
        RequestCancelled if ``abort`` ends the wait.
        """
        async with self._waits.block([request_id]):
            slot, adapter = await self._find(name)
            _check_type(slot.stored, types)
            model = await self._ready(slot)
        slot.running += 1
        if keep_alive is not None:
            slot.keep_alive = keep_alive
        try:
            yield model if adapter is None else model.with_adapter(adapter)
        finally:
            slot.running -= 1
            slot.last_used = time.monotonic()
            self._notify()
            self._unload_if_due(slot)

    def abort(self, request_ids: Sequence[str] | None = None) -> list[str]:
        """End these requests (None: all), whatever they wait for. Returns those that there were."""
        return self._waits.end(request_ids) + [name for one in self.models for name in one.engine.abort(request_ids)]

    @contextlib.asynccontextmanager
    async def text(self, name: str | None) -> AsyncIterator[tuple[str, ModelText]]:
        """The name and the tokenizer of the model that ``name`` means, of whatever type; its engine is not loaded.

        Work without an engine is done in the block, and is bounded there. Raises ModelNotFound, QueueFull, and
        ModelLoadError for an unusable tokenizer.
        """
        with self._texts_used.one():
            stored = (await self._resolve(name)).stored
            model = self._slot(stored).model
            if model is None:
                yield stored.name, await self._texts.get(stored, self.registry.settings(stored))
            else:
                yield stored.name, model.text

    async def load(self, name: str | None, *, keep_alive: float | None = None) -> ModelStatus:
        """Have it loaded, trying at once what has failed before. Its idle time begins anew."""
        slot, _ = await self._find(name)
        slot.retry_at = 0.0
        await self._ready(slot)
        slot.last_used = time.monotonic()
        if keep_alive is not None:
            slot.keep_alive = keep_alive
        return self._status(slot.stored)

    async def unload(self, name: str | None) -> ModelStatus:
        """Begin to unload it: at once if nothing runs on it, else (state draining) when its requests have ended."""
        slot, _ = await self._find(name)
        if slot.pinned:
            raise InvalidRequest(f"'{slot.stored.name}' is this server's only model: it is kept until the server stops")
        if slot.loading is not None:
            await asyncio.wait([slot.loading])
        if slot.state is ModelState.FAILED:
            slot.state = ModelState.UNLOADED
        if slot.state is ModelState.READY:
            self._begin_drain(slot)
        if slot.draining is not None and not slot.running:
            await asyncio.wait([slot.draining])
        return self._status(slot.stored)

    def is_ready(self, name: str | None) -> bool:
        """Whether ``acquire`` would not wait."""
        served = self.registry.recall(name)
        slot = None if served is None else self._slots.get(str(served.stored.path))
        return slot is not None and slot.state is ModelState.READY

    @property
    def downloads(self) -> Downloads:
        """The server's pulls. Its imports take long, and most servers never pull."""
        if self._downloads is None:
            from quince.models.downloads import Downloads

            self._downloads = Downloads(self.store)
        return self._downloads

    @property
    def models(self) -> list[LoadedModel]:
        """Those that are loaded; the only model of a server also while its engine starts."""
        return [slot.model for slot in self._slots.values() if slot.model is not None]

    @property
    def slots(self) -> list[Slot]:
        """Every model that was asked for since the server started, loaded or not."""
        return list(self._slots.values())

    async def statuses(self) -> list[ModelStatus]:
        """Every served model, the server's first model first."""
        return [self._status(stored) for stored in await asyncio.to_thread(self.registry.models)]

    async def status(self, name: str | None) -> ModelStatus:
        """One of them. Raises ModelNotFound."""
        stored, adapter = await self._resolve(name)
        return dataclasses.replace(self._status(stored), adapter=adapter)

    def health(self) -> tuple[bool, str]:
        """Whether requests can be served, and the state in words. Models that are loaded on use have no say in it."""
        if self.registry.only is None or self._stopped:
            up = self._started and not self._preloading and not self._stopped
            return up, "the server is shutting down" if self._stopped else "ready" if up else "loading"
        slot = self._slots.get(str(self.registry.only.path))
        if slot is None or slot.engine is None or slot.model is None:
            return False, "loading"
        return slot.engine.state is EngineState.READY, slot.engine.reason

    # Finding

    async def _find(self, name: str | None) -> tuple[Slot, str | None]:
        """The slot of the model, and the adapter."""
        try:
            stored, adapter = await self._resolve(name)
            return self._slot(stored), adapter
        except ModelNotFound:
            if not self._config.auto_download or self.registry.only is not None:
                raise
            pulled = await self._download(name)
            return self._slot(await asyncio.to_thread(self.registry.place, pulled)), None

    async def _resolve(self, name: str | None) -> Served:
        recalled = self.registry.recall(name)
        if recalled is not None:
            return recalled
        with self._searches.one():
            return await asyncio.to_thread(self.registry.resolve, name)

    async def _download(self, name: str | None) -> StoredModel:
        """What a hub id, or an alias of one, names. Raises ModelNotFound, what a pull raises, and QueueTimeout."""
        repo_id = self.registry.target(name or "")
        if repo_id.count("/") != 1:
            raise ModelNotFound(
                f"The model '{name}' does not exist here, and is no hub id (owner/name).", param="model"
            )
        try:
            async with asyncio.timeout(self._config.queue_timeout):
                with self._awaited.one():
                    return await self.downloads.wait_for(repo_id)
        except TimeoutError:
            raise QueueTimeout(f"'{repo_id}' is still being downloaded; try again later", retry_after=30) from None
        except RepositoryNotFound as error:
            raise ModelNotFound(f"The model '{name}' does not exist: {error.message}.", param="model") from None

    def _slot(self, stored: StoredModel) -> Slot:
        """Its slot, which is made on first sight. What has been installed anew under the name takes its place."""
        key = str(stored.path)
        slot = self._slots.get(key)
        if slot is None:
            only = self.registry.only
            slot = self._slots[key] = Slot(stored, pinned=only is not None and only.path == stored.path)
        elif slot.stored.manifest.installed_at != stored.manifest.installed_at and not slot.pinned:
            slot.stored, slot.retry_at = stored, 0.0
            if slot.state is ModelState.READY:
                self._begin_drain(slot)
        return slot

    # Loading

    async def _ready(self, slot: Slot) -> LoadedModel:
        """The loaded model, waiting through a load that others may share. The caller takes it before its next await."""
        if slot.waiting >= self._config.places:
            raise QueueFull(f"too many requests wait for '{slot.stored.name}' to be loaded", retry_after=5)
        deadline = time.monotonic() + self._config.queue_timeout
        slot.waiting += 1
        try:
            while slot.model is None or slot.state is not ModelState.READY:
                if self._stopped:
                    raise EngineUnavailable("the server is shutting down", retry_after=2)
                if slot.state is ModelState.FAILED and time.monotonic() < slot.retry_at:
                    raise slot.failure()
                if slot.loading is None:
                    slot.loading = self._spawn(self._load(slot))
                await asyncio.wait([slot.loading], timeout=max(0.0, deadline - time.monotonic()))
                if time.monotonic() >= deadline:
                    waited = f"{self._config.queue_timeout:g}"
                    raise QueueTimeout(f"the request waited {waited} s for '{slot.stored.name}' to be loaded")
            return slot.model
        finally:
            slot.waiting -= 1
            self._notify()

    async def _load(self, slot: Slot) -> None:
        try:
            async with self._load_lock:
                if slot.draining is not None:
                    await asyncio.wait([slot.draining])
                slot.state = ModelState.LOADING
                slot.granted = self._grant(slot, await self._make_room(slot))
                stored = slot.stored
                await self._start_engine(slot)
                if slot.stored is not stored:  # installed anew meanwhile
                    self._begin_drain(slot)
        except QuinceError as error:
            logger.error("%s: %s", slot.stored.name, error)
            slot.fail(error)
        except Exception as error:  # the boundary of a task: nobody may be left waiting
            logger.exception("%s cannot be loaded", slot.stored.name)
            slot.fail(ModelLoadError(_cannot_be_loaded(slot.stored, str(error))))
        finally:
            slot.loading = None
            self._notify()

    async def _make_room(self, slot: Slot) -> int:
        """Unload the least recently used until ``slot`` fits. Returns how many bytes are free then.

        Raises InsufficientMemory if it cannot.
        """
        need = max(slot.estimate, min(self._asked(slot), self._budget))
        most, most_of_type = self._config.max_loaded_models, self._most_of_type(slot.stored.type)
        while True:
            others = [other for other in self._slots.values() if other is not slot and other.engine is not None]
            alike = [other for other in others if other.stored.type is slot.stored.type]
            if most_of_type is not None and len(alike) >= most_of_type:
                await self._evict(alike)
                continue
            free = self._budget - sum(other.reserved for other in others)
            if need <= free and (most is None or len(others) < most):
                return free
            if slot.estimate > self._budget:
                raise InsufficientMemory(
                    f"'{slot.stored.name}' needs about {gigabytes(slot.estimate)} of memory, "
                    f"and models may take {gigabytes(self._budget)} here (--memory-budget)"
                )
            await self._evict(others)

    def _asked(self, slot: Slot) -> int:
        """Bytes that the settings say for its process, or 0."""
        asked = self._settings(slot).memory_bytes
        return 0 if asked is None or not writes(slot.stored) else memory.ENGINE_OVERHEAD + asked

    def _grant(self, slot: Slot, free: int) -> int:
        """How much of ``free`` it may take: other models that were asked for are to fit beside it."""
        asked = self._asked(slot)
        if asked or not writes(slot.stored):
            return asked
        others = [other for other in self._slots.values() if other is not slot]
        most = self._config.max_loaded_models
        if most is not None and sum(other.engine is not None for other in others) + 1 >= most:
            return free
        return memory.share(slot.estimate, free, [other.estimate for other in others if other.engine is None])

    def _most_of_type(self, type: ModelType) -> int | None:
        match type:
            case ModelType.EMBEDDING:
                return self._config.max_embedding_models
            case ModelType.RERANKER:
                return self._config.max_reranker_models
        return None

    async def _evict(self, others: list[Slot]) -> None:
        """One engine fewer: the least recently used, an idle one before a busy one. Or wait until one can be chosen."""
        going = [other.draining for other in others if other.draining is not None]
        ready = [other for other in others if other.state is ModelState.READY and not other.waiting]
        if not going and ready:
            victim = min(ready, key=lambda other: (other.running > 0, other.last_used))
            logger.info("unloading %s to make room", victim.stored.name)
            going = [self._begin_drain(victim)]
        changed = asyncio.ensure_future(self._changed.wait())
        await asyncio.wait([*going, changed], return_when=asyncio.FIRST_COMPLETED)
        changed.cancel()

    async def _start_engine(self, slot: Slot) -> None:
        """Raises ModelLoadError; then no engine is left."""
        started = time.monotonic()
        slot.engine = engine = self._make_engine(slot)
        engine.start()
        try:
            model = await asyncio.to_thread(make_model, slot.stored, self._settings(slot), engine)
            while engine.state is EngineState.LOADING and time.monotonic() - started < LOAD_TIMEOUT:
                with contextlib.suppress(EngineUnavailable):  # what became of it, its state says
                    await engine.wait_ready()
            if engine.state is not EngineState.READY:
                raise ModelLoadError(_cannot_be_loaded(slot.stored, engine.reason))
        except BaseException:
            await engine.stop()
            slot.engine = None
            raise
        slot.model, slot.error, slot.keep_alive = model, None, None
        slot.state, slot.last_used = ModelState.READY, time.monotonic()
        logger.info("loaded %s in %.1f s", slot.stored.name, slot.last_used - started)

    def _make_engine(self, slot: Slot) -> EngineClient:
        assert self._sockets is not None, "start() comes first"
        self._engines += 1
        limit = slot.granted - memory.ENGINE_OVERHEAD if slot.granted else None
        place = EnginePlace(self._sockets, f"engine-{self._engines}", self._engine_command, limit)
        return make_engine(slot.stored, self._settings(slot), place, slot.history)

    # Unloading

    def _begin_drain(self, slot: Slot) -> asyncio.Task[None]:
        slot.state = ModelState.DRAINING
        slot.draining = self._spawn(self._drain(slot))
        return slot.draining

    async def _drain(self, slot: Slot) -> None:
        while slot.running:
            await self._changed.wait()
        if slot.engine is not None:
            await slot.engine.stop()
        slot.engine = slot.model = slot.draining = None
        slot.state = ModelState.UNLOADED
        logger.info("unloaded %s", slot.stored.name)
        self._notify()

    async def _housekeep(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING)
            for slot in list(self._slots.values()):
                await self._give_up_if_lost(slot)
                self._unload_if_due(slot)

    def _unload_if_due(self, slot: Slot) -> None:
        """Once its time is over, or its files are gone."""
        if slot.state is not ModelState.READY or slot.pinned or not slot.idle:
            return
        if time.monotonic() >= slot.expires_at(self._settings(slot).idle_ttl) or not os.path.exists(slot.stored.path):
            self._begin_drain(slot)

    async def _give_up_if_lost(self, slot: Slot) -> None:
        """A model that died and cannot be loaded any more is not restarted for ever."""
        engine = slot.engine
        lost = engine is not None and slot.shown_state is ModelState.FAILED and slot.state is ModelState.READY
        if engine is None or not lost or slot.pinned or slot.running:
            return
        slot.fail(ModelLoadError(_cannot_be_loaded(slot.stored, engine.reason)))
        slot.engine = slot.model = None
        await engine.stop()
        self._notify()

    # Small things

    def _settings(self, slot: Slot) -> ServeConfig:
        return self.registry.settings(slot.stored)

    def _status(self, stored: StoredModel) -> ModelStatus:
        slot = self._slots.get(str(stored.path)) or Slot(stored)
        ready = slot.engine.ready if slot.engine else None
        own = stored.manifest.description.context
        context = ready.max_model_len if ready else self._settings(slot).ctx_size or own
        error = slot.error.message if slot.state is ModelState.FAILED and slot.error else None
        return ModelStatus(
            stored=stored,
            state=slot.shown_state,
            error=error,
            context=context,
            memory=slot.memory,
            running=slot.running,
            expires_in=slot.expires_at(self._settings(slot).idle_ttl) - time.monotonic(),
            on_gpu=ready is not None and "gpu" in ready.device,
        )

    def _notify(self) -> None:
        """Wake everybody who waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # Not in the context of the request that happens to be first: others share what it starts.
        task = asyncio.create_task(work, context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _check_type(stored: StoredModel, types: Sequence[ModelType]) -> None:
    if stored.type not in types:
        raise InvalidRequest(
            f"'{stored.name}' is of type {stored.type.value}: it cannot be asked for this, "
            f"which models of type {' or '.join(type.value for type in types)} can",
            param="model",
        )


def _cannot_be_loaded(stored: StoredModel, reason: str) -> str:
    return f"'{stored.name}' cannot be loaded: {reason.removeprefix(f'{stored.path.name}: ')}"
