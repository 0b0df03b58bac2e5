"""The engine process: one model, one thread that owns MLX, one socket.

Its standard input carries the EngineConfig and then stays open: when it ends, the API process is gone, and so is the
engine. The thread that sees it waits, with a disk tier, for what the prefix cache still has to write.
"""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from quince.engine.disk_files import identity
from quince.engine.disk_tier import DiskTier
from quince.engine.ipc import EngineSocket, remove_socket
from quince.engine.lean_import import import_loader
from quince.engine.messages import (
    Abort,
    AddRequest,
    EngineConfig,
    EngineStats,
    LoadFailed,
    Output,
    PoolRequest,
    Ready,
    StepOutput,
    Task,
)
from quince.errors import ModelLoadError
from quince.pytorch import hide_pytorch

logger = logging.getLogger("quince.engine")

MAX_FAILED_STEPS = 3
SAVE_TIMEOUT = 4.0  # seconds at the end; less than what supervisor.py waits before it kills
SIGN_OF_LIFE = 1.0  # seconds between messages while only grammars are being compiled
MEMORY_KEPT = 30.0  # seconds without work until MLX's pool of buffers goes back: the next prompt would allocate it anew


def main() -> None:
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the API process's to handle
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineConfig)
    with EngineSocket(config.address) as socket:
        ending = _Ending(socket)
        watch = threading.Thread(
            target=_exit_with_parent, args=[config.address, ending], name="parent-watch", daemon=True
        )
        watch.start()
        engine = _load(config, socket, ending)
        if engine is None:
            sys.exit(1)
        engine.serve()


class _Ending:
    """How the end of the process is agreed on between the thread that sees it come and the engine's."""

    def __init__(self, socket: EngineSocket) -> None:
        self._socket = socket
        self._begun = threading.Event()
        self._saved = threading.Event()
        self.saves = False  # whether the engine serves, and has something to save at its end

    @property
    def begun(self) -> bool:
        return self._begun.is_set()

    def begin(self) -> None:
        """Let the engine save what it has, for at most SAVE_TIMEOUT seconds."""
        self._begun.set()
        if self.saves:
            self._socket.wake()
            self._saved.wait(SAVE_TIMEOUT + 0.5)

    def complete(self) -> None:
        self._saved.set()


def _exit_with_parent(address: str, ending: _Ending) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    ending.begin()
    remove_socket(address)
    os._exit(0)


def _load(config: EngineConfig, socket: EngineSocket, ending: _Ending) -> EngineServer | None:
    """Load the model and report it, or report why not."""
    hide_pytorch()  # images are preprocessed elsewhere, by processors that may want it
    import_loader()
    make = _make_generating if config.task is Task.GENERATE else _make_pooling
    try:
        core, ready = make(config, socket.wake)
    except ModelLoadError as error:
        logger.error("%s", error)
        socket.send(LoadFailed(error.message))
        return None
    ending.saves = config.prefix_cache_disk_bytes > 0
    socket.send(ready)
    return EngineServer(core, socket, ending)


class Runner(Protocol):
    def release_memory(self) -> None: ...


class Core(Protocol):
    """What an engine process drives, on its one thread.

    ``add`` takes the requests of the engine's own task and never fails. ``step`` does a bounded piece of work and
    returns what became of requests; after it has raised, ``fail_step`` ends those that were part of it. Aborted
    requests get their last output from a ``step``. ``is_compiling``: other threads work for it, and will wake it.
    ``close`` saves what is to outlive the process, within so many seconds.
    """

    @property
    def runner(self) -> Runner: ...
    def add(self, message: Any) -> None: ...
    def abort(self, request_ids: Iterable[str]) -> None: ...
    def has_work(self) -> bool: ...
    def is_compiling(self) -> bool: ...
    def step(self) -> list[Output]: ...
    def fail_step(self, error: str) -> list[Output]: ...
    def stats(self, *, active_memory: int, peak_memory: int) -> EngineStats: ...
    def close(self, seconds: float) -> None: ...


def _make_generating(config: EngineConfig, wake: Callable[[], None]) -> tuple[Core, Ready]:
    # MLX and mlx-lm take long to import: a wrong configuration is told before.
    import mlx.core as mx

    from quince.engine.adapters import AdapterForward
    from quince.engine.core import CoreConfig, make_core
    from quince.engine.device import CHUNK, gains_from_fused_projections, prefill_tokens, share_cores
    from quince.engine.forward import Forward, TextForward
    from quince.engine.fused_projections import fuse_projections
    from quince.engine.kv_layout import KVQuantization
    from quince.engine.loader import load
    from quince.engine.structured import GrammarCompiler
    from quince.engine.vision import VisionForward, feature_bytes
    from quince.engine.vision_loader import load_vision

    share_cores()
    adapter = None if config.adapter_path is None else Path(config.adapter_path)
    tier = _make_tier(config, wake)  # it reads what there is while the model is loaded
    load_model = load_vision if config.vision else load
    if config.vision and config.adapters:
        raise ModelLoadError("--adapters is for models that read text only; this one reads images, too")
    loaded = load_model(Path(config.model_path), max_model_len=config.max_model_len, adapter=adapter)
    forward: Forward = TextForward(loaded.model)
    if config.adapters:
        forward = AdapterForward(loaded.model, {name: Path(path) for name, path in config.adapters.items()})
    if config.vision:
        forward = VisionForward(loaded.model, feature_bytes=feature_bytes(config.memory_bytes, config.memory_limit))
    if gains_from_fused_projections() and not config.adapters:
        logger.info("%d groups of projections fused", fuse_projections(forward, loaded.model))
    core = make_core(
        forward,
        loaded.vocab_size,
        GrammarCompiler(Path(config.model_path) / "tokenizer.json", loaded.vocab_size, wake),
        CoreConfig(
            max_running_requests=config.max_running_requests,
            prefill_chunk_size=config.prefill_chunk_size or CHUNK,
            prefill_tokens=config.prefill_chunk_size or prefill_tokens(),
            memory_bytes=config.memory_bytes,
            memory_limit=config.memory_limit,
            prefix_cache_bytes=config.prefix_cache_bytes,
            kv_quantization=None if config.kv_bits is None else KVQuantization(config.kv_bits, config.kv_group_size),
        ),
        tier,
    )
    return core, Ready(
        model_type=loaded.model_type,
        vocab_size=loaded.vocab_size,
        max_model_len=loaded.max_model_len,
        memory_bytes=mx.get_active_memory(),
        device=str(mx.default_device()),
    )


