"""Python, the system, memory, disks and limits."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from quince import children
from quince.doctor.finding import Finding, ok, problem, warning
from quince.models.memory import gigabytes

OLDEST_PYTHON = (3, 11)
OLDEST_MACOS = 14
SMALL_MEMORY = 8e9
LITTLE_FREE = 0.1  # of the memory
LITTLE_DISK, NO_DISK = 10e9, 1e9
FEW_FILES = 1024  # every connection is a file, and so is every shard while it is read
DAY = 86400.0


def python(version: tuple[int, int, int]) -> Finding:
    text = f"Python {'.'.join(map(str, version))}"
    if version[:2] < OLDEST_PYTHON:
        return problem("python", f"{text} is too old", "install Python 3.11 or later, and Quince into that")
    return ok("python", text)


def system(name: str, machine: str, macos: str, *, translated: bool) -> Finding:
    """``macos``: its version, elsewhere empty. ``translated``: an Intel program on Apple Silicon."""
    if name == "Linux":
        return ok("system", f"Linux on {machine}")
    if name != "Darwin":
        return problem("system", f"{name} is not supported", "MLX runs on macOS and Linux")
    if translated:
        return problem(
            "system",
            "this Python was made for Intel and runs in Rosetta: MLX needs one for Apple Silicon",
            "install an arm64 Python (`python3 -c 'import platform; print(platform.machine())'` says arm64)",
        )
    if machine != "arm64":
        return problem("system", f"macOS on {machine}: MLX needs Apple Silicon", "use a Mac with an M1 or later")
    if int(macos.partition(".")[0]) < OLDEST_MACOS:
        return problem("system", f"macOS {macos} is too old for MLX", "update to macOS 14 or later")
    return ok("system", f"macOS {macos} on {machine}")


def is_translated() -> bool:
    return platform.system() == "Darwin" and _sysctl("sysctl.proc_translated") == 1


def memory(total: float, available: float) -> Finding:
    """In bytes."""
    text = f"{gigabytes(available)} of {gigabytes(total)} are free"
    if total < SMALL_MEMORY:
        return warning(
            "memory", f"{text}: this machine is small", "models of up to about 1 GB will run: use 4-bit ones"
        )
    if available < LITTLE_FREE * total:
        return warning("memory", f"only {text}", "end other programs, or unload models (`quince ps` shows them)")
    return ok("memory", text)


def wired_limit(total: float, limit: int | None) -> Finding:
    """``limit``: how many megabytes the GPU may keep (macOS); 0 is the system's choice, None: no such limit here."""
    if limit is None:
        return ok("gpu memory", "no limit of its own")
    if limit == 0:
        return ok("gpu memory", "the system decides how much memory the GPU may keep: about three quarters")
    text = f"the GPU may keep {gigabytes(limit * 2**20)} of {gigabytes(total)}"
    if limit * 2**20 > 0.95 * total:
        return warning(
            "gpu memory",
            f"{text}: the system may freeze",
            "lower it: `sudo sysctl iogpu.wired_limit_mb=0` is the default",
        )
    return ok("gpu memory", text)


def wired_limit_setting() -> int | None:
    return _sysctl("iogpu.wired_limit_mb") if platform.system() == "Darwin" else None


def _sysctl(name: str) -> int | None:
    try:
        told = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=True)
        return int(told.stdout)
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def disk(places: Mapping[str, Path]) -> Finding:
    """``places``: what is kept there, and where; directories that do not exist yet count as their parents."""
    free = {what: shutil.disk_usage(_existing(path)).free for what, path in places.items()}
    text = ", ".join(f"{gigabytes(size)} free for {what}" for what, size in free.items())
    advice = "`quince list` shows what takes how much, `quince remove` makes room; QUINCE_HOME and HF_HOME move it"
    if min(free.values()) < NO_DISK:
        return problem("disk", text, advice)
    if min(free.values()) < LITTLE_DISK:
        return warning("disk", f"{text}: too little for most models", advice)
    return ok("disk", text)


def _existing(path: Path) -> Path:
    return path if path.exists() else _existing(path.parent)


def writable(home: Path) -> Finding:
    there = _existing(home)
    if there != home and there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return ok("home", f"{home} will be made when it is needed")
    if not home.is_dir():
        return problem("home", f"{home} is no directory and cannot be made", "set QUINCE_HOME to a directory of yours")
    if not os.access(home, os.W_OK | os.X_OK):
        return problem(
            "home",
            f"{home} cannot be written",
            f"give it to yourself (`sudo chown -R $USER {home}`), or set QUINCE_HOME",
        )
    return ok("home", f"{home} can be written")


def open_files(limit: int) -> Finding:
    """``limit`` negative: there is none."""
    if 0 <= limit < FEW_FILES:
        return warning(
            "open files", f"a process may open {limit} files", f"`ulimit -n {8 * FEW_FILES}` before `quince serve`"
        )
    return ok("open files", "no limit" if limit < 0 else f"a process may open {limit}")


def open_files_limit() -> int:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return -1 if limit == resource.RLIM_INFINITY else limit


def clock(now: float, installed: float) -> Finding:
    """Both in seconds since 1970: a clock that is behind the day of the installation is wrong, and breaks TLS."""
    day = time.strftime("%Y-%m-%d", time.gmtime(now))
    if now < installed - DAY:
        return problem(
            "clock", f"it says {day}, before Quince was installed", "set the clock: downloads fail until then"
        )
    return ok("clock", f"it says {day}")


def checks(home: Path, cache: Path) -> list[tuple[str, Callable[[], Finding]]]:
    """All of them, for this machine, by name."""
    places = {"models": home, "the Hugging Face cache": cache}
    return [
        ("python", lambda: python(sys.version_info[:3])),
        ("system", _system_here),
        ("memory", lambda: memory(psutil.virtual_memory().total, psutil.virtual_memory().available)),
        ("gpu memory", lambda: wired_limit(psutil.virtual_memory().total, wired_limit_setting())),
        ("disk", lambda: disk(places)),
        ("home", lambda: writable(home)),
        ("open files", lambda: open_files(open_files_limit())),
        ("clock", lambda: clock(time.time(), _installed_at())),
    ]


def _installed_at() -> float:
    return os.stat(sys.executable if children.is_frozen() else __file__).st_mtime


def _system_here() -> Finding:
    return system(platform.system(), platform.machine(), platform.mac_ver()[0], translated=is_translated())
