"""Tiny random models of every cache family, made by mlx-lm's own classes: small enough to run thousands of steps."""

from __future__ import annotations

import atexit
import functools
import importlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

VOCAB_SIZE = 128
END_TOKEN_ID = VOCAB_SIZE - 1

_COMMON: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}

CONFIGS: dict[str, dict[str, Any]] = {
    # full attention
    "qwen3": {**_COMMON, "model_type": "qwen3"},
    "llama": {**_COMMON, "model_type": "llama"},
    # sliding window and full attention in turn
    "gemma3_text": {
        **_COMMON,
        "model_type": "gemma3_text",
        "num_hidden_layers": 4,
        "sliding_window": 16,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": 8,
        "rope_global_base_freq": 1000000.0,
        "rope_local_base_freq": 10000.0,
    },
    # short convolutions and attention
    "lfm2": {
        **_COMMON,
        "model_type": "lfm2",
        "num_hidden_layers": 4,
        "norm_eps": 1e-6,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": 32,
        "block_ff_dim": 64,
        "block_multiple_of": 8,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": [1, 3],
    },
    # gated delta rule (recurrent) and attention
    "qwen3_next": {
        **_COMMON,
        "model_type": "qwen3_next",
        "num_hidden_layers": 4,
        "linear_num_value_heads": 4,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "linear_conv_kernel_dim": 4,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 32,
        "mlp_only_layers": [],
        "moe_intermediate_size": 32,
        "partial_rotary_factor": 0.5,
        "full_attention_interval": 2,
    },
    # state space and attention
    "falcon_h1": {
        **_COMMON,
        "model_type": "falcon_h1",
        "mamba_d_ssm": 32,
        "mamba_d_state": 8,
        "mamba_d_conv": 4,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_n_groups": 1,
        "mamba_expand": 1,
    },
    # attention that wants a mask with five axes
    "gemma2": {**_COMMON, "model_type": "gemma2", "query_pre_attn_scalar": 8},
    # a state that padding would leak into
    "mamba": {
        **_COMMON,
        "model_type": "mamba",
        "state_size": 8,
        "conv_kernel": 4,
        "use_bias": False,
        "use_conv_bias": True,
        "time_step_rank": 4,
    },
    # positions that cannot differ between rows: no batching at all
    "gpt_bigcode": {
        **_COMMON,
        "model_type": "gpt_bigcode",
        "n_embd": 32,
        "n_layer": 2,
        "n_inner": 64,
        "n_head": 4,
        "n_positions": 512,
        "layer_norm_epsilon": 1e-5,
    },
    # multi-head latent attention
    "deepseek_v3": {
        **_COMMON,
        "model_type": "deepseek_v3",
        "moe_intermediate_size": 32,
        "n_shared_experts": 1,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "num_key_value_heads": 4,
    },
}


def build(name: str, *, seed: int = 0) -> nn.Module:
    """A float32 model with random weights, large enough in scale that greedy answers vary."""
    config = CONFIGS[name]
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    mx.random.seed(seed)
    model: nn.Module = module.Model(module.ModelArgs.from_dict(config))
    model.update(tree_map(lambda p: p + 0.3 * mx.random.normal(p.shape), model.parameters()))
    mx.eval(model.parameters())
    return model


@functools.cache
def tokenizer_file() -> Path:
    """A tokenizer.json for these models: one token per ASCII character, END_TOKEN_ID ends an answer."""
    # The byte-level alphabet spells control characters and the space as the letters from U+0100 on.
    spelled = {chr(byte if byte > ord(" ") else 0x100 + byte): byte for byte in range(END_TOKEN_ID)}
    tokenizer = Tokenizer(BPE(vocab=spelled | {"<end>": END_TOKEN_ID}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    tokenizer.add_special_tokens(["<end>"])
    directory = tempfile.mkdtemp(prefix="quince-tests-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    path = Path(directory) / "tokenizer.json"
    tokenizer.save(str(path))
    return path


def save(name: str, path: Path, *, seed: int = 0) -> Path:
    """Write the model as a directory that mlx-lm loads (no tokenizer)."""
    path.mkdir(parents=True, exist_ok=True)
    model = build(name, seed=seed)
    mx.save_safetensors(str(path / "model.safetensors"), dict(tree_flatten(model.parameters())))
    (path / "config.json").write_text(json.dumps(CONFIGS[name]))
    return path
