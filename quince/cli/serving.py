"""Commands that take the options of ``quince serve`` and hand them on: ``start``, ``service install``."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from quince.cli.serve import serve

if TYPE_CHECKING:
    from quince.config import ServeConfig

_TYPED = "quince.cli.serving.typed"


class ServeArguments(TyperCommand):
    """Remembers the arguments as they were typed: after they have been parsed, they go to another process."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_TYPED] = tuple(args)
        return super().parse_args(ctx, args)


def takes_serve_options(command: Callable[[Sequence[str], ServeConfig], None]) -> Callable[..., None]:
    """The function of a Typer command (``cls=ServeArguments``) with the options of ``serve``, checked as serve does.

    ``command`` is given the typed arguments and the settings that they make.
    """

    @functools.wraps(command)
    def run(ctx: typer.Context, **flags: Any) -> None:
        from quince import config

        command(ctx.meta[_TYPED], config.load(flags))

    own = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
    parameters = [own, *inspect.signature(serve, eval_str=True).parameters.values()]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del run.__wrapped__  # Typer would read the types of that one
    return run
