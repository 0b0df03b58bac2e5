"""Score the exported models on held-out phrasings, word pairs, names and sections, beside BM25, as Markdown and JSON.

Search: every query of a skill against its group's own negatives and the texts that fit the skill's other queries.
Ranking: the text that fits among those negatives and what BM25 (four) and the embedding model (four) find nearest.
Equal scores share their ranks' mean.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.pooling import bm25
from training.pooling.data.mix import NAMES, draw

Numbers = NDArray[Any]
Embed = Callable[[list[str]], Numbers]  # texts to vectors of length 1
Score = Callable[[list[tuple[str, str]]], Numbers]  # pairs of texts to numbers, the better the higher
CUTS = (96, 48)


@dataclass(frozen=True)
class Questions:
    """``right``: the number of each query's document; ``open`` [queries, documents]: where a document counts."""

    queries: list[str]
    documents: list[str]
    right: list[int]
    open: Numbers
    own: list[list[int]]


def questions(skill: str, count: int) -> Questions:
    rng = Random(f"evaluation/{skill}")
    groups = [draw(rng, "eval", skill)[1] for _ in range(count)]
    numbers: dict[str, int] = {}
    for group in groups:
        for text in (group.positive, *group.negatives):
            numbers.setdefault(text, len(numbers))
    allowed = np.zeros((count, len(numbers)), bool)
    for row, group in enumerate(groups):
        allowed[row, [numbers[other.positive] for other in groups if other.key != group.key]] = True
        allowed[row, [numbers[text] for text in (*group.negatives, group.positive)]] = True
    return Questions(
        [group.query for group in groups],
        list(numbers),
        [numbers[group.positive] for group in groups],
        allowed,
        [[numbers[text] for text in group.negatives if text != group.positive] for group in groups],
    )


def figures(scores: Numbers, right: list[int], allowed: Numbers) -> dict[str, float]:
    """Means over the queries; of equal scores, any order is as likely."""
    best = scores[np.arange(len(right)), right][:, None]
    above = ((scores > best) & allowed).sum(1)
    equal = ((scores == best) & allowed).sum(1)
    return {
        "recall@1": float(np.clip((1 - above) / equal, 0, 1).mean()),
        "recall@5": float(np.clip((5 - above) / equal, 0, 1).mean()),
        "mrr": float((1 / (above + (equal + 1) / 2)).mean()),
    }


def score_skill(skill: str, count: int, embed: Embed, score: Score) -> dict[str, Any]:
    asked = questions(skill, count)
    lexical = bm25.scores(asked.queries, asked.documents)
    queries, documents = embed(asked.queries), embed(asked.documents)
    near = queries @ documents.T
    search = {"bm25": figures(lexical, asked.right, asked.open)}
    search["embedding"] = figures(near, asked.right, asked.open)
    for size in CUTS:
        one, two = (
            part[:, :size] / np.linalg.norm(part[:, :size], axis=1, keepdims=True) for part in (queries, documents)
        )
        search[f"embedding, {size} dimensions"] = figures(one @ two.T, asked.right, asked.open)
    listed = np.zeros_like(asked.open)
    for row, own in enumerate(asked.own):
        for scores in (lexical, near):
            order = np.argsort(-np.where(asked.open[row], scores[row], -np.inf), kind="stable")
            listed[row, order[:4]] = True
        listed[row, [*own, asked.right[row]]] = True
    listed &= asked.open
    pairs = [(int(row), int(column)) for row, column in zip(*np.nonzero(listed), strict=True)]
    given = score([(asked.queries[row], asked.documents[column]) for row, column in pairs])
    deep = np.full(near.shape, -np.inf)
    for (row, column), value in zip(pairs, given, strict=True):
        deep[row, column] = value
    ranking = {
        name: figures(scores, asked.right, listed)
        for name, scores in (("bm25", lexical), ("embedding", near), ("reranker", deep))
    }
    wrong = [
        {"query": asked.queries[row], "right": asked.documents[asked.right[row]], "first": asked.documents[int(first)]}
        for row, first in enumerate(np.where(listed, deep, -np.inf).argmax(1))
        if first != asked.right[row]
    ]
    sizes = {"queries": count, "documents": len(asked.documents), "listed": float(listed.sum(1).mean())}
    return {"sizes": sizes, "search": search, "ranking": ranking, "wrong": wrong[:6]}


def torch_backend(embedder: Path, reranker: Path) -> tuple[Embed, Score]:
    import torch
    import torch.nn.functional as F
    from safetensors.torch import load_file
    from tokenizers import Tokenizer

    from training.pooling.model import Bert, Reranker, Shape

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = Tokenizer.from_file(str(embedder / "tokenizer.json"))
    tokenizer.enable_truncation(512)
    tokenizer.enable_padding(pad_id=0)
    bert, pairs = Bert(Shape()), Reranker(Bert(Shape()))
    bert.load_state_dict(load_file(embedder / "model.safetensors"))
    pairs.load_state_dict(load_file(reranker / "model.safetensors"))
    bert.to(device).eval()
    pairs.to(device).eval()

    def batched(inputs: list[Any], step: Callable[[list[Any]], Any]) -> Numbers:
        """Inputs of like lengths share a batch: padding costs as much as text."""
        order = np.argsort([len("".join(one)) for one in inputs], kind="stable")
        found: dict[int, Numbers] = {}
        with torch.no_grad():
            for at in range(0, len(inputs), 64):
                chosen = order[at : at + 64]
                results = step([inputs[number] for number in chosen]).cpu().numpy()
                found.update(zip(chosen.tolist(), results, strict=True))
        return np.stack([found[number] for number in range(len(inputs))])

    def vectors(texts: list[str]) -> Any:
        ids = torch.tensor([one.ids for one in tokenizer.encode_batch(texts)], device=device)
        return F.normalize(bert.vectors(ids), dim=-1)

    def fits(texts: list[tuple[str, str]]) -> Any:
        encodings = tokenizer.encode_batch(texts)
        ids = torch.tensor([one.ids for one in encodings], device=device)
        return torch.sigmoid(pairs(ids, torch.tensor([one.type_ids for one in encodings], device=device)))

    return lambda texts: batched(texts, vectors), lambda texts: batched(texts, fits)


def table(results: dict[str, dict[str, Any]], part: str, methods: tuple[str, ...]) -> str:
    lines = [f"| skill | {' | '.join(methods)} |", "| --- |" + " --- |" * len(methods)]
    for skill, result in results.items():
        cells = []
        for method in methods:
            one = result[part][method]
            cells.append(" / ".join(f"{100 * one[name]:.0f}" for name in ("recall@1", "recall@5", "mrr")))
        lines.append(f"| {skill} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embedder", type=Path, required=True)
    parser.add_argument("--reranker", type=Path, required=True)
    parser.add_argument("--count", type=int, default=300, help="queries per skill")
    parser.add_argument("--skills", nargs="*", default=NAMES)
    parser.add_argument("--json", type=Path, help="write the scores and some wrong answers here")
    args = parser.parse_args()
    embed, score = torch_backend(args.embedder, args.reranker)
    results = {skill: score_skill(skill, args.count, embed, score) for skill in args.skills}
    print("search: recall@1 / recall@5 / MRR in %\n")
    print(table(results, "search", ("bm25", "embedding", *(f"embedding, {size} dimensions" for size in CUTS))))
    print("\nranking of short lists: right first / among five / MRR in %\n")
    print(table(results, "ranking", ("bm25", "embedding", "reranker")))
    if args.json:
        args.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
