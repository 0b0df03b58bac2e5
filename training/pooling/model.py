"""BERT in PyTorch, just what training needs: parameter names are those of the published architecture."""

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    vocab_size: int = 6144
    hidden_size: int = 192
    num_hidden_layers: int = 4
    num_attention_heads: int = 6
    intermediate_size: int = 768
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12

    def config(self) -> dict[str, Any]:
        return {"model_type": "bert", **asdict(self)}


class Embeddings(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.position_embeddings = nn.Embedding(shape.max_position_embeddings, shape.hidden_size)
        self.token_type_embeddings = nn.Embedding(shape.type_vocab_size, shape.hidden_size)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)

    def forward(self, tokens: Tensor, types: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        states = self.word_embeddings(tokens) + self.token_type_embeddings(types) + self.position_embeddings(places)
        return self.LayerNorm(states)


class SelfAttention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.num_attention_heads
        self.query = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.key = nn.Linear(shape.hidden_size, shape.hidden_size)
        self.value = nn.Linear(shape.hidden_size, shape.hidden_size)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        rows, columns, size = states.shape
        q, k, v = (
            project(states).view(rows, columns, self.heads, -1).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(rows, columns, size)


class AddAndNorm(nn.Module):
    def __init__(self, shape: Shape, input_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, shape.hidden_size)
        self.LayerNorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)

    def forward(self, states: Tensor, before: Tensor) -> Tensor:
        return self.LayerNorm(self.dense(states) + before)


class Attention(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.self = SelfAttention(shape)
        self.output = AddAndNorm(shape, shape.hidden_size)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        return self.output(self.self(states, mask), states)


class Intermediate(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dense = nn.Linear(shape.hidden_size, shape.intermediate_size)

    def forward(self, states: Tensor) -> Tensor:
        return F.gelu(self.dense(states))


class Layer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention = Attention(shape)
        self.intermediate = Intermediate(shape)
        self.output = AddAndNorm(shape, shape.intermediate_size)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        states = self.attention(states, mask)
        return self.output(self.intermediate(states), states)


class Encoder(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.layer = nn.ModuleList([Layer(shape) for _ in range(shape.num_hidden_layers)])

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        for layer in self.layer:
            states = layer(states, mask)
        return states


class Bert(nn.Module):
    """Token ids [rows, columns] with 0 for padding to states [rows, columns, hidden_size].

    The states are float32; on a GPU, training computes them in bfloat16.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embeddings = Embeddings(shape)
        self.encoder = Encoder(shape)
        self.apply(_init)

    def forward(self, tokens: Tensor, types: Tensor) -> Tensor:
        mask = (tokens != 0)[:, None, None, :]
        low = self.training and tokens.device.type == "cuda"
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=low):
            return self.encoder(self.embeddings(tokens, types), mask).float()

    def vectors(self, tokens: Tensor) -> Tensor:
        """The mean of a text's token states, not of length 1 yet: [rows, hidden_size]."""
        inside = (tokens != 0)[..., None]
        states = self(tokens, torch.zeros_like(tokens))
        return (states * inside).sum(1) / inside.sum(1)


class Pooler(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.dense = nn.Linear(shape.hidden_size, shape.hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        return torch.tanh(self.dense(first))


class Reranker(nn.Module):
    """One logit for each pair of texts."""

    def __init__(self, bert: Bert) -> None:
        super().__init__()
        self.bert = bert
        self.bert.pooler = Pooler(bert.shape)
        self.classifier = nn.Linear(bert.shape.hidden_size, 1)
        self.bert.pooler.apply(_init)
        self.classifier.apply(_init)

    def forward(self, tokens: Tensor, types: Tensor) -> Tensor:
        first = self.bert(tokens, types)[:, 0]
        return self.classifier(self.bert.pooler(first))[:, 0]


def _init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=module.in_features**-0.5 / 2)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)


def joined(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of two texts, each [CLS] text [SEP] and padded, to rows of one input and its token types.

    Inputs that would be longer than the positions lose the end of the second text, but for its [SEP].
    """
    one, two = (first != 0).sum(1, keepdim=True), (second != 0).sum(1, keepdim=True)
    limit = 512
    total = (one + two - 1).clamp(max=limit)
    columns = torch.arange(-(-int(total.max()) // 8) * 8, device=first.device)[None, :]
    from_first = first.gather(1, columns.clamp(max=first.shape[1] - 1).expand(len(first), -1))
    places = (columns - one + 1).clamp(0, second.shape[1] - 1)
    tokens = torch.where(columns < one, from_first, second.gather(1, places))
    tokens = torch.where(columns < total, tokens, 0)
    last = first.gather(1, one - 1)  # [SEP]
    tokens = torch.where(columns == total - 1, last, tokens)
    return tokens, ((columns >= one) & (columns < total)).long()
