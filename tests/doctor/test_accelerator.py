from __future__ import annotations

import sys

import pytest

from quince.doctor import accelerator
from quince.doctor.finding import Finding, Status

REPORT = (
    '{{"version": "1", "device": "Device(x, 0)", "name": "M9", "metal": {metal}, "gpu": {gpu}, "recommended_bytes": 0}}'
)


def said(code: str, platform: str = "linux", timeout: float = 60) -> Finding:
    return accelerator.mlx((sys.executable, "-c", code), platform=platform, timeout=timeout)


def report(*, metal: bool, gpu: bool) -> str:
    return "print('" + REPORT.format(metal=str(metal).lower(), gpu=str(gpu).lower()) + "')"


def test_the_real_one() -> None:
    finding = accelerator.mlx()
    assert finding.status is Status.OK, finding
    assert finding.text.startswith("MLX ")


@pytest.mark.parametrize(
    ("metal", "gpu", "platform", "status", "words"),
    [
        (True, True, "darwin", Status.OK, "computes on M9"),
        (False, False, "darwin", Status.WARNING, "without Metal"),
        (False, True, "linux", Status.OK, "computes on M9"),
        (False, False, "linux", Status.OK, "a CPU"),
    ],
)
def test_devices(metal: bool, gpu: bool, platform: str, status: Status, words: str) -> None:
    finding = said(report(metal=metal, gpu=gpu), platform)
    assert (finding.status, words in finding.text) == (status, True), finding


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.abort()", "killed by signal 6"),
        ("raise ImportError('libmlx.so: cannot open')", "ImportError: libmlx.so: cannot open"),
        ("import sys; sys.exit(3)", "code 3"),
        ("print('{}')", "code 0"),
    ],
)
def test_a_child_that_fails(code: str, words: str) -> None:
    finding = said(code)
    assert (finding.status, words in finding.text) == (Status.PROBLEM, True), finding


def test_a_child_that_hangs() -> None:
    finding = said("import time; time.sleep(60)", timeout=0.5)
    assert (finding.status, "did not come to an end" in finding.text) == (Status.PROBLEM, True)


def test_builds() -> None:
    assert accelerator.builds(["mlx", "mlx-lm", "mlx-cpu", "numpy"]).text == "mlx-cpu"
    assert accelerator.builds(["mlx", "mlx-metal"]).status is Status.OK
    both = accelerator.builds(["mlx-cpu", "mlx-cuda-13"])
    assert (both.status, "mlx-cpu and mlx-cuda-13" in both.text) == (Status.PROBLEM, True)
