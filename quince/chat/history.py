"""What was typed at the prompt, kept from one run to the next: one JSON string a line, readable by its owner only."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Protocol

import msgspec

KEPT = 1000  # entries; the file may hold twice as many before it is cut


class Editor(Protocol):
    """The part of the readline module that is needed."""

    def add_history(self, line: str, /) -> None: ...
    def set_auto_history(self, enabled: bool, /) -> None: ...


class History:
    """A history that cannot be read or written is none: no reason not to chat."""

    def __init__(self, path: Path, editor: Editor | None) -> None:
        self._path = path
        self._editor = editor
        if editor is not None:
            editor.set_auto_history(False)
            for entry in self._read():
                editor.add_history(entry)

    def add(self, entry: str) -> None:
        """Now, not at the end: a terminal may be closed at any time."""
        if self._editor is None:
            return
        self._editor.add_history(entry)
        with contextlib.suppress(OSError):
            self._write(os.O_APPEND, [entry])

    def _read(self) -> list[str]:
        entries = []
        with contextlib.suppress(OSError):
            for line in self._path.read_bytes().splitlines():
                with contextlib.suppress(msgspec.MsgspecError):  # half a line of a run that was killed
                    entries.append(msgspec.json.decode(line, type=str))
            if len(entries) > 2 * KEPT:
                self._write(os.O_TRUNC, entries[-KEPT:])
        return entries[-KEPT:]

    def _write(self, mode: int, entries: list[str]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | mode, 0o600)
        with open(descriptor, "wb") as file:
            file.write(b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))


def readline_editor() -> Editor | None:
    """None where Python was built without it."""
    try:
        import readline
    except ImportError:
        return None
    return readline
