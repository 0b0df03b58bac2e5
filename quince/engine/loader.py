"""Loads a model directory into MLX, by mlx-lm."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.utils import load_model

from quince.engine.adapters import put_over
from quince.engine.preparation import prepare
from quince.errors import ModelLoadError

DEFAULT_MAX_MODEL_LEN = 4096


@dataclass(frozen=True)
class LoadedModel:
    """``max_model_len`` (prompt and answer together) and ``vocab_size`` are in tokens."""

    model: Module
    model_type: str
    vocab_size: int
    max_model_len: int


def load(path: Path, *, max_model_len: int | None, adapter: Path | None = None) -> LoadedModel:
    """Read the weights into memory, and those of a LoRA or DoRA adapter over them. Raises ModelLoadError with the
    reason if that cannot be done."""
    config = read_config(path)
    set_wired_limit()
    try:
        model, _ = load_model(path)
    except (ValueError, KeyError, TypeError, OSError, RuntimeError, ImportError) as error:
        raise ModelLoadError(f"{path.name}: {error}") from error
    prepare(model)
    if adapter is not None:
        put_over(model, adapter)
    text_config = {**config, **config.get("text_config", {})}
    return LoadedModel(
        model=model,
        model_type=str(config["model_type"]),
        vocab_size=_vocab_size(model, text_config),
        max_model_len=context_length(text_config) if max_model_len is None else max_model_len,
    )


def context_length(text_config: dict[str, Any]) -> int:
    """As the model's files say it."""
    return int(text_config.get("max_position_embeddings") or DEFAULT_MAX_MODEL_LEN)


def set_wired_limit() -> None:
    """On Apple GPUs, keep as much memory resident as the system recommends, as mlx-lm does."""
    if mx.metal.is_available():
        mx.set_wired_limit(int(mx.device_info()["max_recommended_working_set_size"]))


def read_config(path: Path) -> dict[str, Any]:
    """The model's configuration. Raises ModelLoadError if there is none, or none that names a model type."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelLoadError(f"{path} has no config.json, so it is not a model directory") from None
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path / 'config.json'} cannot be read: {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise ModelLoadError(f"{path / 'config.json'} names no model_type")
    return config


def _vocab_size(model: Module, text_config: dict[str, Any]) -> int:
    """The width of the logits. Asked of the model itself where the config does not say."""
    if "vocab_size" in text_config:
        return int(text_config["vocab_size"])
    return int(model(mx.array([[0]])).shape[-1])
