"""Batches from worker processes: each draws, encodes and writes chunks into memory that it shares with the trainer.

Every worker has its own seed, and they are read in turn, so that a run can be repeated. The memory is an anonymous
shared mapping, which needs a forked child but no room in /dev/shm: start the workers before CUDA is touched.
"""

import mmap
import multiprocessing as mp
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from multiprocessing.connection import Connection
from random import Random

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from training.vision.conversations import Conversation, draw
from training.vision.draw import GRID, SIDE, labels, pixels
from training.vision.files import END, EXPANDED, IMAGE, IMAGE_TOKENS, MODEL_DIR, START, STOP

NO_TARGET = -1


@dataclass(frozen=True)
class Plan:
    rows: int = 64  # in a chunk
    length: int = 320
    images: int = 96  # in a chunk
    workers: int = 1
    slots: int = 4  # chunks that wait, per worker
    seed: int = 7


@dataclass(frozen=True)
class Chunk:
    images: NDArray[np.uint8]  # (images, SIDE, SIDE, 3)
    labels: NDArray[np.uint8]  # (images, 2, GRID, GRID)
    tokens: NDArray[np.int16]  # (rows, length)
    targets: NDArray[np.int16]  # (rows, length), NO_TARGET where no loss is taken
    places: NDArray[np.int32]  # (rows, length), patch of the chunk's images at a token, -1 for none


def chunk_in(memory: memoryview, plan: Plan) -> Chunk:
    """The arrays of a chunk as views of `memory`."""
    shapes = (
        ((plan.images, SIDE, SIDE, 3), np.uint8),
        ((plan.images, 2, GRID, GRID), np.uint8),
        ((plan.rows, plan.length), np.int16),
        ((plan.rows, plan.length), np.int16),
        ((plan.rows, plan.length), np.int32),
    )
    arrays, at = [], 0
    for shape, kind in shapes:
        count = int(np.prod(shape))
        arrays.append(np.frombuffer(memory, kind, count, at).reshape(shape))
        at += count * np.dtype(kind).itemsize
    return Chunk(*arrays)


def chunk_bytes(plan: Plan) -> int:
    return plan.images * (SIDE * SIDE * 3 + 2 * GRID * GRID) + plan.rows * plan.length * 8


class Encoder:
    """A conversation's tokens, as the chat template and the tokeniser give them, and which of them are answers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.text = lru_cache(100_000)(lambda text: tuple(tokenizer.encode(text, add_special_tokens=False).ids))
        self.start, self.end, self.image, self.stop = (
            tokenizer.token_to_id(mark) for mark in (START, END, IMAGE, STOP)
        )

    def __call__(self, conversation: Conversation, longest: int) -> tuple[list[int], list[bool], int]:
        """As many turns as fit: (tokens, whether each is wanted as output, how many turns)."""
        tokens: list[int] = []
        wanted: list[bool] = []
        line = self.text("\n")
        if conversation.system:
            tokens += (self.start, *self.text("system\n" + conversation.system), self.end, *line)
            wanted = [False] * len(tokens)
        for number, turn in enumerate(conversation.turns):
            images = self.text(EXPANDED) * len(turn.images)
            question = turn.exchange.question
            asked = [*self.text("user\n"), *images, *self.text(question)] if images else self.text("user\n" + question)
            before = [self.start, *asked, self.end, *line, self.start, *self.text("assistant\n")]
            answer = [*self.text(turn.exchange.answer), self.end]
            if len(tokens) + len(before) + len(answer) + len(line) > longest:
                return tokens, wanted, number
            tokens += [*before, *answer, *line]
            wanted += [False] * len(before) + [True] * len(answer) + [False] * len(line)
        return tokens, wanted, len(conversation.turns)


def fill(chunk: Chunk, encoder: Encoder, rng: Random) -> None:
    chunk.tokens.fill(encoder.stop)
    chunk.targets.fill(NO_TARGET)
    chunk.places.fill(-1)
    rows, length = chunk.tokens.shape
    used, room = 0, len(chunk.images)
    for row in range(rows):
        while True:
            conversation = draw(rng, "train", rng.choice((2, 4, 12, 12)))
            tokens, wanted, turns = encoder(conversation, length)
            scenes = [scene for turn in conversation.turns[:turns] for scene in turn.images]
            if turns and used + len(scenes) <= room:
                break
        ids = np.asarray(tokens, np.int16)
        chunk.tokens[row, : len(ids)] = ids
        outputs = np.flatnonzero(wanted)
        chunk.targets[row, outputs - 1] = ids[outputs]
        chunk.places[row, np.flatnonzero(ids == encoder.image)] = np.arange(
            used * IMAGE_TOKENS, (used + len(scenes)) * IMAGE_TOKENS
        )
        for scene in scenes:
            chunk.images[used] = pixels(scene, rng)
            chunk.labels[used] = labels(scene)
            used += 1
    chunk.labels[used:] = 0


def work(plan: Plan, number: int, memory: mmap.mmap, pipe: Connection) -> None:
    """Fill a slot for each number that comes, and send it back."""
    encoder = Encoder(Tokenizer.from_file(str(MODEL_DIR / "tokenizer.json")))
    rng = Random(f"{plan.seed}/{number}")
    size = chunk_bytes(plan)
    view = memoryview(memory)
    chunks = [chunk_in(view[slot * size : (slot + 1) * size], plan) for slot in range(plan.slots)]
    while True:
        try:
            slot = pipe.recv()
        except EOFError:
            return
        fill(chunks[slot], encoder, rng)
        pipe.send(slot)


def chunks(plan: Plan) -> Iterator[Chunk]:
    """Endless; a chunk is valid until the next one is taken."""
    context = mp.get_context("fork")
    size = chunk_bytes(plan)
    sources: list[tuple[Connection, memoryview]] = []
    for number in range(plan.workers):
        memory = mmap.mmap(-1, size * plan.slots)
        ours, theirs = context.Pipe()
        context.Process(target=work, args=(plan, number, memory, theirs), daemon=True).start()
        theirs.close()
        for slot in range(plan.slots):
            ours.send(slot)
        sources.append((ours, memoryview(memory)))
    while True:
        for pipe, view in sources:
            slot = pipe.recv()
            yield chunk_in(view[slot * size : (slot + 1) * size], plan)
            pipe.send(slot)


def batches(plan: Plan, each: int) -> Iterator[Chunk]:
    """Endless batches of `each` chunks, copied; `places` count through all their images.

    The workers start with the first batch.
    """
    source = chunks(plan)
    whole = replace(plan, rows=plan.rows * each, images=plan.images * each)
    while True:
        batch = chunk_in(memoryview(bytearray(chunk_bytes(whole))), whole)
        for number in range(each):
            part = next(source)
            for field in fields(Chunk):
                piece = getattr(part, field.name)
                getattr(batch, field.name)[number * len(piece) : (number + 1) * len(piece)] = piece
            rows = batch.places[number * plan.rows : (number + 1) * plan.rows]
            rows[rows >= 0] += number * plan.images * IMAGE_TOKENS
        yield batch
