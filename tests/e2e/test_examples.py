"""The examples run as they are, against a server with the demo model."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.server_process import ServerProcess, environment

EXAMPLES = Path(__file__).parents[2] / "examples"
SAID = {
    "openai_client.py": "Paris",
    "rag.py": "with 'My dog is called Biscuit.': Your pet is called Biscuit.",
    "structured_output.py": "name='Tom' age=34 city='Lyon' languages=['French', 'German']",
    "tool_calls.py": "The temperature is 21 and the condition is sunny. The result is 68",
    "vision.py": "The red circle is on the left.\nThe images differ: on the right there is a blue square",
}


def test_all_examples_are_here() -> None:
    assert sorted(SAID) == sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.mark.parametrize("name", SAID)
def test_the_example_runs(demo_server: ServerProcess, name: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        env=environment({"QUINCE_URL": demo_server.base_url}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert SAID[name] in ran.stdout
