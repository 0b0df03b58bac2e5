"""``quince config``: what a server here would run with, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from quince.cli.output import Column, Output

if TYPE_CHECKING:
    from quince.config_sources import Resolved, Source
    from quince.settings import Setting

HIDDEN = "********"


def config(
    file: Annotated[
        str | None,
        typer.Option("--config", help="Configuration file, as for `quince serve`.", show_default=False, metavar="FILE"),
    ] = None,
    path: Annotated[bool, typer.Option("--path", help="Print where the configuration file is, or would be.")] = False,
    example: Annotated[
        bool, typer.Option("--example", help="Print a file with every setting, its meaning and its default.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The settings in effect, and where each comes from.

    That is a QUINCE_* variable, the configuration file or the default; `quince serve` takes options, too.
    """
    from quince import config_sources, environment
    from quince.cli import config_example

    if path + example + as_json > 1:
        raise typer.BadParameter("--path, --example and --json are three answers: choose one")
    output = Output(json=as_json)
    if example:
        output.text(config_example.text())
    elif path:
        output.text(str(config_sources.find_file(file) or environment.home() / config_sources.FILE_NAMES[0]))
    else:
        show(output, config_sources.resolve({"config": file}))


def show(output: Output, found: Resolved) -> None:
    columns = [
        Column("SETTING", lambda row: f"{row['model']}: {row['name']}" if row["model"] else row["name"]),
        Column("VALUE", lambda row: _text(row["value"])),
        Column("FROM", lambda row: row["where"] or row["source"]),
    ]
    output.table(columns, _rows(found))


def _rows(found: Resolved) -> list[dict[str, Any]]:
    """The server's settings in the order of its --help, then what the file says of single models."""
    from quince import config

    rows = [
        _row(name, None, str(getattr(found.config, name)), found.sources.get(name)) for name in ("home", "models_dir")
    ]
    for name, setting in config.SETTINGS.items():
        rows.append(_row(name, None, _value(setting, getattr(found.config, name)), found.sources.get(name)))
    for model, section in found.config.models.items():
        for name, setting in config.SECTION_SETTINGS.items():
            if (model, name) in found.sources:
                value = _value(setting, getattr(section, name))
                rows.append(_row(name, model, value, found.sources[model, name]))
    return rows


def _row(name: str, model: str | None, value: Any, source: Source | None) -> dict[str, Any]:
    return {
        "name": name,
        "model": model,
        "value": value,
        "source": "default" if source is None else source.kind.value,
        "where": None if source is None else source.place,
    }


def _value(setting: Setting, value: Any) -> Any:
    if setting.secret:
        return [HIDDEN] * len(value) if setting.many else value and HIDDEN
    if setting.many:
        return [str(one) for one in value]
    return value if isinstance(value, (bool, int, float, str)) or value is None else str(value)


def _text(value: Any) -> str:
    from quince import settings

    return "" if value is None else settings.shown(value)
