"""The words of other servers' commands as Quince's settings: their flags, variables and files.

Precedence: flag, the program's variable, QUINCE_* variable, the program's file, Quince's file, the program's default,
Quince's default.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from quince import config_file, config_sources, environment
from quince.config import SETTINGS
from quince.config_sources import Resolved, Source, SourceKind
from quince.errors import UsageError

if TYPE_CHECKING:
    from quince.config_file import Entry, Written

EVERY_ADDRESS = ("0.0.0.0", "::")
_LEVELS = {"warn": "warning", "critical": "error", "fatal": "error"}


@dataclass(frozen=True)
class Word:
    """What a name means here: a setting of Quince (or of the translator), and how its values are spelt."""

    setting: str
    spell: Callable[[str], str] = str


@dataclass
class Said:
    """What was said in one place or several, by names of settings, with ``values`` for ``config_sources.resolve``."""

    values: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)

    def add(self, name: str, value: Any, source: Source) -> None:
        self.values[name] = value
        self.sources[name] = source

    def pop(self, name: str) -> Any:
        self.sources.pop(name, None)
        return self.values.pop(name, None)

    def over(self, other: Said) -> Said:
        """Both, where this one goes before the other."""
        return Said({**other.values, **self.values}, {**other.sources, **self.sources})


@dataclass(frozen=True)
class Settled:
    """The settings of a server, and which of them ``quince serve`` has to be told to have the same."""

    resolved: Resolved
    told: tuple[str, ...]

    @property
    def arguments(self) -> list[str]:
        """Of `quince serve`. No program that uses them has words for secrets, which command lines would show."""
        found: list[str] = []
        for name in self.told:
            setting, value = SETTINGS[name], getattr(self.resolved.config, name)
            if setting.kind is bool:
                found.append(setting.flag if value else f"--no-{setting.flag.removeprefix('--')}")
            else:
                for one in value if setting.many else [value]:
                    found += [setting.flag, str(one)]
        return found

    def warn_of_openness(self, program: str) -> None:
        """Say so where the program's default, and nobody's choice, lets other machines in."""
        host, server = self.resolved.sources.get("host"), self.resolved.config
        if host is not None and host.kind is SourceKind.DEFAULT and server.host in EVERY_ADDRESS and not server.api_key:
            typer.echo(
                f"{program}: every machine that reaches this one can use the server: --host 127.0.0.1 keeps it to this "
                "machine, QUINCE_API_KEY asks for a key",
                err=True,
            )


def level(text: str) -> str:
    """A level of Python's logging, in whatever letters."""
    return _LEVELS.get(text.lower(), text.lower())


def flags(values: Mapping[str, Any], names: Mapping[str, str]) -> Said:
    """What a command line says: values by setting (None or empty: not said); ``names`` are flags that differ."""
    said = Said()
    for name, value in values.items():
        if value not in (None, []):
            said.add(name, value, Source(SourceKind.FLAG, names.get(name, "--" + name.replace("_", "-"))))
    return said


def variables(words: Mapping[str, Word], environ: Mapping[str, str] = os.environ) -> Said:
    """What variables say, ``words`` by their names. An empty one counts as not set, except for a key, which is then
    refused."""
    said = Said()
    for variable, word in words.items():
        value = environ.get(variable)
        if value is not None and (value.strip() or word.setting == "api_key"):
            said.add(word.setting, word.spell(value), Source(SourceKind.ENV, variable))
    return said


def file(path: Path, words: Mapping[str, Word], environ: Mapping[str, str] = os.environ) -> Said:
    """What a file says; ``words`` are by the names there, with a dot between a section and a name in it.

    Raises UsageError, with file and line, for a name that is not among them, and for two that mean the same.
    """
    said = Said()
    for name, written in _written(path, config_file.read(path), words).items():
        word = words[name]
        if written.entry.value is None:
            continue
        value = written.text(word.setting in SETTINGS and SETTINGS[word.setting].many)
        source = Source(SourceKind.FILE, written.place, name)
        if word.setting in said.values:
            raise UsageError(f"{source}: this was said above, as {said.sources[word.setting].key}")
        if environment.PREFIX + word.setting.upper() not in environ:
            said.add(
                word.setting,
                [word.spell(one) for one in value] if isinstance(value, list) else word.spell(value),
                source,
            )
    return said


def _written(path: Path, entries: Mapping[str, Entry], words: Mapping[str, Word]) -> dict[str, Written]:
    sections = {name.partition(".")[0] for name in words if "." in name}
    top = {name for name in words if "." not in name}
    found: dict[str, Written] = {}
    for name, written in config_file.by_name(path, entries, sorted(sections | top), {}).items():
        if name in top:
            found[name] = written
            continue
        inner = written.entry.value
        if not isinstance(inner, dict | None):
            raise UsageError(f"{written.place}: {name}: settings belong here, as 'name: value'")
        known = [word.removeprefix(f"{name}.") for word in words if word.startswith(f"{name}.")]
        for key, one in config_file.by_name(path, inner or {}, known, {}).items():
            found[f"{name}.{key}"] = one
    return found


def settle(said: Said, defaults: Mapping[str, Any], program: str) -> Settled:
    """The settings of a server. ``defaults`` of ``program`` count where neither it nor Quince was told anything."""
    known = config_sources.resolve(said.values, told=said.sources).sources
    own = Said()
    for name, value in defaults.items():
        if name not in known:
            own.add(name, value, Source(SourceKind.DEFAULT, program))
    whole = said.over(own)
    return Settled(config_sources.resolve(whole.values, told=whole.sources), tuple(whole.values))
