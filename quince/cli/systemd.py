"""A service of the user's own systemd (``systemctl --user``)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from quince.cli.service_definition import ServiceDefinition, ServiceStatus, call
from quince.errors import UsageError
from quince.server.registration import write_private

UNIT = "quince.service"
_PROPERTIES = ("ActiveState", "SubState", "UnitFileState", "MainPID", "StatusText", "Job")

# A large model takes its time until the server is ready (quince.models.manager.LOAD_TIMEOUT).
_START_TIMEOUT = 1800
_WATCHDOG = 60

# Not in the sandbox, on purpose:
# - MemoryDenyWriteExecute: drivers and MLX make machine code at run time.
# - PrivateDevices, ProtectClock, ProtectKernelModules, ProtectKernelLogs: they drop capabilities, which the manager of
#   a user may not, and the service would not start; the first hides the GPU besides.
#   (The CPU build of MLX runs under it and under SystemCallFilter=@system-service; GPUs' drivers were not tried.)
_UNIT = """\
# Written by `quince service install`, which overwrites it; `systemctl --user edit {unit}` keeps changes apart.
[Unit]
Description=Quince, a model server for MLX
StartLimitIntervalSec=300
StartLimitBurst=5

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
WorkingDirectory={directory}
EnvironmentFile={environment_file}
TimeoutStartSec={start_timeout}
WatchdogSec={watchdog}
Restart=on-failure
RestartSec=5
RestartPreventExitStatus=2
# Running requests are finished: the engine processes are not told to end, the server ends them.
KillMode=mixed
TimeoutStopSec={stop_timeout}
# An engine that the system kills for its memory is restarted by the server.
OOMPolicy=continue

UMask=0077
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={writable}
ProtectKernelTunables=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native

[Install]
WantedBy=default.target
"""


class Systemd:
    """``directory`` is where the user's units are; the settings, keys among them, are in a file in Quince's home."""

    hint = " (and, by `loginctl enable-linger`, with the machine)"
    log_command = f"journalctl --user -u {UNIT}"

    def __init__(self, directory: Path, home: Path) -> None:
        self.file = directory / UNIT
        self.environment_file = home / "service.env"

    def check(self) -> None:
        """Raises UsageError where no systemd runs for this user."""
        try:
            call("systemctl", "--user", "show", "--property=Version")
        except UsageError as error:
            raise UsageError(f"systemd does not run for this user here: {error.message}") from None

    def install(self, service: ServiceDefinition) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        unit = unit_file(service, self.environment_file)
        write_private(self.environment_file, environment_file(service.environment).encode())
        write_private(self.file, unit.encode())
        call("systemctl", "--user", "daemon-reload")

    def uninstall(self) -> None:
        call("systemctl", "--user", "disable", UNIT)
        self.file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.environment_file.unlink()
        call("systemctl", "--user", "daemon-reload")

    def enable(self) -> None:
        call("systemctl", "--user", "enable", UNIT)

    def disable(self) -> None:
        call("systemctl", "--user", "disable", UNIT)

    def start(self) -> None:
        call("systemctl", "--user", "reset-failed", UNIT, accept=(0, 1))  # nothing to reset is no problem
        call("systemctl", "--user", "start", "--no-block", UNIT)

    def stop(self) -> None:
        call("systemctl", "--user", "stop", UNIT, timeout=None)

    def status(self) -> ServiceStatus:
        names = ",".join(_PROPERTIES)
        shown = call("systemctl", "--user", "show", UNIT, f"--property={names}")
        found = dict(line.partition("=")[::2] for line in shown.splitlines())
        words = f"{found.get('ActiveState', 'unknown')} ({found.get('SubState', 'unknown')})"
        pid = int(found.get("MainPID") or 0)
        return ServiceStatus(
            installed=self.file.is_file(),
            enabled=found.get("UnitFileState") == "enabled",
            active=found.get("ActiveState") == "active",
            failed=_has_failed(found),
            state=f"{words}: {found['StatusText']}" if found.get("StatusText") else words,
            pid=pid or None,
            file=self.file,
        )


def _has_failed(found: Mapping[str, str]) -> bool:
    """A server that ends while it starts is started again and again; one that is to be started has a job."""
    if found.get("SubState") == "auto-restart" or found.get("ActiveState") == "failed":
        return True
    return found.get("ActiveState") == "inactive" and not int(found.get("Job") or 0)


def unit_file(service: ServiceDefinition, environment: Path) -> str:
    """Raises UsageError for a name that systemd does not accept."""
    if any(letter in service.command[0] for letter in "\"'\\"):
        raise UsageError(f"systemd starts no program with quotes or a backslash in its path: {service.command[0]}")
    return _UNIT.format(
        unit=UNIT,
        # The colon: what looks like a variable in an argument is none.
        command=" ".join([f":{_quoted(service.command[0])}", *(_quoted(argument) for argument in service.command[1:])]),
        directory=_plain(service.directory),
        environment_file=_plain(environment),
        start_timeout=_START_TIMEOUT,
        watchdog=_WATCHDOG,
        stop_timeout=int(service.stop_timeout) + 1,
        # The minus: a directory that is not there is no reason not to start.
        writable=" ".join(_quoted(f"-{path}") for path in (service.home, service.cache)),
    )


def environment_file(environment: Mapping[str, str]) -> str:
    """``NAME="value"`` in lines; with a backslash before what a shell would read."""
    lines = ["# Settings of the service, keys among them: keep this file to yourself."]
    for name, value in sorted(environment.items()):
        if not value.isprintable():
            raise UsageError(f"{name} cannot be given to a service: its value has control characters")
        escaped = "".join(f"\\{letter}" if letter in '"\\`$' else letter for letter in value)
        lines.append(f'{name}="{escaped}"')
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A word of a setting that is split at spaces."""
    return '"' + _plain(text.replace("\\", "\\\\").replace('"', '\\"')) + '"'


def _plain(text: str | Path) -> str:
    """The whole value of a setting. Raises UsageError for what a line of a unit cannot hold."""
    value = str(text)
    if not value.isprintable() or (value.endswith("\\") and not value.endswith("\\\\")):
        raise UsageError(f"{value!r} cannot stand in a systemd unit: it has control characters or ends in a backslash")
    return value.replace("%", "%%")
