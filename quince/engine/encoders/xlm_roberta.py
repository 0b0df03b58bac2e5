"""XLM-RoBERTa (Conneau et al., 2019) and RoBERTa: BERT with positions that begin after the padding's own, and with
another classifier."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.nn.layers.linear import Linear

from quince.engine.encoders import bert


@dataclass
class ModelArgs(bert.ModelArgs):
    layer_norm_eps: float = 1e-5
    type_vocab_size: int = 1

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> Self:
        made = super().from_dict(config)
        padding = config.get("pad_token_id")
        made.first_position = (1 if padding is None else int(padding)) + 1
        return made


class ClassificationHead(Module):
    def __init__(self, args: bert.ModelArgs) -> None:
        super().__init__()
        self.dense = Linear(args.hidden_size, args.hidden_size)
        self.out_proj = Linear(args.hidden_size, args.labels)

    def __call__(self, first: mx.array) -> mx.array:
        logits: mx.array = self.out_proj(mx.tanh(self.dense(first)))
        return logits


class Model(bert.Model):
    prefixes = ("roberta.",)
    unused = (*bert.Model.unused, "pooler.")

    def _make_classifier(self, args: bert.ModelArgs) -> None:
        self.classifier = ClassificationHead(args)

    def classify(self, hidden: mx.array, lengths: mx.array) -> mx.array:
        logits: mx.array = self.classifier(hidden[:, 0])
        return logits
