"""Loads a model that reads images into MLX, by mlx-vlm."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx

from quince.engine.loader import LoadedModel, context_length, read_config, set_wired_limit
from quince.engine.preparation import prepare
from quince.errors import ModelLoadError

MISSING = "this model reads images, which needs mlx-vlm: pip install 'quince[vision]'"

# Families whose batched answers were compared with their answers alone and with mlx-vlm's own (docs/vision.md).
FAMILIES = frozenset(
    {
        *("gemma3", "glm4v", "glm4v_moe", "idefics3", "internvl", "internvl_chat", "lfm2_vl", "llava"),
        *("llava_onevision", "mistral3", "pixtral", "qwen2_5_vl", "qwen2_vl", "qwen3_5", "qwen3_5_moe", "qwen3_vl"),
        *("qwen3_vl_moe", "smolvlm"),
    }
)
# Their attention is scaled by the position of the first row alone (mlx-vlm 0.7.10).
UNEVEN_TEXT_MODELS = frozenset({"ministral3", "mistral4"})


def load_vision(path: Path, *, max_model_len: int | None, adapter: Path | None = None) -> LoadedModel:
    """Read the weights into memory. Raises ModelLoadError with the reason if that cannot be done."""
    config = read_config(path)
    if adapter is not None:
        raise ModelLoadError("--adapter is for models that read text only; this one reads images, too")
    vision_family(path)
    from mlx_vlm.utils import load_model

    set_wired_limit()
    try:
        model = load_model(path)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError, ImportError) as error:
        raise ModelLoadError(f"{path.name}: {error}") from error
    model.eval()
    prepare(model)
    text_config = {**config, **config.get("text_config", {})}
    return LoadedModel(
        model=model,
        model_type=str(config["model_type"]),
        vocab_size=int(model.language_model(mx.array([[0]])).logits.shape[-1]),
        max_model_len=context_length(text_config) if max_model_len is None else max_model_len,
    )


def vision_family(path: Path) -> str:
    """The architecture by mlx-vlm's name. Raises ModelLoadError without mlx-vlm, and for one that is not known."""
    try:
        from mlx_vlm.utils import get_model_type
    except ImportError as error:
        raise ModelLoadError(MISSING) from error
    config = read_config(path)
    family = str(get_model_type(config))
    text_model = config.get("text_config", {}).get("model_type")
    if text_model in UNEVEN_TEXT_MODELS:
        raise ModelLoadError(f"{path.name}: mlx-vlm's '{text_model}' gives wrong answers to several requests at once")
    if family not in FAMILIES:
        raise ModelLoadError(
            f"{path.name}: '{family}' is none of the vision architectures that Quince is known to answer rightly with: "
            f"{', '.join(sorted(FAMILIES))}; --model-type llm serves its text side if mlx-lm knows it"
        )
    return family
