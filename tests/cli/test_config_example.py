"""The example file says every setting, and says what is so without it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from quince import config, config_sources
from quince.cli import config_example

COMMENT = re.compile(r"#( *#)? \S.*")
SETTING = re.compile(r'#( *)[a-z"][^ ]*:( \S+)*')


def load(home: Path, text: str) -> config.ServeConfig:
    (home / "config.yaml").write_text(text)
    return config_sources.load({}, {"QUINCE_HOME": str(home)})


def uncommented() -> str:
    return "\n".join(
        line[1:] if SETTING.fullmatch(line) and not COMMENT.fullmatch(line) else line
        for line in config_example.text().splitlines()
    )


def test_every_line_is_a_comment_or_a_setting_that_is_commented_out() -> None:
    for line in config_example.text().splitlines():
        assert line in ("", "#") or COMMENT.fullmatch(line) or SETTING.fullmatch(line), line
        assert len(line) <= 102


def test_it_changes_nothing(tmp_path: Path) -> None:
    defaults = config_sources.load({}, {"QUINCE_HOME": str(tmp_path)})
    assert load(tmp_path, config_example.text()) == defaults


def test_with_all_settings_in_force_it_changes_nothing_either(tmp_path: Path) -> None:
    defaults = config_sources.load({}, {"QUINCE_HOME": str(tmp_path)})
    found = load(tmp_path, uncommented())
    assert found.model_copy(update={"models": {}}) == defaults
    (section,) = found.models.values()
    assert section.model_fields_set == set(config.SECTION_SETTINGS)
    assert found.for_model(section) == found
    names = re.findall(r"^([a-z_]+):", uncommented(), re.MULTILINE)
    assert names == [*config.SETTINGS, "models"]


@pytest.mark.parametrize("setting", config.SETTINGS.values(), ids=lambda setting: setting.name)
def test_the_meaning_stands_above_the_setting(setting: config.Setting) -> None:
    block = next(
        part for part in config_example.text().split("\n\n") if part.splitlines()[-1].startswith(f"#{setting.name}:")
    )
    told = " ".join(line.removeprefix("# ") for line in block.splitlines()[:-1])
    assert told.startswith(setting.help)
