"""One served model's place in the manager: what state it is in, and who uses it."""

from __future__ import annotations

import asyncio
import enum
import math
import time
from dataclasses import dataclass

from quince.engine.client import EngineClient, EngineState
from quince.engine.history import EngineHistory
from quince.errors import ModelLoadError, QuinceError
from quince.models import memory
from quince.models.loaded import LoadedModel
from quince.models.store import StoredModel

# How long a model that could not be loaded is not tried again, unless somebody asks for just that.
RETRY_AFTER = 10.0


class ModelState(enum.Enum):
    """
    UNLOADED --first use, preload, /load--> LOADING --loaded--> READY
       ^  ^                                    |                  |
       |  |                                    | cannot be loaded | evicted, idle, /unload, replaced on disk
       |  |                                    v                  v
       |  +------ next use, 10 s later ---- FAILED             DRAINING (its requests end, new ones wait)
       +------------------ engine process has ended --------------+
    """

    UNLOADED = "unloaded"
    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    FAILED = "failed"


class Slot:
    """Plain state: the manager changes it, on the event loop. Times are ``time.monotonic()``'s.

    ``running`` requests hold the engine; ``waiting`` ones want it and will take it as soon as it is ready: an engine is
    not unloaded under either, except that a drained one lets its waiting requests load it again. A ``pinned`` model is
    the server's only one: its engine is started at the start, and restarted for ever.
    """

    def __init__(self, stored: StoredModel, *, pinned: bool = False) -> None:
        self.stored = stored
        self.pinned = pinned
        self.state = ModelState.UNLOADED
        self.engine: EngineClient | None = None
        self.granted = 0  # bytes that the engine may take; 0: what it takes by itself
        self.history = EngineHistory(stored.name)
        self.model: LoadedModel | None = None
        self.running = 0
        self.waiting = 0
        self.last_used = time.monotonic()
        self.keep_alive: float | None = None  # seconds, of the last request that said any; else --idle-ttl
        self.error: QuinceError | None = None
        self.retry_at = 0.0
        self.loading: asyncio.Task[None] | None = None
        self.draining: asyncio.Task[None] | None = None

    @property
    def shown_state(self) -> ModelState:
        """The state for people: an engine that is being restarted is loading."""
        if self.engine is None or self.state is not ModelState.READY or self.engine.state is EngineState.READY:
            return self.state
        if isinstance(self.engine.last_error, ModelLoadError):
            return ModelState.FAILED
        return ModelState.LOADING

    @property
    def idle(self) -> bool:
        return not self.running and not self.waiting

    @property
    def memory(self) -> int:
        """Bytes that the engine takes, measured or estimated, whichever is more; 0 without an engine."""
        if self.engine is None:
            return 0
        measured = max(self.engine.ready.memory_bytes if self.engine.ready else 0, self.engine.stats.active_memory)
        return max(self.estimate, memory.ENGINE_OVERHEAD + measured)

    @property
    def reserved(self) -> int:
        """Bytes that no other engine may take."""
        return 0 if self.engine is None else max(self.memory, self.granted)

    @property
    def estimate(self) -> int:
        return memory.estimate(self.stored.manifest.description.size)

    def expires_at(self, idle_ttl: float | None) -> float:
        """When it is unloaded if nobody uses it until then; infinite for never."""
        ttl = idle_ttl if self.keep_alive is None else self.keep_alive
        return math.inf if ttl is None or self.pinned else self.last_used + ttl

    def fail(self, error: QuinceError) -> None:
        self.state = ModelState.FAILED
        self.error = error
        self.retry_at = time.monotonic() + RETRY_AFTER

    def failure(self) -> QuinceError:
        """A fresh exception for every request that meets the failure."""
        assert self.error is not None
        left = max(1.0, math.ceil(self.retry_at - time.monotonic()))
        return type(self.error)(self.error.message, param=self.error.param, retry_after=left)


@dataclass(frozen=True)
class ModelStatus:
    """A served model as it is now, or an ``adapter`` of it. ``context`` is in tokens, ``memory`` in bytes,
    ``expires_in`` in seconds."""

    stored: StoredModel
    state: ModelState
    error: str | None
    context: int | None
    memory: int
    running: int
    expires_in: float
    on_gpu: bool
    adapter: str | None = None
