"""XLM-RoBERTa and Qwen3 in plain NumPy, one text at a time: written from the papers, shares no code with Quince."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Weights = Mapping[str, Array]


def layer_norm(x: Array, weights: Weights, name: str, eps: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    normal = centred / np.sqrt(x.var(-1, keepdims=True) + eps)
    return np.asarray(normal * weights[f"{name}.weight"] + weights[f"{name}.bias"])


def linear(x: Array, weights: Weights, name: str) -> Array:
    return np.asarray(x @ weights[f"{name}.weight"].T + weights.get(f"{name}.bias", 0.0))


def softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True))


def gelu(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.vectorize(_erf)(x / np.sqrt(2))))


def _erf(x: float) -> float:
    import math

    return math.erf(x)


def attention(queries: Array, keys: Array, values: Array, allowed: npt.NDArray[np.bool_]) -> Array:
    """[heads, tokens, size] each; keys and values may have fewer heads, each for several of the queries'."""
    repeats = len(queries) // len(keys)
    keys, values = np.repeat(keys, repeats, axis=0), np.repeat(values, repeats, axis=0)
    scores = queries @ keys.transpose(0, 2, 1) / np.sqrt(queries.shape[-1])
    found = softmax(np.where(allowed, scores, -np.inf)) @ values
    return np.asarray(found.transpose(1, 0, 2).reshape(found.shape[1], -1))


def heads(x: Array, size: int) -> Array:
    return np.asarray(x.reshape(len(x), -1, size).transpose(1, 0, 2))


def xlm_roberta(token_ids: Sequence[int], weights: Weights, config: Mapping[str, Any]) -> Array:
    """The last layer's states, [tokens, size]; positions begin two after the padding's (number 1)."""
    eps, size = 1e-5, config["hidden_size"] // config["num_attention_heads"]
    count = len(token_ids)
    x = weights["embeddings.word_embeddings.weight"][list(token_ids)]
    x = x + weights["embeddings.position_embeddings.weight"][np.arange(count) + 2]
    x = x + weights["embeddings.token_type_embeddings.weight"][0]
    x = layer_norm(x, weights, "embeddings.LayerNorm", eps)
    everything = np.ones((count, count), bool)
    for number in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{number}"
        q, k, v = (
            heads(linear(x, weights, f"{layer}.attention.self.{part}"), size) for part in ("query", "key", "value")
        )
        found = linear(attention(q, k, v, everything), weights, f"{layer}.attention.output.dense")
        x = layer_norm(x + found, weights, f"{layer}.attention.output.LayerNorm", eps)
        found = linear(gelu(linear(x, weights, f"{layer}.intermediate.dense")), weights, f"{layer}.output.dense")
        x = layer_norm(x + found, weights, f"{layer}.output.LayerNorm", eps)
    return x


def xlm_roberta_score(token_ids: Sequence[int], weights: Weights, config: Mapping[str, Any]) -> float:
    first = xlm_roberta(token_ids, weights, config)[0]
    logit = linear(np.tanh(linear(first, weights, "classifier.dense")), weights, "classifier.out_proj")
    return float(1 / (1 + np.exp(-logit[0])))


def rms_norm(x: Array, weight: Array, eps: float) -> Array:
    return np.asarray(x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight)


def rotate(x: Array, base: float) -> Array:
    """Rotary positions over [heads, tokens, size], the first half of a head's numbers paired with the second."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] * base ** (-np.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def qwen3(token_ids: Sequence[int], weights: Weights, config: Mapping[str, Any]) -> Array:
    """The last layer's states, normalised, [tokens, size]. ``weights`` without the prefix "model."."""
    eps, size, base = config["rms_norm_eps"], config["head_dim"], config["rope_theta"]
    x = weights["embed_tokens.weight"][list(token_ids)]
    before = np.tril(np.ones((len(x), len(x)), bool))
    for number in range(config["num_hidden_layers"]):
        layer = f"layers.{number}"
        y = rms_norm(x, weights[f"{layer}.input_layernorm.weight"], eps)
        q, k, v = (heads(linear(y, weights, f"{layer}.self_attn.{part}_proj"), size) for part in "qkv")
        q = rotate(rms_norm(q, weights[f"{layer}.self_attn.q_norm.weight"], eps), base)
        k = rotate(rms_norm(k, weights[f"{layer}.self_attn.k_norm.weight"], eps), base)
        x = x + linear(attention(q, k, v, before), weights, f"{layer}.self_attn.o_proj")
        y = rms_norm(x, weights[f"{layer}.post_attention_layernorm.weight"], eps)
        gate = linear(y, weights, f"{layer}.mlp.gate_proj")
        y = gate / (1 + np.exp(-gate)) * linear(y, weights, f"{layer}.mlp.up_proj")
        x = x + linear(y, weights, f"{layer}.mlp.down_proj")
    return rms_norm(x, weights["norm.weight"], eps)
