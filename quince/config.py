"""The server's settings: frozen, built once, handed down. Defaults stand here and nowhere else.

Precedence: command line flag, then ``QUINCE_*`` environment variable, then the default. Lists are not merged: the first
of these that names any value names all of them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from quince.errors import UsageError

ENV_PREFIX = "QUINCE_"
SECRETS = frozenset({"api_key"})  # never shown, not even when they are wrong
ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s]+")


def _split(value: Any) -> Any:
    """Environment variables hold lists as one text."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _number(value: Any) -> Any:
    """Environment variables hold numbers as text."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _check_key(key: SecretStr) -> SecretStr:
    """An empty key is most likely a variable that was not set: no reason to serve everybody."""
    if not re.fullmatch(r"\S+", key.get_secret_value()):
        raise ValueError("a key is not empty and has no spaces")
    return key


def _check_origin(origin: str) -> str:
    """Compared with what browsers send, letter by letter."""
    origin = origin.lower()
    if not ORIGIN.fullmatch(origin):
        raise ValueError("an origin is * or like http://localhost:3000, without a path or a slash at the end")
    return origin


def _directory(path: str) -> str:
    """As it is found from anywhere: the server is not asked where it was started."""
    if not path:
        raise ValueError("a directory has a name")
    return os.path.abspath(os.path.expanduser(path))


def home(environ: Mapping[str, str] = os.environ) -> Path:
    """Where models, aliases and files of servers are kept: ``~/.quince``, or what QUINCE_HOME says."""
    return Path(environ.get(ENV_PREFIX + "HOME") or "~/.quince").expanduser().absolute()


def debugging(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether tracebacks are wanted."""
    return environ.get(ENV_PREFIX + "LOG_LEVEL", "").lower() == "debug"


