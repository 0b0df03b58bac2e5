"""Which service manager there is, and what it is told of a server."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from quince import children, environment
from quince.cli import serving
from quince.cli.launchd import Launchd
from quince.cli.service_definition import Manager, ServiceDefinition
from quince.cli.stopping import TO_END
from quince.cli.systemd import Systemd
from quince.config import ServeConfig
from quince.errors import UsageError
from quince.models import hf_cache

__all__ = ["Manager", "definition", "of_this_system"]


def of_this_system() -> Manager:
    home = environment.home()
    match platform.system():
        case "Darwin":
            return Launchd(Path("~/Library/LaunchAgents").expanduser(), home)
        case "Linux":
            return Systemd(environment.user_settings() / "systemd" / "user", home)
    raise UsageError("services are for Linux (systemd) and macOS (launchd)")


def definition(arguments: Sequence[str], settings: ServeConfig) -> ServiceDefinition:
    """A server with these arguments of `serve`, in this directory and environment; it has the directories it needs."""
    public, keys = serving.without_keys(arguments)
    variables = {**environment.for_a_service(), **keys}
    writable = [settings.home, hf_cache.default_directory()]
    if settings.models_dir is not None and not settings.models_dir.is_relative_to(settings.home):
        writable.append(settings.models_dir)
    for directory in writable:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return ServiceDefinition(
        command=[*children.command("quince"), "serve", *public],
        environment=variables,
        directory=Path.cwd(),
        writable=writable,
        stop_timeout=settings.drain_timeout + TO_END,
    )
