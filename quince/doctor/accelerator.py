"""MLX: whether it is there, works, and on which device. Tried in a child process, which may crash."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection

import msgspec

from quince import children
from quince.doctor.finding import Finding, ok, problem, warning

COMMAND = children.command("quince.doctor.device_probe")
TIMEOUT = 120.0  # seconds; the first use of a GPU compiles kernels
_INSTALL = "`make setup` in a clone; elsewhere `pip install 'quince[cpu]'`, or `[cuda]` for NVIDIA"


class DeviceReport(msgspec.Struct, frozen=True):
    """What the child found. ``recommended_bytes``: what Metal advises to use at the most, elsewhere 0."""

    version: str
    device: str
    name: str
    metal: bool
    gpu: bool
    recommended_bytes: int


def mlx(command: Collection[str] = COMMAND, *, platform: str = sys.platform, timeout: float = TIMEOUT) -> Finding:
    """Run the child and say what came of it."""
    try:
        child = subprocess.run(
            [*command], stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False, text=True
        )
    except subprocess.TimeoutExpired:
        return problem(
            "mlx", f"MLX did not come to an end within {timeout:g} s", "restart the machine: the GPU may hang"
        )
    try:
        report = msgspec.json.decode(child.stdout, type=DeviceReport)
    except msgspec.MsgspecError:
        return problem("mlx", f"MLX does not work: {_last_words(child)}", _INSTALL)
    return _device(report, platform)


def _device(report: DeviceReport, platform: str) -> Finding:
    text = f"MLX {report.version} computes on {report.name or report.device}"
    if platform == "darwin" and not report.metal:
        return warning(
            "mlx", f"{text}, without Metal: slow", "install mlx for this Mac: an arm64 Python, macOS 14 or later"
        )
    if platform != "darwin" and not report.gpu:
        return ok("mlx", f"{text}, a CPU: good for small models")
    return ok("mlx", text)


def _last_words(child: subprocess.CompletedProcess[str]) -> str:
    lines = child.stderr.strip().splitlines()
    if child.returncode < 0:
        return f"it was killed by signal {-child.returncode}" + (f": {lines[-1]}" if lines else "")
    return lines[-1] if lines else f"it ended with code {child.returncode} and said nothing"


def builds(names: Collection[str]) -> Finding:
    """``names``: the installed distributions. Two builds of MLX write the same files, and break each other."""
    found = sorted(name for name in names if name.startswith(("mlx-cpu", "mlx-cuda")))
    if len(found) > 1:
        return problem(
            "mlx builds",
            f"{' and '.join(found)} are both installed, and write the same files",
            "make a new environment with one of them",
        )
    return ok("mlx builds", found[0] if found else "the platform's own")
