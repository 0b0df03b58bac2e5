"""The server's settings: frozen, built once (by ``config_sources``), handed down. Defaults stand here and nowhere else.

The command line's options, the example file and the tables of the documents are made from the fields: a new field needs
nothing else.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

from quince import environment, settings

ADAPTER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s]+")


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
    if not _ORIGIN.fullmatch(origin):
        raise ValueError("an origin is * or like http://localhost:3000, without a path or a slash at the end")
    return origin


def _directory(path: str) -> str:
    """As it is found from anywhere: the server is not asked where it was started."""
    if not path:
        raise ValueError("a directory has a name")
    return os.path.abspath(os.path.expanduser(path))


def _expand_user(path: str | None) -> str | None:
    """No shell does this for a file or a variable."""
    return None if path is None else os.path.expanduser(path)


def _check_adapter(adapter: str) -> str:
    """NAME=DIR with the directory as it is found from anywhere."""
    name, mark, directory = adapter.partition("=")
    if not mark or not ADAPTER_NAME.fullmatch(name):
        raise ValueError("it is like NAME=DIR, the name of letters, digits, '.', '_' and '-'")
    return f"{name}={_directory(directory)}"


def _check_once(adapters: tuple[str, ...]) -> tuple[str, ...]:
    names = [adapter.split("=", 1)[0] for adapter in adapters]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"'{twice}' names two of them")
    return adapters


_FROZEN = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), hide_input_in_errors=True)


class ModelSettings(BaseModel):
    """What can be said for all models, or in the configuration file for one of them."""

    model_config = _FROZEN

    model_type: Literal["auto", "llm", "vlm", "embedding", "reranker"] | None = Field(
        None, description="What the model is, if its files mislead (default: auto)."
    )
    ctx_size: int | None = Field(None, ge=16, description="Context length in tokens (default: the model's own).")
    max_tokens: int | None = Field(
        None, ge=1, description="Longest answer of a request that gives none (default: the rest of the context)."
    )
    temperature: float | None = Field(
        None, ge=0, le=2, description="Temperature of a request that gives none (default: the model's own, else 1)."
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description="top_p of a request that gives none (default: the model's own, else 1)."
    )
    top_k: int | None = Field(
        None,
        ge=0,
        le=2**31 - 1,
        description="top_k of a request that gives none; 0 keeps every token (default: the model's own, else 0).",
    )
    min_p: float | None = Field(
        None, ge=0, le=1, description="min_p of a request that gives none (default: the model's own, else 0)."
    )
    repetition_penalty: float | None = Field(
        None,
        ge=0.01,
        le=10,
        description="Repetition penalty of a request that gives none (default: the model's own, else 1).",
    )
    adapter: Annotated[str | None, AfterValidator(_expand_user)] = Field(
        None, description="Directory of a LoRA adapter made by mlx-lm, for all requests."
    )
    kv_bits: Annotated[Literal[4, 8] | None, BeforeValidator(_number)] = Field(
        None, description="Bits per number of keys and values (default: as the model computes them)."
    )
    kv_group_size: Annotated[Literal[32, 64, 128], BeforeValidator(_number)] = Field(
        64, description="Numbers that share a scale when keys and values are quantised."
    )
    memory_bytes: int | None = Field(
        None,
        ge=2**20,
        description="Memory that an engine may take, weights included (default: what the GPU recommends or has free, "
        "on a CPU half of the machine's; with several models, no more than a share of memory_budget).",
    )
    prefix_cache_bytes: int | None = Field(
        None,
        ge=0,
        description="How much of it may hold prefixes of earlier prompts and answers; 0 turns that off (default: half "
        "of what the weights leave).",
    )
    idle_ttl: float | None = Field(
        None,
        gt=0,
        description="Seconds without a request before a model is unloaded (default: never). "
        "A server of one MODEL keeps it.",
    )
    tool_parser: str | None = Field(
        None, description="How the model writes tool calls, or none (default: by its chat template)."
    )
    reasoning_parser: str | None = Field(
        None, description="How the model marks its thinking, or none (default: by its chat template)."
    )


class ModelSection(ModelSettings):
    """What stands under ``models: NAME:`` in the configuration file; fields that do not stand there are unset."""

    alias: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_split)] = Field(
        (), description="Another name that requests may use for the model."
    )


class ServeConfig(ModelSettings):
    """What ``quince serve`` runs with. Times are in seconds, sizes in bytes, lengths in tokens."""

    home: Path = Field(default_factory=environment.home, description="Where Quince keeps its files (QUINCE_HOME).")
    models_dir: Path | None = Field(
        None, description="Where installed models are (QUINCE_MODELS_DIR); None: in the home directory."
    )
    model: str | None = Field(
        None,
        description="Model to serve: a directory, an installed name, an alias or a hub id (default: all there are).",
    )
    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_key: Annotated[tuple[Annotated[SecretStr, AfterValidator(_check_key)], ...], BeforeValidator(_split)] = Field(
        (),
        description="Key that requests must bring, except to /health (default: none is needed). Who lists processes "
        "sees command lines, so QUINCE_API_KEY or the file is the better place.",
    )
    cors_origin: Annotated[tuple[Annotated[str, AfterValidator(_check_origin)], ...], BeforeValidator(_split)] = Field(
        (),
        description="Origin whose web pages may use the server, or * for all (default: none).",
    )
    max_running_requests: int = Field(32, ge=1, le=1024, description="Requests that share the running batch.")
    queue_size: int = Field(100, ge=0, description="Requests that may wait; more are answered 429.")
    queue_timeout: float = Field(300, gt=0, description="Seconds a request may wait before it is answered 504.")
    prefill_chunk_size: int | None = Field(
        None,
        ge=16,
        description="Most prompt tokens computed between two decode steps (default: 4096; on CUDA 16384, of which one "
        "prompt's are 4096).",
    )
    engine_timeout: float = Field(
        120, gt=0, description="Seconds without progress before a busy engine counts as hung and is restarted."
    )
    keepalive_interval: float = Field(10, gt=0, description="Seconds between keepalive comments in a silent stream.")
    drain_timeout: float = Field(30, ge=0, description="Seconds that running requests get when the server stops.")
    max_loaded_models: int | None = Field(None, ge=1, description="Most models loaded at once; the least used goes.")
    max_embedding_models: int | None = Field(
        None, ge=1, description="Most embedding models loaded at once; the least used goes."
    )
    max_reranker_models: int | None = Field(None, ge=1, description="The same for reranking models.")
    memory_budget: int | None = Field(
        None, ge=2**20, description="Bytes that loaded models may take together (default: most of the machine's)."
    )
    preload: Annotated[tuple[str, ...], BeforeValidator(_split)] = Field((), description="Model to load at the start.")
    prefix_cache_disk_bytes: int = Field(
        0,
        ge=0,
        description="Bytes of files that the prefix cache may have besides, which outlive the server; 0 for none.",
    )
    prefix_cache_dir: Annotated[str, AfterValidator(_directory)] | None = Field(
        None, description="Directory of these files, for the server alone (default: cache in the home directory)."
    )
    adapters: Annotated[
        tuple[Annotated[str, AfterValidator(_check_adapter)], ...], BeforeValidator(_split), AfterValidator(_check_once)
    ] = Field((), description="NAME=DIR: a LoRA adapter made by mlx-lm that requests may name (default: none).")
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
    max_prepared_bytes: int = Field(
        4 * 2**30,
        ge=2**20,
        description="Bytes of files that the images and videos of open requests may take together, prepared for a "
        "model; more wait.",
    )
    media_timeout: float = Field(
        30, gt=0, le=3600, description="Seconds that the download of an image or a video may take."
    )
    video_timeout: float = Field(60, gt=0, le=3600, description="Seconds that decoding a video may take.")
    any_model_name: bool = Field(False, description="Answer to every model name.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="How much the server tells.")
    log_format: Literal["text", "json"] = Field("text", description="Lines of text, or one JSON object a line.")
    log_file: Path | None = Field(None, description="File that gets what is logged to standard error, too.")
    log_file_size: int = Field(
        10 * 2**20, ge=0, description="Bytes after which a new log file is begun; 0 keeps all in one."
    )
    log_file_count: int = Field(
        5, ge=1, le=1000, description="How many older log files are kept: FILE.1, FILE.2 and so on."
    )
    models: Mapping[str, ModelSection] = Field(
        default_factory=dict, description="Settings of single models, by the names that `quince list` shows."
    )
    named: frozenset[str] = Field(
        frozenset(), description="The settings that flags and variables name: they are meant for this server."
    )

    def for_model(self, section: ModelSection | None) -> Self:
        """These settings as they are for one model."""
        own = set() if section is None else section.model_fields_set - {"alias"}
        return self.model_copy(update={name: getattr(section, name) for name in own}) if own else self

    @property
    def places(self) -> int:
        """Requests that a model may have at a time, running or waiting."""
        return self.max_running_requests + self.queue_size

    @property
    def adapter_directories(self) -> dict[str, str]:
        """``adapters`` by name."""
        return dict(adapter.split("=", 1) for adapter in self.adapters)


# The fields that are no options: variables alone move directories, sections stand in files only.
NO_OPTIONS = frozenset({"home", "models_dir", "models", "named"})
# Settings that belong to one model.
ONLY_WITH_MODEL = ("model_type", "adapter", "adapters")
# Settings that mean nothing to a server of one model, which is loaded at the start and kept.
ONLY_WITHOUT_MODEL = ("preload", "idle_ttl")

SECTION_SETTINGS = settings.describe(ModelSection)
# What the server as a whole is comes first.
SETTINGS = dict(
    sorted(
        ((name, one) for name, one in settings.describe(ServeConfig).items() if name not in NO_OPTIONS),
        key=lambda item: item[0] in SECTION_SETTINGS,
    )
)
