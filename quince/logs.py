"""Logging: one line per event on standard error and, if wanted, in a file; as text or as JSON.

Values that clients have a hand in cannot forge lines: whatever controls a terminal or ends a line is escaped.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from quince.metrics import current_request_id

# C0 and C1 controls, Unicode's line and paragraph separators, marks that reverse what is read, lone surrogates.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN_VALUE = re.compile(r"[^\s\"=]+")
_NOISY = ("asyncio", "httpcore2", "httpx", "transformers", "uvicorn.error")


def setup(
    level: str,
    *,
    format: Literal["text", "json"] = "text",
    file: Path | None = None,
    file_size: int = 0,
    file_count: int = 0,
) -> None:
    """Log to standard error and to ``file``, of which ``file_count`` older ones of ``file_size`` bytes are kept (0: it
    grows).

    A log that cannot be written is no reason to stop: it is told once, on standard error.
    """
    handlers: list[logging.Handler] = [_Terminal(sys.stderr)]
    if file is not None:
        handlers.append(_File(file, maxBytes=file_size, backupCount=file_count))
    for handler in handlers:
        handler.setFormatter(JsonFormatter() if format == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=handlers, force=True)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)


def event(logger: logging.Logger, level: int, message: str, **fields: Any) -> None:
    """Log ``message`` with fields, which text has as ``name=value`` behind it. Fields that are None are left out."""
    given = {name: value for name, value in fields.items() if value is not None}
    logger.log(level, "%s", message, extra={"fields": given})


def escape(text: str) -> str:
    """``text`` in one line that does nothing to a terminal."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class TextFormatter(logging.Formatter):
    """``time LEVEL logger: message name=value ... [request id]``; a traceback follows, indented."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: ")

    def format(self, record: logging.LogRecord) -> str:
        record.asctime = self.formatTime(record)
        fields = _fields(record)
        request_id = fields.pop("request_id", "")
        parts = [escape(record.getMessage()), *(f"{name}={_spell(value)}" for name, value in fields.items())]
        if request_id:
            parts.append(f"[{request_id}]")
        lines = [self.formatMessage(record) + " ".join(parts)]
        if record.exc_info:
            lines += ["    " + escape(line) for line in self.formatException(record.exc_info).splitlines()]
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One object a line: ``time`` (UTC), ``level``, ``logger``, ``message``, ``request_id`` in requests, the fields."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, default=str)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    fields: Mapping[str, Any] = getattr(record, "fields", {})
    request_id = current_request_id()
    return {**({"request_id": request_id} if request_id else {}), **fields}


def _spell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = escape(str(value))
    return text if _PLAIN_VALUE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _ends_within_a_line(path: Path) -> bool:
    """As a full disk, or a server that was killed, has left it."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


class _Terminal(logging.StreamHandler[Any]):
    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing can be told where nothing can be written."""
        if not isinstance(sys.exception(), OSError):
            super().handleError(record)


class _File(logging.handlers.RotatingFileHandler):
    """Opens its file with the first record, and again after every failure: a disk may have room again."""

    def __init__(self, path: Path, *, maxBytes: int, backupCount: int) -> None:
        super().__init__(path, maxBytes=maxBytes, backupCount=backupCount, encoding="utf-8", delay=True)
        self._complained = False

    def doRollover(self) -> None:
        """Where no other file may be made, this one goes on."""
        try:
            super().doRollover()
        except OSError as error:
            self._complain(error)
            self.stream = self._open()

    def _open(self) -> Any:
        path = Path(self.baseFilename)
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = _ends_within_a_line(path)
        stream = super()._open()
        if torn:
            stream.write("\n")
        return stream

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exception()
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        with contextlib.suppress(OSError):  # what it holds cannot be written either
            if self.stream is not None:
                self.stream.close()
        self.stream = None  # opened again by the next record
        self._complain(error)

    def _complain(self, error: OSError) -> None:
        """Once."""
        if not self._complained:
            self._complained = True
            with contextlib.suppress(OSError):
                reason = error.strerror or error
                print(f"quince: cannot write the log file {self.baseFilename}: {reason}", file=sys.stderr)  # noqa: T201