def _make_tier(config: EngineConfig, wake: Callable[[], None]) -> DiskTier | None:
    if not config.prefix_cache_disk_bytes:
        return None
    paths = (config.model_path, config.adapter_path, *config.adapters.values())
    directories = [Path(path) for path in paths if path is not None]
    facts = (config.vision, config.kv_bits, config.kv_group_size, *config.adapters)
    try:
        name = identity(directories, facts)
    except OSError as error:
        raise ModelLoadError(f"the model's files cannot be read: {error}") from error
    return DiskTier(Path(config.prefix_cache_dir), name, max_bytes=config.prefix_cache_disk_bytes, wake=wake)


def _make_pooling(config: EngineConfig, _wake: Callable[[], None]) -> tuple[Core, Ready]:
    import mlx.core as mx

    from quince.engine.device import CHUNK, share_cores
    from quince.engine.pooling_core import PoolingCore
    from quince.engine.pooling_model import load
    from quince.engine.pooling_runner import PoolingRunner

    share_cores()
    model = load(Path(config.model_path), config.task, max_model_len=config.max_model_len)
    core = PoolingCore(PoolingRunner(model.head, model.decoder), max_batch_tokens=config.prefill_chunk_size or CHUNK)
    return core, Ready(
        model_type=model.model_type,
        vocab_size=model.vocab_size,
        max_model_len=model.max_model_len,
        memory_bytes=mx.get_active_memory(),
        device=str(mx.default_device()),
        dimensions=model.dimensions,
    )


class EngineServer:
    """Drives a core by what arrives."""

    def __init__(self, core: Core, socket: EngineSocket, ending: _Ending, *, memory_kept: float = MEMORY_KEPT) -> None:
        import mlx.core as mx

        self._mx = mx
        self._core = core
        self._socket = socket
        self._ending = ending
        self._memory_kept = memory_kept
        self._release_at: float | None = time.monotonic() + memory_kept  # None: there is nothing to release
        self._failed_steps = 0

    def serve(self) -> None:
        """Run until standard input ends, which ends the process."""
        gc.freeze()  # modules and weights stay: looking for garbage among them would hold up a step
        while not self._ending.begun:
            self._receive()
            if self._core.has_work():
                self._send(self._step())
                self._release_at = time.monotonic() + self._memory_kept
            elif self._core.is_compiling():
                self._send([])  # a sign of life
            elif self._release_at is not None and time.monotonic() >= self._release_at:
                self._core.runner.release_memory()
                self._release_at = None
        try:
            self._core.close(SAVE_TIMEOUT)
        except Exception:  # the boundary: what fails now ends nothing but the saving
            logger.exception("the prefix cache could not be written to the disk")
        self._ending.complete()
        threading.Event().wait()  # for the end, which has begun

    def _receive(self) -> None:
        """Take what has arrived, sleeping while there is nothing to do."""
        timeout = None
        if self._core.is_compiling():
            timeout = SIGN_OF_LIFE
        elif self._release_at is not None:
            timeout = max(0.0, self._release_at - time.monotonic())
        for message in self._socket.receive(wait=not self._core.has_work(), timeout=timeout):
            match message:
                case AddRequest() | PoolRequest():
                    self._core.add(message)
                case Abort():
                    self._core.abort(message.request_ids)

    def _step(self) -> list[Output]:
        try:
            outputs = self._core.step()
        except Exception as error:  # the boundary: a step's failure ends its requests, not the engine
            self._failed_steps += 1
            logger.exception("a step failed")
            if self._failed_steps == MAX_FAILED_STEPS:
                raise
            return self._core.fail_step(f"the engine failed while it ran this request: {error}")
        if any(output.token_ids or output.pooled for output in outputs):  # a start alone proves nothing
            self._failed_steps = 0
        return outputs

    def _send(self, outputs: list[Output]) -> None:
        memory, peak = self._mx.get_active_memory(), self._mx.get_peak_memory()
        self._socket.send(StepOutput(outputs, self._core.stats(active_memory=memory, peak_memory=peak)))


if __name__ == "__main__":
    main()
