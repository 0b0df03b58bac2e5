"""The ``quince`` command: what cannot be, and how it is told. tests/e2e/test_cli.py has some of it as a process."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from quince.cli import main
from quince.config import ServeConfig
from quince.server import run


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings of the developer's; nothing is served, whatever is typed."""

    def serve(config: ServeConfig) -> NoReturn:
        raise AssertionError("it would have served")

    for name in [name for name in os.environ if name.startswith("QUINCE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("QUINCE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(run, "serve", serve)


def typed(monkeypatch: pytest.MonkeyPatch, *args: str) -> int:
    monkeypatch.setattr(sys, "argv", ["quince", *args])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    "args",
    [
        ("nothing",),
        ("serve", "--nothing"),
        ("serve", "--port"),
        ("serve", "one", "two"),
        ("serve", "--port", "eighty"),
        ("serve", "--temperature", "hot"),
        ("serve", "--log-level", "loud"),
    ],
)
def test_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], args: tuple[str, ...]
) -> None:
    assert typed(monkeypatch, *args) == 2
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert any(argument in told for argument in args)


@pytest.mark.parametrize(
    ("args", "env", "source"),
    [
        (("--port", "99999"), {}, "--port"),
        (("--port", "-1"), {}, "--port"),
        (("--ctx-size", "0"), {}, "--ctx-size"),
        (("--temperature", "9"), {}, "--temperature"),
        (("--max-running-requests", "0"), {}, "--max-running-requests"),
        (("--queue-timeout", "0"), {}, "--queue-timeout"),
        ((), {"QUINCE_KEEPALIVE_INTERVAL": "-1"}, "QUINCE_KEEPALIVE_INTERVAL"),
        ((), {"QUINCE_ANY_MODEL_NAME": "maybe"}, "QUINCE_ANY_MODEL_NAME"),
        (("--port", "99999"), {"QUINCE_PORT": "80"}, "--port"),
    ],
)
def test_a_bad_value_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: tuple[str, ...],
    env: dict[str, str],
    source: str,
) -> None:
    """It names where the value came from."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert typed(monkeypatch, "serve", *args, "quince-demo") == (2 if source.startswith("--") else 1)
    told = capsys.readouterr().err
    assert source in told
    assert re.fullmatch(r"quince: .+\n", told), told
