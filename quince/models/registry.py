"""Which model a request means: the names that this server answers to."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import NamedTuple

from quince.config import ServeConfig
from quince.errors import InvalidModel, ModelNotFound, UsageError
from quince.models import description
from quince.models.description import Description
from quince.models.model_type import ModelType
from quince.models.sections import ModelSections
from quince.models.store import DEFAULT_NAMES, Manifest, ModelStore, Source, StoredModel

MAX_REMEMBERED = 1024
MAX_NAMED = 10  # in an error message


class Served(NamedTuple):
    """What a name means: a model, and one of its adapters if the name asks for one."""

    stored: StoredModel
    adapter: str | None = None


def adapted_name(model: str, adapter: str) -> str:
    return f"{model}:{adapter}"


class ModelRegistry:
    """Served names over a store: of one model if the configuration names one, else of every model that there is.

    Any thread may call. Lookups are remembered until the store's directory changes, by whichever process.
    """

    def __init__(self, config: ServeConfig, store: ModelStore) -> None:
        """Raises UsageError if ``config.model`` names nothing that is here, and for a section's alias that is taken."""
        self._store = store
        self._sections = ModelSections(config, store)
        self._any_name = config.any_model_name
        self._remembered: dict[str, Served] = {}
        self._stamp: tuple[int, ...] = ()
        self._lock = threading.Lock()
        self._given = config.model
        self.only = None if config.model is None else self._sections.place(self._locate(config.model))
        adapts = self.only is not None and self.only.type is ModelType.LLM  # its engine refuses them for others
        self.adapters = tuple(config.adapter_directories) if adapts else ()

    def models(self) -> list[StoredModel]:
        """What is served, the server's first model first. Reads the disk."""
        return [self.only] if self.only else [self._sections.place(model) for model in self._store.models()]

    def place(self, model: StoredModel) -> StoredModel:
        """A model that has just been installed, as the configuration has it. Reads the disk."""
        return self._sections.place(model)

    def settings(self, model: StoredModel) -> ServeConfig:
        """The server's settings as they are for one of the served models."""
        return self._sections.settings(model)

    def target(self, name: str) -> str:
        """What a name stands for, if it is an alias of the configuration or of the store; else itself."""
        return self._store.resolve_alias(self._sections.target(name))

    def recall(self, name: str | None) -> Served | None:
        """As ``resolve`` for names that it has found before: for an event loop, since it reads no files."""
        key = DEFAULT_NAMES[0] if name is None else name
        with self._lock:
            if self._stamp != self._store.stamp():
                return None
            found = self._remembered.get(key)
        return found if found is not None and os.path.exists(found.stored.path) else None

    def resolve(self, name: str | None) -> Served:
        """What ``name`` means; absent, 'default' and 'model' mean the first model. Raises ModelNotFound."""
        stamp = self._store.stamp()
        found = self._only(name, self.only) if self.only else self._any(name)
        if found is None:
            raise ModelNotFound(self._not_found(name), param="model")
        with self._lock:
            if stamp != self._stamp or len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
                self._stamp = stamp
            self._remembered[DEFAULT_NAMES[0] if name is None else name] = found
        return found

    def _only(self, name: str | None, only: StoredModel) -> Served | None:
        """Names of models go before names with an adapter behind: both have colons."""
        if name is None or self._means(name, only):
            return Served(only)
        base, _, adapter = name.rpartition(":")
        if adapter in self.adapters and base and (self._any_name or self._means(base, only)):
            return Served(only, adapter)
        return Served(only) if self._any_name else None

    def _means(self, name: str, only: StoredModel) -> bool:
        if name in (only.name, str(only.path), self._given, only.manifest.source.repo_id, *DEFAULT_NAMES):
            return True
        target = self._sections.target(name)
        if target != name and self._sections.means(target, only):
            return True
        meant = self._store.find(target)
        return meant is not None and meant.path == only.path

    def _any(self, name: str | None) -> Served | None:
        found = None if name is None or name in DEFAULT_NAMES else self._store.find(self._sections.target(name))
        first = name is None or name in DEFAULT_NAMES or self._any_name
        if found is None and first:
            found = self._store.models()[0]
        return None if found is None else Served(self._sections.place(found))

    def _locate(self, name: str) -> StoredModel:
        """What the command line calls the model: in the store by any of its names, or a directory."""
        found = None if name.startswith(("/", ".", "~")) else self._store.find(self._sections.target(name))
        if found is not None:
            return found
        path = Path(self._sections.target(name)).expanduser().resolve()
        if not path.is_dir():
            raise UsageError(
                f"there is no model '{name}' here: give a directory or a name that `quince list` shows, "
                "or pull it with `quince pull`"
            )
        return StoredModel(path.name, path, "directory", _manifest(path))

    def _not_found(self, name: str | None) -> str:
        names = [model.name for model in self.models()]
        names += [adapted_name(names[0], adapter) for adapter in self.adapters]
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        return f"The model '{name}' does not exist on this server. It serves: {', '.join(names[:MAX_NAMED])}{more}."


def _manifest(path: Path) -> Manifest:
    """Also of a broken directory: the engine says what is wrong with it, and takes it once it is whole."""
    try:
        found = description.describe(path)
    except InvalidModel:
        found = Description(
            type=ModelType.LLM, architecture="unknown", parameters=0, size=0, format="unknown", dtype="unknown"
        )
    return Manifest(source=Source(), description=found, installed_at=path.stat().st_mtime)
