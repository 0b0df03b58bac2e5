"""The command line options of the settings, made from their fields when a command needs them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

if TYPE_CHECKING:
    from quince.settings import Setting

_META = "quince.settings"
_METAVARS = {int: "N", float: "NUMBER", str: "TEXT", Path: "PATH"}


class SettingsCommand(TyperCommand):
    """A command with an option for every setting beside its own parameters; ``given`` has their values.

    The settings are imported when the command runs or shows its help: that takes longer than all of `quince --help`.
    """

    def get_params(self, ctx: Any) -> list[Any]:
        *own, help_option = super().get_params(ctx)
        return [*own, *_options(), help_option]

    def invoke(self, ctx: Any) -> Any:
        ctx.meta[_META] = {option.name: ctx.params.pop(option.name) for option in _options()}
        return super().invoke(ctx)


def given(ctx: typer.Context) -> dict[str, Any]:
    """The settings that a SettingsCommand's command line names, as ``config_sources.load`` takes them."""
    return {name: value for name, value in ctx.meta[_META].items() if value is not None and value != ()}


@functools.cache
def _options() -> list[Any]:
    from quince import config

    return make(setting for name, setting in config.SETTINGS.items() if name != "model")  # which is an argument


def make(settings: Iterable[Setting]) -> list[Any]:
    """--config and an option for each of these. Typer makes them from a function that has nothing but a signature."""

    def holder() -> None: ...

    help = "Configuration file, YAML or JSON (default: config.yaml in the home directory)."
    parameters = [_parameter("config", Annotated[str | None, typer.Option("--config", metavar="FILE", help=help)])]
    parameters += [_parameter(setting.name, _annotation(setting)) for setting in settings]
    holder.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    app = typer.Typer(add_completion=False)
    app.command()(holder)
    return typer.main.get_command(app).params


def _parameter(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _annotation(setting: Setting) -> Any:
    """Bounds are checked with the environment's and the file's values, in one place and in the same words."""
    flag = setting.flag
    if setting.kind is bool:
        flag = f"{flag}/--no-{flag.removeprefix('--')}"
    kind: Any = setting.kind
    help, metavar = setting.help, _METAVARS.get(kind)
    if setting.many:  # Typer has no lists of choices
        help, kind = f"{setting.with_choices} Repeat it for several.", list[kind]
    elif setting.choices:
        kind, metavar = Literal[setting.choices], None
    return Annotated[kind | None, typer.Option(flag, help=help, show_default=False, metavar=metavar)]
