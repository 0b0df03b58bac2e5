"""A service of the user's launchd (``launchctl``), on macOS."""

from __future__ import annotations

import os
import plistlib
import re
from pathlib import Path
from typing import Any

from quince.cli.service_definition import ServiceDefinition, ServiceStatus, call
from quince.server.registration import logs_directory, write_private

LABEL = "quince.server"
_NOT_FOUND = (3, 36, 113)  # what launchctl exits with for a service that it does not have, by version


class Launchd:
    """``install`` keeps the property list in Quince's home; ``enable`` copies it to ``agents``, which is read at login.

    launchd starts what is in that directory, so that a service that is not enabled must not be there.
    """

    hint = ""

    def __init__(self, agents: Path, home: Path) -> None:
        self.file = home / f"{LABEL}.plist"
        self.log = logs_directory(home) / "service.log"
        self.log_command = f"tail {self.log}"
        self._enabled = agents / f"{LABEL}.plist"
        self._domain = f"gui/{os.getuid()}"
        self._target = f"{self._domain}/{LABEL}"

    def check(self) -> None:
        """Raises UsageError where the user has no launchd, as over ssh."""
        call("launchctl", "print-disabled", self._domain)

    def install(self, service: ServiceDefinition) -> None:
        self.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(self.file, plistlib.dumps(property_list(service, self.log)))
        if self._enabled.exists():
            self.enable()

    def uninstall(self) -> None:
        if self._is_loaded():
            call("launchctl", "bootout", self._target)
        self.disable()
        self.file.unlink(missing_ok=True)

    def enable(self) -> None:
        self._enabled.parent.mkdir(parents=True, exist_ok=True)
        write_private(self._enabled, self.file.read_bytes())

    def disable(self) -> None:
        self._enabled.unlink(missing_ok=True)

    def start(self) -> None:
        if self._is_loaded():  # it may have been loaded with other settings
            call("launchctl", "bootout", self._target)
        call("launchctl", "bootstrap", self._domain, str(self.file))

    def stop(self) -> None:
        if self._is_loaded():
            call("launchctl", "bootout", self._target, timeout=None)

    def status(self) -> ServiceStatus:
        shown = call("launchctl", "print", self._target, accept=(0, *_NOT_FOUND))
        state = re.search(r"^\s*state = (.+)$", shown, re.MULTILINE)
        pid = re.search(r"^\s*pid = (\d+)$", shown, re.MULTILINE)
        words = state[1] if state else "not running"
        return ServiceStatus(
            installed=self.file.is_file(),
            enabled=self._enabled.is_file(),
            active=words == "running",
            failed=not shown.strip(),
            state=words,
            pid=int(pid[1]) if pid else None,
            file=self.file,
        )

    def _is_loaded(self) -> bool:
        return bool(call("launchctl", "print", self._target, accept=(0, *_NOT_FOUND)).strip())


def property_list(service: ServiceDefinition, log: Path) -> dict[str, Any]:
    """Restarted when it fails, not when it was told to end. Readable by its owner only: it may hold keys."""
    return {
        "Label": LABEL,
        "ProgramArguments": list(service.command),
        "WorkingDirectory": str(service.directory),
        "EnvironmentVariables": dict(service.environment),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": 10,
        "ExitTimeOut": int(service.stop_timeout) + 1,
        "StandardOutPath": str(log),
        "StandardErrorPath": str(log),
    }
