"""Commands that take the options of ``quince serve`` and hand them on: ``start``, ``service install``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from quince.cli import options
from quince.cli.serve import Model
from quince.errors import UsageError

if TYPE_CHECKING:
    from quince.config import ServeConfig

_TYPED = "quince.cli.serving.typed"
_KEY_OPTION = "--api-key"
_KEY_VARIABLE = "QUINCE_API_KEY"


class ServeArguments(options.SettingsCommand):
    """Remembers the arguments as they were typed: after they have been parsed, they go to another process."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_TYPED] = tuple(args)
        return super().parse_args(ctx, args)


def takes_serve_options(command: Callable[[Sequence[str], ServeConfig], None]) -> Callable[..., None]:
    """The function of a Typer command (``cls=ServeArguments``) with the options of ``serve``, checked as serve does.

    ``command`` is given the typed arguments and the settings that they make.
    """

    @functools.wraps(command, assigned=("__name__", "__doc__"))
    def run(ctx: typer.Context, model: Model = None) -> None:
        from quince import config_sources

        command(ctx.meta[_TYPED], config_sources.load({"model": model, **options.given(ctx)}))

    del run.__wrapped__  # Typer would read the types of that one
    return run


def without_keys(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments of `serve` without the keys among them, which who lists processes would see, and the environment
    that gives the keys to the server instead.
    """
    public: list[str] = []
    keys: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            public += [argument, *rest]
        elif argument == _KEY_OPTION:
            keys.append(next(rest))
        elif argument.startswith(_KEY_OPTION + "="):
            keys.append(argument.partition("=")[2])
        else:
            public.append(argument)
    if any("," in key for key in keys):
        raise UsageError(
            f"{_KEY_OPTION}: here a key has no comma, which stands between keys in {_KEY_VARIABLE}, where it is kept"
        )
    return public, {_KEY_VARIABLE: ",".join(keys)} if keys else {}
