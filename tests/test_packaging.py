"""The files that package Quince name things that are there."""

from __future__ import annotations

import fnmatch
import re
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_call_what_there_is(path: Path) -> None:
    jobs = yaml.safe_load(path.read_text())["jobs"]
    for job in jobs.values():
        needs = job.get("needs", [])
        assert set([needs] if isinstance(needs, str) else needs) <= jobs.keys()
        for step in job["steps"]:
            assert len(step.keys() & {"run", "uses"}) == 1
            script = step.get("run", "")
            assert set(re.findall(r"\bmake ([\w-]+)", script)) <= TARGETS
            for name in re.findall(r"(?<!\S)(?:packaging|\.ci)/\S+", script):
                assert (ROOT / name).stat().st_mode & 0o100, name


def test_the_image_is_made_of_files_that_are_sent() -> None:
    """Every COPY names something in the repository that .dockerignore lets through."""
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    copied = []
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            copied += line.split()[1:-1]
    assert "quince" in copied
    for name in copied:
        assert (ROOT / name).exists()
        verdict = [pattern for pattern in ignored if fnmatch.fnmatch(name, pattern.removeprefix("!"))][-1]
        assert verdict.startswith("!"), name


def test_the_formula_is_filled_in(tmp_path: Path) -> None:
    for name in ("quince-macos-arm64", "quince-linux-x86_64"):
        (tmp_path / f"{name}.tar.gz").write_bytes(name.encode())
    formula = subprocess.run(
        [ROOT / "packaging" / "homebrew" / "fill.sh", "https://example.com/quince", "1.2.3", tmp_path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "@" not in formula
    assert 'url "https://example.com/quince/releases/download/v1.2.3/quince-macos-arm64.tar.gz"' in formula
    assert len(set(re.findall(r'sha256 "([0-9a-f]{64})"', formula))) == 2
