"""Batches of groups from worker processes, of texts of like length.

Every worker has its own seed. Whose batch comes next depends on the machine: the data does not.
"""

import multiprocessing as mp
import os
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from random import Random
from zlib import crc32

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.pooling.data.group import Group
from training.pooling.data.mix import draw

NEGATIVES = 2
Ids = NDArray[np.int16]


@dataclass(frozen=True)
class Batch:
    """``texts`` [2 + NEGATIVES, groups, columns], padded with 0: queries, texts that fit them, texts that do not."""

    texts: Ids
    keys: NDArray[np.int64]  # [groups, 2]: of a group's key, and of the wider one


@dataclass(frozen=True)
class Plan:
    """``sizes``: the longest text in tokens, and how many groups are in a batch of such."""

    tokenizer: Path
    workers: int
    seed: int
    sizes: tuple[tuple[int, int], ...]


def padded(rows: list[list[list[int]]]) -> Ids:
    columns = -(-max(len(ids) for row in rows for ids in row) // 8) * 8  # which attention kernels want
    texts = np.zeros((len(rows[0]), len(rows), columns), np.int16)
    for number, row in enumerate(rows):
        for part, ids in enumerate(row):
            texts[part, number, : len(ids)] = ids
    return texts


def chosen(rng: Random, group: Group) -> list[str]:
    if len(group.negatives) < NEGATIVES:
        return rng.choices(group.negatives, k=NEGATIVES)
    return rng.sample(group.negatives, NEGATIVES)


def work(plan: Plan, number: int, queue: "Queue[Batch]") -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_file(str(plan.tokenizer))
    tokenizer.enable_truncation(plan.sizes[-1][0])
    rng = Random(f"{plan.seed}/{number}")
    waiting: dict[int, list[tuple[list[list[int]], tuple[int, int]]]] = {length: [] for length, _ in plan.sizes}
    while True:
        drawn = [draw(rng, "train")[1] for _ in range(64)]
        texts = [(group.query, group.positive, *chosen(rng, group)) for group in drawn]
        encoded = iter([one.ids for one in tokenizer.encode_batch([text for row in texts for text in row])])
        for group, row in zip(drawn, texts, strict=True):
            ids = [next(encoded) for _ in row]
            length, size = next(one for one in plan.sizes if max(map(len, ids)) <= one[0])
            waiting[length].append((ids, (crc32(group.key.encode()), crc32(group.wider.encode()))))
            if len(waiting[length]) == size:
                rows, keys = zip(*waiting[length], strict=True)
                queue.put(Batch(padded(list(rows)), np.array(keys, np.int64)))
                waiting[length].clear()


def batches(plan: Plan) -> Iterator[Batch]:
    """For ever; the workers end with this process."""
    context = mp.get_context("spawn")
    queue: Queue[Batch] = context.Queue(maxsize=2 * plan.workers)
    for number in range(plan.workers):
        context.Process(target=work, args=(plan, number, queue), daemon=True).start()
    while True:
        yield queue.get()
