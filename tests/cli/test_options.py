"""Options that are made from settings, as Typer parses and explains them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import typer
from pydantic import BaseModel, Field
from typer.testing import CliRunner

from quince import settings
from quince.cli import options
from quince.config import SETTINGS

SEEN: list[tuple[str | None, dict[str, Any]]] = []
app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command(cls=options.SettingsCommand)
def command(ctx: typer.Context, own: Annotated[str | None, typer.Argument()] = None) -> None:
    """A command of its own."""
    SEEN.append((own, options.given(ctx)))


def given(*args: str) -> dict[str, Any]:
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0, result.output
    return SEEN.pop()[1]


@pytest.mark.parametrize(
    ("args", "values"),
    [
        ((), {}),
        (("--port", "7"), {"port": 7}),
        (("--queue-timeout", "1.5", "--host", "::1"), {"queue_timeout": 1.5, "host": "::1"}),
        (("--any-model-name",), {"any_model_name": True}),
        (("--no-any-model-name",), {"any_model_name": False}),
        (("--api-key", "a,b", "--api-key", "c"), {"api_key": ["a,b", "c"]}),
        (("--kv-bits", "4", "--log-level", "debug"), {"kv_bits": "4", "log_level": "debug"}),
        (("--config", "x.yaml"), {"config": "x.yaml"}),
    ],
)
def test_values(args: tuple[str, ...], values: dict[str, Any]) -> None:
    assert given(*args) == values


class Later(BaseModel):
    """Fields of kinds that settings may come to have."""

    log_file: Path | None = Field(None, description="A file.")
    media_path: tuple[Path, ...] = Field((), description="Directories.")
    sizes: tuple[int, ...] = Field((1, 2), description="Sizes.")
    private: bool = Field(True, description="Whether.")
    ratio: Annotated[float | None, Field(ge=0)] = Field(None, description="A ratio.")
    kinds: tuple[Literal["a", "b"], ...] = Field((), description="Kinds.")


def test_a_new_field_is_an_option() -> None:
    made = {option.name: option for option in options.make(settings.describe(Later).values())}
    assert list(made) == ["config", *Later.model_fields]
    assert {name: [*option.opts, *option.secondary_opts] for name, option in made.items()} == {
        "config": ["--config"],
        "log_file": ["--log-file"],
        "media_path": ["--media-path"],
        "sizes": ["--sizes"],
        "private": ["--private", "--no-private"],
        "ratio": ["--ratio"],
        "kinds": ["--kinds"],
    }
    assert [name for name, option in made.items() if option.multiple] == ["media_path", "sizes", "kinds"]
    for name, setting in settings.describe(Later).items():
        assert made[name].help.startswith(setting.help)


def test_beside_a_commands_own_parameters() -> None:
    result = CliRunner().invoke(app, ["--port", "7", "mine"])
    assert result.exit_code == 0, result.output
    assert SEEN.pop() == ("mine", {"port": 7})


@pytest.mark.parametrize("args", [("--port", "x"), ("--kv-bits", "5"), ("--log-level", "loud"), ("--nothing",)])
def test_wrong_usage(args: tuple[str, ...]) -> None:
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 2 and args[0] in result.output


def test_help_has_each_setting_with_its_meaning() -> None:
    result = CliRunner().invoke(app, ["--help"], terminal_width=1000)
    shown = " ".join(result.output.split())
    for name, setting in SETTINGS.items():
        if name != "model":
            assert f" {setting.flag} " in shown and setting.help in shown


def test_the_list_of_commands_reads_no_settings() -> None:
    """They take longer to import than everything else of --help."""
    script = """
import contextlib, sys
from quince.cli.main import app
with contextlib.suppress(SystemExit):
    app(["--help"])
print("LOADED", [name for name in ("pydantic", "yaml", "quince.config") if name in sys.modules])
"""
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert "serve" in shown and shown.endswith("LOADED []\n")
