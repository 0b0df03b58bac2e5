"""The example configuration file, made from the settings."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quince import config, config_sources
from quince.settings import Setting

WIDTH = 100
_MODEL = "qwen3:0.6b"
_PLAIN = re.compile(r"[A-Za-z0-9./][A-Za-z0-9./_ -]*")
_HEAD = (
    f"Quince's settings, each with its default. Take the # before a line away to set it; save the file as "
    f"{config_sources.FILE_NAMES[0]} in the home directory (~/.quince, or QUINCE_HOME), or name it with --config.",
    "Command line options go before QUINCE_* variables, and those before this file. What stands after a name is "
    "taken as text: quotes are needed only where YAML would see something else. Nothing, or null, is the default.",
)
_MODELS = (
    "Settings of single models, by the names that `quince list` shows, hub ids or aliases. They go before what this "
    "file says for all models; here, null sets that aside."
)


def text() -> str:
    """Every line is a comment (``# text``) or a setting that is commented out (``#name: value``)."""
    lines = [line for part in _HEAD for line in [*_comment(part), "#"]][:-1]
    for setting in config.SETTINGS.values():
        lines += ["", *_comment(setting.meaning), f"#{_line(setting)}"]
    lines += ["", *_comment(_MODELS), "#models:", f'#  "{_MODEL}":']
    for setting in config.SECTION_SETTINGS.values():
        told = _comment(setting.meaning) if setting.name not in config.SETTINGS else ()
        lines += [*(f"#    {line}" for line in told), f"#    {setting.name}:"]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> Iterator[str]:
    return (f"# {line}" for line in textwrap.wrap(text, WIDTH, break_on_hyphens=False))


def _line(setting: Setting) -> str:
    return f"{setting.name}: {_value(setting.default)}".rstrip()


def _value(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case tuple() | list():
            return f"[{', '.join(_value(one) for one in value)}]"
        case str() | Path() if not _PLAIN.fullmatch(str(value)):
            return json.dumps(str(value))
    return str(value)
