"""Idefics3 in PyTorch, just what training needs: parameter names are those of the published files."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.model import MLP, rotate
from training.vision.draw import GRID, LETTER_CLASSES, SIDE, THING_CLASSES

PATCH = SIDE // GRID


@dataclass(frozen=True)
class VisionShape:
    hidden_size: int = 192
    intermediate_size: int = 512
    num_hidden_layers: int = 4
    num_attention_heads: int = 3
    layer_norm_eps: float = 1e-5


@dataclass(frozen=True)
class TextShape:
    """Every head has its own keys and values."""

    vocab_size: int = 1024
    hidden_size: int = 192
    intermediate_size: int = 416
    num_hidden_layers: int = 5
    num_attention_heads: int = 3
    rope_theta: float = 10_000.0
    rms_norm_eps: float = 1e-6


def heads_of(x: Tensor, heads: int) -> Tensor:
    """(batch, length, width) to (batch, heads, length, head_dim)."""
    batch, length, width = x.shape
    return x.view(batch, length, heads, width // heads).transpose(1, 2)


def merged(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(2)


class VisionAttention(nn.Module):
    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.heads = shape.num_attention_heads
        width = shape.hidden_size
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (heads_of(part(x), self.heads) for part in (self.q_proj, self.k_proj, self.v_proj))
        return self.out_proj(merged(F.scaled_dot_product_attention(q, k, v)))


class VisionMLP(nn.Module):
    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.fc1 = nn.Linear(shape.hidden_size, shape.intermediate_size)
        self.fc2 = nn.Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class VisionLayer(nn.Module):
    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.self_attn = VisionAttention(shape)
        self.layer_norm2 = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)
        self.mlp = VisionMLP(shape)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class VisionModel(nn.Module):
    """(images, SIDE, SIDE, 3) in -1 to 1 to (images, GRID * GRID, hidden)."""

    def __init__(self, shape: VisionShape) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "patch_embedding": nn.Conv2d(3, shape.hidden_size, PATCH, PATCH),
                "position_embedding": nn.Embedding(GRID * GRID, shape.hidden_size),
            }
        )
        self.encoder = nn.ModuleDict(
            {"layers": nn.ModuleList([VisionLayer(shape) for _ in range(shape.num_hidden_layers)])}
        )
        self.post_layernorm = nn.LayerNorm(shape.hidden_size, eps=shape.layer_norm_eps)

    def forward(self, images: Tensor) -> Tensor:
        patches = (
            images.view(-1, GRID, PATCH, GRID, PATCH, 3)
            .permute(0, 1, 3, 5, 2, 4)
            .reshape(-1, GRID * GRID, 3 * PATCH**2)
        )
        first = self.embeddings["patch_embedding"]
        x = F.linear(patches, first.weight.flatten(1), first.bias) + self.embeddings["position_embedding"].weight
        for layer in self.encoder["layers"]:
            x = layer(x)
        return self.post_layernorm(x)


class Attention(nn.Module):
    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.heads = shape.num_attention_heads
        width = shape.hidden_size
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        q, k, v = (heads_of(part(x), self.heads) for part in (self.q_proj, self.k_proj, self.v_proj))
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        return self.o_proj(merged(F.scaled_dot_product_attention(q, k, v, is_causal=True)))


class Layer(nn.Module):
    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.self_attn = Attention(shape)
        self.mlp = MLP(shape)  # type: ignore[arg-type]
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class TextModel(nn.Module):
    def __init__(self, shape: TextShape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList([Layer(shape) for _ in range(shape.num_hidden_layers)])
        self.norm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        half = self.shape.hidden_size // self.shape.num_attention_heads // 2
        steps = torch.arange(half, device=x.device, dtype=torch.float32) / half
        angles = torch.arange(x.shape[1], device=x.device)[:, None].float() * self.shape.rope_theta**-steps
        cos, sin = angles.cos(), angles.sin()
        for layer in self.layers:
            x = layer(x, cos, sin)
        return self.norm(x)


class Idefics3(nn.Module):
    """`patch_heads` say what stands in each patch. They are for training only: the model learns to see much sooner
    when it is asked directly.
    """

    def __init__(self, vision: VisionShape, text: TextShape) -> None:
        super().__init__()
        self.vision_shape, self.text_shape = vision, text
        connector = nn.Linear(vision.hidden_size, text.hidden_size, bias=False)
        self.model = nn.ModuleDict(
            {
                "vision_model": VisionModel(vision),
                "connector": nn.ModuleDict({"modality_projection": nn.ModuleDict({"proj": connector})}),
                "text_model": TextModel(text),
            }
        )
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.patch_heads = nn.ModuleList([nn.Linear(text.hidden_size, n) for n in (THING_CLASSES, LETTER_CLASSES)])
        self.apply(self._init)
        for layer in self.model["text_model"].layers:
            for last in (layer.self_attn.o_proj, layer.mlp.down_proj):
                nn.init.normal_(last.weight, std=0.02 / (2 * text.num_hidden_layers) ** 0.5)

    @staticmethod
    def _init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)

    def features(self, images: Tensor) -> Tensor:
        """(images, SIDE, SIDE, 3) of uint8 to (images, patches, width of the text model)."""
        return self.model["connector"]["modality_projection"]["proj"](
            self.model["vision_model"](images.float() / 127.5 - 1)
        )

    def forward(self, images: Tensor, tokens: Tensor, places: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits (rows, length, vocabulary) and one tensor of patch logits (images, patches, classes) per head.

        images: uint8 (images, SIDE, SIDE, 3). tokens: (rows, length). places: (rows, length), which of all patches
        of all images stands at a token, -1 for none.
        """
        features = self.features(images)
        embedded = self.model["text_model"].embed_tokens(tokens)
        seen = features.flatten(0, 1)[places.clamp_min(0)].to(embedded.dtype)
        hidden = self.model["text_model"](torch.where((places >= 0)[..., None], seen, embedded))
        return self.lm_head(hidden), [head(features) for head in self.patch_heads]
