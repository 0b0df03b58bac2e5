"""Tiny random models of the other cache families, beside the Qwen3 shapes of models.py: what a prefix cache meets."""

from __future__ import annotations

import importlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.models import BYTES, FORMAT, SHAPES, SPECIAL, ensure, write_tokenizer

TINY = SHAPES["tiny"]
_COMMON: dict[str, Any] = {
    "vocab_size": TINY.vocab,
    "hidden_size": TINY.hidden,
    "intermediate_size": TINY.intermediate,
    "num_hidden_layers": TINY.layers,
    "num_attention_heads": TINY.heads,
    "num_key_value_heads": TINY.kv_heads,
    "head_dim": TINY.head_dim,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "max_position_embeddings": TINY.context,
    "tie_word_embeddings": False,
    "eos_token_id": TINY.vocab - len(SPECIAL),
}
FAMILIES: dict[str, dict[str, Any]] = {
    "sliding window": {
        **_COMMON,
        "model_type": "gemma3_text",
        "sliding_window": 256,
        "sliding_window_pattern": 2,
        "query_pre_attn_scalar": TINY.head_dim,
        "rope_global_base_freq": 1000000.0,
        "rope_local_base_freq": 10000.0,
    },
    "conv hybrid": {
        **_COMMON,
        "model_type": "lfm2",
        "norm_eps": 1e-6,
        "conv_bias": False,
        "conv_L_cache": 3,
        "block_dim": TINY.hidden,
        "block_ff_dim": TINY.intermediate,
        "block_multiple_of": 8,
        "block_ffn_dim_multiplier": 1.0,
        "block_auto_adjust_ff_dim": False,
        "full_attn_idxs": [1, 3],
    },
    "recurrent hybrid": {
        **_COMMON,
        "model_type": "falcon_h1",
        "mamba_d_ssm": TINY.hidden,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_n_heads": 4,
        "mamba_d_head": TINY.hidden // 4,
        "mamba_n_groups": 1,
        "mamba_expand": 1,
    },
}
FULL = "full attention"
NAMES = (FULL, *FAMILIES)


def ensure_family(name: str, root: Path) -> Path:
    """The directory of the model, written below ``root`` if it is not there yet."""
    if name == FULL:
        return ensure("tiny", root)
    path = root / f"{FAMILIES[name]['model_type']}-tiny-random-{FORMAT}"
    if not path.is_dir():
        root.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=root, prefix=".writing-"))
        try:
            _write(FAMILIES[name], temporary)
            temporary.chmod(0o755)
            temporary.rename(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return path


def _write(config: dict[str, Any], path: Path) -> None:
    import mlx.core as mx
    from mlx.utils import tree_flatten

    mx.random.seed(0)
    module = importlib.import_module(f"mlx_lm.models.{config['model_type']}")
    model = module.Model(module.ModelArgs.from_dict(config))
    weights = dict(tree_flatten(model.parameters()))
    head = next((name for name in weights if name.endswith("lm_head.weight")), "model.embed_tokens.weight")
    ids = mx.arange(TINY.vocab)[:, None]
    words = (ids >= BYTES) & (ids < TINY.vocab - len(SPECIAL))
    weights[head] = mx.where(words, 4 * weights[head], 0.0)  # only words are ever said: see models.py
    mx.save_safetensors(str(path / "model.safetensors"), weights, metadata={"format": "mlx"})
    (path / "config.json").write_text(json.dumps(config, indent=1))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": config["eos_token_id"]}))
    write_tokenizer(TINY, path)
