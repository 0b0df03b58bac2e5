"""``quince service``: a server that the system starts, and starts again: systemd on Linux, launchd on macOS."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from quince.cli.output import Output
from quince.cli.serving import ServeArguments, takes_serve_options
from quince.errors import UsageError

if TYPE_CHECKING:
    from quince.cli.service_managers import Manager
    from quince.config import ServeConfig

LOOK_EVERY = 0.3
app = typer.Typer(
    help="A server that starts by itself: systemd on Linux, launchd on macOS.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@takes_serve_options
def install(arguments: Sequence[str], settings: ServeConfig) -> None:
    """Install the service, with the options of `quince serve` and the QUINCE_* and HF_* variables that are set now."""
    from quince.cli import service_managers

    manager = service_managers.of_this_system()
    manager.check()
    manager.install(service_managers.definition(arguments, settings))
    done = "`quince service start` starts it, `quince service enable` makes it start when you log in"
    Output().done(f"installed {manager.file}; {done}", {})


@app.command()
def uninstall() -> None:
    """Stop the service and remove it."""
    manager = _installed()
    manager.stop()
    manager.uninstall()
    Output().done(f"removed {manager.file}", {})


@app.command()
def enable() -> None:
    """Start the service whenever you log in."""
    manager = _installed()
    manager.enable()
    Output().done(f"the service starts when you log in{manager.hint}", {})


@app.command()
def disable() -> None:
    """Do not start the service when you log in. One that runs goes on."""
    _installed().disable()
    Output().done("the service does not start by itself any more", {})


@app.command()
def start() -> None:
    """Start the service; returns when it is up."""
    manager = _installed()
    manager.start()
    with Output().progress() as progress:
        while not (status := manager.status()).active:
            if status.failed:
                raise UsageError(f"the service does not start: {status.state} (`{manager.log_command}` shows why)")
            progress.update(f"starting: {status.state}", 0, 0)
            time.sleep(LOOK_EVERY)
    Output().done(f"the service is up (pid {status.pid}; log: `{manager.log_command}`)", {})


@app.command()
def stop() -> None:
    """Stop the service: running requests are finished first."""
    _installed().stop()
    Output().done("the service has ended", {})


@app.command()
def status(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Whether the service is installed, enabled and up. Exit code 0 if it is up."""
    from dataclasses import asdict

    from quince.cli import service_managers

    manager = service_managers.of_this_system()
    manager.check()
    found = manager.status()
    Output(json=as_json).record(
        {**asdict(found), "file": str(found.file)},
        [
            ("installed", str(found.file) if found.installed else "no (`quince service install`)"),
            ("starts at login", "yes" if found.enabled else "no"),
            ("state", found.state),
            ("pid", str(found.pid or "none")),
            ("log", manager.log_command),
        ],
    )
    if not found.active:
        raise typer.Exit(1)


app.command(cls=ServeArguments)(install)


def _installed() -> Manager:
    from quince.cli import service_managers

    manager = service_managers.of_this_system()
    if not manager.file.is_file():
        raise UsageError("the service is not installed: `quince service install` does that")
    manager.check()
    return manager
