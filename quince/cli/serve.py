"""``quince serve``"""

from __future__ import annotations

from typing import Annotated

import typer

from quince.cli import completion, options

Model = Annotated[
    str | None,
    typer.Argument(
        help="A directory, an installed model, an alias or a hub id: loaded at the start and kept. "
        "Without one, every model that there is, loaded on first use.",
        show_default=False,
        autocompletion=completion.models,
    ),
]


def serve(ctx: typer.Context, model: Model = None) -> None:
    """Serve a model in the foreground. Ctrl-C lets running requests finish; a second one does not."""
    from quince import config_sources
    from quince.cli import models
    from quince.server import run

    settings = config_sources.load({"model": model, **options.given(ctx)})
    if settings.model is not None and settings.auto_download:
        models.pull_missing(settings.model)
    run.serve(settings)