class ServeConfig(BaseModel):
    """What ``quince serve`` runs with. Times are in seconds, sizes in bytes, lengths in tokens."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), hide_input_in_errors=True)

    home: Path = Field(default_factory=home, description="Where installed models are (QUINCE_HOME).")
    model: str | None = Field(
        None,
        description="Model to serve: a directory, an installed name, an alias or a hub id (default: all there are).",
    )
    model_type: str | None = Field(
        None, pattern="^(auto|llm|vlm|embedding|reranker)$", description="What MODEL is, if its files mislead."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_key: Annotated[tuple[Annotated[SecretStr, AfterValidator(_check_key)], ...], BeforeValidator(_split)] = Field(
        (),
        description="Key that requests must bring, except to /health; repeat it for several (default: none is needed). "
        "QUINCE_API_KEY holds one or several with commas between, and is not seen by who lists processes.",
    )
    cors_origin: Annotated[tuple[Annotated[str, AfterValidator(_check_origin)], ...], BeforeValidator(_split)] = Field(
        (),
        description="Origin whose web pages may use the server, or * for all; repeat it for several (default: none). "
        "In QUINCE_CORS_ORIGIN there are commas between them.",
    )
    ctx_size: int | None = Field(None, ge=16, description="Context length in tokens (default: the model's own).")
    adapter: str | None = Field(None, description="Directory of a LoRA adapter made by mlx-lm, for all requests.")
    max_tokens: int | None = Field(
        None, ge=1, description="Longest answer of a request that gives none (default: the rest of the context)."
    )
    temperature: float | None = Field(None, ge=0, le=2, description="Temperature of a request that gives none.")
    top_p: float | None = Field(None, gt=0, le=1, description="top_p of a request that gives none.")
    max_running_requests: int = Field(32, ge=1, le=1024, description="Requests that share the running batch.")
    queue_size: int = Field(100, ge=0, description="Requests that may wait; more are answered 429.")
    queue_timeout: float = Field(300, gt=0, description="Seconds a request may wait before it is answered 504.")
    prefill_chunk_size: int = Field(4096, ge=16, description="Most prompt tokens computed between two decode steps.")
    memory_bytes: int | None = Field(
        None,
        ge=2**20,
        description="Memory that an engine may take, weights included (default: what the GPU recommends or has free, "
        "on a CPU half of the machine's).",
    )
    prefix_cache_bytes: int | None = Field(
        None,
        ge=0,
        description="How much of it may hold prefixes of earlier prompts and answers; 0 turns that off (default: half "
        "of what the weights leave).",
    )
    prefix_cache_disk_bytes: int = Field(
        0,
        ge=0,
        description="Bytes of files that the prefix cache may have besides, which outlive the server; 0 for none.",
    )
    prefix_cache_dir: Annotated[str, AfterValidator(_directory)] | None = Field(
        None, description="Directory of these files, for the server alone (default: cache in QUINCE_HOME)."
    )
    kv_bits: Annotated[Literal[4, 8] | None, BeforeValidator(_number)] = Field(
        None, description="Bits per number of keys and values: 8 or 4 (default: as the model computes them)."
    )
    kv_group_size: Annotated[Literal[32, 64, 128], BeforeValidator(_number)] = Field(
        64, description="Numbers that share a scale when keys and values are quantised: 32, 64 or 128."
    )
    engine_timeout: float = Field(
        120, gt=0, description="Seconds without progress before a busy engine counts as hung and is restarted."
    )
    keepalive_interval: float = Field(10, gt=0, description="Seconds between keepalive comments in a silent stream.")
    drain_timeout: float = Field(30, ge=0, description="Seconds that running requests get when the server stops.")
    max_loaded_models: int | None = Field(None, ge=1, description="Most models loaded at once; the least used goes.")
    memory_budget: int | None = Field(
        None, ge=2**20, description="Bytes that loaded models may take together (default: most of the machine's)."
    )
    idle_ttl: float | None = Field(None, gt=0, description="Seconds without a request before a model is unloaded.")
    preload: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field(
        (), description="Model to load at the start; repeat it for several."
    )
    auto_download: bool = Field(False, description="Pull a model that a request names by its hub id.")
    max_body_size: int = Field(32 * 2**20, ge=1024, description="Largest request body in bytes.")
    allowed_media_path: Annotated[tuple[Annotated[str, AfterValidator(_directory)], ...], BeforeValidator(_split)] = (
        Field(
            (),
            description="Directory whose files requests may name as images and videos; repeat it for several (default: "
            "none). In QUINCE_ALLOWED_MEDIA_PATH there are commas between them.",
        )
    )
    allow_private_media: bool = Field(
        False, description="Fetch images and videos from this machine's and its network's addresses too."
    )
    max_media_items: int = Field(32, ge=1, le=1024, description="Most images and videos of a request.")
    max_media_bytes: int = Field(32 * 2**20, ge=1024, le=2**31, description="Largest image or video in bytes.")
    max_media_request_bytes: int = Field(
        128 * 2**20, ge=1024, le=2**32, description="Bytes that all images and videos of a request may have."
    )
    max_media_pixels: int = Field(
        64 * 10**6, ge=1024, le=2**31, description="Most pixels of an image, by its header, before it is decoded."
    )
    media_timeout: float = Field(
        30, gt=0, le=3600, description="Seconds that the download of an image or a video may take."
    )
    tool_parser: str | None = Field(
        None, description="How the model writes tool calls, or none (default: by its chat template)."
    )
    reasoning_parser: str | None = Field(
        None, description="How the model marks its thinking, or none (default: by its chat template)."
    )
    any_model_name: bool = Field(False, description="Answer to every model name.")
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="debug, info, warning or error.")


# Settings that belong to one model.
_ONLY_WITH_MODEL = ("model_type", "adapter")
# Settings that mean nothing to a server of one model, which is loaded at the start and kept.
_ONLY_WITHOUT_MODEL = ("preload", "idle_ttl")


def load(flags: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> ServeConfig:
    """Merge flags (None: not given) over the environment. Raises UsageError in one sentence that names the setting."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for name in (name for name in ServeConfig.model_fields if name != "home"):
        variable = ENV_PREFIX + name.upper()
        if flags.get(name) not in (None, []):
            values[name] = flags[name]
            sources[name] = "--" + name.replace("_", "-")
        elif variable in environ:
            values[name] = environ[variable]
            sources[name] = variable
    values["home"] = home(environ)
    _check_combination(values, sources)
    try:
        return ServeConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        shown = "" if name in SECRETS else f" = {values.get(name)!r}"
        raise UsageError(f"{sources.get(name, name)}{shown}: {first['msg'].removeprefix('Value error, ')}") from None


def _check_combination(values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    if str(values.get("prefix_cache_bytes")) == "0" and str(values.get("prefix_cache_disk_bytes", 0)) != "0":
        raise UsageError(
            f"{sources['prefix_cache_disk_bytes']} keeps more of the prefix cache, which "
            f"{sources['prefix_cache_bytes']} turns off"
        )
    if values.get("model") is None:
        for name in _ONLY_WITH_MODEL:
            if values.get(name, "auto") != "auto":
                raise UsageError(f"{sources[name]} is for a server of one MODEL, and none was given")
        return
    for name in _ONLY_WITHOUT_MODEL:
        if values.get(name):
            raise UsageError(
                f"{sources[name]} is for a server without a MODEL: '{values['model']}' alone is loaded, and kept"
            )
