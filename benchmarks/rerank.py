"""A generative reranker's documents, with what they begin with (template, instruction and query) computed for each of
them, or once.

    python -m benchmarks.rerank [--model tiny] [--documents 32] [--document-tokens 40] [--beginnings 10 40 100 300 600]

Random weights of Qwen3's shapes, as Qwen3-Reranker has them; its template and instruction alone are some 60 tokens.
CPU is of the whole process, MLX's threads included. Both ways run in turn.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.models import BYTES, SHAPES, ensure
from benchmarks.report import table
from quince.engine.messages import PoolInput, PoolRequest, Task
from quince.engine.pooling_core import PoolingCore
from quince.engine.pooling_model import load
from quince.engine.pooling_runner import PoolingRunner

WORDS = 1700
LABELS = (BYTES, BYTES + 1)  # any two words of the vocabulary
ENDING = 8  # tokens after the document


def rank(core: PoolingCore, inputs: list[PoolInput]) -> tuple[float, float, npt.NDArray[np.float32]]:
    """Seconds, CPU seconds and scores."""
    started, cpu = time.perf_counter(), time.process_time()
    core.add(PoolRequest("r", inputs, LABELS))
    found: dict[int, bytes] = {}
    while core.has_work():
        found.update((one.index, one.values) for output in core.step() for one in output.pooled)
    scores = np.concatenate([np.frombuffer(found[number], "<f4") for number in range(len(inputs))])
    return time.perf_counter() - started, time.process_time() - cpu, scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=SHAPES, default="tiny")
    parser.add_argument("--models-dir", type=Path, default=Path(tempfile.gettempdir()) / "quince-benchmark-models")
    parser.add_argument("--documents", type=int, default=32)
    parser.add_argument("--document-tokens", type=int, default=40, help="on average")
    parser.add_argument("--beginnings", type=int, nargs="+", default=[10, 40, 100, 300, 600], help="in tokens")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    model = load(ensure(options.model, options.models_dir), Task.SCORE, max_model_len=None)
    each, once = (
        PoolingCore(PoolingRunner(model.head, reader), max_batch_tokens=4096) for reader in (None, model.decoder)
    )
    draw = random.Random(1)
    half = options.document_tokens // 2

    def words(count: int) -> list[int]:
        return [draw.randrange(BYTES, BYTES + WORDS) for _ in range(count)]

    rows = []
    for beginning in options.beginnings:
        runs = []
        for _ in range(options.runs):
            begin = words(beginning)
            inputs = [
                PoolInput([*begin, *words(draw.randint(half, 3 * half)), *words(ENDING)])
                for _ in range(options.documents)
            ]
            runs.append((rank(each, inputs), rank(once, inputs)))
        wall, cpu = ([min(run[way][kind] for run in runs) for way in (0, 1)] for kind in (0, 1))
        difference = max(float(np.abs(run[0][2] - run[1][2]).max()) for run in runs)
        cells = [f"{wall[0]:.2f} / {wall[1]:.2f}", f"{cpu[0]:.2f} / {cpu[1]:.2f}", f"{cpu[0] / cpu[1]:.2f}"]
        rows.append([str(beginning), *cells, f"{difference:.0e}"])
    print(f"{options.model}, {options.documents} documents of about {options.document_tokens} tokens")
    print(table(("tokens they begin with", "s, for each / once", "CPU s", "CPU ratio", "max difference"), rows))


if __name__ == "__main__":
    main()
