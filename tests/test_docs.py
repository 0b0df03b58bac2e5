"""What the documents say of the code is so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from quince.text import reasoning_parsers, tool_parsers

DOCS = Path(__file__).parent.parent / "docs"
API = (DOCS / "api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flag", "formats"), [("tool", tool_parsers.FORMATS), ("reasoning", reasoning_parsers.FORMATS)]
)
def test_the_known_formats_are_listed(flag: str, formats: dict[str, object]) -> None:
    listed = re.search(rf"--{flag}-parser` overrides it. Known:(.*?)\.", API.replace("\n", " "))
    assert listed is not None
    assert re.findall("`(.*?)`", listed[1]) == list(formats)


def test_generated_documents_are_up_to_date() -> None:
    """And the same in every terminal."""
    for columns in ("40", "240"):
        env = {**os.environ, "COLUMNS": columns, "FORCE_COLOR": "1", "PYTHONPATH": str(DOCS.parent)}
        command = [sys.executable, str(DOCS / "generate.py"), "--check"]
        result = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
        assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_every_command_has_its_help() -> None:
    text = (DOCS / "cli.md").read_text(encoding="utf-8")
    sections = dict(
        re.findall(r"^## ((?:quince|mlx-serve)[^\n]*)\n\n```text\n(.*?)```$", text, re.MULTILINE | re.DOTALL)
    )
    assert {"quince", "quince serve", "quince pull", "quince config"} <= set(sections)
    assert {"mlx-server", "mlx-server launch", "mlx-serve", "mlx-serve start", "mlx-serve service install"} <= set(
        sections
    )
    for name, shown in sections.items():
        assert shown.startswith(f"Usage: {name} [OPTIONS]") and "--help" in shown


def test_every_described_command_line_has_its_test() -> None:
    """And every test of them stands in a table. One test may show several lines."""
    text = (DOCS / "migrating.md").read_text(encoding="utf-8")
    named = re.findall(r"^\|.*\| `(test_\w+(?:\[[\w-]+\])?)` \|$", text, re.MULTILINE)
    file = Path("tests") / "e2e" / "test_described_systems.py"
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", str(file)]
    env = {**os.environ, "PYTEST_ADDOPTS": ""}  # its list looks different with -v
    collected = subprocess.run(command, cwd=DOCS.parent, env=env, capture_output=True, text=True, check=True).stdout
    tests = set(re.findall(r"::(test_\S+)$", collected, re.MULTILINE)) - {"test_the_executables_are_installed"}
    assert len(named) > 40 and set(named) == tests
