"""Train the demo vision model from scratch on one GPU, in a given time; worker processes make the data on the fly."""

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import fields
from itertools import chain, repeat
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.vision.batches import NO_TARGET, Chunk, Plan, batches
from training.vision.evaluate import scores, table, twin_backend
from training.vision.export import export
from training.vision.files import MODEL_DIR
from training.vision.model import Idefics3, TextShape, VisionShape

EMPTY = 0.05  # what an empty patch weighs in the second loss: most are empty


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=330, help="training time; the rate falls to its end")
    parser.add_argument("--steps", type=int, default=0, help="stop after so many steps, 0 for no limit")
    parser.add_argument("--chunks", type=int, default=4, help="chunks in a batch")
    parser.add_argument("--rows", type=int, default=64, help="conversations in a chunk")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="highest learning rate")
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--decay", type=float, default=0.05, help="weight decay")
    parser.add_argument("--patch-loss", type=float, default=0.3, help="weight of the second loss, which fades out")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--log-seconds", type=float, default=5)
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    parser.add_argument("--fixed", action="store_true", help="see the first batch only: a trial that must learn it")
    parser.add_argument("--count", type=int, default=100, help="held-out samples a skill at the end, 0 for none")
    parser.add_argument("--scores", type=Path, help="write every answer of the evaluation here")
    parser.add_argument("--checkpoint", type=Path, help="also save the weights here, in full precision")
    parser.add_argument("--start", type=Path, help="go on from this checkpoint")
    parser.add_argument("--out", type=Path, default=MODEL_DIR)
    return parser.parse_args()


def rate_at(step: int, done: float, warmup: int) -> float:
    """Linear up over the first steps, then with the share of the time along a cosine down to 1 %."""
    return min(1.0, (step + 1) / warmup) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def optimiser(model: Idefics3, args: argparse.Namespace, fused: bool) -> torch.optim.Optimizer:
    """Weight decay on matrices only."""
    groups = [
        {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": args.decay},
        {"params": [p for p in model.parameters() if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=args.rate, betas=(0.9, 0.98), eps=1e-9, fused=fused)


def ahead(source: Iterator[Chunk], device: torch.device) -> Iterator[dict[str, Tensor]]:
    """Batches on the device, made ready by a thread."""
    queue: Queue[dict[str, Tensor] | None] = Queue(3)

    def move() -> None:
        try:
            for batch in source:
                tensors = {f.name: torch.from_numpy(getattr(batch, f.name)) for f in fields(Chunk)}
                queue.put({name: value.to(device) for name, value in tensors.items()})
        finally:
            queue.put(None)

    Thread(target=move, daemon=True).start()
    while (batch := queue.get()) is not None:
        yield batch
    raise RuntimeError("the workers have stopped")


def losses(forward: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Of the answers, and of what stands in the patches."""
    logits, patches = forward(batch["images"], batch["tokens"].int(), batch["places"])
    answers = F.cross_entropy(logits.flatten(0, 1).float(), batch["targets"].flatten().long(), ignore_index=NO_TARGET)
    seen = []
    for index, patch in enumerate(patches):
        weight = torch.ones(patch.shape[-1], device=patch.device)
        weight[0] = EMPTY
        seen.append(F.cross_entropy(patch.flatten(0, 1).float(), batch["labels"][:, index].flatten().long(), weight))
    return answers, torch.stack(seen).sum()


def train(args: argparse.Namespace) -> Idefics3:
    source = batches(Plan(rows=args.rows, images=args.rows * 3 // 2, workers=args.workers, seed=args.seed), args.chunks)
    first = next(source)  # the workers must be forked before CUDA starts
    torch.manual_seed(args.seed)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    torch.set_float32_matmul_precision("high")
    model = Idefics3(VisionShape(), TextShape()).to(device)
    if args.start:
        model.load_state_dict(torch.load(args.start, map_location=device, weights_only=True))
    whole: Any = losses
    if cuda and not args.eager:
        torch._dynamo.config.suppress_errors = True  # without a compiler it is slower, no more
        whole = torch.compile(losses)
    adam = optimiser(model, args, cuda)
    ready = ahead(repeat(first) if args.fixed else chain([first], source), device)
    start = mark = time.time()
    sums, since, step, waited = torch.zeros(2, device=device), 0, 0, 0.0
    while True:
        asked = time.time()
        done = (asked - start) / args.seconds
        if done >= 1 or (args.steps and step >= args.steps):
            return model
        batch = next(ready)
        waited += time.time() - asked
        for group in adam.param_groups:
            group["lr"] = args.rate * rate_at(step, done, args.warmup)
        with torch.autocast(device.type, torch.bfloat16, enabled=cuda):
            answers, seen = whole(model, batch)
        (answers + args.patch_loss * max(0.1, 1 - 1.5 * done) * seen).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        sums += torch.stack((answers.detach(), seen.detach()))
        since, step = since + 1, step + 1
        if time.time() - mark >= args.log_seconds:
            if cuda:
                torch.cuda.synchronize()
            now = time.time()
            answer, patch = (sums / since).tolist()
            rows = since * args.rows * args.chunks / (now - mark)
            print(
                f"{now - start:.0f} s step {step} loss {answer:.4f} patches {patch:.4f}"
                f" {rows:.0f} rows/s, waited {waited / (now - mark):.0%}",
                flush=True,
            )
            sums.zero_()
            since, mark, waited = 0, now, 0.0


def main() -> None:
    args = options()
    model = train(args)
    if args.checkpoint:
        torch.save(model.state_dict(), args.checkpoint)
    export(model, args.out)
    if args.count:
        outcomes = scores(twin_backend(model), args.count)
        if args.scores:
            args.scores.write_text(json.dumps(outcomes, indent=1), encoding="utf-8")
        print(table(outcomes), flush=True)


if __name__ == "__main__":
    main()
