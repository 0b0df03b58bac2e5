"""Train the demo model from scratch on one GPU; the data is made on the fly by worker processes."""

import argparse
import math
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from training.batches import Batch, Plan, batches
from training.export import export
from training.model import Mask, Qwen3, Shape
from training.render import MODEL_DIR


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=15_000)
    parser.add_argument("--rows", type=int, default=8, help="rows in a batch")
    parser.add_argument("--length", type=int, default=8192, help="tokens in a row, the longest sample")
    parser.add_argument("--rate", type=float, default=3e-3, help="highest learning rate")
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--decay", type=float, default=0.1, help="weight decay")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--log-every", type=int, default=100)
    parser.add_argument("--checkpoint", type=Path, help="also save the weights here, in full precision")
    parser.add_argument("--out", type=Path, default=MODEL_DIR)
    return parser.parse_args()


def rate_at(step: int, steps: int, warmup: int) -> float:
    """Linear up, then along a cosine down to 2 % of the highest rate."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def document_mask(document: Tensor, build: Any) -> Mask:
    """Causal attention that stays inside a sample."""
    rows, length = document.shape
    if document.device.type == "cpu":
        return (document[:, None, :, None] == document[:, None, None, :]) & torch.ones(length, length).tril().bool()

    def allowed(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        del h
        return (q >= k) & (document[b, q] == document[b, k])

    mask: BlockMask = build(allowed, rows, None, length, length, device=document.device)
    return mask


def optimiser(model: Qwen3, rate: float, decay: float, fused: bool) -> torch.optim.Optimizer:
    """Weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), eps=1e-9, fused=fused)


def to_device(batch: Batch, device: torch.device) -> tuple[Tensor, ...]:
    arrays = (batch.tokens, batch.positions, batch.document, batch.places, batch.targets)
    return tuple(torch.from_numpy(array).to(device, non_blocking=True) for array in arrays)


def train(args: argparse.Namespace) -> Qwen3:
    torch.manual_seed(args.seed)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    torch.set_float32_matmul_precision("high")
    model = Qwen3(Shape()).to(device)
    forward: Any = torch.compile(model) if cuda else model
    build: Any = torch.compile(create_block_mask) if cuda else create_block_mask
    adam = optimiser(model, args.rate, args.decay, cuda)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, lambda step: rate_at(step, args.steps, args.warmup))
    source = batches(Plan(args.rows, args.length, args.workers, args.seed))
    start = mark = time.time()
    losses: list[Tensor] = []
    for step in range(args.steps):
        tokens, positions, document, places, targets = to_device(next(source), device)
        mask = document_mask(document, build)
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            hidden = forward(tokens, positions, mask).flatten(0, 1)[places]
            logits = F.linear(hidden, model.embed_tokens.weight)
        loss = F.cross_entropy(logits.float(), targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        schedule.step()
        adam.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        if (step + 1) % args.log_every == 0 or step + 1 == args.steps:
            mean = torch.stack(losses).mean().item()
            now = time.time()
            speed = len(losses) * args.rows * args.length / (now - mark) / 1e6
            print(f"step {step + 1} loss {mean:.4f} {speed:.2f} M tokens/s {now - start:.0f} s", flush=True)
            losses.clear()
            mark = now
    return model


def main() -> None:
    args = options()
    model = train(args)
    weights = dict(model.named_parameters())
    print(f"{sum(p.numel() for p in weights.values())} parameters")
    if args.checkpoint:
        torch.save({"weights": weights, "shape": asdict(model.shape)}, args.checkpoint)
    export(weights, model.shape, args.out)


if __name__ == "__main__":
    main()
