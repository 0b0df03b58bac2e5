"""``quince pull``, ``list``, ``show``, ``remove``, ``quantize`` and ``alias``: the models that are installed."""

from __future__ import annotations

import enum
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quince.cli import completion
from quince.cli.output import Column, Output
from quince.errors import PullCancelled, UsageError
from quince.models.model_type import ModelType

if TYPE_CHECKING:
    from quince.models.pull import Installer, OnProgress, Progress
    from quince.models.sections import ModelSections
    from quince.models.store import ModelStore, StoredModel

    Work = Callable[[Installer, OnProgress, threading.Event], StoredModel]

# How long an interrupted pull may take to close its connections.
GOODBYE = 3.0

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no confirmation.")]
Name = Annotated[
    str,
    typer.Argument(help="A name, an alias or a hub id.", show_default=False, autocompletion=completion.models),
]


class Bits(enum.Enum):
    FOUR = "4"
    EIGHT = "8"


class Group(enum.Enum):
    SMALL = "32"
    MEDIUM = "64"
    LARGE = "128"


GroupSize = Annotated[Group, typer.Option(help="Weights that share a scale.")]


def pull(  # noqa: PLR0913 - one parameter per option
    repo: Annotated[
        str,
        typer.Argument(
            help="A hub id (owner/name) or an alias (qwen3:0.6b).",
            show_default=False,
            autocompletion=completion.repositories,
        ),
    ],
    type: Annotated[
        ModelType | None, typer.Option(help="What it is, if its files mislead.", show_default=False)
    ] = None,
    quantize: Annotated[Bits | None, typer.Option(help="Quantise to so many bits.", show_default=False)] = None,
    group_size: GroupSize = Group.MEDIUM,
    name: Annotated[
        str | None, typer.Option(help="Name to install it under.  [the repository's]", show_default=False)
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit.  [main]", show_default=False)] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Install a model from the Hugging Face hub. A pull that breaks off goes on where it stopped."""
    from quince.models.pull import PullRequest

    store = _store()
    repo_id = store.resolve_alias(repo)
    if repo_id.count("/") != 1:
        raise UsageError(f"'{repo}' is no hub id (owner/name) and no alias of one")
    request = PullRequest(
        repo_id=repo_id,
        revision=revision,
        name=name,
        type=type,
        bits=int(quantize.value) if quantize else None,
        group_size=int(group_size.value),
    )
    output = Output(json=as_json, quiet=quiet)
    model = _run(output, lambda installer, tell, cancelled: installer.pull(request, tell, cancelled))
    output.done(f"installed {_summary(model)}", _object(model, store))


def quantize(
    name: Name,
    bits: Annotated[Bits, typer.Option(help="Bits of a weight.", show_default=False)],
    group_size: GroupSize = Group.MEDIUM,
    new_name: Annotated[
        str | None, typer.Option("--name", help="Name of the new model.  [NAME-4bit]", show_default=False)
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a quantised model of an installed one, which stays."""
    from quince.models.pull import Quantization

    store, output = _store(), Output(json=as_json, quiet=quiet)
    options = Quantization(int(bits.value), int(group_size.value), new_name)

    def work(installer: Installer, tell: OnProgress, cancelled: threading.Event) -> StoredModel:
        return installer.quantize(name, options, tell, cancelled)

    model = _run(output, work)
    output.done(f"installed {_summary(model)}", _object(model, store))


def list_models(as_json: Json = False) -> None:
    """The models that are here.

    Those that are installed, that come with Quince, and that other programs have put in the Hugging Face cache.
    """
    store = _store()
    columns = [
        Column("NAME", lambda row: f"{row['name']} ({', '.join(row['aliases'])})" if row["aliases"] else row["name"]),
        Column("TYPE", lambda row: row["type"]),
        Column("SIZE", lambda row: _size(row["size"]), right=True),
        Column("WEIGHTS", lambda row: row["quantization"]),
        Column("PARAMETERS", lambda row: _count(row["parameters"]), right=True),
        Column("CONTEXT", lambda row: str(row["context"] or ""), right=True),
        Column("FROM", lambda row: _origin(row["origin"], row["repo_id"])),
    ]
    sections = _sections(store)
    Output(json=as_json).table(columns, [_object(model, store, sections) for model in store.models()])


def show(
    name: Name,
    template: Annotated[bool, typer.Option("--template", help="Print the chat template and nothing else.")] = False,
    as_json: Json = False,
) -> None:
    """Everything about one model."""
    from quince.models import description

    store, output = _store(), Output(json=as_json)
    sections = _sections(store)
    model = store.get(sections.target(name))
    text = description.chat_template(model.path)
    if template:
        if text is None:
            raise UsageError(f"'{model.name}' has no chat template")
        output.text(text)
        return
    found, value = model.manifest.description, _object(model, store, sections)
    group = f", groups of {found.group_size}" if found.group_size else ""
    output.record(
        {**value, "template": text},
        [
            ("name", model.name),
            ("aliases", ", ".join(value["aliases"]) or "none"),
            ("type", found.type.value),
            ("architecture", found.architecture),
            ("parameters", _count(found.parameters)),
            ("weights", found.quantization + group),
            ("context", f"{found.context} tokens" if found.context else "unknown"),
            ("size", _size(found.size)),
            ("chat template", f"{len(text.splitlines())} lines (--template prints them)" if text else "none"),
            ("licence", found.license or "unknown"),
            ("from", _origin(model.origin, model.manifest.source.repo_id)),
            ("revision", model.manifest.source.revision or "unknown"),
            ("directory", str(model.path)),
        ],
    )


def remove(name: Name, as_json: Json = False, quiet: Quiet = False) -> None:
    """Remove a model, an alias, or what a broken pull has left."""
    removed = _store().remove(name)
    Output(json=as_json, quiet=quiet).done(f"removed {removed}", {"removed": removed})


def alias(
    name: Annotated[str | None, typer.Argument(help="The new name.", show_default=False)] = None,
    target: Annotated[
        str | None, typer.Argument(help="What it means.", show_default=False, autocompletion=completion.models)
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Give a model another name, or list the aliases.

    `quince remove` removes one.
    """
    store, output = _store(), Output(json=as_json, quiet=quiet)
    if name is None:
        from quince.models.aliases import shipped

        own = store.aliases()
        found = {**shipped(), **own}
        rows = [{"alias": one, "target": found[one], "own": one in own} for one in [*sorted(own), *shipped()]]
        columns = [
            Column("ALIAS", lambda row: row["alias"]),
            Column("MEANS", lambda row: row["target"]),
            Column("WHOSE", lambda row: "yours" if row["own"] else "Quince's"),
        ]
        output.table(columns, list({row["alias"]: row for row in rows}.values()))
    elif target is None:
        raise typer.BadParameter("an alias needs a NAME and a TARGET")
    else:
        store.set_alias(name, target)
        output.done(f"{name} means {target}", {"alias": name, "target": target})


def pull_missing(name: str) -> None:
    """Install what ``name`` means on the hub, if it is neither here nor a directory."""
    from pathlib import Path

    from quince.models.pull import PullRequest

    store = _store()
    repo_id = store.resolve_alias(name)
    if Path(name).expanduser().is_dir() or repo_id.count("/") != 1 or store.find(name) is not None:
        return
    _run(Output(), lambda installer, tell, cancelled: installer.pull(PullRequest(repo_id), tell, cancelled))


# Long work


def _run(output: Output, work: Work) -> StoredModel:
    """Do it on a thread, so that Ctrl-C (or SIGTERM) is heard at once; what it has downloaded by then is kept."""
    from quince.models.pull import Installer

    cancelled, finished = threading.Event(), threading.Event()
    ended: list[StoredModel | Exception] = []

    def body(tell: OnProgress) -> None:
        try:
            ended.append(work(Installer(_store()), tell, cancelled))
        except Exception as error:  # noqa: BLE001 - raised again by the main thread
            ended.append(error)
        finally:
            finished.set()

    with output.progress() as sink:

        def tell(progress: Progress) -> None:
            sink.update(progress.status, progress.completed, progress.total)

        signal.signal(signal.SIGTERM, signal.default_int_handler)
        threading.Thread(target=body, args=[tell], daemon=True).start()
        try:
            # Not join(): until Python 3.13, a thread counts as ended once a join() of it was interrupted.
            while not finished.wait(0.1):
                pass
        except KeyboardInterrupt:
            cancelled.set()
            finished.wait(GOODBYE)
    if not ended:
        _leave()
    if isinstance(ended[0], Exception):
        raise ended[0]
    return ended[0]


def _leave() -> None:
    """End now: a connection hangs, and Python would wait for the thread that reads it."""
    sys.stderr.write(f"quince: {PullCancelled().message}\n")
    sys.stderr.flush()
    os._exit(1)


def _store() -> ModelStore:
    from quince.models.store import of_this_user

    return of_this_user()


def _sections(store: ModelStore) -> ModelSections:
    """What the configuration says of single models."""
    from quince import config_sources
    from quince.models.sections import ModelSections

    return ModelSections(config_sources.load_for_all_models({}), store)


# Words


def _object(model: StoredModel, store: ModelStore, sections: ModelSections | None = None) -> dict[str, Any]:
    """With the configuration's aliases, if its ``sections`` are given."""
    found, source = model.manifest.description, model.manifest.source
    aliases = {alias for alias, target in store.aliases().items() if target == model.name}
    if sections is not None:
        aliases.update(sections.aliases(model))
    return {
        "name": model.name,
        "type": found.type.value,
        "size": found.size,
        "parameters": found.parameters,
        "quantization": found.quantization,
        "bits": found.bits,
        "group_size": found.group_size,
        "context": found.context,
        "architecture": found.architecture,
        "license": found.license,
        "format": found.format,
        "origin": model.origin,
        "repo_id": source.repo_id,
        "revision": source.revision,
        "path": str(model.path),
        "aliases": sorted(aliases),
        "installed_at": model.manifest.installed_at,
    }


def _summary(model: StoredModel) -> str:
    found = model.manifest.description
    facts = (found.type.value, f"{_count(found.parameters)} parameters", found.quantization, _size(found.size))
    return f"{model.name} ({', '.join(facts)})"


def _origin(origin: str, repo_id: str | None) -> str:
    match origin:
        case "demo":
            return "comes with Quince"
        case "cache":
            return "Hugging Face cache"
    return repo_id or "put there by hand"


def _size(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _count(count: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)
