"""The settings of a server, from where they were said.

Precedence: command line flag, then ``QUINCE_*`` environment variable, then the configuration file, then the default.
Lists are not merged: the first of these that names any value names all of them.
"""

from __future__ import annotations

import enum
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from quince import config_file, environment
from quince.config import (
    ONLY_WITH_MODEL,
    ONLY_WITHOUT_MODEL,
    SECTION_SETTINGS,
    SETTINGS,
    ModelSection,
    ServeConfig,
)
from quince.config_file import Written
from quince.environment import PREFIX
from quince.errors import UsageError, WrongOption

FILE_NAMES = ("config.yaml", "config.yml", "config.json")  # in the home directory, if --config names none
_FOR_ALL = {name: "this is for the whole server, not for one model" for name in SETTINGS.keys() - SECTION_SETTINGS}

T = TypeVar("T", bound=BaseModel)


class SourceKind(enum.Enum):
    """DEFAULT: of a program that has another one than Quince."""

    FLAG = "flag"
    ENV = "env"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True)
class Source:
    """Where a value came from; ``place`` is --port, QUINCE_PORT, or file and line, where it stands under ``key``."""

    kind: SourceKind
    place: str
    key: str = ""

    def __str__(self) -> str:
        """As sentences name it."""
        return f"{self.place}: {self.key}" if self.key else self.place


@dataclass(frozen=True)
class Resolved:
    """The settings, and where those that are no defaults came from: by name, or as (model, name)."""

    config: ServeConfig
    sources: Mapping[str | tuple[str, str], Source]
    file: Path | None


@dataclass(frozen=True)
class _Given:
    """Values that were found, as text or lists of texts (flags also as numbers and bools), with their sources."""

    values: dict[str, Any]
    sources: dict[str, Source]


