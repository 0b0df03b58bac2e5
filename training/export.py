"""Write trained weights as a model directory that mlx-lm and transformers load unchanged."""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from training.model import Shape
from training.render import END, MODEL_DIR, STOP


def config(shape: Shape, tokenizer: Tokenizer) -> dict[str, object]:
    return {
        **shape.config(),
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": None,
        "dtype": "bfloat16",
        "eos_token_id": tokenizer.token_to_id(END),
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "pad_token_id": tokenizer.token_to_id(STOP),
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, object]:
    """Sampling stays close to the likeliest token: so small a model has little to gain from variety."""
    return {
        "do_sample": True,
        "eos_token_id": [tokenizer.token_to_id(END), tokenizer.token_to_id(STOP)],
        "pad_token_id": tokenizer.token_to_id(STOP),
        "temperature": 0.1,
        "top_p": 0.9,
    }


def export(weights: dict[str, Tensor], shape: Shape, out: Path) -> None:
    tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
    named = {f"model.{name}": value.detach().to("cpu", torch.bfloat16).contiguous() for name, value in weights.items()}
    save_file(dict(sorted(named.items())), str(out / "model.safetensors"), metadata={"format": "pt"})
    for name, content in (
        ("config.json", config(shape, tokenizer)),
        ("generation_config.json", generation_config(tokenizer)),
    ):
        (out / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path, help="what training.train wrote")
    parser.add_argument("--out", type=Path, default=MODEL_DIR)
    args = parser.parse_args()
    saved = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    export(saved["weights"], Shape(**saved["shape"]), args.out)


if __name__ == "__main__":
    main()
