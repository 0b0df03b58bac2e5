"""Random LoRA and DoRA adapters over the tiny models, as mlx_lm.lora leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers

LAYERS = 2


def save(
    model: Module,
    path: Path,
    *,
    seed: int = 1,
    rank: int = 4,
    scale: float = 10.0,
    keys: list[str] | None = None,
    dora: bool = False,
) -> Path:
    """An adapter over the last two layers of ``model``, which is changed by that."""
    path.mkdir(parents=True)
    parameters: dict[str, Any] = {"rank": rank, "scale": scale, "dropout": 0.1}
    if keys is not None:
        parameters["keys"] = keys
    model.freeze()  # type: ignore[no-untyped-call]
    linear_to_lora_layers(model, LAYERS, parameters, use_dora=dora)  # type: ignore[no-untyped-call]
    mx.random.seed(seed)
    shapes = tree_flatten(model.trainable_parameters())  # type: ignore[no-untyped-call]
    weights = {name: w if name.endswith(".m") else 0.3 * mx.random.normal(w.shape) for name, w in dict(shapes).items()}
    assert weights
    mx.save_safetensors(str(path / "adapters.safetensors"), weights)
    config = {"num_layers": LAYERS, "lora_parameters": parameters, "fine_tune_type": "dora" if dora else "lora"}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path
