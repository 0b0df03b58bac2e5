"""What a service manager is told to run, and how its tool is called."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from quince.errors import UsageError

# How long a service manager may take for what it does not have to wait for.
TOOL_TIMEOUT = 60.0


@dataclass(frozen=True)
class ServiceDefinition:
    """``command`` runs the server, in ``directory``, with ``environment``, which may hold keys.

    It writes into ``home`` (Quince's) and ``cache`` (huggingface_hub's), and takes ``stop_timeout`` seconds to end.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    directory: Path
    home: Path
    cache: Path
    stop_timeout: float


@dataclass(frozen=True)
class ServiceStatus:
    """``enabled``: starts by itself when its user logs in. ``failed``: has ended and does not come up by waiting.
    ``state`` is in the service manager's words.
    """

    installed: bool
    enabled: bool
    active: bool
    failed: bool
    state: str
    pid: int | None
    file: Path


class Manager(Protocol):
    """The service manager of a system. Every method raises UsageError with what it says when it refuses.

    ``start`` returns once the manager has begun to start the service, ``stop`` when the service has ended; ``file`` is
    what ``install`` writes, ``hint`` what there is to add to "the service starts when you log in".
    """

    file: Path
    log_command: str
    hint: str

    def check(self) -> None: ...
    def install(self, service: ServiceDefinition) -> None: ...
    def uninstall(self) -> None: ...
    def enable(self) -> None: ...
    def disable(self) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def status(self) -> ServiceStatus: ...


def call(*command: str, accept: Sequence[int] = (0,), timeout: float | None = TOOL_TIMEOUT) -> str:
    """What the tool prints. Raises UsageError, in its own words, for an exit code that is not accepted."""
    tool = command[0]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        raise UsageError(f"{tool} is not there: services need systemd (Linux) or launchd (macOS)") from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"`{' '.join(command)}` does not come to an end") from None
    if done.returncode not in accept:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
        raise UsageError(f"`{' '.join(command)}` says: {said}")
    return done.stdout
