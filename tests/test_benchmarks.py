"""The benchmarks still start: they reach into the program from outside, where no type checker looks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from benchmarks import weights
from benchmarks.weights import Weight

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


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_random_weights(tmp_path: Path, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "BLOCK", 4093)  # less than the matrix has
    path = tmp_path / "model.safetensors"
    wanted = {"norm": Weight((3,), 1.5), "matrix": Weight.linear(256, 64), "rows": Weight((8, 4), std=0.1, rows=(2, 7))}
    weights.save(path, wanted, dtype)
    found: dict[str, mx.array] = mx.load(str(path))  # type: ignore[assignment]
    assert {name: array.shape for name, array in found.items()} == {name: one.size for name, one in wanted.items()}
    assert {array.dtype for array in found.values()} == {getattr(mx, dtype)}
    assert found["norm"].tolist() == [1.5] * 3
    assert mx.std(found["matrix"].astype(mx.float32)).item() == pytest.approx(64**-0.5, rel=0.05)
    assert len({tuple(row) for row in found["matrix"].tolist()}) == 256
    assert mx.any(found["rows"] != 0, axis=1).tolist() == [False, False, True, True, True, True, True, False]
