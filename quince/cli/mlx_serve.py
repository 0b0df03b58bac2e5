"""``mlx-serve``: the command line of another server of this name, over the same program (docs/migrating.md)."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quince.cli import background, errors, models, service, version
from quince.cli.output import Output

if TYPE_CHECKING:
    from quince.cli.translation import Settled, Word

PROGRAM = "mlx-serve"
PREFIX = "MLX_SERVE_"
DIRECTORY = "~/.mlx-serve"
DEFAULTS = {"host": "0.0.0.0", "port": 8000}

EXAMPLE = """\
# mlx-serve's settings, as Quince reads them. Every line may be left out; `quince config --example` shows what Quince
# itself can be told, which goes into ~/.quince/config.yaml.
server:
  host: "0.0.0.0"              # every machine may come: 127.0.0.1 keeps the server to this one
  port: 8000

models:
  directory: ~/.mlx-serve/models
  preload: []                  # names of models, loaded at the start
  auto_download: true          # pull a model that a request names by its hub id

cache:
  max_embedding_models: 3      # the least used goes
  max_reranker_models: 2
  ttl_seconds: 1800            # without a request, then the model is unloaded

logging:
  level: INFO
  format: json                 # or text
"""

Config = Annotated[
    str | None,
    typer.Option(
        "--config", help=f"Configuration file.  [{DIRECTORY}/config.yaml]", metavar="FILE", show_default=False
    ),
]

app = typer.Typer(
    name=PROGRAM,
    help="A model server for MLX: mlx-serve's commands over Quince.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
service_app = typer.Typer(
    help="A server that starts by itself: launchd on macOS, systemd on Linux.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _options(shown: Annotated[bool, version.option(f"{PROGRAM} (Quince)")] = False) -> None:
    """A model server for MLX: mlx-serve's commands over Quince."""


@app.command()
def start(
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [0.0.0.0]", show_default=False)] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.  [8000]", show_default=False)] = None,
    foreground: Annotated[bool, typer.Option("--foreground", help="Do not go into the background.")] = False,
    preload: Annotated[
        list[str] | None, typer.Option(help="Model to load at the start. Repeat it for several.", show_default=False)
    ] = None,
    config_file: Config = None,
) -> None:
    """Serve every model that there is: in the background, or with --foreground until Ctrl-C."""
    settled = settle(config_file, {"host": host, "port": port, "preload": preload})
    settled.warn_of_openness(PROGRAM)
    if foreground:
        from quince.server import run

        run.serve(settled.resolved.config)
    else:
        background.launch(settled.arguments, settled.resolved.config)


@app.command()
def config(
    config_file: Config = None,
    path: Annotated[bool, typer.Option("--path", help="Print where the configuration file is, or would be.")] = False,
    example: Annotated[bool, typer.Option("--example", help="Print a file with every setting.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The settings in effect, by Quince's names, and where each comes from."""
    if path + example + as_json > 1:
        raise typer.BadParameter("--path, --example and --json are three answers: choose one")
    output = Output(json=as_json)
    if example:
        output.text(EXAMPLE)
    elif path:
        output.text(str(_file(config_file)))
    else:
        from quince.cli import config as shown

        shown.show(output, settle(config_file, {}).resolved)


@service_app.command()
def install(config_file: Config = None) -> None:
    """Install the service, with the configuration and the variables as they are now."""
    settled = settle(config_file, {})
    settled.warn_of_openness(PROGRAM)
    service.define(settled.arguments, settled.resolved.config)


def _with_models(command: Callable[..., None]) -> Callable[..., None]:
    """A command of Quince's that looks where mlx-serve's configuration has its models."""

    @functools.wraps(command)
    def run(*args: Any, **options: Any) -> None:
        settle(None, {})
        command(*args, **options)

    return run


app.command(name="status")(background.status)
app.command(name="stop")(background.stop)
app.command(name="pull")(_with_models(models.pull))
app.command(name="list")(_with_models(models.list_models))
app.command(name="remove")(_with_models(models.remove))
app.command(name="quantize")(_with_models(models.quantize))
app.add_typer(service_app, name="service")
for _command in (service.start, service.stop, service.status, service.enable, service.disable, service.uninstall):
    service_app.command()(_command)


def words() -> Mapping[str, Word]:
    """The names in a file."""
    from quince.cli import translation
    from quince.cli.translation import Word

    return {
        "server.host": Word("host"),
        "server.port": Word("port"),
        "models.directory": Word("models_dir"),
        "models.preload": Word("preload"),
        "models.auto_download": Word("auto_download"),
        "cache.max_embedding_models": Word("max_embedding_models"),
        "cache.max_reranker_models": Word("max_reranker_models"),
        "cache.ttl_seconds": Word("idle_ttl"),
        "logging.level": Word("log_level", translation.level),
        "logging.format": Word("log_format", str.lower),
    }


def variables() -> Mapping[str, Word]:
    from quince.cli import translation
    from quince.cli.translation import Word

    return {
        f"{PREFIX}HOST": Word("host"),
        f"{PREFIX}PORT": Word("port"),
        f"{PREFIX}MODELS_DIR": Word("models_dir"),
        f"{PREFIX}LOG_LEVEL": Word("log_level", translation.level),
        f"{PREFIX}PRELOAD_MODELS": Word("preload"),
        f"{PREFIX}AUTO_DOWNLOAD": Word("auto_download"),
    }


def settle(config_file: str | None, named: Mapping[str, Any]) -> Settled:
    """What a server is to run with; from here on, models are where the configuration has them."""
    from quince.cli import translation

    said = translation.flags(named, {}).over(translation.variables(variables()))
    path = _file(config_file)
    if config_file is not None or os.path.lexists(path):
        said = said.over(translation.file(path, words()))
    _use_models(said.pop("models_dir"))
    return translation.settle(said, DEFAULTS, PROGRAM)


def _file(named: str | None) -> Path:
    return Path(named or f"{DIRECTORY}/config.yaml").expanduser()


def _use_models(directory: str | None) -> None:
    """The variable tells this process and its children. What mlx-serve has left at its usual place is found without a
    word; where there is nothing, models are where `quince` has them."""
    from quince import environment

    usual = Path(f"{DIRECTORY}/models").expanduser()
    if directory is not None:
        os.environ[environment.MODELS_DIR] = str(Path(directory).expanduser().absolute())
    elif environment.MODELS_DIR not in os.environ and usual.is_dir():
        os.environ[environment.MODELS_DIR] = str(usual)


def main() -> None:
    errors.run(functools.partial(app, prog_name=PROGRAM), PROGRAM)


if __name__ == "__main__":
    main()
