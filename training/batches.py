"""Packed batches from worker processes.

Every worker has its own seed, and they are read in turn, so that a run can be repeated.
"""

import multiprocessing as mp
import os
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.queues import Queue
from random import Random

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training import render
from training.data.mix import draw
from training.render import MODEL_DIR


@dataclass(frozen=True)
class Batch:
    """Rows of several samples one after the other. `document` numbers them within a row; attention stays inside one."""

    tokens: NDArray[np.int64]  # (rows, length)
    positions: NDArray[np.int64]  # (rows, length), from 0 in each sample
    document: NDArray[np.int32]  # (rows, length), -1 for padding
    places: NDArray[np.int64]  # flat indices whose next token is a target
    targets: NDArray[np.int64]  # those next tokens


@dataclass(frozen=True)
class Plan:
    rows: int
    length: int
    workers: int
    seed: int


Encoded = tuple[list[int], int]  # tokens, and how many of them are the prompt


def encode(tokenizer: Tokenizer, rng: Random, longest: int) -> Encoded:
    while True:
        sample = draw(rng, "train")
        before = tokenizer.encode(render.prompt(sample), add_special_tokens=False).ids
        after = tokenizer.encode(render.completion(sample), add_special_tokens=False).ids
        if len(before) + len(after) <= longest:
            return before + after, len(before)


def pack(rows: list[list[Encoded]], plan: Plan) -> Batch:
    shape = (plan.rows, plan.length)
    tokens, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    document = np.full(shape, -1, np.int32)
    places: list[NDArray[np.int64]] = []
    targets: list[NDArray[np.int64]] = []
    for r, row in enumerate(rows):
        at = 0
        for number, (ids, prompt) in enumerate(row):
            end = at + len(ids)
            tokens[r, at:end] = ids
            positions[r, at:end] = np.arange(len(ids))
            document[r, at:end] = number
            places.append(np.arange(r * plan.length + at + prompt - 1, r * plan.length + end - 1))
            targets.append(np.asarray(ids[prompt:]))
            at = end
    return Batch(tokens, positions, document, np.concatenate(places), np.concatenate(targets))


def fill(plan: Plan, tokenizer: Tokenizer, rng: Random, waiting: list[Encoded]) -> list[list[Encoded]]:
    """Fill every row, first fit; what fits nowhere waits for the next batch."""
    rows: list[list[Encoded]] = [[] for _ in range(plan.rows)]
    room = [plan.length] * plan.rows
    misfits: list[Encoded] = []
    while len(misfits) < 8:
        item = waiting.pop() if waiting else encode(tokenizer, rng, plan.length)
        place = next((r for r in range(plan.rows) if room[r] >= len(item[0])), None)
        if place is None:
            misfits.append(item)
            continue
        rows[place].append(item)
        room[place] -= len(item[0])
    waiting.extend(misfits)
    return rows


def work(plan: Plan, number: int, queue: "Queue[Batch]") -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json"))
    rng = Random(f"{plan.seed}/{number}")
    waiting: list[Encoded] = []
    while True:
        queue.put(pack(fill(plan, tokenizer, rng, waiting), plan))


def batches(plan: Plan) -> Iterator[Batch]:
    context = mp.get_context("spawn")
    queues: list[Queue[Batch]] = [context.Queue(maxsize=4) for _ in range(plan.workers)]
    for number, queue in enumerate(queues):
        context.Process(target=work, args=(plan, number, queue), daemon=True).start()
    while True:
        for queue in queues:
            yield queue.get()
