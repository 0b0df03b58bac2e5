"""What a shell is offered."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from quince.cli import completion
from quince.models.store import ModelStore
from tests.e2e.server_process import QUINCE, environment
from tests.models.conftest import write_model
from tests.models.test_store import install


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With a model, mine, and an alias, my-own."""
    monkeypatch.setenv("QUINCE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "no-cache"))
    store = ModelStore(tmp_path / "home")
    install(store, write_model(tmp_path / "mine"), "mine")
    store.set_alias("my-own", "mine")
    return tmp_path / "home"


def test_models(home: Path) -> None:
    assert completion.models("m") == ["mine", "my-own"]
    assert completion.models("x") == []
    assert "quince-demo" in completion.models("")


def test_what_is_broken_is_no_problem_here(home: Path) -> None:
    (home / "models" / "aliases.json").write_text("{")
    assert completion.models("m") == ["mine"]


def test_repositories() -> None:
    assert "qwen3:0.6b" in completion.repositories("qwen3:0")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("quince sh", ["show"]),
        ("quince show my", ["my-own"]),
        ("quince serve mi", ["mine"]),
        ("quince serve --log-level w", ["warning"]),
        ("quince serve --no-any", ["--no-any-model-name"]),
    ],
)
def test_through_a_shell(home: Path, line: str, offered: list[str]) -> None:
    words = {"_QUINCE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    env = environment({**words, "QUINCE_HOME": str(home)})
    result = subprocess.run(QUINCE, capture_output=True, text=True, env=env, check=False)
    assert (result.stdout.split(), result.stderr) == (offered, "")
