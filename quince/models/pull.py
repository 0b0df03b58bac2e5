"""From a repository's name to an installed model: ask, check, download, convert, install. Blocking; progress is told.

One pull of a repository at a time, over all processes: a second one waits and finds the work done. What a broken pull
has downloaded stays in the store's staging directory, under the commit that it belongs to, and the next pull goes on.
"""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import msgspec

from quince.errors import ConvertError, DiskFull, PullCancelled
from quince.models import convert, description
from quince.models.convert import Conversion
from quince.models.hub import PARTIAL, Hub, RemoteFile, Repository
from quince.models.memory import gigabytes
from quince.models.model_type import ModelType
from quince.models.store import ModelStore, Source, StoredModel, staging_key
from quince.text.tokenizer import read_json

FILES_AT_ONCE = 4
TELL_EVERY = 0.1  # seconds
SPARE = 16 * 2**20  # bytes that stay free on the disk


@dataclass(frozen=True)
class PullRequest:
    """``type`` None: found out. ``name`` None: the repository's last part, with ``-4bit`` if quantised here."""

    repo_id: str
    revision: str | None = None
    name: str | None = None
    type: ModelType | None = None
    bits: int | None = None
    group_size: int = 64

    @property
    def target(self) -> str:
        return self.name or self.repo_id.rpartition("/")[2] + (f"-{self.bits}bit" if self.bits else "")

    @property
    def source(self) -> Source:
        return Source(repo_id=self.repo_id, quantized_here=self.bits is not None)


@dataclass(frozen=True)
class Quantization:
    """``name`` None: the model's, with ``-4bit``."""

    bits: int
    group_size: int = 64
    name: str | None = None


@dataclass(frozen=True)
class Progress:
    """What is being done, in words, and how far the download is in bytes (``total`` 0 outside of it).

    ``file`` and ``digest`` say which file's bytes have just come, ``file_completed`` and ``file_total`` how many.
    """

    status: str
    completed: int = 0
    total: int = 0
    file: str = ""
    digest: str = ""
    file_completed: int = 0
    file_total: int = 0


OnProgress = Callable[[Progress], None]


