"""How many texts a second an embedding model takes in, by three ways of making batches of the same texts.

    python -m benchmarks.embeddings [--model DIR] [--texts 256] [--tokens 4096] [--runs 3]

one by one   a loop over the texts, as they come
padded       batches of 32 texts as they come, padded to the longest of each: the loop of most embedding servers
quince       PoolingCore: batches by length from all that waits, within a budget of tokens

The arithmetic is the same (the model's own head, with one wait for the device per batch), and so are the results, which
are compared. Lengths are spread evenly over their logarithm, as texts' lengths are: many short ones, few long ones.
Without ``--model``, a random BERT of 6 layers and 128 numbers per token. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from quince.engine.encoders import bert
from quince.engine.messages import PoolInput, PoolRequest, Task
from quince.engine.pooling_core import PoolingCore
from quince.engine.pooling_model import PoolingModel, load
from quince.engine.pooling_runner import PoolingRunner
from quince.engine.pooling_scheduler import PoolBatch, PoolJob, PoolRow

NAIVE_BATCH = 32
CONFIG = {
    "model_type": "bert",
    "vocab_size": 1000,
    "hidden_size": 128,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 512,
    "max_position_embeddings": 512,
}

Results = list[bytes]
Way = Callable[[PoolingModel, Sequence[PoolInput]], tuple[Results, int]]


def random_model(path: Path) -> Path:
    """A directory with random weights."""
    mx.random.seed(0)
    model = bert.Model(bert.ModelArgs.from_dict(CONFIG))
    weights = {name: value for name, value in tree_flatten(model.parameters()) if isinstance(value, mx.array)}
    mx.save_safetensors(str(path / "model.safetensors"), weights)
    (path / "config.json").write_text(json.dumps(CONFIG))
    return path


def mixed(count: int, longest: int, vocab_size: int) -> list[PoolInput]:
    draw = random.Random(1)
    lengths = [round(math.exp(draw.uniform(math.log(3), math.log(longest)))) for _ in range(count)]
    return [PoolInput([draw.randrange(vocab_size) for _ in range(length)]) for length in lengths]


def one_by_one(model: PoolingModel, inputs: Sequence[PoolInput]) -> tuple[Results, int]:
    return _in_batches(model, inputs, 1)


def padded(model: PoolingModel, inputs: Sequence[PoolInput]) -> tuple[Results, int]:
    return _in_batches(model, inputs, NAIVE_BATCH)


def _in_batches(model: PoolingModel, inputs: Sequence[PoolInput], size: int) -> tuple[Results, int]:
    """Results, and the tokens that were computed, padding included."""
    runner = PoolingRunner(model.head)
    job = PoolJob("r", None, waiting=len(inputs), open=len(inputs))
    rows = [PoolRow(job, index, one) for index, one in enumerate(inputs)]
    batches = [PoolBatch(rows[begin : begin + size]) for begin in range(0, len(rows), size)]
    results = [value for batch in batches for value in runner.run(batch)]
    return results, sum(batch.padded_tokens for batch in batches)


class Quince:
    """The core is kept from run to run: what it has learnt of the device stays."""

    def __init__(self, max_batch_tokens: int) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._cores: dict[int, tuple[PoolingCore, _Counted]] = {}

    def __call__(self, model: PoolingModel, inputs: Sequence[PoolInput]) -> tuple[Results, int]:
        if id(model) not in self._cores:
            runner = _Counted(model)
            self._cores[id(model)] = PoolingCore(runner, max_batch_tokens=self._max_batch_tokens), runner
        core, runner = self._cores[id(model)]
        before = runner.computed
        core.add(PoolRequest("r", list(inputs)))
        found: dict[int, bytes] = {}
        while core.has_work():
            found.update((one.index, one.values) for output in core.step() for one in output.pooled)
        return [found[index] for index in range(len(inputs))], runner.computed - before


class _Counted(PoolingRunner):
    def __init__(self, model: PoolingModel) -> None:
        super().__init__(model.head)
        self.computed = 0

    def run(self, batch: PoolBatch) -> list[bytes]:
        self.computed += batch.padded_tokens
        return super().run(batch)


@dataclass(frozen=True)
class Figures:
    seconds: float
    computed: int


def measure(way: Way, model: PoolingModel, inputs: Sequence[PoolInput], runs: int) -> tuple[Figures, Results]:
    """The best of ``runs`` runs, after one that is not counted."""
    results, _ = way(model, inputs)
    best = Figures(math.inf, 0)
    for _ in range(runs):
        started = time.perf_counter()
        results, computed = way(model, inputs)
        best = min(best, Figures(time.perf_counter() - started, computed), key=lambda one: one.seconds)
    return best, results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--longest", type=int, default=256, help="tokens of the longest texts")
    parser.add_argument("--tokens", type=int, default=4096, help="most tokens in a batch, as --prefill-chunk-size")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = options.model or random_model(Path(directory))
        model = load(path, Task.EMBED, max_model_len=None)
    inputs = mixed(options.texts, min(options.longest, model.max_model_len), model.vocab_size)
    tokens = sum(len(one.token_ids) for one in inputs)
    print(f"{model.model_type}, {len(inputs)} texts of {tokens} tokens, {mx.default_device()}")
    print(f"{'':12}{'texts/s':>10}{'tokens/s':>10}{'padding':>10}{'difference':>12}")
    ways: dict[str, Way] = {"one by one": one_by_one, "padded": padded, "quince": Quince(options.tokens)}
    expected: Results = []
    for name, way in ways.items():
        figures, results = measure(way, model, inputs, options.runs)
        expected = expected or results
        difference = max(
            float(np.abs(np.frombuffer(one, "<f4") - np.frombuffer(other, "<f4")).max())
            for one, other in zip(results, expected, strict=True)
        )
        rates = f"{len(inputs) / figures.seconds:>10.1f}{tokens / figures.seconds:>10.0f}"
        print(f"{name:12}{rates}{figures.computed / tokens - 1:>10.0%}{difference:>12.1e}")


if __name__ == "__main__":
    main()
