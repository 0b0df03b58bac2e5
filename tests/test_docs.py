"""What the documents say of the code is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quince.text import reasoning_parsers, tool_parsers

API = (Path(__file__).parent.parent / "docs" / "api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flag", "formats"), [("tool", tool_parsers.FORMATS), ("reasoning", reasoning_parsers.FORMATS)]
)
def test_the_known_formats_are_listed(flag: str, formats: dict[str, object]) -> None:
    listed = re.search(rf"--{flag}-parser` overrides it. Known:(.*?)\.", API.replace("\n", " "))
    assert listed is not None
    assert re.findall("`(.*?)`", listed[1]) == list(formats)
