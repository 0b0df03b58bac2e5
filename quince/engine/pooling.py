"""From a text's token vectors to its one vector: pooling, projections and normalisation, as the model's files say.

The files are those of sentence-transformers: modules.json lists the steps after the transformer, each with a directory
of its own. Models without it pool as their kind does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import mlx.core as mx

from quince.errors import ModelLoadError

# What a step does with vectors [rows, size].
Step = Callable[[mx.array], mx.array]

_LEGACY_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_ACTIVATIONS: dict[str, Step] = {"Identity": lambda values: values, "Tanh": mx.tanh, "ReLU": lambda v: mx.maximum(v, 0)}
EPSILON = 1e-12


class Pooling:
    """``modes`` are joined in their order. ``include_prompt`` False: an instruction's tokens do not count."""

    def __init__(self, modes: tuple[str, ...], steps: list[Step], *, include_prompt: bool = True) -> None:
        """Raises ModelLoadError for an unknown mode."""
        for mode in modes:
            if mode not in _MODES:
                raise ModelLoadError(f"pooling by '{mode}' is not supported")
        self.modes = modes
        self._steps = steps
        self._include_prompt = include_prompt

    def __call__(self, hidden: mx.array, lengths: mx.array, prompt_tokens: mx.array) -> mx.array:
        """``hidden`` [rows, columns, size], whose first ``lengths`` [rows] columns count; float32 [rows, dimensions].

        ``prompt_tokens`` [rows] of them are an instruction.
        """
        columns = mx.arange(hidden.shape[1])
        begin = mx.zeros_like(lengths) if self._include_prompt else mx.minimum(prompt_tokens, lengths - 1)
        inside = ((columns >= begin[:, None]) & (columns < lengths[:, None]))[..., None]
        # Padding may hold anything, also NaN: it is replaced, not multiplied by zero.
        states = mx.where(inside, hidden.astype(mx.float32), 0)
        parts = [_MODES[mode](states, inside) for mode in self.modes]
        vectors = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=-1)
        for step in self._steps:
            vectors = step(vectors)
        return vectors


def _first(states: mx.array, inside: mx.array) -> mx.array:
    first = mx.argmax(inside.astype(mx.int32), axis=1, keepdims=True)
    return mx.take_along_axis(states, first, axis=1)[:, 0]


def _last(states: mx.array, inside: mx.array) -> mx.array:
    columns = mx.arange(states.shape[1])[:, None]
    last = mx.max(mx.where(inside, columns, 0), axis=1, keepdims=True)
    return mx.take_along_axis(states, last, axis=1)[:, 0]


def _max(states: mx.array, inside: mx.array) -> mx.array:
    return mx.where(inside, states, -mx.inf).max(axis=1)


def _mean(states: mx.array, inside: mx.array) -> mx.array:
    return states.sum(axis=1) / inside.sum(axis=1)


def _mean_by_root(states: mx.array, inside: mx.array) -> mx.array:
    return states.sum(axis=1) / mx.sqrt(inside.sum(axis=1))


def _weighted_mean(states: mx.array, inside: mx.array) -> mx.array:
    """Later tokens count more: the token at column c counts c + 1 times."""
    weights = mx.where(inside, mx.arange(1, states.shape[1] + 1)[:, None], 0)
    return (states * weights).sum(axis=1) / weights.sum(axis=1)


_MODES: dict[str, Callable[[mx.array, mx.array], mx.array]] = {
    "cls": _first,
    "lasttoken": _last,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_by_root,
    "weightedmean": _weighted_mean,
}


def normalize(vectors: mx.array) -> mx.array:
    """To length 1 in float32; zeros stay zeros."""
    return vectors / mx.maximum(mx.linalg.norm(vectors, axis=-1, keepdims=True), EPSILON)


class Dense:
    """A projection with an activation; ``residual`` projects what is added of the input (None: nothing is added)."""

    def __init__(self, path: Path) -> None:
        """Raises ModelLoadError for what is missing or not known."""
        config = read_object(path / "config.json")
        weights = _weights(path)
        kind = str(config.get("activation_function", "Tanh")).rpartition(".")[2]
        if kind not in _ACTIVATIONS:
            raise ModelLoadError(f"{path.name}: the activation '{kind}' is not supported")
        if "linear.weight" not in weights:
            raise ModelLoadError(f"{path.name}: its weights hold no linear.weight")
        self._activation = _ACTIVATIONS[kind]
        self._weight = weights["linear.weight"].astype(mx.float32)
        self._bias = weights["linear.bias"].astype(mx.float32) if "linear.bias" in weights else mx.array(0.0)
        self._adds = bool(config.get("use_residual"))
        self._residual = weights["residual.weight"].astype(mx.float32) if "residual.weight" in weights else None

    def __call__(self, vectors: mx.array) -> mx.array:
        found = self._activation(vectors @ self._weight.T + self._bias)
        if self._adds:
            found = found + (vectors if self._residual is None else vectors @ self._residual.T)
        return found


def load_pooling(path: Path, usual: Pooling) -> Pooling:
    """What the model directory says, ``usual`` where it says nothing. Raises ModelLoadError for steps not known."""
    if not (path / "modules.json").is_file():
        own = path / "1_Pooling" / "config.json"
        return _pooling(read_object(own), [normalize]) if own.is_file() else usual
    modules = [(_kind(module), path / str(module.get("path", ""))) for module in _read_list(path / "modules.json")]
    if [kind for kind, _ in modules[:2]] != ["Transformer", "Pooling"]:
        raise ModelLoadError(
            f"{path.name}: modules.json lists {', '.join(kind for kind, _ in modules)}; what can be served is "
            "Transformer, Pooling, and after them Dense and Normalize"
        )
    return _pooling(read_object(modules[1][1] / "config.json"), [_step(kind, place) for kind, place in modules[2:]])


def _kind(module: Any) -> str:
    """``sentence_transformers.models.Pooling``, as newer versions too spell it at the end."""
    return str(module.get("type", "")).rpartition(".")[2] if isinstance(module, dict) else ""


def _step(kind: str, path: Path) -> Step:
    match kind:
        case "Normalize":
            return normalize
        case "Dense":
            return Dense(path)
        case "Dropout":  # of training only
            return lambda vectors: vectors
    raise ModelLoadError(f"{path.parent.name}: the module '{kind}' in modules.json is not supported")


def _pooling(config: Mapping[str, Any], steps: list[Step]) -> Pooling:
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for name, mode in _LEGACY_MODES.items() if config.get(name)] or ["mean"]
    modes = (modes,) if isinstance(modes, str) else tuple(modes)
    return Pooling(modes, steps, include_prompt=config.get("include_prompt", True) is not False)


def _weights(path: Path) -> dict[str, mx.array]:
    file = path / "model.safetensors"
    if not file.is_file():
        raise ModelLoadError(f"{path.name} has no model.safetensors; MLX does not read other weights")
    loaded = mx.load(str(file))
    assert isinstance(loaded, dict)
    return loaded


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises ModelLoadError."""
    value = _read(path)
    if not isinstance(value, dict):
        raise ModelLoadError(f"{path} holds no object")
    return value


def _read_list(path: Path) -> list[Any]:
    value = _read(path)
    if not isinstance(value, list):
        raise ModelLoadError(f"{path} holds no list")
    return value


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"{path} cannot be read: {error}") from error
