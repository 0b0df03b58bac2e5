"""Tiny random encoders and decoders on disk, with tokenizers: for embeddings and reranking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models import qwen3
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

from quince.engine import encoders

VOCAB_SIZE = 160
SPECIAL = ("<s>", "</s>", "<pad>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "yes", "no", "<think>", "</think>")
FIRST_SPECIAL = 128
BOS, EOS, END = FIRST_SPECIAL, FIRST_SPECIAL + 1, FIRST_SPECIAL + 5
YES, NO = FIRST_SPECIAL + 6, FIRST_SPECIAL + 7

_ENCODER: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": {**_ENCODER, "model_type": "bert", "architectures": ["BertModel"]},
    "bert-reranker": {
        **_ENCODER,
        "model_type": "bert",
        "architectures": ["BertForSequenceClassification"],
        "id2label": {"0": "no", "1": "yes"},
    },
    "xlm-roberta": {**_ENCODER, "model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], "pad_token_id": 1},
    "xlm-roberta-reranker": {
        **_ENCODER,
        "model_type": "xlm-roberta",
        "architectures": ["XLMRobertaForSequenceClassification"],
        "pad_token_id": 1,
        "id2label": {"0": "LABEL_0"},
    },
    "modernbert": {
        **_ENCODER,
        "model_type": "modernbert",
        "architectures": ["ModernBertModel"],
        "num_hidden_layers": 4,
        "local_attention": 8,
    },
    "modernbert-reranker": {
        **_ENCODER,
        "model_type": "modernbert",
        "architectures": ["ModernBertForSequenceClassification"],
        "local_attention": 8,
        "classifier_pooling": "mean",
        "id2label": {"0": "LABEL_0"},
    },
    "qwen3-embedding": {
        **_ENCODER,
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "num_key_value_heads": 2,
        "head_dim": 8,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
    },
}
CONFIGS["qwen3-reranker"] = {**CONFIGS["qwen3-embedding"], "max_position_embeddings": 1024}


def weights(name: str, *, seed: int = 0) -> dict[str, mx.array]:
    """Random parameters by the names of published checkpoints."""
    config = CONFIGS[name]
    module: Any = encoders.MODULES.get(config["model_type"], qwen3)
    mx.random.seed(seed)
    model = module.Model(module.ModelArgs.from_dict(config))
    made = tree_map(lambda p: p + 0.2 * mx.random.normal(p.shape), model.parameters())
    named = {key: value for key, value in tree_flatten(made) if isinstance(value, mx.array)}
    if config["model_type"] == "xlm-roberta" and "reranker" in name:
        return {key if key.startswith("classifier") else f"roberta.{key}": value for key, value in named.items()}
    if name == "qwen3-embedding":  # saved from the model without its output layer, as Qwen3-Embedding is
        return {key.removeprefix("model."): value for key, value in named.items() if key != "lm_head.weight"}
    return named


def save(name: str, path: Path, *, seed: int = 0) -> dict[str, mx.array]:
    """Write the model as a directory, and return its weights."""
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIGS[name]))
    made = weights(name, seed=seed)
    mx.save_safetensors(str(path / "model.safetensors"), made)
    kind = "pair" if CONFIGS[name]["model_type"] != "qwen3" else "plain" if name == "qwen3-reranker" else "end"
    _tokenizer(kind).save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return made


def _tokenizer(kind: str) -> Tokenizer:
    """One token per ASCII character. "pair": <s> a </s> and <s> a </s> b </s>; "end": a <|endoftext|>."""
    spelled = {chr(byte if byte > ord(" ") else 0x100 + byte): byte for byte in range(FIRST_SPECIAL - 1)}
    vocabulary = spelled | {text: FIRST_SPECIAL + number for number, text in enumerate(SPECIAL)}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens([AddedToken(text) for text in SPECIAL if text.startswith("<")])
    tokenizer.add_tokens([AddedToken(text, single_word=True) for text in ("yes", "no")])
    if kind == "pair":
        tokenizer.post_processor = TemplateProcessing(
            single="<s> $A </s>",
            pair="<s> $A </s> $B:1 </s>:1",
            special_tokens=[("<s>", BOS), ("</s>", EOS)],
        )
    if kind == "end":
        tokenizer.post_processor = TemplateProcessing(
            single="$A <|endoftext|>", special_tokens=[("<|endoftext|>", END)]
        )
    return tokenizer
