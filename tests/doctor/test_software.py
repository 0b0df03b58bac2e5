from __future__ import annotations

import pytest

from quince.doctor import software
from quince.doctor.finding import Status

INSTALLED = {"mlx-lm": "0.32.2", "transformers": "5.1.0rc1", "numpy": "2.0"}


@pytest.mark.parametrize(
    ("requirement", "words"),
    [
        ("mlx-lm<0.33,>=0.32.2", ""),
        ("transformers>=5.0", ""),
        ("anything>=1; extra == 'dev'", ""),
        ("anything>=1; python_version < '3'", ""),
        ("mlx-lm<0.32", "mlx-lm is 0.32.2, not <0.32"),
        ("anything>=1", "anything is missing"),
    ],
)
def test_packages(requirement: str, words: str) -> None:
    finding = software.packages([requirement, "numpy"], INSTALLED.get)
    assert finding.status is (Status.PROBLEM if words else Status.OK)
    assert words in finding.text


def test_here() -> None:
    assert software.installed_version("no-such-package-at-all") is None
    assert "pytest" in software.installed_names()
    assert software.look().status is Status.OK
