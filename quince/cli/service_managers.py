"""Which service manager there is, and what it is told of a server."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path

from quince import children, config
from quince.cli.launchd import Launchd
from quince.cli.service_definition import Manager, ServiceDefinition
from quince.cli.stopping import TO_END
from quince.cli.systemd import Systemd
from quince.config import ServeConfig
from quince.errors import UsageError
from quince.models import hf_cache

__all__ = ["Manager", "definition", "of_this_system"]

# Its values must not be seen by who lists processes.
KEY_OPTION = "--api-key"
KEY_VARIABLE = config.ENV_PREFIX + "API_KEY"


def of_this_system() -> Manager:
    home = config.home()
    match platform.system():
        case "Darwin":
            return Launchd(Path("~/Library/LaunchAgents").expanduser(), home)
        case "Linux":
            return Systemd(config.user_settings() / "systemd" / "user", home)
    raise UsageError("services are for Linux (systemd) and macOS (launchd)")


def definition(arguments: Sequence[str], settings: ServeConfig) -> ServiceDefinition:
    """A server with these arguments of `serve`, in this directory and environment; it has the directories it needs."""
    environment = config.for_a_service()
    public, keys = split_keys(arguments)
    if keys:
        environment[KEY_VARIABLE] = _joined(keys)
    cache = hf_cache.default_directory()
    for directory in (settings.home, cache):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return ServiceDefinition(
        command=[*children.command("quince"), "serve", *public],
        environment=environment,
        directory=Path.cwd(),
        home=settings.home,
        cache=cache,
        stop_timeout=settings.drain_timeout + TO_END,
    )


def split_keys(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of `serve` without the keys among them, and the keys."""
    public: list[str] = []
    keys: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            public += [argument, *rest]
        elif argument == KEY_OPTION:
            keys.append(next(rest))
        elif argument.startswith(KEY_OPTION + "="):
            keys.append(argument.partition("=")[2])
        else:
            public.append(argument)
    return public, keys


def _joined(keys: Sequence[str]) -> str:
    if any("," in key for key in keys):
        raise UsageError(f"{KEY_OPTION}: a key of a service has no comma, which stands between keys in {KEY_VARIABLE}")
    return ",".join(keys)
