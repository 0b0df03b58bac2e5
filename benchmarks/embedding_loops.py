"""The same texts through the loops of other embedding servers for MLX, with their own models and tokenizers.

    python -m benchmarks.embedding_loops [--model DIR] [--texts 96] [--longest 200] [--runs 3]

mlx-vlm          the loop of its server: one text after the other
mlx-embeddings   its ``generate`` for batches of 32 texts as they come; left out where it is not installed
quince           the tokenizer, then PoolingCore: batches by length from all that waits

Texts are tokenized by each. Without ``--model``, the embedded demo model. CPU is of the whole process, MLX's threads
included: on a machine that other work shares it is steadier than time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import random
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import numpy.typing as npt

from benchmarks.embed_clients import WORDS
from benchmarks.report import table
from quince.engine.messages import PoolInput, PoolRequest, Task
from quince.engine.pooling_core import PoolingCore
from quince.engine.pooling_model import load
from quince.engine.pooling_runner import PoolingRunner
from quince.models import demo
from quince.text.tokenizer import Tokenizer

BATCH = 32

Vectors = npt.NDArray[np.float32]
Loop = Callable[[list[str]], Vectors]


def mixed(count: int, longest: int) -> list[str]:
    """Lengths in words spread evenly over their logarithm."""
    draw = random.Random(1)
    lengths = [round(math.exp(draw.uniform(math.log(2), math.log(longest)))) for _ in range(count)]
    return [" ".join(draw.choices(WORDS, k=length)) for length in lengths]


def mlx_vlm(path: Path) -> Loop:
    from mlx_vlm.embedding_loader import load_embedding_model
    from mlx_vlm.server.embeddings import _embed_items
    from transformers import AutoTokenizer

    model, tokenizer = load_embedding_model(path), AutoTokenizer.from_pretrained(path)

    def embed(texts: list[str]) -> Vectors:
        vectors, _ = _embed_items(model, tokenizer, [("text", text) for text in texts])
        return np.array(vectors, np.float32)

    return embed


def mlx_embeddings(path: Path) -> Loop:
    from mlx_embeddings import generate
    from mlx_embeddings import load as load_theirs

    with tempfile.TemporaryDirectory() as directory:
        model, tokenizer = load_theirs(str(_with_pooler(path, Path(directory))))

    def embed(texts: list[str]) -> Vectors:
        parts = [generate(model, tokenizer, texts[at : at + BATCH]).text_embeds for at in range(0, len(texts), BATCH)]
        return np.concatenate([np.array(part.astype(mx.float32)) for part in parts])

    return embed


def _with_pooler(path: Path, copy: Path) -> Path:
    """The model with the layer for classifiers that mlx-embeddings wants of every BERT; its vectors do not use it."""
    weights = mx.load(str(path / "model.safetensors"))
    assert isinstance(weights, dict)
    size = json.loads((path / "config.json").read_text())["hidden_size"]
    zeros = {"pooler.dense.weight": mx.zeros((size, size)), "pooler.dense.bias": mx.zeros(size)}
    shutil.copytree(path, copy, dirs_exist_ok=True)
    mx.save_safetensors(str(copy / "model.safetensors"), zeros | weights)
    return copy


def quince(path: Path) -> Loop:
    model, tokenizer = load(path, Task.EMBED, max_model_len=None), Tokenizer(path)
    core = PoolingCore(PoolingRunner(model.head, model.decoder), max_batch_tokens=4096)

    def embed(texts: list[str]) -> Vectors:
        encoded = tokenizer.encode_texts(texts, max_length=model.max_model_len)
        core.add(PoolRequest("r", [PoolInput(token_ids) for token_ids in encoded]))
        found: dict[int, bytes] = {}
        while core.has_work():
            found.update((one.index, one.values) for output in core.step() for one in output.pooled)
        return np.stack([np.frombuffer(found[number], "<f4") for number in range(len(texts))])

    return embed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(str(demo.__file__)).parent / "quince-demo-embedding")
    parser.add_argument("--texts", type=int, default=96)
    parser.add_argument("--longest", type=int, default=200, help="words of the longest texts")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    texts = mixed(options.texts, options.longest)
    loops = {"mlx-vlm": mlx_vlm(options.model), "quince": quince(options.model)}
    if importlib.util.find_spec("mlx_embeddings"):
        loops["mlx-embeddings"] = mlx_embeddings(options.model)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in loops}
    vectors = {name: embed(texts) for name, embed in loops.items()}  # warm up
    for _ in range(options.runs):
        for name, embed in loops.items():
            started, cpu = time.perf_counter(), time.process_time()
            embed(texts)
            seconds[name].append((time.perf_counter() - started, time.process_time() - cpu))
    rows = []
    for name in loops:
        wall, cpu = (min(each) for each in zip(*seconds[name], strict=True))
        cosine = (vectors[name] * vectors["quince"]).sum(axis=1).min()
        rows.append([name, f"{len(texts) / wall:.1f}", f"{1e3 * cpu / len(texts):.1f}", f"{cosine:.5f}"])
    print(f"{options.model.name}, {len(texts)} texts of {sum(len(text.split()) for text in texts)} words")
    print(table(("loop", "texts/s", "CPU ms/text", "least cosine with Quince's"), rows))


if __name__ == "__main__":
    main()