class Installer:
    """Installs into ``store`` from ``hub``. Any thread may call; ``on_progress`` is called from several."""

    def __init__(self, store: ModelStore, hub: Hub | None = None) -> None:
        self._store = store
        self._hub = hub or Hub()

    def pull(self, request: PullRequest, on_progress: OnProgress, cancelled: threading.Event) -> StoredModel:
        """Raises StoreError and its kinds; then nothing is installed, and what came stays for the next pull."""
        convert.check_options(request.bits, request.group_size)
        self._store.check_free(request.target, request.source)
        on_progress(Progress(f"looking up {request.repo_id}"))
        repository = self._hub.repository(request.repo_id, request.revision)
        key = staging_key(request.repo_id)
        waiting = Progress(f"waiting for another pull of {request.repo_id}")
        with self._store.lock(key, cancelled, lambda: on_progress(waiting)):
            present = self._present(request, repository)
            if present is not None:
                return present
            staged = self._store.staging / f"{key}@{repository.revision[:12]}"
            self._download(request, repository, staged, on_progress, cancelled)
            model = self._install(request, repository, staged, on_progress, cancelled)
            for leftover in self._store.staging.glob(f"{key}@*"):
                shutil.rmtree(leftover, ignore_errors=True)
        return model

    def quantize(
        self, name: str, options: Quantization, on_progress: OnProgress, cancelled: threading.Event
    ) -> StoredModel:
        """Install the model ``name`` quantised, beside itself. Raises StoreError and its kinds."""
        model = self._store.get(name)
        found = model.manifest.description
        if found.bits:
            raise ConvertError(f"'{model.name}' is already quantised, to {found.quantization}")
        convert.check_options(options.bits, options.group_size)
        convert.check_type(model.type)
        source = msgspec.structs.replace(model.manifest.source, quantized_here=True)
        target = options.name or f"{model.name.rpartition('/')[2]}-{options.bits}bit"
        self._store.check_free(target, source)
        if target == model.name:
            raise ConvertError(f"'{target}' is the name of the model itself, which stays: choose another")
        with self._store.lock(target, cancelled, lambda: None):
            staged = self._store.staging / f"quantize-{target}"
            _check_space(self._store.staging, found.size * options.bits // 16)
            on_progress(Progress(f"quantising to {options.bits} bits"))
            self._convert(model.path, staged, model.type, options, cancelled)
            return self._store.install(staged, target, source, model.type)

    def _present(self, request: PullRequest, repository: Repository) -> StoredModel | None:
        """The model, if exactly this is installed already (by the pull that this one waited for, perhaps)."""
        model = self._store.find(request.target)
        if model is None or model.origin != "installed" or (request.type and model.type is not request.type):
            return None
        source, found = model.manifest.source, model.manifest.description
        same = source.repo_id == request.repo_id and source.revision == repository.revision
        bits = found.bits if source.quantized_here else None
        return model if same and bits == request.bits else None

    # Download

    def _download(
        self,
        request: PullRequest,
        repository: Repository,
        staged: Path,
        on_progress: OnProgress,
        cancelled: threading.Event,
    ) -> None:
        meter = _Meter(repository, on_progress)
        self._prepare(staged, repository)
        (config,) = [file for file in repository.files if file.name == "config.json"]
        # First, so that what cannot be used is refused before the weights come.
        self._hub.fetch(repository, config, staged, meter.of(config), cancelled)
        type = request.type or _type(repository, staged)
        if type is ModelType.VLM and (request.bits or not self._hub.is_mlx(repository)):
            convert.check_type(type)
        rest = [file for file in repository.files if file is not config]
        stop = threading.Event()  # one failure ends the others
        pool = ThreadPoolExecutor(FILES_AT_ONCE, thread_name_prefix="pull")
        try:
            futures = [pool.submit(self._hub.fetch, repository, file, staged, meter.of(file), stop) for file in rest]
            while True:
                done, pending = wait(futures, timeout=0.1, return_when=FIRST_EXCEPTION)
                failed = [error for future in done if (error := future.exception()) is not None]
                if failed:
                    raise failed[0]
                if not pending:
                    return
                if cancelled.is_set():
                    raise PullCancelled()
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)

    def _prepare(self, staged: Path, repository: Repository) -> None:
        """Make the directory, after a look at the disk. Raises DiskFull."""
        self._store.staging.mkdir(parents=True, exist_ok=True)
        there = 0
        for file in repository.files:
            for path in (staged / file.name, staged / (file.name + PARTIAL)):
                with contextlib.suppress(OSError):
                    there += path.stat().st_size
        _check_space(self._store.staging, repository.size - there)
        staged.mkdir(exist_ok=True)

    # Conversion and installation

    def _install(
        self,
        request: PullRequest,
        repository: Repository,
        staged: Path,
        on_progress: OnProgress,
        cancelled: threading.Event,
    ) -> StoredModel:
        on_progress(Progress("checking the files"))
        description.check(staged)
        type = request.type or _type(repository, staged)
        found = description.describe(staged, type)
        if request.bits and found.bits:
            raise ConvertError(f"{request.repo_id} is already quantised, to {found.quantization}: pull it as it is")
        finished = staged
        generating = type in (ModelType.LLM, ModelType.VLM)
        if request.bits or (found.format != "mlx" and generating):
            _check_space(staged, found.size * (request.bits or 16) // 16)
            on_progress(Progress(f"quantising to {request.bits} bits" if request.bits else "converting to MLX"))
            finished = staged.with_name(staged.name + "-converted")
            self._convert(staged, finished, type, request, cancelled)
        on_progress(Progress(f"installing as {request.target}"))
        source = Source(repo_id=request.repo_id, revision=repository.revision, quantized_here=request.bits is not None)
        return self._store.install(finished, request.target, source, type)

    def _convert(
        self,
        source: Path,
        target: Path,
        type: ModelType,
        options: PullRequest | Quantization,
        cancelled: threading.Event,
    ) -> None:
        shutil.rmtree(target, ignore_errors=True)
        conversion = Conversion(
            source=str(source),
            target=str(target),
            vision=type is ModelType.VLM,
            bits=options.bits,
            group_size=options.group_size,
        )
        convert.convert(conversion, cancelled)


class _Meter:
    """Adds up the bytes of all files, and tells often enough."""

    def __init__(self, repository: Repository, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._total = repository.size
        self._completed: dict[str, int] = {}
        self._told: dict[str, float] = {}
        self._lock = threading.Lock()

    def of(self, file: RemoteFile) -> Callable[[int], None]:
        def add(count: int) -> None:
            with self._lock:
                completed = self._completed[file.name] = self._completed.get(file.name, 0) + count
                now = time.monotonic()
                if completed < file.size and now - self._told.get(file.name, 0) < TELL_EVERY:
                    return
                self._told[file.name] = now
                self._on_progress(self._progress(file, completed))

        return add

    def _progress(self, file: RemoteFile, completed: int) -> Progress:
        return Progress(
            status=f"pulling {file.name}",
            completed=sum(self._completed.values()),
            total=self._total,
            file=file.name,
            digest=f"sha256:{file.sha256}" if file.sha256 else f"sha1:{file.git_sha1}",
            file_completed=completed,
            file_total=file.size,
        )


def _type(repository: Repository, staged: Path) -> ModelType:
    names = {part for file in repository.files for part in file.name.split("/")}
    return description.detect_type(read_json(staged / "config.json"), names, repository.repo_id)


def _check_space(path: Path, needed: int) -> None:
    free = shutil.disk_usage(path).free
    if needed + SPARE > free:
        raise DiskFull(
            f"not enough space on the disk: {gigabytes(needed)} are needed and {gigabytes(free)} are free in {path}"
        )
