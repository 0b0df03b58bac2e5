"""Ollama's API for managing models: requests, answers, durations and times in its spelling."""

from __future__ import annotations

import datetime
import hashlib
import math
import re
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from quince.errors import InvalidRequest, QuinceError
from quince.models import description
from quince.models.description import Description
from quince.models.model_type import ModelType
from quince.models.slot import ModelStatus
from quince.models.store import StoredModel
from quince.text.tokenizer import read_json

if TYPE_CHECKING:
    from quince.models.pull import Progress

# The version of Ollama whose API the routes follow: clients compare it before they use a feature.
API_VERSION = "0.12.0"
_FOR_EVER = datetime.timedelta(days=100 * 365)
_DURATION = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PARAMETERS = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_new_tokens")
_HUB_PREFIXES = ("hf.co/", "huggingface.co/")

Name = Annotated[str, Field(min_length=1, max_length=1024)]


class _Wire(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", protected_namespaces=(), populate_by_name=True)


class ModelRequest(_Wire):
    """``name`` is the older spelling of ``model``."""

    model: Name = Field(validation_alias=AliasChoices("model", "name"))


class ShowRequest(ModelRequest):
    verbose: bool | None = None  # nothing is left out here, so there is no more to show


class PullBody(ModelRequest):
    stream: bool | None = None
    insecure: bool | None = None


class CopyRequest(_Wire):
    source: Name
    destination: Name


class Details(msgspec.Struct, frozen=True, kw_only=True):
    parent_model: str
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class Tag(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class Running(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    model: str
    size: int
    size_vram: int
    digest: str
    details: Details
    expires_at: str
    context_length: int | None


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    license: str
    modelfile: str
    parameters: str
    template: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


def encode_error(error: QuinceError) -> bytes:
    return msgspec.json.encode({"error": error.message})


def plain_name(name: str) -> str:
    """Ollama's clients may add a tag where there is none, and say where a hub id is from."""
    for prefix in _HUB_PREFIXES:
        name = name.removeprefix(prefix)
    return name.removesuffix(":latest")


def keep_alive(value: float | str | None) -> float | None:
    """Seconds to stay loaded, infinite for a negative value, None for the server's own time; as Go writes durations.

    Raises InvalidRequest.
    """
    if value is None:
        return None
    seconds = _duration(value) if isinstance(value, str) else float(value)
    if math.isnan(seconds):
        raise InvalidRequest(f"keep_alive: '{value}' is no duration, like 5m or 1h30m", param="keep_alive")
    return math.inf if seconds < 0 else seconds


def _duration(text: str) -> float:
    """Seconds; not a number for what is no duration."""
    text = text.strip()
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    if digits.isdecimal():
        return sign * float(digits)
    parts = _DURATION.findall(digits)
    if not parts or "".join(number + unit for number, unit in parts) != digits:
        return math.nan
    return sign * sum(float(number) * _UNITS[unit] for number, unit in parts)


def tag(stored: StoredModel) -> Tag:
    return Tag(
        name=stored.name,
        model=stored.name,
        modified_at=_time(stored.manifest.installed_at),
        size=stored.manifest.description.size,
        digest=digest(stored),
        details=details(stored),
    )


def running(status: ModelStatus, now: datetime.datetime) -> Running:
    left = datetime.timedelta(seconds=min(status.expires_in, _FOR_EVER.total_seconds()))
    return Running(
        name=status.stored.name,
        model=status.stored.name,
        size=status.memory,
        size_vram=status.memory if status.on_gpu else 0,
        digest=digest(status.stored),
        details=details(status.stored),
        expires_at=(now + left).isoformat(),
        context_length=status.context,
    )


def details(stored: StoredModel) -> Details:
    found = stored.manifest.description
    return Details(
        parent_model="",
        format=found.format,
        family=found.architecture,
        families=[found.architecture],
        parameter_size=parameter_size(found.parameters),
        quantization_level=found.quantization,
    )


def digest(stored: StoredModel) -> str:
    """Of what the model is made from: changes when it is installed anew from something else."""
    return hashlib.sha256(msgspec.json.encode([stored.manifest.source, stored.manifest.description])).hexdigest()


def parameter_size(count: int) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if count >= size:
            return f"{count / size:.1f}{unit}"
    return str(count)


def model_info(found: Description, config: dict[str, Any]) -> dict[str, Any]:
    """The configuration under Ollama's names, where it has any."""
    text = {**config, **(config.get("text_config") or {})}
    family = found.architecture
    named = {
        "context_length": found.context,
        "embedding_length": text.get("hidden_size"),
        "block_count": text.get("num_hidden_layers"),
        "feed_forward_length": text.get("intermediate_size"),
        "attention.head_count": text.get("num_attention_heads"),
        "attention.head_count_kv": text.get("num_key_value_heads"),
        "vocab_size": text.get("vocab_size"),
    }
    info = {"general.architecture": family, "general.parameter_count": found.parameters}
    return {**info, **{f"{family}.{name}": value for name, value in named.items() if value is not None}}


def capabilities(type: ModelType, template: str) -> list[str]:
    if type is ModelType.EMBEDDING:
        return ["embedding"]
    if type is ModelType.RERANKER:
        return []
    found = ["completion"]
    found += ["tools"] if "tools" in template else []
    found += ["vision"] if type is ModelType.VLM else []
    found += ["thinking"] if "enable_thinking" in template or "<think>" in template else []
    return found


def pull_status(progress: Progress) -> dict[str, Any]:
    if not progress.file:
        return {"status": progress.status}
    return {
        "status": progress.status,
        "digest": progress.digest,
        "total": progress.file_total,
        "completed": progress.file_completed,
    }


def _time(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat()


def shown(stored: StoredModel) -> Shown:
    """Reads the model's files."""
    template = description.chat_template(stored.path) or ""
    settings = read_json(stored.path / "generation_config.json")
    found = stored.manifest.description
    return Shown(
        license=description.license_text(stored.path) or found.license or "",
        modelfile=f"# Installed by Quince\nFROM {stored.manifest.source.repo_id or stored.path}\n",
        parameters="\n".join(f"{name:<24}{value}" for name, value in settings.items() if name in _PARAMETERS),
        template=template,
        details=details(stored),
        model_info=model_info(found, read_json(stored.path / "config.json")),
        capabilities=capabilities(stored.type, template),
        modified_at=_time(stored.manifest.installed_at),
    )
