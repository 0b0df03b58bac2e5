"""Which servers run: files that survive crashes, and mean nothing once their process has gone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from quince.config import ServeConfig
from quince.errors import UsageError
from quince.server import registration
from quince.server.registration import ServerRecord

ADDRESS = ("127.0.0.1", 8123)


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is no server and lives as long as the test wants."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


def write(home: Path, pid: int, started: float, port: int = 8123) -> Path:
    record = ServerRecord(pid, started, 0.0, "127.0.0.1", port, "0", None, None, 30.0)
    path = registration.servers_directory(home) / f"{port}-{pid}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(msgspec.json.encode(record))
    return path


def test_a_server_is_there_while_its_block_runs(tmp_path: Path) -> None:
    config = ServeConfig(home=tmp_path, model="some-model", drain_timeout=7)
    with registration.registered(config, ADDRESS):
        (record,) = registration.running(tmp_path)
        assert (record.pid, record.url, record.model) == (os.getpid(), "http://127.0.0.1:8123", "some-model")
        assert (record.drain_timeout, record.log) == (7, None)
        assert registration.running(tmp_path, 8123) == [record]
        assert registration.running(tmp_path, 8124) == []
        (path,) = registration.servers_directory(tmp_path).iterdir()
        assert path.stat().st_mode & 0o777 == 0o600
    assert registration.running(tmp_path) == []
    assert list(registration.servers_directory(tmp_path).iterdir()) == []


def test_a_recycled_pid_is_no_server(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    started = registration.start_mark(psutil.Process(other.pid))
    path = write(tmp_path, other.pid, started)
    assert [record.pid for record in registration.running(tmp_path)] == [other.pid]
    write(tmp_path, other.pid, started - 60)
    assert registration.running(tmp_path) == []
    assert not path.exists()


@pytest.mark.parametrize("pid", [-1, 0, 2**40])
def test_what_no_process_has_is_no_server(tmp_path: Path, pid: int) -> None:
    path = write(tmp_path, pid, 0.0)
    assert registration.running(tmp_path) == []
    assert not path.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_a_full_disk_is_told_before_a_server_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration.tempfile, "TemporaryFile", lambda **_: Path("/dev/full").open("wb"))  # noqa: SIM115
    with pytest.raises(UsageError, match="No space left"):
        registration.check_writable(tmp_path)


def test_a_process_that_has_ended_is_no_server(tmp_path: Path, other: subprocess.Popen[bytes]) -> None:
    path = write(tmp_path, other.pid, registration.start_mark(psutil.Process(other.pid)))
    os.kill(other.pid, signal.SIGKILL)
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # a zombie now: it still has its pid
    assert registration.running(tmp_path) == []
    assert not path.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system keeps the time itself")
def test_setting_the_clock_changes_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with registration.registered(ServeConfig(home=tmp_path), ADDRESS):
        boot, created = psutil.boot_time(), psutil.Process().create_time()
        monkeypatch.setattr(psutil, "boot_time", lambda: boot + 3600)
        monkeypatch.setattr(psutil.Process, "create_time", lambda process: created + 3600)
        assert len(registration.running(tmp_path)) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff\xfe"])
def test_a_file_that_is_none_of_ours_is_removed(tmp_path: Path, content: bytes) -> None:
    path = registration.servers_directory(tmp_path) / "8000-1.json"
    path.parent.mkdir()
    path.write_bytes(content)
    assert registration.running(tmp_path) == []
    assert not path.exists()


def test_a_start_clears_up_after_killed_servers(tmp_path: Path) -> None:
    stale = write(tmp_path, 2**22 + 1, 1.0)
    with registration.registered(ServeConfig(home=tmp_path), ADDRESS):
        assert not stale.exists()


def test_no_home_at_all(tmp_path: Path) -> None:
    assert registration.running(tmp_path / "nothing") == []


def test_the_foreground_goes_on_without_a_file(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    home = tmp_path / "file" / "home"
    home.parent.write_text("no directory")
    with registration.registered(ServeConfig(home=home), ADDRESS):
        assert registration.running(home) == []
    (message,) = caplog.messages
    assert "`quince status` and `quince stop` will not find this server" in message


def test_the_background_does_not(tmp_path: Path) -> None:
    home = tmp_path / "file" / "home"
    home.parent.write_text("no directory")
    registered = registration.registered(ServeConfig(home=home), ADDRESS, tmp_path / "output")
    with pytest.raises(UsageError, match="will not find this server"), registered:
        raise AssertionError("not reached")
    with pytest.raises(UsageError, match=r"cannot write into .*QUINCE_HOME"):
        registration.check_writable(home)


def test_logs_are_named_by_the_port_and_the_last_one_is_kept(tmp_path: Path) -> None:
    registration.check_writable(tmp_path)
    logs = registration.logs_directory(tmp_path)
    for text in ("one", "two", "three"):
        output = logs / "starting-x.log"
        output.write_text(text)
        with registration.registered(ServeConfig(home=tmp_path), ADDRESS, output):
            assert registration.running(tmp_path)[0].log == str(logs / "server-8123.log")
    found = {path.name: path.read_text() for path in logs.iterdir()}
    assert found == {"server-8123.log": "three", "server-8123.log.1": "two"}


def test_who_holds_a_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert f"(pid {os.getpid()})" in registration.holder(tmp_path, port) or sys.platform == "darwin"
        with registration.registered(ServeConfig(home=tmp_path), ("127.0.0.1", port)):
            assert registration.holder(tmp_path, port) == f"Quince (pid {os.getpid()})"
    assert registration.holder(tmp_path, port) == "another program"


@pytest.mark.parametrize(
    ("host", "reached", "url"),
    [("0.0.0.0", "127.0.0.1", "http://0.0.0.0:1"), ("::", "::1", "http://[::]:1"), ("::1", "::1", "http://[::1]:1")],
)
def test_addresses(host: str, reached: str, url: str) -> None:
    assert registration.reachable(host) == reached
    assert ServerRecord(1, 0.0, 0.0, host, 1, "0", None, None, 0.0).url == url
