"""Write trained weights as a model directory that mlx-vlm and transformers load unchanged."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from training.vision.draw import SIDE
from training.vision.files import CONTEXT, END, IMAGE, MODEL_DIR, STOP, write_json, write_processor
from training.vision.model import PATCH, Idefics3, TextShape, VisionShape


def config(vision: VisionShape, text: TextShape, tokenizer: Tokenizer) -> dict[str, Any]:
    end, stop = tokenizer.token_to_id(END), tokenizer.token_to_id(STOP)
    return {
        "architectures": ["Idefics3ForConditionalGeneration"],
        "model_type": "idefics3",
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
        "eos_token_id": [end, stop],
        "pad_token_id": stop,
        "image_token_id": tokenizer.token_to_id(IMAGE),
        "scale_factor": 1,
        "tie_word_embeddings": False,
        "vocab_size": text.vocab_size,
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **asdict(text),
            "num_key_value_heads": text.num_attention_heads,
            "head_dim": text.hidden_size // text.num_attention_heads,
            "attention_bias": False,
            "bos_token_id": None,
            "eos_token_id": end,
            "pad_token_id": stop,
            "hidden_act": "silu",
            "max_position_embeddings": CONTEXT,
            "tie_word_embeddings": False,
            "dtype": "bfloat16",
        },
        "vision_config": {
            "model_type": "idefics3_vision",
            **asdict(vision),
            "hidden_act": "gelu_pytorch_tanh",
            "image_size": SIDE,
            "patch_size": PATCH,
            "num_channels": 3,
            "dtype": "bfloat16",
        },
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Sampling stays close to the likeliest token: so small a model has little to gain from variety."""
    return {
        "do_sample": True,
        "eos_token_id": [tokenizer.token_to_id(END), tokenizer.token_to_id(STOP)],
        "pad_token_id": tokenizer.token_to_id(STOP),
        "temperature": 0.1,
        "top_p": 0.9,
    }


def export(model: Idefics3, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if out != MODEL_DIR:
            shutil.copy(MODEL_DIR / name, out / name)
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    weights = {
        name: value.detach().to("cpu", torch.bfloat16).contiguous()
        for name, value in sorted(model.state_dict().items())
        if not name.startswith("patch_heads")
    }
    save_file(weights, str(out / "model.safetensors"), metadata={"format": "pt"})
    write_json(out / "config.json", config(model.vision_shape, model.text_shape, tokenizer))
    write_json(out / "generation_config.json", generation_config(tokenizer))
    write_processor(out)
