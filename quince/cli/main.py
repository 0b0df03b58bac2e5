"""Assembles the command line. Commands import what they need when they run, so that --help is fast."""

from __future__ import annotations

import functools
from typing import Annotated

import typer

from quince import __version__
from quince.cli import background, bench, config, doctor, errors, models, options, run, serve, service, serving

app = typer.Typer(
    name="quince",
    help="A model server for MLX.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # its boxes cut the names of options in a terminal of 80 columns
)
app.command(name="serve", cls=options.SettingsCommand)(serve.serve)
app.command(name="start", cls=serving.ServeArguments)(background.start)
app.command(name="stop")(background.stop)
app.command(name="status")(background.status)
app.command(name="ps")(background.ps)
app.command(name="run")(run.run)
app.add_typer(service.app, name="service")
app.command(name="pull")(models.pull)
app.command(name="list")(models.list_models)
app.command(name="show")(models.show)
app.command(name="remove")(models.remove)
app.command(name="quantize")(models.quantize)
app.command(name="alias")(models.alias)
app.command(name="config")(config.config)
app.command(name="bench")(bench.bench)
app.command(name="doctor")(doctor.doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"quince {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """A model server for MLX."""


def main() -> None:
    errors.run(functools.partial(app, prog_name="quince"))
