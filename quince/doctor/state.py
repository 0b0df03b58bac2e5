"""What Quince keeps on the disk: its settings, models, broken pulls, and files of servers that are gone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil

from quince.config import ServeConfig
from quince.doctor.finding import Finding, ok, problem, warning
from quince.errors import InvalidModel, QuinceError
from quince.models import demo, description
from quince.models.memory import gigabytes
from quince.models.store import ModelStore


def configuration(load: Callable[[], ServeConfig]) -> tuple[Finding, ServeConfig]:
    """Also the settings: where they are wrong, the defaults, so that the other checks can go on."""
    try:
        return ok("configuration", "every setting is valid"), load()
    except QuinceError as error:
        return problem(
            "configuration", error.message, "`quince config` shows where each value comes from"
        ), ServeConfig.model_validate({})


def models(store: ModelStore) -> Finding:
    """Every directory under the models', and the embedded ones: whole, or named with what is missing."""
    found, broken = 0, []
    for path in _directories(store):
        try:
            description.check(path)
            found += 1
        except (InvalidModel, OSError) as error:
            broken.append(f"{path.name}: {error}")
    if broken:
        names = ", ".join(line.partition(":")[0] for line in broken)
        return problem("models", "; ".join(broken), f"pull again, or remove from {store.directory}: {names}")
    return ok("models", f"{found} installed, and whole" if found > 1 else "one is installed, and whole")


def _directories(store: ModelStore) -> list[Path]:
    embedded = [path for name in demo.NAMES if (path := demo.path(name)) is not None]
    own = sorted(store.directory.iterdir()) if store.directory.is_dir() else []
    return [*embedded, *(path for path in own if path.is_dir() and not path.name.startswith("."))]


def pulls(store: ModelStore) -> Finding:
    """What broken pulls have left. A pull under way looks the same."""
    staged = sorted(path for path in store.staging.glob("*@*") if path.is_dir())
    if not staged:
        return ok("pulls", "none is half done")
    names = [path.name.partition("@")[0].replace("--", "/", 1) for path in staged]
    size = sum(file.stat().st_size for path in staged for file in path.rglob("*") if file.is_file())
    return warning(
        "pulls",
        f"half downloaded, {gigabytes(size)}: {', '.join(names)}",
        f"`quince pull {names[0]}` goes on, `quince remove {names[0]}` throws it away",
    )


class _Record(msgspec.Struct):
    """The part of a server's file that is needed."""

    pid: int


def leftovers(home: Path) -> Finding:
    """Files of servers that were killed. Whoever lists servers removes them."""
    dead = []
    for file in sorted((home / "servers").glob("*.json")):
        try:
            if not psutil.pid_exists(msgspec.json.decode(file.read_bytes(), type=_Record).pid):
                dead.append(file.name)
        except (OSError, msgspec.MsgspecError):
            dead.append(file.name)
    if dead:
        return warning(
            "servers", f"servers that were killed have left {', '.join(dead)}", f"remove them from {home / 'servers'}"
        )
    return ok("servers", "none has left anything behind")
