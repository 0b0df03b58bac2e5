"""The server's settings: frozen, built once, handed down. Defaults stand here and nowhere else.

Precedence: command line flag, then ``QUINCE_*`` environment variable, then the default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quince.errors import UsageError

ENV_PREFIX = "QUINCE_"


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """Where models, aliases and files of servers are kept: ``~/.quince``, or what QUINCE_HOME says."""
    return Path(environ.get(ENV_PREFIX + "HOME") or "~/.quince").expanduser().absolute()


class ServeConfig(BaseModel):
    """What ``quince serve`` runs with. Times are in seconds, sizes in bytes, lengths in tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str | None = Field(None, description="Model to serve: a directory or the name of a demo model.")
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    ctx_size: int | None = Field(None, ge=16, description="Context length in tokens (default: the model's own).")
    max_tokens: int | None = Field(
        None, ge=1, description="Longest answer of a request that gives none (default: the rest of the context)."
    )
    temperature: float | None = Field(None, ge=0, le=2, description="Temperature of a request that gives none.")
    top_p: float | None = Field(None, gt=0, le=1, description="top_p of a request that gives none.")
    max_running_requests: int = Field(32, ge=1, le=1024, description="Requests that share the running batch.")
    queue_size: int = Field(100, ge=0, description="Requests that may wait; more are answered 429.")
    queue_timeout: float = Field(300, gt=0, description="Seconds a request may wait before it is answered 504.")
    prefill_chunk_size: int = Field(4096, ge=16, description="Most prompt tokens computed between two decode steps.")
    engine_timeout: float = Field(
        120, gt=0, description="Seconds without progress before a busy engine counts as hung and is restarted."
    )
    keepalive_interval: float = Field(10, gt=0, description="Seconds between keepalive comments in a silent stream.")
    drain_timeout: float = Field(30, ge=0, description="Seconds that running requests get when the server stops.")
    max_body_size: int = Field(32 * 2**20, ge=1024, description="Largest request body in bytes.")
    any_model_name: bool = Field(False, description="Answer to every model name.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error.")


def load(flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> ServeConfig:
    """Merge flags (None: not given) over the environment. Raises UsageError in one sentence that names the setting."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name in ServeConfig.model_fields:
        variable = ENV_PREFIX + name.upper()
        if flags.get(name) is not None:
            values[name] = flags[name]
            sources[name] = "--" + name.replace("_", "-")
        elif variable in environ:
            values[name] = environ[variable]
            sources[name] = variable
    try:
        return ServeConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        raise UsageError(f"{sources.get(name, name)} = {values.get(name)!r}: {first['msg']}") from None
