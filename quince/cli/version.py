"""``--version``, of every program."""

from __future__ import annotations

from typing import Any

import typer

from quince import __version__


def option(program: str) -> Any:
    def show(wanted: bool) -> None:
        if wanted:
            typer.echo(f"{program} {__version__}")
            raise typer.Exit

    return typer.Option("--version", help="Print the version.", callback=show, is_eager=True)
