"""``quince doctor`` on this machine, and with things wrong."""

from __future__ import annotations

import json
import socket
import subprocess
from pathlib import Path

import pytest

from tests.e2e.server_process import QUINCE, environment

CHECKS = [
    *("python", "system", "memory", "gpu memory", "disk", "home", "open files", "clock", "mlx", "mlx builds"),
    *("packages", "configuration", "port", "models", "pulls", "servers"),
]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    own = {"QUINCE_HOME": str(tmp_path / "home"), "HF_HUB_CACHE": str(tmp_path / "cache"), "QUINCE_PORT": port}
    return environment(own)


def doctor(*args: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*QUINCE, "doctor", *args], capture_output=True, text=True, timeout=120, env=env, check=False)


def test_nothing_wrong(env: dict[str, str]) -> None:
    result = doctor(env=env)
    assert (result.returncode, result.stderr) == (0, "")
    assert [line.split()[0] for line in result.stdout.splitlines() if "->" not in line].count("problem") == 0
    assert not Path(env["QUINCE_HOME"]).exists()  # it looks, and touches nothing


def test_json(env: dict[str, str]) -> None:
    findings = json.loads(doctor("--json", env=env).stdout)
    assert [finding["check"].split(" 1")[0].split(" 2")[0] for finding in findings][:10] == CHECKS[:10]
    assert {finding["check"].partition(" ")[0] for finding in findings} == {name.split()[0] for name in CHECKS}
    assert all(set(finding) == {"check", "status", "text", "advice"} for finding in findings)


def test_much_wrong(env: dict[str, str], tmp_path: Path) -> None:
    """Each is a sentence of its own, and none keeps the others from being told."""
    broken = Path(env["QUINCE_HOME"]) / "models" / "broken"
    broken.mkdir(parents=True)
    (broken / "config.json").write_text("{")
    env["QUINCE_QUEUE_SIZE"] = "many"
    result = doctor(env=env)
    assert (result.returncode, result.stderr) == (1, "")
    problems = [
        line.split(": ")[0].split(maxsplit=1)[1] for line in result.stdout.splitlines() if "problem " in line[:8]
    ]
    assert problems == ["configuration", "models"]
    assert "QUINCE_QUEUE_SIZE" in result.stdout and "Traceback" not in result.stdout


def test_a_taken_port(env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", int(env["QUINCE_PORT"]))):
        result = doctor(env=env)
    assert (result.returncode, result.stderr) == (1, "")
    assert f"problem  port {env['QUINCE_PORT']}: " in result.stdout


def test_no_mlx(env: dict[str, str], tmp_path: Path) -> None:
    """An MLX that brings its process down does not bring the doctor down."""
    fake = tmp_path / "path" / "mlx"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("import os; os.abort()")
    env["PYTHONPATH"] = f"{fake.parent}:{env.get('PYTHONPATH', '')}"
    result = doctor(env=env)
    assert (result.returncode, result.stderr) == (1, "")
    assert "problem  mlx: MLX does not work: it was killed by signal 6" in result.stdout
    assert "ok       models: " in result.stdout
