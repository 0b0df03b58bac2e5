"""``mlx-server``: the command lines of three other servers of this name, over the same program (docs/migrating.md)."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from quince.cli import errors, version

if TYPE_CHECKING:
    from quince.cli.translation import Said, Settled, Word
    from quince.config import ServeConfig

PROGRAM = "mlx-server"
LAUNCH = "launch"
LOG_NAME = "mlx-server.log"  # in the file's logs_dir
PREFIX = "MLX_SERVER_"
# Each form's own defaults. A model that reads less than the ctx_size keeps to that.
PLAIN = {"host": "127.0.0.1", "port": 8000, "any_model_name": True}
SHORT = {**PLAIN, "port": 8080, "ctx_size": 4096}
LAUNCHED = {
    **PLAIN,
    "host": "0.0.0.0",
    "model_type": "llm",
    "max_running_requests": 1,
    "queue_timeout": 300,
    "queue_size": 100,
}
TYPES = {"lm": "llm", "vlm": "vlm"}

Port = Annotated[int | None, typer.Option(help="Port to listen on.  [8000; 8080 with -m]", show_default=False)]
Host = Annotated[str | None, typer.Option(help="Address to listen on.  [127.0.0.1]", show_default=False)]
Config = Annotated[
    str | None, typer.Option("--config", help="A JSON (or YAML) file of settings.", metavar="FILE", show_default=False)
]


def _option(help: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=help, show_default=False, **more)


Version = Annotated[bool, version.option(f"{PROGRAM} (Quince)")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
launch_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(epilog=f"`{PROGRAM} {LAUNCH} --help` shows the other form: {PROGRAM} {LAUNCH} --model-path MODEL ...")
def serve(  # noqa: PLR0913 - one parameter per option
    model: Annotated[
        str | None,
        typer.Argument(help="A directory or an installed model. Without one, every model that there is."),
    ] = None,
    model_option: Annotated[
        str | None, _option("A directory, an installed model or a hub id.", "--model", "-m")
    ] = None,
    host: Host = None,
    port: Port = None,
    api_key: Annotated[str | None, _option("Key that requests must bring.")] = None,
    adapter: Annotated[str | None, _option("Directory of a LoRA adapter.")] = None,
    ctx_size: Annotated[
        int | None, _option(f"Context length in tokens.  [{SHORT['ctx_size']} with -m, else the model's]")
    ] = None,
    max_tokens: Annotated[int | None, _option("Longest answer of a request that gives none.")] = None,
    temperature: Annotated[float | None, _option("Temperature of a request that gives none.")] = None,
    log_level: Annotated[str | None, _option("DEBUG, INFO, WARNING or ERROR.  [INFO]")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="--log-level DEBUG.")] = False,
    log_file: Annotated[str | None, _option("File that gets the log, too.")] = None,
    config_file: Config = None,
    workers: Annotated[
        int, typer.Option(min=1, help="Processes that answer HTTP: one is enough, and all there is.")
    ] = 1,
    reload: Annotated[bool, typer.Option("--reload", help="Start again when Quince's own files change.")] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop the server that runs (with several: the one on --port).")
    ] = False,
    shown: Version = False,
) -> None:
    """Serve a model in the foreground, under any name that requests give it."""
    from quince.cli import translation

    if stop:
        _stop(port)
        return
    if model is not None and model_option is not None:
        raise typer.BadParameter("the model was given twice, as MODEL and by --model")
    if verbose and log_level is not None:
        raise typer.BadParameter("--verbose is --log-level DEBUG: give one of the two")
    _check_workers(workers)
    named = {
        "model": model or model_option,
        "host": host,
        "port": port,
        "api_key": None if api_key is None else [api_key],
        "adapter": adapter,
        "ctx_size": ctx_size,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "log_level": "debug" if verbose else log_level and translation.level(log_level),
        "log_file": log_file,
    }
    said = translation.flags(named, {"model": "--model" if model_option else "MODEL"})
    settled = _settled(said, config_file, SHORT if model_option else PLAIN)
    if reload:
        from quince.cli import reloading

        reloading.run([argument for argument in sys.argv[1:] if argument != "--reload"])
    else:
        _run(settled.resolved.config, from_hub=model_option is not None)


@launch_app.command(name=f"{PROGRAM} {LAUNCH}")
def launch(  # noqa: PLR0913 - one parameter per option
    model_path: Annotated[str, typer.Option(help="A directory, an installed model or a hub id.", show_default=False)],
    model_type: Annotated[Literal["lm", "vlm"] | None, _option("Text only, or with images.  [lm]")] = None,
    max_concurrency: Annotated[int | None, _option("Requests that run at once, sharing the work.  [1]")] = None,
    queue_timeout: Annotated[float | None, _option("Seconds that a request may wait.  [300]")] = None,
    queue_size: Annotated[int | None, _option("Requests that may wait.  [100]")] = None,
    port: Annotated[int | None, _option("Port to listen on.  [8000]")] = None,
    host: Annotated[str | None, _option("Address to listen on.  [0.0.0.0: every machine may come]")] = None,
) -> None:
    """Serve a model in the foreground, by its path and type, under any name that requests give it."""
    from quince.cli import translation

    named = {
        "model": model_path,
        "model_type": model_type and TYPES[model_type],
        "max_running_requests": max_concurrency,
        "queue_timeout": queue_timeout,
        "queue_size": queue_size,
        "host": host,
        "port": port,
    }
    said = translation.flags(named, {"model": "--model-path", "max_running_requests": "--max-concurrency"})
    settled = _settled(said, None, LAUNCHED)
    settled.warn_of_openness(PROGRAM)
    _run(settled.resolved.config, from_hub=True)


def words() -> Mapping[str, Word]:
    """The names in a file: those of the described one, and Quince's own."""
    from quince.cli import translation
    from quince.cli.translation import Word
    from quince.config import SETTINGS

    return {
        **{name: Word(name) for name in SETTINGS},
        "log_level": Word("log_level", translation.level),
        "model_path": Word("model"),
        "adapter_path": Word("adapter"),
        "default_max_tokens": Word("max_tokens"),
        "default_temperature": Word("temperature"),
        "logs_dir": Word("log_file", lambda text: str(Path(text) / LOG_NAME)),
        "cors_enabled": Word("cors_enabled"),
        "cors_origins": Word("cors_origin"),
    }


