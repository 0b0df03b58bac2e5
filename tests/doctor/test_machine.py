from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from quince.doctor import machine
from quince.doctor.finding import Status

OK, WARNING, PROBLEM = Status.OK, Status.WARNING, Status.PROBLEM


@pytest.mark.parametrize(
    ("version", "status"), [((3, 11, 0), OK), ((3, 14, 1), OK), ((3, 10, 14), PROBLEM), ((4, 0, 0), OK)]
)
def test_python(version: tuple[int, int, int], status: Status) -> None:
    assert machine.python(version).status is status


@pytest.mark.parametrize(
    ("name", "architecture", "macos", "translated", "status", "said"),
    [
        ("Linux", "x86_64", "", False, OK, "Linux on x86_64"),
        ("Darwin", "arm64", "15.2", False, OK, "macOS 15.2"),
        ("Darwin", "arm64", "14", False, OK, "macOS 14"),
        ("Darwin", "arm64", "13.6.1", False, PROBLEM, "too old for MLX"),
        ("Darwin", "x86_64", "15.2", True, PROBLEM, "Rosetta"),
        ("Darwin", "x86_64", "15.2", False, PROBLEM, "Apple Silicon"),
        ("Windows", "AMD64", "", False, PROBLEM, "not supported"),
    ],
)
def test_system(name: str, architecture: str, macos: str, translated: bool, status: Status, said: str) -> None:
    finding = machine.system(name, architecture, macos, translated=translated)
    assert (finding.status, said in finding.text) == (status, True), finding
    assert bool(finding.advice) == (status is not OK)


@pytest.mark.parametrize(
    ("total", "available", "status"), [(64e9, 32e9, OK), (64e9, 3e9, WARNING), (4e9, 3e9, WARNING)]
)
def test_memory(total: float, available: float, status: Status) -> None:
    assert machine.memory(total, available).status is status


@pytest.mark.parametrize(
    ("limit", "status", "said"),
    [
        (None, OK, "no limit"),
        (0, OK, "the system decides"),
        (48_000, OK, "50.33 GB of 64.00 GB"),
        (61_000, WARNING, "may freeze"),
    ],
)
def test_wired_limit(limit: int | None, status: Status, said: str) -> None:
    finding = machine.wired_limit(64e9, limit)
    assert (finding.status, said in finding.text) == (status, True), finding


@pytest.mark.parametrize(("free", "status"), [(100e9, OK), (5e9, WARNING), (0.5e9, PROBLEM)])
def test_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free: float, status: Status) -> None:
    """The fuller disk decides; a directory that is not there yet is on its parent's disk."""
    seen: list[Path] = []

    def usage(path: Path) -> os.stat_result:
        seen.append(path)
        return type("Usage", (), {"free": free if path == tmp_path / "full" else 200e9})()  # type: ignore[no-any-return]

    (tmp_path / "full").mkdir()
    monkeypatch.setattr(machine.shutil, "disk_usage", usage)
    finding = machine.disk({"models": tmp_path / "not" / "yet", "the cache": tmp_path / "full"})
    assert finding.status is status
    assert seen == [tmp_path, tmp_path / "full"]


def test_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.writable(tmp_path).status is OK
    assert "will be made" in machine.writable(tmp_path / "new" / "home").text
    (tmp_path / "file").write_text("")
    assert "no directory" in machine.writable(tmp_path / "file").text
    assert "cannot be made" in machine.writable(tmp_path / "file" / "home").text
    monkeypatch.setattr(machine.os, "access", lambda path, mode: False)
    assert machine.writable(tmp_path).status is PROBLEM
    assert machine.writable(tmp_path / "new").status is PROBLEM


@pytest.mark.parametrize(("limit", "status"), [(256, WARNING), (1024, OK), (-1, OK)])
def test_open_files(limit: int, status: Status) -> None:
    assert machine.open_files(limit).status is status


def test_clock() -> None:
    now = time.time()
    assert machine.clock(now, now - 1e6).status is OK
    assert machine.clock(now, now + 3600).status is OK  # a file from another time zone's archive
    assert machine.clock(0, now).status is PROBLEM


def test_here(tmp_path: Path) -> None:
    """Every check runs on the machine of the test, and none is a problem on one that runs tests."""
    findings = [check() for _, check in machine.checks(tmp_path, tmp_path)]
    assert [finding.check for finding in findings] == [name for name, _ in machine.checks(tmp_path, tmp_path)]
    assert {finding.check for finding in findings if finding.status is PROBLEM} <= {"disk"}
