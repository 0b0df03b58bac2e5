"""BERT (Devlin et al., 2018), and its classifier over the first token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.embedding import Embedding
from mlx.nn.layers.linear import Linear
from mlx.nn.layers.normalization import LayerNorm

from quince.engine.encoders.layers import ConfigArgs, activation, attend, attention_mask, num_labels, split_heads


@dataclass
class ModelArgs(ConfigArgs):
    """``labels`` 0: no classifier. ``first_position`` is the number of the first token's position embedding."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_act: str = "gelu"
    position_embedding_type: str = "absolute"
    labels: int = 0
    first_position: int = 0

    def __post_init__(self) -> None:
        if self.position_embedding_type != "absolute":
            raise ValueError(f"position embeddings of type '{self.position_embedding_type}' are not supported")

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        made = super().from_dict(config)
        if classifies(config):
            made.labels = num_labels(config)
        return made

    @property
    def positions(self) -> int:
        """The longest text, in tokens."""
        return self.max_position_embeddings - self.first_position


def classifies(config: Mapping[str, Any]) -> bool:
    return any("ForSequenceClassification" in name for name in config.get("architectures") or [])


class Embeddings(Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.word_embeddings = Embedding(args.vocab_size, args.hidden_size)
        self.position_embeddings = Embedding(args.max_position_embeddings, args.hidden_size)
        self.token_type_embeddings = Embedding(args.type_vocab_size, args.hidden_size)
        self.LayerNorm = LayerNorm(args.hidden_size, eps=args.layer_norm_eps)
        self._first_position = args.first_position
        self._last_type = args.type_vocab_size - 1

    def __call__(self, token_ids: mx.array, second_from: mx.array) -> mx.array:
        positions = mx.arange(token_ids.shape[1])
        types = mx.minimum(positions >= second_from[:, None], self._last_type)
        states = self.word_embeddings(token_ids) + self.token_type_embeddings(types)
        states = states + self.position_embeddings(positions + self._first_position)
        normal: mx.array = self.LayerNorm(states)
        return normal


class SelfAttention(Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.query = Linear(args.hidden_size, args.hidden_size)
        self.key = Linear(args.hidden_size, args.hidden_size)
        self.value = Linear(args.hidden_size, args.hidden_size)
        self._heads = args.num_attention_heads

    def __call__(self, states: mx.array, mask: mx.array) -> mx.array:
        queries, keys, values = (
            split_heads(project(states), self._heads) for project in (self.query, self.key, self.value)
        )
        return attend(queries, keys, values, mask)


class AddAndNorm(Module):
    """A projection, added to what came before and normalised."""

    def __init__(self, args: ModelArgs, input_size: int) -> None:
        super().__init__()
        self.dense = Linear(input_size, args.hidden_size)
        self.LayerNorm = LayerNorm(args.hidden_size, eps=args.layer_norm_eps)

    def __call__(self, states: mx.array, before: mx.array) -> mx.array:
        normal: mx.array = self.LayerNorm(self.dense(states) + before)
        return normal


class Attention(Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.self = SelfAttention(args)
        self.output = AddAndNorm(args, args.hidden_size)

    def __call__(self, states: mx.array, mask: mx.array) -> mx.array:
        found: mx.array = self.output(self.self(states, mask), states)
        return found


class Intermediate(Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.dense = Linear(args.hidden_size, args.intermediate_size)
        self._activation = activation(args.hidden_act)

    def __call__(self, states: mx.array) -> mx.array:
        return self._activation(self.dense(states))


class Layer(Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.attention = Attention(args)
        self.intermediate = Intermediate(args)
        self.output = AddAndNorm(args, args.intermediate_size)

    def __call__(self, states: mx.array, mask: mx.array) -> mx.array:
        states = self.attention(states, mask)
        found: mx.array = self.output(self.intermediate(states), states)
        return found


class Encoder(Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.layer = [Layer(args) for _ in range(args.num_hidden_layers)]

    def __call__(self, states: mx.array, mask: mx.array) -> mx.array:
        for layer in self.layer:
            states = layer(states, mask)
        return states


class Pooler(Module):
    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.dense = Linear(args.hidden_size, args.hidden_size)

    def __call__(self, first: mx.array) -> mx.array:
        return mx.tanh(self.dense(first))


class Model(Module):
    # How checkpoints name the encoder when it is a part of something else, and what of that is left out.
    prefixes: tuple[str, ...] = ("bert.",)
    unused: tuple[str, ...] = ("embeddings.position_ids", "cls.", "lm_head.")

    def __init__(self, args: ModelArgs) -> None:
        super().__init__()
        self.args = args
        self.embeddings = Embeddings(args)
        self.encoder = Encoder(args)
        if args.labels:
            self._make_classifier(args)

    def _make_classifier(self, args: ModelArgs) -> None:
        self.pooler = Pooler(args)
        self.classifier: Module = Linear(args.hidden_size, args.labels)

    def hidden(self, token_ids: mx.array, lengths: mx.array, second_from: mx.array) -> mx.array:
        mask = attention_mask(lengths, token_ids.shape[1])
        states: mx.array = self.encoder(self.embeddings(token_ids, second_from), mask)
        return states

    def classify(self, hidden: mx.array, lengths: mx.array) -> mx.array:
        logits: mx.array = self.classifier(self.pooler(hidden[:, 0]))
        return logits

    def sanitize(self, weights: dict[str, mx.array]) -> dict[str, mx.array]:
        kept = {strip_prefix(name, self.prefixes): value for name, value in weights.items()}
        unused = self.unused if self.args.labels else (*self.unused, "pooler.", "classifier.")
        return {_modern(name): value for name, value in kept.items() if not name.startswith(unused)}


def strip_prefix(name: str, prefixes: tuple[str, ...]) -> str:
    return next((name.removeprefix(prefix) for prefix in prefixes if name.startswith(prefix)), name)


def _modern(name: str) -> str:
    """Checkpoints converted from TensorFlow call a norm's parameters gamma and beta."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