def load(flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> ServeConfig:
    """Merge flags (None: not given) over the environment over the file that ``flags["config"]``, QUINCE_CONFIG or
    nobody names. Raises UsageError in one sentence that names the setting and where its value came from."""
    return resolve(flags, environ).config


def load_for_all_models(flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> ServeConfig:
    """As ``load``, for a server of all models, even where the file or the environment names the one to serve: that
    rests, with what is only for it."""
    return resolve(flags, environ, all_models=True).config


def resolve(
    flags: Mapping[str, Any],
    environ: Mapping[str, str] = os.environ,
    told: Mapping[str, Source] | None = None,
    *,
    all_models: bool = False,
) -> Resolved:
    """As ``load`` or ``load_for_all_models``, with the sources. ``told`` has those of flags that were not said as
    Quince's own flags."""
    path = find_file(flags.get("config"), environ)
    written = _read(path) if path else {}
    if all_models and ("model" in written or PREFIX + "MODEL" in environ):
        rest = {"model", *ONLY_WITH_MODEL}
        written = {name: one for name, one in written.items() if name not in rest}
        environ = {name: value for name, value in environ.items() if name.removeprefix(PREFIX).lower() not in rest}
    given = _Given({}, {})
    for name, setting in SETTINGS.items():
        variable = PREFIX + name.upper()
        if flags.get(name) not in (None, []):
            given.values[name] = flags[name]
            given.sources[name] = (told or {}).get(name) or Source(SourceKind.FLAG, setting.flag)
        elif variable in environ:
            given.values[name] = environ[variable]
            given.sources[name] = Source(SourceKind.ENV, variable)
        elif name in written and written[name].entry.value is not None:
            given.values[name] = written[name].text(setting.many)
            given.sources[name] = _source(written[name])
    _check_combination(given, written)
    overruled = {name for name, source in given.sources.items() if source.kind in (SourceKind.FLAG, SourceKind.ENV)}
    sources: dict[str | tuple[str, str], Source] = dict(given.sources.items())
    for name in ("home", "models_dir"):
        variable = PREFIX + name.upper()
        if environ.get(variable):
            sources[name] = Source(SourceKind.ENV, variable)
    models: dict[str, ModelSection] = {}
    for model, section in _sections(written, overruled).items():
        models[model] = _validate(ModelSection, section)
        sources.update({(model, name): source for name, source in section.sources.items()})
    _check_aliases(models, sources)
    given.values.update(
        home=environment.home(environ),
        models_dir=environment.models_directory(environ),
        models=models,
        named=frozenset(overruled),
    )
    return Resolved(_validate(ServeConfig, given), sources, path)


def find_file(flag: str | None, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The configuration file: the named one, else the one in the home directory. Raises UsageError for several."""
    named = flag or environ.get(PREFIX + "CONFIG")
    if named:
        return Path(named).expanduser()
    found = [path for path in (environment.home(environ) / name for name in FILE_NAMES) if os.path.lexists(path)]
    if len(found) > 1:
        raise UsageError(f"there are both {found[0]} and {found[1].name}: remove one, or name one with --config")
    return found[0] if found else None


def _read(path: Path) -> dict[str, Written]:
    elsewhere = {
        "home": "the home directory is set by QUINCE_HOME",
        "models_dir": f"the directory of models is set by {environment.MODELS_DIR}",
    }
    return config_file.by_name(path, config_file.read(path), [*SETTINGS, "models"], elsewhere)


def _sections(written: Mapping[str, Written], overruled: Collection[str]) -> dict[str, _Given]:
    """What stands under ``models``, without what flags and environment say. Here null is a value, the default: it sets
    aside what the file says for all models."""
    models = written.get("models")
    if models is None or models.entry.value is None:
        return {}
    if not isinstance(models.entry.value, dict):
        raise UsageError(f"{models.place}: models: names of models belong here, each with its settings")
    found: dict[str, _Given] = {}
    for model, entry in models.entry.value.items():
        given = found[model] = _Given({}, {})
        if not isinstance(entry.value, dict | None):
            raise UsageError(f"{models.path}, line {entry.line}: under '{model}' its settings belong, as 'name: value'")
        for name, one in config_file.by_name(models.path, entry.value or {}, SECTION_SETTINGS, _FOR_ALL).items():
            if name in overruled:
                continue
            setting = SECTION_SETTINGS[name]
            given.values[name] = setting.default if one.entry.value is None else one.text(setting.many)
            given.sources[name] = _source(one)
    return found


def _source(written: Written) -> Source:
    return Source(SourceKind.FILE, written.place, written.key)


def _validate(model: type[T], given: _Given) -> T:
    try:
        return model.model_validate(given.values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        secret = name in SETTINGS and SETTINGS[name].secret
        value = given.values.get(name)
        shown = "" if secret else f" = {_plain(value)!r}"
        source = given.sources.get(name, name)
        raise _refusal(source, f"{shown}: {first['msg'].removeprefix('Value error, ')}") from None


def _refusal(source: Source | str, problem: str) -> UsageError:
    """A sentence that begins with the setting."""
    told = isinstance(source, Source) and source.kind is SourceKind.FLAG
    return (WrongOption if told else UsageError)(f"{source}{problem}")


def _plain(value: Any) -> Any:
    """Paths of flags as the text that they were."""
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _check_pairs(values: Mapping[str, Any], sources: Mapping[str, Source]) -> None:
    """Raises UsageError. A directory in the file rests where 0 bytes turn its files off."""
    if values.get("adapter") and values.get("adapters"):
        raise _refusal(sources["adapter"], f" is for all requests: it cannot be combined with {sources['adapters']}")
    if str(values.get("prefix_cache_bytes")) == "0" and str(values.get("prefix_cache_disk_bytes", 0)) != "0":
        raise _refusal(
            sources["prefix_cache_disk_bytes"],
            f" keeps more of the prefix cache, which {sources['prefix_cache_bytes']} turns off",
        )
    directory = sources.get("prefix_cache_dir")
    if directory is None or str(values.get("prefix_cache_disk_bytes", 0)) != "0":
        return
    if directory.kind is not SourceKind.FILE or "prefix_cache_disk_bytes" not in sources:
        raise _refusal(directory, " is for files, of which there are none without --prefix-cache-disk-bytes")


def _check_combination(given: _Given, written: Mapping[str, Written]) -> None:
    values, sources = given.values, given.sources
    _check_pairs(values, sources)
    if values.get("model") is None:
        for name in ONLY_WITH_MODEL:
            if values.get(name) and values[name] != "auto":
                raise _refusal(sources[name], " is for a server of one MODEL, and none was given")
        return
    elsewhere = sources["model"].kind is not SourceKind.FILE
    for name in ONLY_WITHOUT_MODEL:
        if values.get(name) and sources[name].kind is SourceKind.FILE and elsewhere:
            # The file is for all servers of this home, and this one is another kind of server.
            del values[name], sources[name]
        elif values.get(name):
            raise _refusal(
                sources[name], f" is for a server without a MODEL: '{values['model']}' alone is loaded, and kept"
            )
    for name in ONLY_WITH_MODEL:
        if "model" in written and elsewhere and name in sources and sources[name].kind is SourceKind.FILE:
            raise UsageError(f"{sources[name]} is for the file's own model: write it under 'models'")


def _check_aliases(models: Mapping[str, ModelSection], sources: Mapping[str | tuple[str, str], Source]) -> None:
    """Raises UsageError for a name that means two models."""
    taken = set(models)
    for model, section in models.items():
        for alias in section.alias:
            if alias in taken:
                raise UsageError(f"{sources[model, 'alias']} = '{alias}': another model here has this name")
            taken.add(alias)
