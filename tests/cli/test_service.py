"""Services: what is written, read by systemd and plistlib themselves, and what systemctl and launchctl are told."""

from __future__ import annotations

import json
import os
import platform
import plistlib
import re
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from quince.cli import launchd, systemd
from quince.cli.main import app
from quince.cli.service_definition import ServiceDefinition
from quince.cli.serving import without_keys
from quince.errors import UsageError

# Everything that means something in a unit.
ODD = 'a %h $x ${y} "q" \\ b'
SYSTEMD = Path("/usr/lib/systemd/systemd")

SHOWN = """\
ActiveState=active
SubState=running
UnitFileState=enabled
MainPID=4711
StatusText=ready
"""


class Tool:
    """A program on PATH that writes down how it is called, and says what the test wants."""

    def __init__(self, directory: Path, name: str) -> None:
        self._log = directory / f"{name}.calls"
        self._answer = directory / f"{name}.answer"
        self._answer.touch()
        script = directory / name
        script.write_text(f'#!/bin/sh\necho "$@" >> "{self._log}"\n. "{self._answer}"\n')
        script.chmod(0o755)

    def answers(self, text: str = "", *, error: str = "", code: int = 0) -> None:
        self._answer.write_text(f"cat <<'END'\n{text}\nEND\necho '{error}' >&2\nexit {code}\n")

    def calls(self) -> list[str]:
        """Since the last call of this."""
        found = self._log.read_text().splitlines() if self._log.exists() else []
        self._log.unlink(missing_ok=True)
        return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without settings, whose home and whose Quince's have odd names."""
    for name in [name for name in os.environ if name.startswith(("QUINCE_", "HF_"))]:
        monkeypatch.delenv(name)
    user = tmp_path / "the user"
    monkeypatch.setenv("HOME", str(user))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(user / ".config"))
    monkeypatch.setenv("QUINCE_HOME", str(user / "50% of $it"))
    monkeypatch.setattr("quince.models.hf_cache.default_directory", lambda: user / "cache")
    return user / "50% of $it"


def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, system: str) -> Tool:
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(platform, "system", lambda: system)
    return Tool(tmp_path / "bin", name)


def quince(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["service", *args])
    if isinstance(result.exception, UsageError):
        return 1, result.exception.message
    assert isinstance(result.exception, SystemExit | None), result.exception
    return result.exit_code, result.output


def definition(tmp_path: Path) -> ServiceDefinition:
    directory = tmp_path / ODD
    directory.mkdir()
    program = tmp_path / "a %h $x ${y}"
    program.symlink_to("/bin/echo")
    return ServiceDefinition(
        command=[str(program), "-m", "quince", "serve", "--port", "8000", ODD],
        environment={"QUINCE_API_KEY": 'k"e\\y$`', "QUINCE_HOME": str(directory)},
        directory=directory,
        writable=[directory / "home", tmp_path / "cache"],
        stop_timeout=45.0,
    )


# The unit


