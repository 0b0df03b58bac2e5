"""Models that are read, not continued: encoders of our own and mlx-lm's decoders, under one face."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx_lm.models.cache import KVCache, create_attention_mask, make_prompt_cache
from mlx_lm.utils import MODEL_REMAPPING, load_model

from quince.engine import encoders
from quince.engine.encoders.layers import attention_mask
from quince.engine.loader import read_config, set_wired_limit
from quince.engine.messages import Task
from quince.engine.pooling import Pooling, load_pooling, normalize, read_object
from quince.engine.weight_layout import arrange_weights
from quince.errors import ModelLoadError

DEFAULT_MAX_MODEL_LEN = 512

# Keys and values of every layer, [1, heads, tokens, size]: what rows need of the tokens before them.
Beginning = list[tuple[mx.array, mx.array]]


@dataclass(frozen=True)
class Rows:
    """A batch as the models take it: ``token_ids`` [rows, columns] padded on the right, the others [rows].

    ``labels`` [rows, 2]: the tokens (no, yes) of a generative reranker's rows, else None. ``beginning``: what comes
    before all of them, and is in none of the others.
    """

    token_ids: mx.array
    lengths: mx.array
    second_from: mx.array
    prompt_tokens: mx.array
    labels: mx.array | None
    beginning: Beginning | None = None


class Head(Protocol):
    """Results of a batch: float32 [rows, dimensions]."""

    def __call__(self, rows: Rows) -> mx.array: ...


@dataclass(frozen=True)
class PoolingModel:
    """``max_model_len`` (the longest input) and ``vocab_size`` are in tokens; ``dimensions`` is a result's length.

    ``decoder`` reads what rows have in common; None if this head's rows can share nothing.
    """

    head: Head
    model_type: str
    vocab_size: int
    max_model_len: int
    dimensions: int
    decoder: Decoder | None


class Encoder:
    """A model of ``quince.engine.encoders``."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def hidden(self, rows: Rows) -> mx.array:
        states: mx.array = self.model.hidden(rows.token_ids, rows.lengths, rows.second_from)
        return states


class Decoder:
    """A model of mlx-lm. Its tokens see what is before them, so padding on the right needs no mask; if it was trained
    to see both ways (EmbeddingGemma), every layer gets a mask of the row's text, and in windows of half the width to
    either side."""

    def __init__(self, model: Any, *, both_ways: bool) -> None:
        self.model = model
        self._both_ways = both_ways

    def hidden(self, rows: Rows) -> mx.array:
        cache: list[_BothWays] | list[_Layer] | None = None
        if self._both_ways:
            cache = [_BothWays(rows.lengths)] * len(self.model.layers)
        elif rows.beginning is not None:
            cache = [_Layer(held) for held in rows.beginning]
        states: mx.array = self.model.model(rows.token_ids, cache)
        return states

    @property
    def shares(self) -> bool:
        """Whether rows may have a beginning in common: every layer keeps keys and values of all tokens."""
        return not self._both_ways and all(type(one) is KVCache for one in make_prompt_cache(self.model))

    def read(self, token_ids: mx.array) -> Beginning:
        """What rows that begin with these tokens [tokens] need of them."""
        layers = [_Layer() for _ in self.model.layers]
        self.model.model(token_ids[None], layers)
        return [layer.held for layer in layers if layer.held is not None]

    def logits(self, states: mx.array) -> mx.array:
        """Of every token of the vocabulary, from states [rows, size]."""
        head = getattr(self.model, "lm_head", None)
        found: mx.array = self.model.model.embed_tokens.as_linear(states) if head is None else head(states)
        return found


