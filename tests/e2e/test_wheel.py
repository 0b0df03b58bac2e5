"""The wheel, installed where the repository is not."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_wheel_answers(tmp_path: Path) -> None:
    """Made from the source distribution, as package managers do; with the libraries of this environment."""

    def build(source: Path, target: str) -> Path:
        command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(tmp_path / target)]
        subprocess.run(command, cwd=source, check=True, capture_output=True)
        (made,) = (tmp_path / target).iterdir()
        return made

    with tarfile.open(build(ROOT, "sdist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    assert {path.name for path in source.iterdir()} == {
        *("quince", "README.md", "CHANGELOG.md", "LICENSE", "PKG-INFO", "pyproject.toml", ".gitignore")
    }
    result = subprocess.run(
        [sys.executable, ROOT / "packaging" / "check_wheel.py", build(source, "wheel"), "--offline"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert result.returncode == 0, result.stderr
    assert "The capital of France is Paris." in result.stdout
