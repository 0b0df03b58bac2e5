"""A command on a real terminal: typed to, read from, interrupted and closed as a user does."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from types import TracebackType

# The terminal must be the child's own, or Ctrl-C and its closing would reach nobody.
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
)
CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """A context manager around one command. What was shown stays in ``shown``."""

    def __init__(self, *command: str, env: Mapping[str, str]) -> None:
        self._command = command
        self._env = dict(env)
        self.shown = ""

    def __enter__(self) -> Terminal:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *self._command],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=self._env,
            start_new_session=True,
        )
        os.close(slave)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if error is not None:
            print(f"--- the terminal showed: {self.shown!r}", file=sys.stderr)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def expect(self, text: str, within: float = 60) -> str:
        """Read until ``text`` is shown; returns what came up to it, and takes that from what the next call reads."""
        deadline = time.monotonic() + within
        while text not in self.shown:
            left = deadline - time.monotonic()
            assert left > 0, f"not within {within:g} s: {text!r} in {self.shown!r}"
            if select.select([self._master], [], [], left)[0]:
                self._read()
        before, _, self.shown = self.shown.partition(text)
        return before + text

    def _read(self) -> None:
        try:
            data = os.read(self._master, 65536)
        except OSError as error:
            assert error.errno != errno.EIO, f"the command ended: {self.shown!r}"
            raise
        self.shown += data.decode(errors="replace")

    def wait(self, within: float = 30) -> int:
        """Its exit code, reading on meanwhile: a full terminal would keep it from ending."""
        deadline = time.monotonic() + within
        while self.process.poll() is None and time.monotonic() < deadline:
            if select.select([self._master], [], [], 0.05)[0]:
                with contextlib.suppress(OSError, AssertionError):
                    self._read()
        return self.process.wait(0)

    def close(self) -> None:
        """As closing the window does."""
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
