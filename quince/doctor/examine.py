"""All checks, one after the other. One that fails is a finding, and keeps no other from its turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from quince import config_sources, environment
from quince.doctor import accelerator, machine, network, software, state
from quince.doctor.finding import Finding, problem
from quince.models import hf_cache
from quince.models.store import of_this_user


def examine(*, online: bool) -> Iterator[Finding]:
    """Findings as they are made: a slow check does not hold back those before it."""
    home = environment.home()
    store = of_this_user()
    finding, settings = state.configuration(lambda: config_sources.load({}))
    checks: list[tuple[str, Callable[[], Finding]]] = [
        *machine.checks(home, hf_cache.default_directory()),
        ("mlx", accelerator.mlx),
        ("mlx builds", lambda: accelerator.builds(software.installed_names())),
        ("packages", software.look),
        ("configuration", lambda: finding),
        (f"port {settings.port}", lambda: network.port(settings.host, settings.port)),
        ("models", lambda: state.models(store)),
        ("pulls", lambda: state.pulls(store)),
        ("servers", lambda: state.leftovers(home)),
    ]
    if online:
        checks.append(("hub", lambda: network.hub(_hub(), time.time())))
    for name, check in checks:
        yield guarded(name, check)


def guarded(name: str, check: Callable[[], Finding]) -> Finding:
    try:
        return check()
    except Exception as error:  # noqa: BLE001 - the boundary of a check: the machine is ill, after all
        reason = " ".join(str(error).split())
        return problem(name, f"it cannot be checked: {type(error).__name__}: {reason}", "see what the others say")


def _hub() -> str:
    from huggingface_hub import constants

    return constants.ENDPOINT
