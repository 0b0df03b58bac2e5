"""Assembles the command line. Commands import what they need when they run, so that --help is fast."""

from __future__ import annotations

import functools
from typing import Annotated

import typer

from quince.cli import background, bench, config, doctor, errors, models, options, run, serve, service, serving, version

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


@app.callback()
def _options(shown: Annotated[bool, version.option("quince")] = False) -> None:
    """A model server for MLX."""


def main() -> None:
    errors.run(functools.partial(app, prog_name="quince"))
