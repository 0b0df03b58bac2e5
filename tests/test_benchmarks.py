"""The benchmarks still start: they reach into the program from outside, where no type checker looks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run(tmp_path: Path, *args: str) -> list[dict[str, object]]:
    out = tmp_path / "out.json"
    command = [sys.executable, "-m", *args, "--models-dir", str(tmp_path), "--out", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    results: list[dict[str, object]] = json.loads(out.read_bytes())
    return results


def test_the_api_process_alone(tmp_path: Path) -> None:
    costs = run(tmp_path, "benchmarks.engine", "api", "--streams", "2", "--lengths", "16", "--rate", "4000")
    assert [cost["problems"] for cost in costs] == [[]] * len(costs)
    assert {cost["tokens"] for cost in costs} == {2048}  # as many, whatever the lengths


def test_the_engine_alone(tmp_path: Path) -> None:
    options = ("--batch", "2", "--steps", "4", "--modes", "greedy", "--scenarios", "steady")
    outcomes = run(tmp_path, "benchmarks.engine", "steps", *options)
    assert {outcome["engine"]: outcome["tokens"] for outcome in outcomes} == {"Quince": 8, "BatchGenerator": 8}
