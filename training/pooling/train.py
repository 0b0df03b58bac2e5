"""Train the embedding model from scratch on one GPU, and from its encoder the reranker; the data is made meanwhile."""

import argparse
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from training.pooling.batches import Batch, Plan, batches
from training.pooling.export import export_embedder, export_reranker
from training.pooling.model import Bert, Reranker, Shape, joined

DIMENSIONS = (192, 96, 48)  # a vector's first numbers that are a vector by themselves
SCALE = 20.0  # cosines to logits
SIZES = ((20, 2048), (40, 1024), (112, 384), (512, 96))  # tokens in a text at most, groups in a batch
RERANKED = 100_000  # tokens in a batch of pairs, with padding


@dataclass(frozen=True)
class Run:
    """``seconds`` are counted from the first batch on."""

    name: str
    seconds: float
    rate: float
    log_every: float


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--embedder", type=Path, required=True, help="the directory to write")
    parser.add_argument("--reranker", type=Path, required=True, help="the directory to write")
    parser.add_argument("--reranker-only", action="store_true", help="from the embedding model that is there")
    parser.add_argument("--seconds", type=float, nargs=2, default=(75.0, 110.0), help="for the two")
    parser.add_argument("--rates", type=float, nargs=2, default=(1e-3, 7e-4), help="highest learning rates")
    parser.add_argument("--share", type=float, default=1.0, help="of the usual batch; less for a trial on a CPU")
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 2) - 2))
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--log-every", type=float, default=5.0, help="seconds")
    return parser.parse_args()


def rate_at(done: float) -> float:
    """Linear up over the first 6 % of the time, then along a cosine down to 1 % of the highest rate."""
    return done / 0.06 if done < 0.06 else 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def optimiser(model: nn.Module, rate: float, fused: bool) -> torch.optim.Optimizer:
    """Weight decay on matrices only."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=fused)


def fit(model: nn.Module, source: Iterator[Batch], loss_of: Callable[[Tensor, Tensor], Tensor], run: Run) -> None:
    """``loss_of`` takes texts [parts, groups, columns] and keys [groups, 2]."""
    device = next(model.parameters()).device
    adam = optimiser(model, run.rate, device.type == "cuda")
    losses: list[Tensor] = []
    steps = groups = 0
    first = next(source)
    start = mark = time.monotonic()
    for batch in chain([first], source):
        done = (time.monotonic() - start) / run.seconds
        if done >= 1:
            break
        texts = torch.from_numpy(batch.texts).to(device, non_blocking=True).long()
        keys = torch.from_numpy(batch.keys).to(device, non_blocking=True)
        for group in adam.param_groups:
            group["lr"] = run.rate * rate_at(done)
        loss = loss_of(texts, keys)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad(set_to_none=True)
        losses.append(loss.detach())
        steps, groups = steps + 1, groups + texts.shape[1]
        if time.monotonic() - mark >= run.log_every:
            mean = torch.stack(losses).mean().item()
            mark = time.monotonic()
            print(f"{run.name} {mark - start:.0f} s: step {steps}, {groups} groups, loss {mean:.4f}", flush=True)
            losses.clear()
    print(f"{run.name}: {steps} steps, {groups} groups", flush=True)


def unlike(keys: Tensor) -> Tensor:
    """Where groups [groups, groups] are other groups whose texts are known not to fit. ``keys`` [groups, 2]."""
    key, wider = keys.T
    within = key[:, None] == wider[None, :]
    return (key[:, None] != key[None, :]) & ~within & ~within.T


def contrast(texts: Tensor, keys: Tensor, bert: Bert) -> Tensor:
    """A query is nearest to its text, among its negatives and the others' texts; a text to its query. In several
    dimensions."""
    parts, groups, columns = texts.shape
    vectors = bert.vectors(texts.reshape(-1, columns)).view(parts, groups, -1)
    own = torch.arange(groups, device=texts.device)
    excluded = ~unlike(keys)
    excluded[own, own] = False
    total = vectors.new_zeros(())
    for size in DIMENSIONS:
        queries, found, *negatives = (F.normalize(part[:, :size], dim=-1) for part in vectors)
        scores = (SCALE * queries @ found.T).masked_fill(excluded, -1e4)
        wrong = [SCALE * (queries * negative).sum(-1, keepdim=True) for negative in negatives]
        total = total + F.cross_entropy(torch.cat((scores, *wrong), dim=1), own)
        total = total + 0.5 * F.cross_entropy(scores.T, own)
    return total / len(DIMENSIONS)


class Lists:
    """Lists for the reranker: a query's text, its negatives, and others' texts that the embedding model finds near."""

    def __init__(self, embedder: Bert, tokens: int, mined: int) -> None:
        self._embedder = embedder
        self._tokens = tokens
        self._mined = mined

    @torch.no_grad()
    def nearest(self, texts: Tensor, keys: Tensor) -> Tensor:
        """Numbers of texts [groups, mined]. Half are near; the others are anything."""
        queries, found = (F.normalize(self._embedder.vectors(part), dim=-1) for part in texts[:2])
        scores = (queries @ found.T).masked_fill(~unlike(keys), -1e4)
        scores = scores + torch.rand_like(scores) * torch.rand_like(scores[:, :1]) * 2.0
        return scores.topk(self._mined).indices

    def make(self, texts: Tensor, keys: Tensor) -> Tensor:
        """[lists, 1 + documents, columns]: queries, then the documents; the first one fits."""
        parts, _, columns = texts.shape
        lists = max(4, self._tokens // ((parts - 1 + self._mined) * min(512, 2 * columns)))
        nearest = self.nearest(texts, keys)[:lists]
        return torch.cat((texts[:, :lists].transpose(0, 1), texts[1][nearest]), dim=1)


def ranking_loss(lists: Tensor, reranker: Reranker) -> Tensor:
    """The text that fits comes first, and a score is a probability."""
    rows, parts, columns = lists.shape
    queries = lists[:, :1].expand(-1, parts - 1, -1).reshape(-1, columns)
    logits = reranker(*joined(queries, lists[:, 1:].reshape(-1, columns))).view(rows, parts - 1)
    fits = torch.zeros_like(logits)
    fits[:, 0] = 1
    order = F.cross_entropy(logits, torch.zeros(rows, dtype=torch.long, device=lists.device))
    return order + 0.5 * F.binary_cross_entropy_with_logits(logits, fits)


def main() -> None:
    args = options()
    torch.manual_seed(args.seed)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes = tuple((length, max(8, int(size * args.share))) for length, size in SIZES)
    source = batches(Plan(args.tokenizer, args.workers, args.seed, sizes))
    bert = Bert(Shape()).to(device)
    print(f"{sum(p.numel() for p in bert.parameters())} parameters", flush=True)
    if args.reranker_only:
        bert.load_state_dict(load_file(args.embedder / "model.safetensors"))
    else:
        run = Run("embedder", args.seconds[0], args.rates[0], args.log_every)
        fit(bert, source, lambda texts, keys: contrast(texts, keys, bert), run)
        export_embedder(bert, DIMENSIONS, args.embedder)

    copy = Bert(Shape()).to(device)
    copy.load_state_dict(bert.state_dict())
    reranker = Reranker(copy).to(device)
    lists = Lists(bert.requires_grad_(False), int(RERANKED * args.share), 4)
    run = Run("reranker", args.seconds[1], args.rates[1], args.log_every)
    fit(reranker, source, lambda texts, keys: ranking_loss(lists.make(texts, keys), reranker), run)
    export_reranker(reranker, args.reranker)


if __name__ == "__main__":
    main()
