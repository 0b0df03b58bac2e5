"""The models on disk: what is installed, under which names, and what else is found.

    <home>/models/<name>/            a model's files, and quince.json: where they came from
    <home>/models/aliases.json       the user's aliases
    <home>/models/.staging/<key>/    downloads and conversions under way; kept when broken off, so that they resume

A model is installed by renaming a finished directory into place: whatever stands under its name is whole. Other
processes may install and remove at any time; nothing is remembered between calls.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from quince import environment
from quince.errors import InvalidModel, ModelNotFound, PullCancelled, StoreError
from quince.models import demo, description, hf_cache
from quince.models.aliases import shipped
from quince.models.description import Description
from quince.models.model_type import ModelType

MANIFEST = "quince.json"
_ALIASES = "aliases.json"
# What requests call a server's first model.
DEFAULT_NAMES = ("default", "model")
_STAGING = ".staging"
# Also Ollama's tags (qwen3:0.6b). A name is one directory: no slashes, no leading dot.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:+-]{0,127}")


class Source(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a model came from: ``repo_id`` and commit on the hub, and what was done to it here."""

    repo_id: str | None = None
    revision: str | None = None
    quantized_here: bool = False


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What quince.json holds. ``installed_at`` is a Unix time in seconds."""

    source: Source
    description: Description
    installed_at: float


@dataclass(frozen=True)
class StoredModel:
    """A model that can be loaded. ``origin`` is "installed", "demo" or "cache" (the Hugging Face cache)."""

    name: str
    path: Path
    origin: str
    manifest: Manifest

    @property
    def type(self) -> ModelType:
        return self.manifest.description.type

    def with_type(self, type: ModelType) -> StoredModel:
        told = msgspec.structs.replace(self.manifest.description, type=type)
        return replace(self, manifest=msgspec.structs.replace(self.manifest, description=told))


class ModelStore:
    """``cache`` is a Hugging Face cache directory, None for the usual one; ``directory`` has the installed models, None
    for ``models`` in the home directory."""

    def __init__(self, home: Path, cache: Path | None = None, directory: Path | None = None) -> None:
        self.directory = directory or home / "models"
        self._cache = cache

    # What there is

    def models(self) -> list[StoredModel]:
        """The demo models, what is installed by name, then what the Hugging Face cache has besides."""
        installed = list(self._installed())
        repositories = {model.manifest.source.repo_id for model in installed}
        cached = [
            self._cached(found) for found in hf_cache.find(self._cache_directory()) if found.repo_id not in repositories
        ]
        return [*self._demos(), *installed, *filter(None, cached)]

    def find(self, name: str) -> StoredModel | None:
        """The model that ``name`` means: its name, an alias, or a hub id of an installed or cached model."""
        name = self.resolve_alias(name)
        path = demo.path(name)
        if path is not None:
            return _stored(name, path, "demo")
        if self.is_installed(name):
            return _stored(name, self.directory / name, "installed")
        return self._by_repository(name) if "/" in name else None

    def is_installed(self, name: str) -> bool:
        """Whether this is an installed model's own name."""
        return bool(_NAME.fullmatch(name)) and (self.directory / name / "config.json").is_file()

    def get(self, name: str) -> StoredModel:
        """As ``find``. Raises ModelNotFound."""
        model = self.find(name)
        if model is None:
            raise ModelNotFound(f"There is no model '{name}' here. `quince list` shows what there is.", param="model")
        return model

    def _demos(self) -> Iterator[StoredModel]:
        for name in demo.NAMES:
            path = demo.path(name)
            model = _stored(name, path, "demo") if path else None
            if model is not None:
                yield model

    def _installed(self) -> Iterator[StoredModel]:
        folders = sorted(self.directory.iterdir()) if self.directory.is_dir() else []
        for folder in folders:
            if _NAME.fullmatch(folder.name) and (folder / "config.json").is_file():
                model = _stored(folder.name, folder, "installed")
                if model is not None:
                    yield model

    def _by_repository(self, repo_id: str) -> StoredModel | None:
        """Of several from one repository, the one that was not quantised here, then the latest."""
        own = [model for model in self._installed() if model.manifest.source.repo_id == repo_id]
        if own:
            return min(own, key=lambda one: (one.manifest.source.quantized_here, -one.manifest.installed_at))
        found = hf_cache.get(self._cache_directory(), repo_id)
        return None if found is None else self._cached(found)

    def _cached(self, found: hf_cache.CachedModel) -> StoredModel | None:
        return _stored(found.repo_id, found.path, "cache", Source(repo_id=found.repo_id, revision=found.revision))

    def _cache_directory(self) -> Path:
        return self._cache or hf_cache.default_directory()

    def stamp(self) -> tuple[int, ...]:
        """Changes whenever something is installed, removed or renamed here, or an alias is set."""
        stamps = []
        for path in (self.directory, self.directory / _ALIASES):
            try:
                stamps.append(path.stat().st_mtime_ns)
            except OSError:
                stamps.append(0)
        return tuple(stamps)

    # Aliases

    def aliases(self) -> dict[str, str]:
        """The user's aliases, name to target."""
        try:
            return msgspec.json.decode((self.directory / _ALIASES).read_bytes(), type=dict[str, str])
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            raise StoreError(f"{self.directory / _ALIASES} cannot be read: {error}") from None

    def resolve_alias(self, name: str) -> str:
        """What ``name`` stands for: itself, if it is no alias. An installed name goes before an alias."""
        return self._chain(name)[-1]

    def _chain(self, name: str) -> list[str]:
        """From ``name`` to what it stands for; aliases may stand for aliases, and circles end."""
        own, chain = self.aliases(), [name]
        while not (_NAME.fullmatch(name) and (self.directory / name).is_dir()):
            name = own.get(name) or shipped().get(name.lower()) or name
            if name in chain:
                break
            chain.append(name)
        return chain

    def set_alias(self, alias: str, target: str) -> None:
        """Raises StoreError for an alias that is no name, is taken, or would stand for itself."""
        check_name(alias)
        if alias in DEFAULT_NAMES:
            raise StoreError(f"'{alias}' means a server's first model and cannot be an alias of another")
        if (self.directory / alias).exists() or demo.path(alias) is not None:
            raise StoreError(f"'{alias}' is the name of a model; an alias needs a name of its own")
        if alias in self._chain(target):
            raise StoreError(f"the alias '{alias}' would stand for itself")
        self.get(target)
        self._write_aliases({**self.aliases(), alias: target})

    def _write_aliases(self, aliases: dict[str, str]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        temporary = self.directory / f".{_ALIASES}.{uuid.uuid4().hex}"
        try:
            temporary.write_bytes(msgspec.json.format(msgspec.json.encode(aliases)))
            temporary.replace(self.directory / _ALIASES)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise StoreError(f"{self.directory / _ALIASES} cannot be written: {error.strerror or error}") from None

    # Changes

    def check_free(self, name: str, source: Source) -> None:
        """Raises StoreError if ``name`` cannot be installed under: it is no name, or another model's."""
        check_name(name)
        if demo.path(name) is not None:
            raise StoreError(f"'{name}' is an embedded model's name; choose another with --name")
        path = self.directory / name
        if not path.exists():
            return
        there = _read_manifest(path)
        if there is None or there.source.repo_id is None or there.source.repo_id != source.repo_id:
            origin = there.source.repo_id if there and there.source.repo_id else "elsewhere"
            raise StoreError(f"a model '{name}' is already installed, from {origin}; choose another name with --name")

    def install(self, finished: Path, name: str, source: Source, type: ModelType | None = None) -> StoredModel:
        """Move a finished directory (on the same file system) into place, over an older one of the same source.

        Raises InvalidModel if it is not whole; then nothing has changed.
        """
        self.check_free(name, source)
        description.check(finished)
        manifest = Manifest(source=source, description=description.describe(finished, type), installed_at=time.time())
        (finished / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
        path = self.directory / name
        old = self.directory / _STAGING / f"old-{uuid.uuid4().hex}"
        old.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            path.rename(old)
        finished.rename(path)
        shutil.rmtree(old, ignore_errors=True)
        return StoredModel(name, path, "installed", manifest)

    def copy(self, name: str, new_name: str) -> StoredModel:
        """The model under a second name, sharing its data on disk where the file system can."""
        model = self.get(name)
        check_name(new_name)
        if self.find(new_name) is not None:
            raise StoreError(f"a model '{new_name}' is already there")
        self.staging.mkdir(parents=True, exist_ok=True)
        target = self.staging / f"copy-{uuid.uuid4().hex}"
        try:
            shutil.copytree(model.path, target, copy_function=_link_or_copy)
            (target / MANIFEST).unlink(missing_ok=True)  # a link to the other's, which install would write to
            return self.install(target, new_name, model.manifest.source, model.type)
        finally:
            shutil.rmtree(target, ignore_errors=True)

    def remove(self, name: str) -> str:
        """Remove an alias, an installed model (and the aliases that mean it) or a broken pull; returns its name."""
        aliases = self.aliases()
        if name in aliases and not (self.directory / name).is_dir():
            self._write_aliases({alias: target for alias, target in aliases.items() if alias != name})
            return name
        model = self.find(name)
        if model is None:
            return self._remove_staged(name)
        if model.origin == "demo":
            raise StoreError(f"'{model.name}' comes with Quince and cannot be removed")
        if model.origin == "cache":
            raise StoreError(
                f"'{model.name}' is in the Hugging Face cache, which other programs share: "
                f"remove it with `hf cache rm model/{model.name}`"
            )
        gone = self.directory / _STAGING / f"old-{uuid.uuid4().hex}"
        gone.parent.mkdir(parents=True, exist_ok=True)
        model.path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        self._write_aliases({alias: target for alias, target in aliases.items() if target != model.name})
        return model.name

    def _remove_staged(self, name: str) -> str:
        name = self.resolve_alias(name)
        key = staging_key(name)
        if not any(self.staging.glob(f"{key}@*")):
            self.get(name)
        with (self.staging / f"{key}.lock").open("a") as file:
            if not _try_lock(file.fileno()):
                raise StoreError(f"{name} is being pulled: end that first")
            for folder in self.staging.glob(f"{key}@*"):
                shutil.rmtree(folder, ignore_errors=True)
        return name

    # Staging

    @property
    def staging(self) -> Path:
        return self.directory / _STAGING

    @contextlib.contextmanager
    def lock(self, key: str, cancelled: threading.Event, on_wait: Callable[[], None]) -> Iterator[None]:
        """Only one pull or conversion of ``key`` at a time, over all processes. Raises PullCancelled while waiting."""
        self.staging.mkdir(parents=True, exist_ok=True)
        with (self.staging / f"{key}.lock").open("a") as file:
            waiting = False
            while not _try_lock(file.fileno()):
                if not waiting:
                    waiting = True
                    on_wait()
                if cancelled.wait(0.1):
                    raise PullCancelled()
            yield


def of_this_user() -> ModelStore:
    """Where the environment says that models are."""
    return ModelStore(environment.home(), directory=environment.models_directory())


def check_name(name: str) -> None:
    """Raises StoreError for what cannot be a model's name."""
    if not _NAME.fullmatch(name):
        raise StoreError(
            f"'{name}' cannot be a model's name: letters, digits and . _ - + : only, at most 128, no leading dot"
        )


def staging_key(repo_id: str) -> str:
    """A repository id as a file name."""
    return repo_id.replace("/", "--")


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _stored(name: str, path: Path, origin: str, source: Source | None = None) -> StoredModel | None:
    """None for a directory that holds no readable model: somebody else's fault must not hide the other models."""
    manifest = _read_manifest(path)
    if manifest is None:
        try:
            found = description.describe(path)
            manifest = Manifest(
                source=source or Source(), description=found, installed_at=(path / "config.json").stat().st_mtime
            )
        except (InvalidModel, OSError):
            return None
    return StoredModel(name, path, origin, manifest)


def _read_manifest(path: Path) -> Manifest | None:
    try:
        return msgspec.json.decode((path / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.MsgspecError):
        return None


def _link_or_copy(source: str, target: str) -> str:
    """A second name for the same data, also where ``source`` is a link; a copy between file systems."""
    real = os.path.realpath(source)
    try:
        os.link(real, target)
    except OSError:
        shutil.copyfile(real, target)
    return target