def unit(tmp_path: Path) -> Path:
    service = definition(tmp_path)
    path = tmp_path / systemd.UNIT
    path.write_text(systemd.unit_file(service, service.writable[0] / "service.env"))
    return path


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    runtime = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["systemd-analyze", "verify", "--user", str(unit(tmp_path))]
    result = subprocess.run(command, capture_output=True, text=True, env=runtime, timeout=60, check=False)
    assert (result.returncode, result.stdout + result.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
def test_the_unit_is_a_sandbox(tmp_path: Path) -> None:
    command = ["systemd-analyze", "security", "--offline=true", "--json=short", str(unit(tmp_path))]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unrecognized option" in result.stderr:
        pytest.skip("this systemd is older than the option")
    closed = {found["json_field"] for found in json.loads(result.stdout) if found["set"]}
    wanted = {"NoNewPrivileges", "PrivateTmp", "ProtectSystem", "RestrictSUIDSGID", "LockPersonality", "NotifyAccess"}
    assert wanted <= closed


@pytest.mark.skipif(not SYSTEMD.exists(), reason="needs systemd")
def test_systemd_reads_what_was_meant(tmp_path: Path) -> None:
    """Paths and arguments with spaces, percent and dollar signs, quotes and backslashes, as systemd shows them."""
    path, odd = unit(tmp_path), str(tmp_path / ODD)
    with tempfile.TemporaryDirectory(prefix="q-") as runtime:
        os.chmod(runtime, 0o777)  # a user's systemd does not run as root
        shutil.copy(path, runtime)
        result = subprocess.run(
            [str(SYSTEMD), "--user", "--test", f"--unit={systemd.UNIT}", "--log-target=console"],
            capture_output=True,
            text=True,
            env={"HOME": runtime, "XDG_RUNTIME_DIR": runtime, "SYSTEMD_UNIT_PATH": f"{runtime}:/usr/lib/systemd/user"},
            user="nobody" if os.geteuid() == 0 else None,
            timeout=60,
            check=False,
        )
    shown = result.stdout.partition(f"Unit {systemd.UNIT}")[2].partition("-> Unit ")[0]
    if not shown:
        pytest.skip(f"this systemd does not show units here: {result.stderr[-200:]}")
    found = dict(re.findall(r"^\s*(?:-> )?([\w ]+): (.*)$", shown, re.MULTILINE))
    assert found["WorkingDirectory"] == odd
    assert found["EnvironmentFile"] == f"{odd}/home/service.env"
    written = ODD.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    assert found["Command Line"].endswith(f'-m quince serve --port 8000 "{written}"')
    assert found["Type"] == "notify"
    assert found["ReadWritePaths"] == f"-{odd}/home -{tmp_path}/cache"


def test_what_a_unit_cannot_hold(tmp_path: Path) -> None:
    service = definition(tmp_path)
    with pytest.raises(UsageError, match="starts no program with quotes"):
        systemd.unit_file(replace(service, command=[f"{tmp_path}/it's"]), Path("/somewhere"))
    for name in ("new\nline", "end\\"):
        with pytest.raises(UsageError, match="cannot stand in a systemd unit"):
            systemd.unit_file(service, Path("/somewhere") / name)
    with pytest.raises(UsageError, match="QUINCE_API_KEY cannot be given to a service"):
        systemd.environment_file({"QUINCE_API_KEY": "a\nEVIL=1"})


def test_the_environment_is_read_as_it_was() -> None:
    """By a shell, whose rules for double quotes are those of systemd."""
    text = systemd.environment_file({"QUINCE_API_KEY": ODD + "`id`"})
    shell = subprocess.run(
        ["/bin/sh", "-c", text + 'printf %s "$QUINCE_API_KEY"'], capture_output=True, text=True, check=True
    )
    assert shell.stdout == ODD + "`id`"


# systemctl


def test_a_life_with_systemd(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemctl = tool(tmp_path, monkeypatch, "systemctl", "Linux")
    monkeypatch.setenv("QUINCE_TEMPERATURE", "0.5")
    file = tmp_path / "the user" / ".config" / "systemd" / "user" / "quince.service"
    for command in ("enable", "start", "uninstall"):
        assert quince(command) == (1, "the service is not installed: `quince service install` does that")
    assert systemctl.calls() == []

    assert quince("install", "--port", "8123", "--api-key", "k1", "--api-key=k2", "quince-demo")[0] == 0
    assert systemctl.calls() == ["--user show --property=Version", "--user daemon-reload"]
    unit = file.read_text()
    assert '"serve" "--port" "8123" "quince-demo"\n' in unit
    assert "k1" not in unit and "k2" not in unit
    settings = home / "service.env"
    assert settings.stat().st_mode & 0o777 == 0o600
    assert 'QUINCE_API_KEY="k1,k2"\n' in settings.read_text()
    assert 'QUINCE_TEMPERATURE="0.5"\n' in settings.read_text()
    assert f'QUINCE_HOME="{str(home).replace("$", chr(92) + "$")}"\n' in settings.read_text()

    assert quince("enable")[0] == 0
    assert systemctl.calls()[1:] == ["--user enable quince.service"]
    systemctl.answers(SHOWN)
    assert quince("start")[0] == 0
    assert systemctl.calls()[1:3] == ["--user reset-failed quince.service", "--user start --no-block quince.service"]
    code, shown = quince("status", "--json")
    status = json.loads(shown)
    assert (code, status["active"], status["enabled"], status["pid"]) == (0, True, True, 4711)
    assert status["state"] == "active (running): ready"
    systemctl.answers("ActiveState=failed\nSubState=failed\nMainPID=0")
    assert quince("status")[0] == 1
    code, told = quince("start")
    assert (code, "the service does not start: failed (failed)" in told) == (1, True)
    systemctl.answers()
    systemctl.calls()
    assert quince("uninstall")[0] == 0
    expected = ["stop quince.service", "disable quince.service", "daemon-reload"]
    assert systemctl.calls()[1:] == [f"--user {call}" for call in expected]
    assert not file.exists()
    assert not settings.exists()


def test_no_systemd_runs(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemctl = tool(tmp_path, monkeypatch, "systemctl", "Linux")
    systemctl.answers(error="Failed to connect to bus: No medium found", code=1)
    code, told = quince("install")
    assert code == 1
    assert told.startswith("systemd does not run for this user here")
    assert "No medium found" in told
    assert not (tmp_path / "the user").exists()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert "systemctl is not there" in quince("status")[1]


def test_bad_options_install_nothing(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    systemctl = tool(tmp_path, monkeypatch, "systemctl", "Linux")
    assert quince("install", "--nothing")[0] == 2
    assert quince("install", "--port", "99999")[0] == 1
    assert quince("install", "--api-key", "a,b") == (
        1,
        "--api-key: here a key has no comma, which stands between keys in QUINCE_API_KEY, where it is kept",
    )
    assert "daemon-reload" not in " ".join(systemctl.calls())


@pytest.mark.parametrize(
    ("arguments", "public", "keys"),
    [
        (["m", "--api-key", "k", "--port", "1"], ["m", "--port", "1"], {"QUINCE_API_KEY": "k"}),
        (["--api-key=k", "--api-key", "l"], [], {"QUINCE_API_KEY": "k,l"}),
        (["--", "--api-key"], ["--", "--api-key"], {}),
    ],
)
def test_keys_are_taken_out(arguments: list[str], public: list[str], keys: dict[str, str]) -> None:
    assert without_keys(arguments) == (public, keys)


# launchd


def test_a_life_with_launchd(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launchctl = tool(tmp_path, monkeypatch, "launchctl", "Darwin")
    agents = tmp_path / "the user" / "Library" / "LaunchAgents" / "quince.server.plist"
    file, domain = home / "quince.server.plist", f"gui/{os.getuid()}"
    target = f"{domain}/quince.server"
    assert quince("install", "--api-key", "k1", "quince-demo")[0] == 0
    assert launchctl.calls() == [f"print-disabled {domain}"]
    read = plistlib.loads(file.read_bytes())
    assert read["ProgramArguments"][-2:] == ["serve", "quince-demo"]
    assert read["EnvironmentVariables"] == {"QUINCE_API_KEY": "k1", "QUINCE_HOME": str(home)}
    assert (read["RunAtLoad"], read["KeepAlive"]) == (True, {"SuccessfulExit": False})
    assert read["StandardErrorPath"] == str(home / "logs" / "service.log")
    assert (home / "logs").is_dir()
    assert file.stat().st_mode & 0o777 == 0o600
    assert not agents.exists()

    assert quince("enable")[0] == 0
    assert agents.read_bytes() == file.read_bytes()
    assert agents.stat().st_mode & 0o777 == 0o600
    launchctl.calls()
    launchctl.answers("\tstate = running\n\tpid = 4711")
    assert quince("start")[0] == 0
    assert launchctl.calls()[1:] == [
        f"print {target}",
        f"bootout {target}",
        f"bootstrap {domain} {file}",
        f"print {target}",
    ]
    status = json.loads(quince("status", "--json")[1])
    assert (status["active"], status["enabled"], status["pid"], status["state"]) == (True, True, 4711, "running")
    assert quince("disable")[0] == 0
    assert not agents.exists()
    launchctl.calls()
    assert quince("uninstall")[0] == 0
    assert f"bootout {target}" in launchctl.calls()
    assert not file.exists()


def test_a_property_list_is_read_as_it_was(tmp_path: Path) -> None:
    service = definition(tmp_path)
    read = plistlib.loads(plistlib.dumps(launchd.property_list(service, tmp_path / "log")))
    assert read["ProgramArguments"] == service.command
    assert read["EnvironmentVariables"] == service.environment
    assert read["WorkingDirectory"] == str(service.directory)
    assert read["ExitTimeOut"] == 46


def test_other_systems(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Plan9")
    assert quince("install") == (1, "services are for Linux (systemd) and macOS (launchd)")
