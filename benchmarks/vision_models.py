"""Writes random-weight Qwen2.5-VL models that Quince and mlx_vlm.server load, and images for them.

    python -m benchmarks.vision_models 3b /tmp/models/3b

As in models.py, every answer is words and has its full length. The family is one in whose prompts mlx_vlm.server keeps
an image before its question, wherever that comes: the order which lets a prefix cache know the image again.
"""

from __future__ import annotations

import argparse
import base64
import functools
import importlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.models import EMBEDDING_STD, EOS, Shape, ensure_at, word_rows, write_tokenizer
from benchmarks.models import SPECIAL as CHAT_TOKENS
from benchmarks.weights import Weight, save

MODEL_TYPE = "qwen2_5_vl"
SPECIAL = (*CHAT_TOKENS, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TEMPLATE = (
    "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'text' -%}{{- part.text -}}"
    "{%- else -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}{{- '<|im_end|>\\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
FORMAT = 2  # part of a model's directory: raise it when what is written here changes
PATCH, MERGE = 14, 2  # an image token stands for a square of 28 pixels
NOISE_CELL = 16  # pixels between the random colours of an image


@dataclass(frozen=True)
class Tower:
    """The vision tower. ``full_attention``: layers that look beyond windows."""

    depth: int
    hidden: int
    intermediate: int
    heads: int
    full_attention: tuple[int, ...]


@dataclass(frozen=True)
class VisionShape:
    """A Qwen2.5-VL of this size. ``sections``: rotary pairs for time, height and width, half a head's together."""

    text: Shape
    tower: Tower
    sections: tuple[int, int, int]

    @property
    def config(self) -> dict[str, Any]:
        first = self.text.vocab - len(SPECIAL)
        ids = {name: first + index for index, name in enumerate(SPECIAL)}
        tower = {
            "model_type": MODEL_TYPE,
            "depth": self.tower.depth,
            "hidden_size": self.tower.hidden,
            "intermediate_size": self.tower.intermediate,
            "out_hidden_size": self.text.hidden,
            "num_heads": self.tower.heads,
            "patch_size": PATCH,
            "spatial_patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": 2,
            "window_size": 112,
            "fullatt_block_indexes": list(self.tower.full_attention),
        }
        return {
            **self.text.config,
            "architectures": ["Qwen2_5_VLForConditionalGeneration"],
            "model_type": MODEL_TYPE,
            "rope_scaling": {"type": "mrope", "mrope_section": list(self.sections)},
            "eos_token_id": ids[EOS],
            "vision_start_token_id": ids["<|vision_start|>"],
            "vision_end_token_id": ids["<|vision_end|>"],
            "image_token_id": ids["<|image_pad|>"],
            "video_token_id": ids["<|video_pad|>"],
            "vision_config": tower,
        }


SHAPES = {
    "tiny": VisionShape(
        Shape(128, 256, 4, 4, 2, 32, 2048, True, "float32", 16384), Tower(2, 64, 128, 4, (1,)), (4, 6, 6)
    ),
    "3b": VisionShape(
        Shape(2048, 11008, 36, 16, 2, 128, 151936, True, "bfloat16", 32768),
        Tower(32, 1280, 3420, 16, (7, 15, 23, 31)),
        (16, 24, 24),
    ),
}


def ensure(name: str, root: Path) -> Path:
    """The directory of the model called ``name``, written below ``root`` if it is not there yet."""
    return ensure_at(root / f"qwen2.5-vl-{name}-random-{FORMAT}", functools.partial(write, SHAPES[name]))


def write(shape: VisionShape, path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    write_tokenizer(shape.text, path, special=SPECIAL, template=TEMPLATE)
    preprocessor = {
        "image_processor_type": "Qwen2VLImageProcessor",
        "processor_class": "Qwen2_5_VLProcessor",
        "patch_size": PATCH,
        "temporal_patch_size": 2,
        "merge_size": MERGE,
        "min_pixels": (2 * PATCH * MERGE) ** 2,
        "max_pixels": 16384 * (PATCH * MERGE) ** 2,
    }
    (path / "config.json").write_text(json.dumps(shape.config, indent=1))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": shape.config["eos_token_id"]}))
    (path / "preprocessor_config.json").write_text(json.dumps(preprocessor, indent=1))
    save(path / "model.safetensors", _weights(shape), shape.text.dtype)


def _weights(shape: VisionShape) -> dict[str, Weight]:
    """mlx-vlm's own model says which weights there are; it is never computed."""
    from mlx.utils import tree_flatten
    from mlx_vlm.utils import update_module_configs

    module = importlib.import_module(f"mlx_vlm.models.{MODEL_TYPE}")
    config = json.loads(json.dumps(shape.config))
    model_config = update_module_configs(module.ModelConfig.from_dict(config), module, config, ["text", "vision"])
    arrays = tree_flatten(module.Model(model_config).parameters())
    return {name: _weight(shape.text, name, array.shape) for name, array in arrays}


def _weight(shape: Shape, name: str, size: tuple[int, ...]) -> Weight:
    """Norms of one, no biases, and linear layers."""
    if name.endswith("model.norm.weight"):
        return Weight(size, shape.norm_scale)
    if len(size) == 1:
        return Weight(size, 0.0 if name.endswith("bias") else 1.0)
    if name.endswith("embed_tokens.weight"):
        return Weight(size, std=EMBEDDING_STD, rows=word_rows(shape, SPECIAL))
    return Weight.linear(*size)


def images(pixels: int, seed: int) -> Iterator[str]:
    """Squares of smooth noise, all different, as data: URLs of PNG files."""
    from PIL import Image

    source = np.random.default_rng(seed)
    cells = max(2, pixels // NOISE_CELL)
    while True:
        small = Image.fromarray(source.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        file = io.BytesIO()
        small.resize((pixels, pixels), Image.Resampling.BICUBIC).save(file, "PNG", compress_level=1)
        yield "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def image_tokens(pixels: int) -> int:
    """How many tokens of a prompt such an image is."""
    return max(2, round(pixels / (PATCH * MERGE))) ** 2


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("path", type=Path)
    options = parser.parse_args()
    write(SHAPES[options.shape], options.path)
    print(options.path)


if __name__ == "__main__":
    main()
