"""``quince start``, ``stop``, ``status`` and ``ps``: servers in the background, and those in the foreground too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from quince.cli.output import Output
from quince.cli.serving import takes_serve_options
from quince.errors import UsageError

if TYPE_CHECKING:
    from quince.config import ServeConfig

Port = Annotated[int | None, typer.Option("--port", min=1, max=65535, help="The server on this port.")]
Json = Annotated[bool, typer.Option("--json", help="Print a JSON array.")]


@takes_serve_options
def start(arguments: Sequence[str], settings: ServeConfig) -> None:
    """Serve in the background, with the options of `quince serve`. Returns when the server is up."""
    from quince.cli import models, starting
    from quince.server import registration

    registration.check_writable(settings.home)
    if settings.model is not None and settings.auto_download:
        models.pull_missing(settings.model)
    output = Output()
    with output.progress() as progress:
        progress.update(f"starting {settings.model or 'a server'}", 0, 0)
        server = starting.start(arguments, settings)
    details = f"pid {server.pid}; log: {server.log}; `quince stop --port {server.port}` ends it"
    output.done(f"Quince is up on {server.url} ({details})", {})


def stop(
    port: Port = None,
    every: Annotated[bool, typer.Option("--all", help="All servers.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Do not let running requests finish.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no confirmation.")] = False,
) -> None:
    """Stop a server: it takes no new requests, finishes those that run, and ends."""
    from quince.cli import stopping

    if every and port is not None:
        raise typer.BadParameter("--all and --port exclude each other")
    output = Output(quiet=quiet)
    ending = [stopping.Ending(server, force) for server in stopping.chosen(port, every)]
    try:
        with output.progress() as progress:
            for one in ending:
                one.begin()
            for one in ending:
                progress.update(one.patience, 0, 0)
                one.wait()
    except KeyboardInterrupt:
        raise UsageError("interrupted: what was told to stop still ends (at once by `quince stop --force`)") from None
    for one in ending:
        output.done(one.outcome, {})
    if not ending:
        output.done("no server is running", {})


def status(port: Port = None, as_json: Json = False) -> None:
    """Which servers run, how they are, and what they do. Exit code 0 if all of them (and one at least) answer."""
    from quince.cli import standing

    servers = standing.servers(port)
    output = Output(json=as_json)
    if servers or as_json:
        output.table(standing.SERVER_COLUMNS, servers)
    else:
        output.text("no server is running" + (f" on port {port}" if port is not None else ""))
    if not servers or any(server["state"] == standing.NOT_ANSWERING for server in servers):
        raise typer.Exit(1)


def ps(port: Port = None, as_json: Json = False) -> None:
    """The models that are loaded now, of every server."""
    from quince.cli import standing

    models = [
        {**model, "port": server["port"]} for server in standing.servers(port) for model in server["models"] or []
    ]
    output = Output(json=as_json)
    if models or as_json:
        output.table(standing.MODEL_COLUMNS, models)
    else:
        output.text("no model is loaded")
