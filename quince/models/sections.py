"""The configuration's sections of single models: which model each is for, and what it says."""

from __future__ import annotations

from pathlib import Path

from quince.config import ServeConfig
from quince.errors import UsageError
from quince.models import demo
from quince.models.model_type import ModelType
from quince.models.store import DEFAULT_NAMES, ModelStore, StoredModel


class ModelSections:
    """A section is for the model that its name means: a model's own name, an alias, a hub id or a directory.

    Any thread may call.
    """

    def __init__(self, config: ServeConfig, store: ModelStore) -> None:
        """Raises UsageError for an alias that is taken."""
        self._config = config
        self._store = store
        self._targets = {alias: name for name, section in config.models.items() for alias in section.alias}
        self._settings: dict[Path, ServeConfig] = {}
        for alias in DEFAULT_NAMES:
            if alias in self._targets:
                raise UsageError(f"'{alias}' means the server's first model and cannot be an alias of another")

    def target(self, name: str) -> str:
        """What an alias of a section stands for; other names stand for themselves. A model's own name goes first."""
        if name not in self._targets or demo.path(name) is not None or self._store.is_installed(name):
            return name
        return self._targets[name]

    def aliases(self, model: StoredModel) -> list[str]:
        """Names that the configuration gives to the model. Reads the disk."""
        return [alias for alias, name in self._targets.items() if self.means(name, model)]

    def place(self, model: StoredModel) -> StoredModel:
        """Finds what the configuration says of the model, and gives it the type that it has by that. Reads the disk."""
        settings = self._settings[model.path] = self._find(model)
        type = settings.model_type
        return model if type in (None, "auto") else model.with_type(ModelType(type))

    def settings(self, model: StoredModel) -> ServeConfig:
        """The server's settings as they are for a model that was placed."""
        return self._settings.get(model.path, self._config)

    def means(self, name: str, model: StoredModel) -> bool:
        if name in (model.name, str(model.path)):
            return True
        if name.startswith(("/", ".", "~")):
            return Path(name).expanduser().resolve() == model.path
        meant = self._store.resolve_alias(name)
        if meant != model.manifest.source.repo_id:
            return meant == model.name
        found = self._store.find(meant)  # of several from one repository, it means one
        return found is not None and found.path == model.path

    def _find(self, model: StoredModel) -> ServeConfig:
        """All sections that mean it count, that under its own name last."""
        settings = self._config
        for name in sorted(self._config.models, key=lambda name: name == model.name):
            if self.means(name, model):
                settings = settings.for_model(self._config.models[name])
        return settings
