"""How the servers of this user are, asked of them and of the system: what ``quince status`` and ``ps`` show."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Mapping
from typing import Any

import psutil

from quince import config_sources, environment
from quince.cli import probe
from quince.cli.output import Column, Output
from quince.errors import UsageError
from quince.server import registration
from quince.server.registration import ServerRecord

NOT_ANSWERING = "not answering"
# A model without an end to its time says so by a date in a far future.
FOR_EVER = datetime.timedelta(days=365)


# What there is to know


def servers(port: int | None = None) -> list[dict[str, Any]]:
    """The servers that run (all, or those on ``port``), in JSON's types."""
    key = _key()
    return [_server(record, key) for record in registration.running(environment.home(), port)]


def _key() -> str | None:
    """A key that the servers here are likely to accept: what `quince serve` would ask for."""
    try:
        keys = config_sources.load({}).api_key
    except UsageError as error:  # servers run, whatever has become of the file since
        Output().warning(f"the configuration is not read: {error.message}")
        return None
    return keys[0].get_secret_value() if keys else None


def _server(record: ServerRecord, key: str | None) -> dict[str, Any]:
    """One server, in JSON's types: times in seconds, sizes in bytes. What it does not tell is None."""
    health = probe.ask(record, "/health")
    queue = None if health is None else _told(record, "/stats", key)
    return {
        "address": record.url,
        "host": record.host,
        "port": record.port,
        "pid": record.pid,
        "state": NOT_ANSWERING if health is None else "ready" if health.status == 200 else "not ready",
        "reason": None if health is None else health.body["reason"],
        "uptime": max(0.0, time.time() - record.since),
        "version": record.version,
        "model": record.model,
        "models": None if queue is None or health is None else _loaded(record, key, health.body["models"], queue),
        "running": None if queue is None else queue["running"],
        "waiting": None if queue is None else queue["waiting"],
        "memory": _resident(record),
        "log": record.log,
    }


def _told(record: ServerRecord, path: str, key: str | None) -> Any:
    """None for a server that wants another key."""
    answer = probe.ask(record, path, key=key)
    return answer.body if answer is not None and answer.status == 200 else None


def _loaded(
    record: ServerRecord, key: str | None, states: Mapping[str, Any], queue: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Every model that has an engine."""
    told = _told(record, "/api/ps", key) or {"models": []}
    listed = {model["name"]: model for model in told["models"]}
    return [
        {
            "name": name,
            "state": state["state"],
            "memory": listed[name]["size"] if name in listed else None,
            "running": queue["models"].get(name, {}).get("running"),
            "waiting": queue["models"].get(name, {}).get("waiting"),
            "expires_in": _expires_in(listed[name]["expires_at"]) if name in listed else None,
            "restarts": state["restarts"],
            "last_error": state["last_error"],
        }
        for name, state in states.items()
    ]


def _expires_in(at: str) -> float | None:
    left = datetime.datetime.fromisoformat(at) - datetime.datetime.now(datetime.UTC)
    return None if left > FOR_EVER else max(0.0, left.total_seconds())


def _resident(record: ServerRecord) -> int | None:
    """Memory of the server and its engine processes as the system counts it (a GPU's is not in it)."""
    process = record.process
    if process is None:
        return None
    total = None
    with contextlib.suppress(psutil.Error):
        for one in [process, *process.children(recursive=True)]:
            total = (total or 0) + one.memory_info().rss
    return total


# Words


def _models(row: Mapping[str, Any]) -> str:
    if row["models"] is None:
        return "" if row["state"] == NOT_ANSWERING else "? (set QUINCE_API_KEY to a key of this server)"
    return ", ".join(
        model["name"] if model["state"] == "ready" else f"{model['name']} ({model['state']})" for model in row["models"]
    )


def _known(number: int | None) -> str:
    return "?" if number is None else str(number)


def _size(size: int | None) -> str:
    return "?" if size is None else f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _duration(seconds: float) -> str:
    """In its two largest units."""
    units = [("d", 86400), ("h", 3600), ("min", 60), ("s", 1)]
    left, parts = int(seconds), list[str]()
    for name, size in units:
        count, left = divmod(left, size)
        if count or (name == "s" and not parts):
            parts.append(f"{count} {name}")
    return " ".join(parts[:2])


SERVER_COLUMNS = (
    Column("ADDRESS", lambda row: row["address"]),
    Column("STATE", lambda row: row["state"]),
    Column("PID", lambda row: str(row["pid"]), right=True),
    Column("UP", lambda row: _duration(row["uptime"])),
    Column("MODELS", _models),
    Column("RUNNING", lambda row: _known(row["running"]), right=True),
    Column("WAITING", lambda row: _known(row["waiting"]), right=True),
    Column("MEMORY", lambda row: _size(row["memory"]), right=True),
    Column("VERSION", lambda row: row["version"]),
    Column("LOG", lambda row: row["log"] or ""),
)
MODEL_COLUMNS = (
    Column("NAME", lambda row: row["name"]),
    Column("STATE", lambda row: row["state"]),
    Column("MEMORY", lambda row: _size(row["memory"]), right=True),
    Column("RUNNING", lambda row: _known(row["running"]), right=True),
    Column("WAITING", lambda row: _known(row["waiting"]), right=True),
    Column("UNLOADED IN", lambda row: "never" if row["expires_in"] is None else _duration(row["expires_in"])),
    Column("RESTARTS", lambda row: str(row["restarts"]), right=True),
    Column("PORT", lambda row: str(row["port"]), right=True),
)
