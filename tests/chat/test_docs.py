"""docs/run.md names every command of a conversation, every setting and every option."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from quince.chat.client import ChatClient
from quince.chat.conversation import SETTINGS, Conversation
from quince.chat.history import History
from quince.chat.repl import Repl
from quince.cli.main import app

PAGE = (Path(__file__).parents[2] / "docs" / "run.md").read_text(encoding="utf-8")


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ChatClient("http://127.0.0.1:9") as client:
        lines = iter(["/help", "/bye"])
        Repl(client, Conversation(), History(tmp_path, None), verbose=False, ask=lambda prompt: next(lines)).run()
    told = set(re.findall(r"^  (/\w+)", capsys.readouterr().out, re.MULTILINE))
    assert told == set(re.findall(r"[`|] ?`?(/\w+)(?= |`)", PAGE)) and "/bye" in told


def test_settings() -> None:
    assert [name for name in SETTINGS if name not in PAGE] == []


def test_options() -> None:
    commands: Any = typer.main.get_group(app).commands
    declared = {flag for parameter in commands["run"].params for flag in parameter.opts if flag[0] == "-"}
    assert {flag for flag in declared if f"`{flag}" not in PAGE} == set()
    assert {"--url", "--verbose"} <= declared
