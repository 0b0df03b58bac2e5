"""Tiny random vision models that mlx-vlm loads: weights, tokenizer and processor, written as directories."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

from tests.vision_configs import FAMILIES, IDS, SPECIAL

TEMPLATE = (
    "{% for message in messages %}[{{ message.role }}]"
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% else %}MARK{% endif %}"
    "{% endfor %}{% endif %}<end>{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def build(name: str, *, seed: int = 0) -> nn.Module:
    """A float32 model with random weights, large enough in scale that greedy answers vary."""
    from mlx_vlm.utils import update_module_configs

    config = json.loads(json.dumps(FAMILIES[name].config))
    module = importlib.import_module(f"mlx_vlm.models.{config['model_type']}")
    config.setdefault("text_config", {})
    model_config = module.ModelConfig.from_dict(config)
    model_config = update_module_configs(
        model_config, module, config, ["text", "vision", "perceiver", "projector", "audio"]
    )
    mx.random.seed(seed)
    model: nn.Module = module.Model(model_config)
    model.update(tree_map(_shaken, model.parameters()))
    mx.eval(model.parameters())
    return model


def _shaken(parameter: mx.array) -> mx.array:
    if not mx.issubdtype(parameter.dtype, mx.floating):
        return parameter
    return parameter + 0.3 * mx.random.normal(parameter.shape)


def save(name: str, path: Path, *, seed: int = 0) -> Path:
    """Write the model as a directory that mlx-vlm loads, with tokenizer and processor."""
    path.mkdir(parents=True, exist_ok=True)
    family = FAMILIES[name]
    weights = dict(tree_flatten(build(name, seed=seed).parameters()))
    mx.save_safetensors(str(path / "model.safetensors"), weights, metadata={"format": "mlx"})
    _tokenizer().save(str(path / "tokenizer.json"))
    files = {
        "config.json": {**family.config, "eos_token_id": IDS["<end>"]},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "eos_token": "<end>",
            "pad_token": "<end>",
            "model_max_length": 2048,
            "clean_up_tokenization_spaces": False,
        },
    }
    for file, content in family.files.items():
        files[file] = {**files.get(file, {}), **content}
    for file, content in files.items():
        (path / file).write_text(json.dumps(content))
    (path / "chat_template.jinja").write_text(TEMPLATE.replace("MARK", family.mark))
    return path


def _tokenizer() -> Tokenizer:
    """One token per ASCII character, then the special ones."""
    spelled = {chr(byte if byte > ord(" ") else 0x100 + byte): byte for byte in range(127)}
    tokenizer = Tokenizer(BPE(vocab={**spelled, **IDS}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer
