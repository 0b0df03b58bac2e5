"""What the environment alone says: where the user's files are, and who started this process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

PREFIX = "QUINCE_"
MODELS_DIR = PREFIX + "MODELS_DIR"
# Set by `quince start` for the server that it starts.
BACKGROUND_OUTPUT = PREFIX + "BACKGROUND_OUTPUT"


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """Where models, aliases and files of servers are kept: ``~/.quince``, or what QUINCE_HOME says."""
    return Path(environ.get(PREFIX + "HOME") or "~/.quince").expanduser().absolute()


def models_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Where models are installed: ``models`` in the home directory, or what QUINCE_MODELS_DIR says."""
    return Path(environ.get(MODELS_DIR) or home(environ) / "models").expanduser().absolute()


def user_settings(environ: Mapping[str, str] = os.environ) -> Path:
    """Where programs look for this user's settings."""
    return Path(environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser().absolute()


def debugging(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether tracebacks are wanted."""
    return environ.get(PREFIX + "LOG_LEVEL", "").lower() == "debug"


def background_output(environ: Mapping[str, str] = os.environ) -> Path | None:
    """The file that `quince start` has this process's output written to; None in the foreground."""
    value = environ.get(BACKGROUND_OUTPUT)
    return Path(value) if value else None


class ServiceManager(NamedTuple):
    """Who started this process as a service: its socket, and how often (seconds) it wants to hear that it lives."""

    address: str
    watchdog: float | None


def service_manager(environ: Mapping[str, str] = os.environ) -> ServiceManager | None:
    """What systemd says in NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; None for a server that is no service."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return None
    interval = environ.get("WATCHDOG_USEC", "")
    ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return ServiceManager(address, int(interval) / 1e6 if ours and interval.isdecimal() and int(interval) else None)


def for_a_service(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables that Quince and huggingface_hub read here, so that a service reads the same."""
    prefixes = (PREFIX, "HF_")
    return {name: value for name, value in environ.items() if name.startswith(prefixes) and name != BACKGROUND_OUTPUT}
