"""Child processes: workers that answer jobs, servers to measure, and what the system says they have used."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from quince.bench.server import Server, wait_or_kill
from quince.bench.workload import Job, JobResult


class Worker:
    """A process that reads Jobs from its stdin and writes JobResults to its stdout, a line each.

    Both are one socket: over pipes, results of more than 64 KiB were sometimes cut off there (Linux 6.18), which
    stopped the benchmark for ever.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        command = [sys.executable, "-m", module, *arguments]
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(command, stdin=theirs, stdout=theirs)
        self._socket = ours
        self._results = ours.makefile("rb")
        self.pid = self._process.pid

    def send(self, job: Job) -> None:
        self._socket.sendall(msgspec.json.encode(job) + b"\n")

    def result(self) -> JobResult:
        line = self._results.readline()
        if not line:
            raise SystemExit(f"{self._process.args!r} ended with code {self._process.wait()}")
        return msgspec.json.decode(line, type=JobResult)

    def stop(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)
        wait_or_kill(self._process)
        self._results.close()
        self._socket.close()


@dataclass(frozen=True)
class Usage:
    """CPU seconds since the process started; peak resident memory in MB. Zero where the system does not tell."""

    cpu_seconds: float = 0.0
    peak_rss: float = 0.0
    rss: float = 0.0


def usage(pids: Sequence[int]) -> Usage:
    """What these processes have used together."""
    each = [_usage(pid) for pid in pids]
    return Usage(sum(u.cpu_seconds for u in each), sum(u.peak_rss for u in each), sum(u.rss for u in each))


def _usage(pid: int) -> Usage:
    proc = Path(f"/proc/{pid}")
    try:
        fields = _stat_fields(proc)
        status = (proc / "status").read_text()
    except OSError:
        return _usage_by_psutil(pid)
    ticks = int(fields[11]) + int(fields[12])
    return Usage(ticks / os.sysconf("SC_CLK_TCK"), _megabytes(status, "VmHWM:"), _megabytes(status, "VmRSS:"))


def _stat_fields(proc: Path) -> list[str]:
    """The fields of /proc/PID/stat after the command's name, which may hold anything."""
    return (proc / "stat").read_text().rpartition(")")[2].split()


def _megabytes(status: str, name: str) -> float:
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(name)), 0.0)


def _usage_by_psutil(pid: int) -> Usage:
    """Where there is no /proc."""
    try:
        import psutil  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        return Usage()
    try:
        process = psutil.Process(pid)
        times, memory = process.cpu_times(), process.memory_info()
    except psutil.Error:
        return Usage()
    return Usage(times.user + times.system, memory.rss / 2**20, memory.rss / 2**20)


def children(pid: int) -> list[int]:
    """The processes below ``pid``, all levels."""
    if not Path("/proc/self").exists():
        with contextlib.suppress(ImportError):
            import psutil

            return [child.pid for child in psutil.Process(pid).children(recursive=True)]
        return []
    parents = dict(_parents())
    below, level = [], [pid]
    while level:
        level = [child for child, parent in parents.items() if parent in level]
        below += level
    return below


def _parents() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                yield int(entry.name), int(_stat_fields(entry)[1])


def stdout_of(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


@contextlib.contextmanager
def closing_all(stack: list[Worker | Server]) -> Iterator[None]:
    """Stop whatever is in ``stack`` at the end, last first."""
    try:
        yield
    finally:
        while stack:
            stack.pop().stop()