class _BothWays:
    """Stands where mlx-lm's models expect a layer's KV cache, keeps nothing, and makes the mask."""

    offset = 0

    def __init__(self, lengths: mx.array) -> None:
        self._lengths = lengths

    def make_mask(self, columns: int, *, return_array: bool = False, window_size: int | None = None) -> mx.array:
        return attention_mask(self._lengths, columns, None if window_size is None else window_size // 2)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        return keys, values


class _Layer:
    """Stands there, too: holds keys and values of a beginning, if any, and then of all tokens."""

    def __init__(self, held: tuple[mx.array, mx.array] | None = None) -> None:
        self.held = held
        self.offset = 0 if held is None else held[0].shape[2]

    def make_mask(self, columns: int, *, return_array: bool = False, window_size: int | None = None) -> Any:
        return create_attention_mask(columns, self.offset, return_array, window_size)

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        if self.held is not None:
            keys, values = _joined(self.held[0], keys), _joined(self.held[1], values)
        self.held = keys, values
        return self.held


def _joined(before: mx.array, own: mx.array) -> mx.array:
    """``before`` [1, heads, tokens, size] in front of every row of ``own``."""
    return mx.concatenate([mx.broadcast_to(before, (own.shape[0], *before.shape[1:])), own], axis=2)


class Embedding:
    """Vectors of texts."""

    def __init__(self, model: Encoder | Decoder, pooling: Pooling) -> None:
        self._model = model
        self._pooling = pooling

    def __call__(self, rows: Rows) -> mx.array:
        return self._pooling(self._model.hidden(rows), rows.lengths, rows.prompt_tokens)


class Classification:
    """How well pairs fit, 0 to 1, from a classifier of one or two classes (the second means that they fit)."""

    def __init__(self, model: Encoder) -> None:
        self._model = model

    def __call__(self, rows: Rows) -> mx.array:
        logits = self._model.model.classify(self._model.hidden(rows), rows.lengths).astype(mx.float32)
        return mx.sigmoid(logits) if logits.shape[-1] == 1 else mx.softmax(logits, axis=-1)[:, 1:]


class Decision:
    """How well texts fit, 0 to 1: the probability of "yes", where the next token is either "no" or "yes"."""

    def __init__(self, model: Decoder) -> None:
        self._model = model

    def __call__(self, rows: Rows) -> mx.array:
        assert rows.labels is not None, "the client sends the labels with every request"
        states = self._model.hidden(rows)
        last = mx.take_along_axis(states, (rows.lengths - 1)[:, None, None], axis=1)[:, 0]
        labels = mx.take_along_axis(self._model.logits(last).astype(mx.float32), rows.labels, axis=1)
        return mx.softmax(labels, axis=-1)[:, 1:]


def load(path: Path, task: Task, *, max_model_len: int | None) -> PoolingModel:
    """Read the weights into memory. Raises ModelLoadError with the reason if that cannot be done."""
    config = read_config(path)
    set_wired_limit()
    model_type = str(config["model_type"])
    try:
        make = _load_encoder if model_type in encoders.MODULES else _load_decoder
        head, decoder, positions = make(path, config, task)
    except (ValueError, KeyError, TypeError, AttributeError, OSError, RuntimeError, ImportError) as error:
        raise ModelLoadError(f"{path.name}: {error}") from error
    own = min(positions, text_limit(path) or positions)
    if max_model_len is not None and max_model_len > positions:
        raise ModelLoadError(f"{path.name}: it reads {positions} tokens at most, and --ctx-size is {max_model_len}")
    return PoolingModel(
        head=head,
        model_type=model_type,
        vocab_size=int(config["vocab_size"]),
        max_model_len=own if max_model_len is None else max_model_len,
        dimensions=1 if task is Task.SCORE else _dimensions(head),
        decoder=decoder,
    )


def text_limit(path: Path) -> int | None:
    """How many tokens the publisher lets the model read, in sentence-transformers' own file or else the tokenizer's."""
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        limit = read_object(path / name).get(key) if (path / name).is_file() else None
        if isinstance(limit, int | float) and 0 < limit < 2**31:  # transformers writes 1e30 for "none"
            return int(limit)
    return None


# A head, what reads beginnings for it, and how many positions there are.
_Made = tuple[Head, Decoder | None, int]


def _load_encoder(path: Path, config: Mapping[str, Any], task: Task) -> _Made:
    module: Any = encoders.MODULES[str(config["model_type"])]
    # The classifier of a model that only makes vectors is not loaded.
    changes: dict[str, Any] = {"architectures": []} if task is Task.EMBED else {}
    model, _ = load_model(path, model_config=changes, get_model_classes=lambda config: (module.Model, module.ModelArgs))
    arrange_weights(model)
    args, encoder = model.args, Encoder(model)
    if task is Task.SCORE:
        if args.labels not in (1, 2):
            raise ValueError(
                f"its classifier has {args.labels} classes, and a reranker has one or two"
                if args.labels
                else "it has no classifier (architectures in config.json), so it cannot score pairs"
            )
        return Classification(encoder), None, args.positions
    return Embedding(encoder, load_pooling(path, Pooling(("mean",), [normalize]))), None, args.positions


def _load_decoder(path: Path, config: Mapping[str, Any], task: Task) -> _Made:
    if any("ForSequenceClassification" in name for name in config.get("architectures") or []):
        raise ValueError("classifiers over decoders are not supported; encoders and yes/no rerankers are")
    # Vectors need no output layer: one that is apart from the embeddings is left out of the model and of its weights.
    changes = {"tie_word_embeddings": True} if task is Task.EMBED else {}
    model, _ = load_model(path, model_config=changes, get_model_classes=_decoder_classes)
    arrange_weights(model)
    decoder = Decoder(model, both_ways=bool(config.get("use_bidirectional_attention")))
    positions = int(config.get("max_position_embeddings") or DEFAULT_MAX_MODEL_LEN)
    reader = decoder if decoder.shares else None
    if task is Task.SCORE:
        return Decision(decoder), reader, positions
    pooling = load_pooling(path, Pooling(("lasttoken",), [normalize]))
    # Of a beginning there are no states to pool, only what later tokens need.
    return Embedding(decoder, pooling), reader if pooling.modes == ("lasttoken",) else None, positions


def _decoder_classes(config: dict[str, Any]) -> tuple[type[Module], type]:
    """mlx-lm's class for the model type, reading also checkpoints of the model without its output layer."""
    model_type = str(config["model_type"])
    try:
        module = importlib.import_module(f"mlx_lm.models.{MODEL_REMAPPING.get(model_type, model_type)}")
    except ModuleNotFoundError:
        raise ValueError(f"the model type {model_type} is not supported") from None
    base: Any = module.Model

    class Model(base):  # type: ignore[misc]
        def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
            if not any(name.startswith("model.") for name in weights):
                weights = {name if name.startswith("lm_head.") else f"model.{name}": w for name, w in weights.items()}
            if hasattr(base, "sanitize"):
                weights = super().sanitize(weights)
            return weights

    return Model, module.ModelArgs


def _dimensions(head: Head) -> int:
    """Asked of the model itself: projections may change it."""
    one = mx.array([1])
    return int(head(Rows(mx.array([[0]]), one, one, one - 1, None)).shape[-1])