def _settled(said: Said, config_file: str | None, defaults: Mapping[str, Any]) -> Settled:
    from quince.cli import translation

    named = said.over(_variables())
    if config_file is not None:
        named = named.over(translation.file(Path(config_file).expanduser(), words()))
    _apply_cors(named)
    settled = translation.settle(named, defaults, PROGRAM)
    own = _own_context(settled.resolved.config) if "ctx_size" in defaults else None
    if own is not None and own < defaults["ctx_size"]:
        return translation.settle(named, {**defaults, "ctx_size": own}, PROGRAM)
    return settled


def _variables() -> Said:
    from quince.cli import translation

    return translation.variables({PREFIX + name.upper(): word for name, word in words().items()})


def _apply_cors(said: Said) -> None:
    """cors_enabled is a switch over cors_origins: all origins if none is named, none if it is off."""
    from quince.errors import UsageError

    source = said.sources.get("cors_enabled")
    match str(said.pop("cors_enabled")).lower():
        case "true" if source is not None and "cors_origin" not in said.values:
            said.add("cors_origin", ["*"], source)
        case "false":
            said.pop("cors_origin")
        case "none" | "true":
            pass
        case other:
            raise UsageError(f"{source} = '{other}': true or false belongs here")


def _own_context(settings: ServeConfig) -> int | None:
    """What the model's files say; None for one that is not here yet."""
    from quince.errors import UsageError
    from quince.models.registry import ModelRegistry
    from quince.models.store import ModelStore

    try:
        registry = ModelRegistry(settings, ModelStore(settings.home, directory=settings.models_dir))
    except UsageError:
        return None
    return None if registry.only is None else registry.only.manifest.description.context


def _run(settings: ServeConfig, *, from_hub: bool) -> None:
    """``from_hub``: a hub id that is not here is downloaded first."""
    from quince.cli import models
    from quince.server import run

    if settings.model is not None and (from_hub or settings.auto_download):
        models.pull_missing(settings.model)
    run.serve(settings)


def _stop(port: int | None) -> None:
    from quince.cli import background
    from quince.errors import UsageError

    said = _variables()
    text = str(said.values.get("port", ""))
    if port is None and text:
        if not text.isdecimal():
            raise UsageError(f"{said.sources['port']} = '{text}': a port is a number")
        port = int(text)
    background.stop(port=port)


def _check_workers(workers: int) -> None:
    from quince.errors import UsageError

    if workers > 1:
        raise UsageError(
            f"--workers {workers}: more than one brings nothing: models compute in processes of their own, and the one "
            "that answers HTTP keeps up with more tokens than they give (docs/architecture.md has the figures)"
        )


def main() -> None:
    if sys.argv[1:2] == [LAUNCH]:
        command = functools.partial(launch_app, args=sys.argv[2:], prog_name=f"{PROGRAM} {LAUNCH}")
    else:
        command = functools.partial(app, prog_name=PROGRAM)
    errors.run(command, PROGRAM)


if __name__ == "__main__":
    main()
