"""What is read from the fields of a settings class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, BeforeValidator, Field, SecretStr

from quince import config, settings


class Sample(BaseModel):
    port: int = Field(80, ge=0, le=99, description="A port.")
    share: float | None = Field(None, gt=0, le=1, description="A share (default: half).")
    count: int = Field(3, ge=0, lt=7, description="A count.")
    some: int = Field(3, ge=0, description="Some.")
    on: bool = Field(False, description="Whether it is on.")
    colour: Literal["red", "blue"] | None = Field(None, description="A colour.")
    bits: Annotated[Literal[4, 8], BeforeValidator(int)] = Field(8, description="Bits.")
    keys: Annotated[tuple[Annotated[SecretStr, Field(min_length=1)], ...], BeforeValidator(list)] = ()
    places: tuple[Path, ...] = Field((), description="Places.")
    file: Path | None = Field(None, description="A file.")
    sizes: tuple[int, ...] = Field((1, 2), description="Sizes.")


FOUND = settings.describe(Sample)


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("port", {"kind": int, "bounds": "From 0 to 99.", "help": "A port (default: 80). From 0 to 99."}),
        ("share", {"kind": float, "help": "A share (default: half). More than 0, at most 1.", "many": False}),
        ("count", {"bounds": "At least 0, less than 7."}),
        ("some", {"bounds": ""}),
        ("on", {"kind": bool, "help": "Whether it is on (default: off).", "flag": "--on"}),
        ("colour", {"kind": str, "choices": ("red", "blue"), "help": "A colour."}),
        ("bits", {"kind": int, "choices": ("4", "8"), "secret": False}),
        ("keys", {"kind": str, "many": True, "secret": True}),
        ("places", {"kind": Path, "many": True}),
        ("file", {"kind": Path, "many": False}),
        ("sizes", {"kind": int, "many": True, "help": "Sizes (default: 1, 2)."}),
    ],
)
def test_a_field(name: str, facts: dict[str, Any]) -> None:
    assert {fact: getattr(FOUND[name], fact) for fact in facts} == facts


def test_flags() -> None:
    assert config.SETTINGS["max_running_requests"].flag == "--max-running-requests"


@pytest.mark.parametrize(
    "setting", list({**config.SETTINGS, **config.SECTION_SETTINGS}.values()), ids=lambda one: one.name
)
def test_every_setting_is_described_in_sentences(setting: settings.Setting) -> None:
    assert setting.description.endswith(".") and "\n" not in setting.description
    assert setting.description.count("(default:") <= (setting.default in (None, ()))
