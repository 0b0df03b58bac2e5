"""``quince doctor``"""

from __future__ import annotations

from typing import Annotated

import typer

_COLOURS = {"ok": typer.colors.GREEN, "warning": typer.colors.YELLOW, "problem": typer.colors.RED}


def doctor(
    online: Annotated[bool, typer.Option("--online", help="Also ask the hub whether it answers.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON array.")] = False,
) -> None:
    """What is wrong with this machine, in sentences. Exit code 1 if something is."""
    import msgspec

    from quince.cli.output import Output
    from quince.doctor.examine import examine
    from quince.doctor.finding import Status

    found = []
    for finding in examine(online=online):
        found.append(finding)
        if not as_json:
            mark = typer.style(f"{finding.status.value:8}", fg=_COLOURS[finding.status.value])
            typer.echo(f"{mark} {finding.check}: {finding.text}")
            if finding.advice:
                typer.echo(f"{'':8} -> {finding.advice}")
    if as_json:
        Output().text(msgspec.json.format(msgspec.json.encode(found)).decode())
    if any(finding.status is Status.PROBLEM for finding in found):
        raise typer.Exit(1)
