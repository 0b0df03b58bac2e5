"""Writes random-weight Qwen3 models that mlx-lm, Quince and other servers load: real shapes, nothing to download.

    python -m benchmarks.models 0.6b /tmp/models/0.6b

Every answer has text and its full length. The tokenizer has one token for every id of the vocabulary: 256 bytes, then
words of five characters (a space and four letters, so a text's tokens can be counted by its spaces), then the special
tokens. The rows of the output matrix that belong to bytes and special tokens are zero, so their logits are 0 where the
words' have a standard deviation of LOGIT_STD: greedy decoding never takes them, and top_p cuts them off.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.weights import Weight, save
from quince.bench.workload import words

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
EOS = "<|endoftext|>"
BYTES = 256
EMBEDDING_STD = 0.02
LOGIT_STD = 2.6
TEMPLATE = (
    "{%- for message in messages -%}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
FORMAT = 2  # part of a model's directory: raise it when what is written here changes


@dataclass(frozen=True)
class Shape:
    """A Qwen3 of this size. ``dtype`` is a name in mlx.core."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    dtype: str
    context: int

    @property
    def norm_scale(self) -> float:
        """The last norm's weight, which sets the scale of the logits."""
        return LOGIT_STD / (EMBEDDING_STD * self.hidden**0.5)

    @property
    def config(self) -> dict[str, Any]:
        eos = self.vocab - len(SPECIAL) + SPECIAL.index(EOS)
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "vocab_size": self.vocab,
            "tie_word_embeddings": self.tied,
            "rms_norm_eps": 1e-6,
            "rope_theta": 1000000.0,
            "max_position_embeddings": self.context,
            "hidden_act": "silu",
            "attention_bias": False,
            "eos_token_id": eos,
            "torch_dtype": self.dtype,
        }


SHAPES = {
    "tiny": Shape(128, 256, 4, 4, 2, 32, 2048, True, "float32", 16384),
    "0.6b": Shape(1024, 3072, 28, 16, 8, 128, 151936, True, "bfloat16", 40960),
    "4b": Shape(2560, 9728, 36, 32, 8, 128, 151936, True, "bfloat16", 40960),
    "8b": Shape(4096, 12288, 36, 32, 8, 128, 151936, False, "bfloat16", 40960),
}


def ensure(name: str, root: Path) -> Path:
    """The directory of the model called ``name``, written below ``root`` if it is not there yet."""
    return ensure_at(root / f"qwen3-{name}-random-{FORMAT}", functools.partial(write, SHAPES[name]))


def ensure_at(path: Path, writer: Callable[[Path], None]) -> Path:
    """``path``, which ``writer`` fills if it is not there yet; it appears complete or not at all."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=".writing-"))
        try:
            writer(temporary)
            temporary.chmod(0o755)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return path


def write(shape: Shape, path: Path) -> None:
    path.mkdir(parents=True, exist_ok=True)
    write_tokenizer(shape, path)
    (path / "config.json").write_text(json.dumps(shape.config, indent=1))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": shape.config["eos_token_id"]}))
    save(path / "model.safetensors", _weights(shape), shape.dtype)


def write_tokenizer(shape: Shape, path: Path, *, special: Sequence[str] = SPECIAL, template: str = TEMPLATE) -> None:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    space = "\u0120"  # the byte-level spelling of a space
    own = itertools.islice(words(), shape.vocab - BYTES - len(special))
    vocabulary = {token: index for index, token in enumerate([*alphabet, *(space + word for word in own)])}
    # ignore_merges: a word of the vocabulary is its token at once, everything else falls apart into bytes.
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in special])
    tokenizer.save(str(path / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": EOS,
        "pad_token": EOS,
        "bos_token": None,
        "unk_token": None,
        "add_bos_token": False,
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": shape.context,
    }
    (path / "tokenizer_config.json").write_text(json.dumps(settings, indent=1))
    (path / "chat_template.jinja").write_text(template)


def word_rows(shape: Shape, special: Sequence[str] = SPECIAL) -> tuple[int, int]:
    """The rows of the output matrix that are not zero."""
    return BYTES, shape.vocab - len(special)


def _weights(shape: Shape) -> dict[str, Weight]:
    """All layers, and the last norm, whose weight sets the scale of the logits."""
    output = Weight((shape.vocab, shape.hidden), std=EMBEDDING_STD, rows=word_rows(shape))
    found = {
        "model.embed_tokens.weight": output if shape.tied else replace(output, rows=None),
        "model.norm.weight": Weight((shape.hidden,), shape.norm_scale),
    }
    for index in range(shape.layers):
        found |= _layer(shape, index)
    return found if shape.tied else found | {"lm_head.weight": output}


def _layer(shape: Shape, index: int) -> dict[str, Weight]:
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    own = {
        "self_attn.q_proj.weight": Weight.linear(queries, shape.hidden),
        "self_attn.k_proj.weight": Weight.linear(keys, shape.hidden),
        "self_attn.v_proj.weight": Weight.linear(keys, shape.hidden),
        "self_attn.o_proj.weight": Weight.linear(shape.hidden, queries),
        "self_attn.q_norm.weight": Weight((shape.head_dim,), 1.0),
        "self_attn.k_norm.weight": Weight((shape.head_dim,), 1.0),
        "mlp.gate_proj.weight": Weight.linear(shape.intermediate, shape.hidden),
        "mlp.up_proj.weight": Weight.linear(shape.intermediate, shape.hidden),
        "mlp.down_proj.weight": Weight.linear(shape.hidden, shape.intermediate),
        "input_layernorm.weight": Weight((shape.hidden,), 1.0),
        "post_attention_layernorm.weight": Weight((shape.hidden,), 1.0),
    }
    return {f"model.layers.{index}.{name}": weight for name, weight in own.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("path", type=Path)
    options = parser.parse_args()
    write(SHAPES[options.shape], options.path)
    print(options.path)


if __name__ == "__main__":
    main()
