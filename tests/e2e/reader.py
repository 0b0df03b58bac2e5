"""A reader of the documents, who types what they say: with a home, a checkout and ports of their own.

A document becomes one script for bash, its lines at their own numbers, so that a complaint names the document's line.
Run as a program, this file is the reader's ``quince``: a server in the foreground goes on in the background until the
next one or the document's end (a person has another terminal for it), and a conversation is left again at once.
"""

from __future__ import annotations

import contextlib
import os
import pty
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil

from tests import markdown
from tests.e2e.server_process import ADDRESS, QUINCE, START_TIMEOUT, environment, is_alive

RUN = ("sh", "python")
_PYTHON_ENDS = "END_OF_PYTHON"
_MADE_BY_MAKE = {"build", "dist"}


def script(document: markdown.Document) -> str:
    """What is to be run of a document."""
    lines = [""] * len(document.prose.splitlines())
    for block in document.blocks:
        if block.not_run is not None or block.language not in RUN:
            continue
        text = block.text.splitlines()
        if block.language == "python":
            lines[block.line - 2] = f"python -W error - <<'{_PYTHON_ENDS}'"
            lines[block.line - 1 + len(text)] = _PYTHON_ENDS
        lines[block.line - 1 : block.line - 1 + len(text)] = text
    lines[0] = "set -eEuo pipefail; trap 'echo \"line $LINENO: $BASH_COMMAND\" >&2' ERR; " + lines[0]
    return "\n".join(lines) + "\n"


class Reader:
    """A context manager; leaving it ends every process that was started from its home.

    ``checkout`` looks like a clone in which ``make setup`` has been run. ``set_up`` says whether ``quince`` is on the
    path already.
    """

    def __init__(self, hub: str, *, set_up: bool = True) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="q-"))  # short: Unix sockets live in it
        self.home = self.root / "home"
        self.checkout = self.root / "quince"
        self._make_checkout()
        temporary = self.root / "tmp"
        temporary.mkdir()
        kernels = Path(tempfile.gettempdir()) / "mlx"  # compiled once for all servers
        kernels.mkdir(exist_ok=True)
        (temporary / "mlx").symlink_to(kernels)
        self.home.mkdir()
        (self.home / ".curlrc").write_text("fail-with-body\nsilent\nshow-error\nmax-time = 60\n")
        own = {
            "HOME": str(self.home),
            "TMPDIR": str(temporary),
            "HF_ENDPOINT": hub,
            "NO_COLOR": "1",
            "COLUMNS": "200",
            "TERM": "dumb",
            "PYTHONPATH": str(markdown.REPOSITORY),
            "READER_LOG": str(self.root / "server.log"),
            "READER_PID": str(self.root / "server.pid"),
        }
        # What make was given for the tests (ARGS) is in their environment, too, and not for the reader's make.
        others = ("HF_", "XDG_", "MAKE", "ARGS")
        theirs = {key: value for key, value in environment().items() if not key.startswith(others)}
        self.env = {**theirs, **own}
        if set_up:
            self.env["PATH"] = f"{self.checkout / '.venv' / 'bin'}:{theirs['PATH']}"

    def _make_checkout(self) -> None:
        self.checkout.mkdir()
        for entry in markdown.REPOSITORY.iterdir():
            if not entry.name.startswith(".") and entry.name not in _MADE_BY_MAKE:
                (self.checkout / entry.name).symlink_to(entry)
        programs = self.checkout / ".venv" / "bin"
        programs.mkdir(parents=True)
        python = shlex.quote(sys.executable)
        for name, command in (("python", python), ("quince", f"{python} -m tests.e2e.reader")):
            (programs / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
            (programs / name).chmod(0o755)
        (programs / "activate").write_text(f"PATH={shlex.quote(str(programs))}:$PATH\n")
        for name in (".stamp-cpu", ".stamp-metal"):  # newer than pyproject.toml: make has nothing to set up
            (programs.parent / name).touch()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                process.kill()
        shutil.rmtree(self.root, ignore_errors=True)

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if is_alive(process) and process.environ().get("HOME") == str(self.home):
                    found.append(process)
        return found

    def run(self, text: str, name: str, *, port: int, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """``name`` is what complaints call the script; servers and examples take ``port`` for 8000."""
        file = self.root / name
        file.write_text(text)
        return subprocess.run(
            ["bash", str(file)],
            cwd=self.checkout,
            env={**self.env, "QUINCE_PORT": str(port), "QUINCE_URL": f"http://127.0.0.1:{port}"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def server_log(self) -> str:
        log = Path(self.env["READER_LOG"])
        return log.read_text(errors="replace") if log.exists() else ""


# The reader's quince


def main(arguments: list[str]) -> int:
    command = [*QUINCE, *arguments]
    if arguments[:1] == ["serve"] and "--help" not in arguments:
        return _serve(command)
    if arguments[:1] == ["run"] and not os.path.samestat(os.fstat(0), os.stat(os.devnull)):
        os.execv(command[0], command)
    if arguments[:1] == ["run"]:
        typed = iter([b"/bye\n"])
        return os.waitstatus_to_exitcode(pty.spawn(command, stdin_read=lambda descriptor: next(typed, b"")))
    os.execv(command[0], command)


def _serve(command: list[str]) -> int:
    """Returns when the server can serve, or with its exit code when it cannot."""
    log, pid = Path(os.environ["READER_LOG"]), Path(os.environ["READER_PID"])
    if pid.exists():
        with contextlib.suppress(psutil.NoSuchProcess):
            before = psutil.Process(int(pid.read_text()))
            before.send_signal(signal.SIGINT)
            before.wait(START_TIMEOUT)
    with log.open("ab") as file:
        begin = file.tell()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True)
    pid.write_text(str(process.pid))
    deadline = time.monotonic() + START_TIMEOUT
    while process.poll() is None and time.monotonic() < deadline:
        found = ADDRESS.search(log.read_bytes()[begin:].decode(errors="replace"))
        if found and _is_healthy(found[1]):
            return 0
        time.sleep(0.2)
    sys.stderr.write(log.read_text(errors="replace"))
    return process.poll() or 1


def _is_healthy(address: str) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{address.rpartition(':')[2]}/health", timeout=5):
            return True
    except urllib.error.URLError:
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
