"""Lines of the log: whole, safe, and never a reason to stop."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from quince import logs
from quince.metrics import Metrics, RequestRecord, recording

logger = logging.getLogger("quince.test")


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """Each test sets up logging anew; pytest's is put back behind it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level = handlers, level


class Stderr:
    """What was written to standard error so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._seen = ""

    def getvalue(self) -> str:
        self._seen += self._capsys.readouterr().err
        return self._seen


@pytest.fixture
def stderr(capsys: pytest.CaptureFixture[str]) -> Stderr:
    return Stderr(capsys)


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_text(stderr: Stderr) -> None:
    logs.setup("info")
    logs.event(logger, logging.INFO, "POST /v1", status=200, took=0.123456, model="a b", error=None)
    logger.debug("not shown")
    (line,) = stderr.getvalue().splitlines()
    assert line.endswith('INFO    quince.test: POST /v1 status=200 took=0.1235 model="a b"')


def test_json(stderr: Stderr) -> None:
    logs.setup("debug", format="json")
    logs.event(logger, logging.DEBUG, "POST /v1", status=200, took=0.123456, path=Path("/tmp"))
    (entry,) = objects(stderr.getvalue())
    assert entry.pop("time").endswith("+00:00")
    assert entry == {
        "level": "debug",
        "logger": "quince.test",
        "message": "POST /v1",
        "status": 200,
        "took": 0.123456,
        "path": "/tmp",
    }


@pytest.mark.parametrize("format", ["text", "json"])
def test_every_line_of_a_request_has_its_id(stderr: Stderr, format: Any) -> None:
    logs.setup("info", format=format)
    with recording(RequestRecord("chatcmpl-1", None, Metrics())):
        logger.info("inside")
    logger.info("outside")
    inside, outside = stderr.getvalue().splitlines()
    assert "chatcmpl-1" in inside and "chatcmpl-1" not in outside


HOSTILE = "x\r\n2026-01-01 ERROR quince: forged\x1b[2J\x00\x85\u2028\u202e\ud83d\x7f"


@pytest.mark.parametrize("format", ["text", "json"])
def test_no_value_forges_a_line(stderr: Stderr, format: Any) -> None:
    logs.setup("info", format=format)
    logger.info("model %s", HOSTILE)
    logs.event(logger, logging.INFO, HOSTILE, value=HOSTILE)
    text = stderr.getvalue()
    text.encode()  # no halves of surrogate pairs
    assert len(text.splitlines()) == 2
    assert text.replace("\n", "").isprintable()
    if format == "json":
        assert objects(text)[1]["value"] == HOSTILE


@pytest.mark.parametrize("format", ["text", "json"])
def test_tracebacks_stay_with_their_line(stderr: Stderr, format: Any) -> None:
    logs.setup("info", format=format)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logger.exception("a bug")
    lines = stderr.getvalue().splitlines()
    if format == "json":
        (entry,) = objects(stderr.getvalue())
        assert "ValueError" in entry["exception"]
    else:
        assert "a bug" in lines[0] and all(line.startswith("    ") for line in lines[1:])
        assert not any("\x1b" in line for line in lines)


def test_the_file_has_the_same_and_is_rotated(stderr: Stderr, tmp_path: Path) -> None:
    file = tmp_path / "new" / "quince.log"
    logs.setup("info", file=file, file_size=1000, file_count=2)
    for number in range(100):
        logger.info("line %d", number)
    kept = [tmp_path / "new" / name for name in ("quince.log.2", "quince.log.1", "quince.log")]
    assert sorted(file.parent.iterdir()) == sorted(kept)
    assert all(one.stat().st_size <= 1000 for one in kept)
    assert stderr.getvalue().endswith("".join(one.read_text() for one in kept))


def test_a_file_that_cannot_be_renamed_goes_on(stderr: Stderr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the file is the user's and the directory is not."""

    def refuse(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.rename", refuse)
    logs.setup("info", file=tmp_path / "quince.log", file_size=1000, file_count=2)
    for number in range(100):
        logger.info("line %d", number)
    written = (tmp_path / "quince.log").read_text()
    assert all(f"line {number}\n" in written for number in range(100))
    assert stderr.getvalue().count("cannot write the log file") == 1


def test_a_line_that_was_cut_off_stays_alone(stderr: Stderr, tmp_path: Path) -> None:
    """A full disk cuts a line, and so does the end of a server that is killed."""
    file = tmp_path / "quince.log"
    file.write_text('{"time": "2026-01-0')
    logs.setup("info", format="json", file=file)
    logger.info("one")
    logger.info("two")
    cut, *rest = file.read_text().splitlines()
    assert cut == '{"time": "2026-01-0'
    assert [entry["message"] for entry in objects("\n".join(rest))] == ["one", "two"]


def test_a_file_that_cannot_be_written_is_told_once(stderr: Stderr, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("not a directory")
    logs.setup("info", file=tmp_path / "taken" / "quince.log")
    for _ in range(3):
        logger.info("goes on")
    lines = stderr.getvalue().splitlines()
    assert sum("goes on" in line for line in lines) == 3
    assert sum("cannot write the log file" in line for line in lines) == 1
    assert len(lines) == 4


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="Linux has a device that is always full")
def test_a_disk_that_is_really_full(stderr: Stderr) -> None:
    logs.setup("info", file=Path("/dev/full"), file_size=1000, file_count=2)
    for _ in range(300):
        logger.info("goes on")
    assert stderr.getvalue().count("No space left on device") == 1
    assert stderr.getvalue().count("goes on") == 300


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_is_told_once_and_then_written_again(
    stderr: Stderr, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "quince.log"
    logs.setup("info", file=file)
    with monkeypatch.context() as full:
        full.setattr(logging.FileHandler, "_open", lambda self: FullDisk())
        for _ in range(3):
            logger.info("during")
    logger.info("after")
    assert [line.rpartition(" ")[2] for line in file.read_text().splitlines()] == ["after"]
    assert stderr.getvalue().count("No space left on device") == 1
    assert stderr.getvalue().count("during") == 3


def test_nothing_is_raised_when_standard_error_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", FullDisk())
    logs.setup("info")
    logger.info("nobody hears this")


def test_a_wrong_call_of_the_log_is_not_hidden(stderr: Stderr) -> None:
    logs.setup("info")
    logger.info("%d", "no number")
    assert "Logging error" in stderr.getvalue()


def test_uvicorn_writes_into_the_same_log(stderr: Stderr) -> None:
    logs.setup("info")
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    (line,) = stderr.getvalue().splitlines()
    assert line.endswith("WARNING uvicorn.error: Invalid HTTP request received.")
