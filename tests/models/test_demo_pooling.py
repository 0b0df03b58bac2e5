"""The embedded embedding model and reranker, through the engine that serves them.

data/demo_pooling.json is what the training's own PyTorch model (training/pooling/model.py) makes of the same weights,
computed in float32 on a CPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from quince.engine.messages import PoolInput, Task
from quince.engine.pooling_core import PoolingCore
from quince.engine.pooling_model import load
from quince.engine.pooling_runner import PoolingRunner
from quince.models import demo, description
from quince.models.model_type import ModelType
from quince.text.tokenizer import Tokenizer
from tests.engine.test_minilm import embed as pool
from training.pooling.evaluate import score_skill

REFERENCE = Path(__file__).parents[1] / "data" / "demo_pooling.json"
MAX_SIZE = 7 * 2**20
LENGTH = 512
Numbers = np.ndarray[Any, np.dtype[np.float32]]


def path_of(name: str) -> Path:
    path = demo.path(name)
    assert path is not None
    return path


@pytest.fixture(scope="module")
def embed() -> Callable[[list[str]], Numbers]:
    path = path_of(demo.EMBEDDING)
    model, tokenizer = load(path, Task.EMBED, max_model_len=None), Tokenizer(path)
    assert (model.dimensions, model.max_model_len) == (192, LENGTH)
    core = PoolingCore(PoolingRunner(model.head), max_batch_tokens=4096)
    return lambda texts: pool(core, [PoolInput(ids) for ids in tokenizer.encode_texts(texts, max_length=LENGTH)])


@pytest.fixture(scope="module")
def score() -> Callable[[list[tuple[str, str]]], Numbers]:
    path = path_of(demo.RERANKER)
    model, tokenizer = load(path, Task.SCORE, max_model_len=None), Tokenizer(path)
    assert (model.dimensions, model.max_model_len) == (1, LENGTH)
    core = PoolingCore(PoolingRunner(model.head), max_batch_tokens=4096)

    def score(pairs: list[tuple[str, str]]) -> Numbers:
        encoded = [tokenizer.encode_pairs(query, [text], max_length=LENGTH)[0] for query, text in pairs]
        return pool(core, [PoolInput(ids, second) for ids, second in encoded])[:, 0]

    return score


@pytest.fixture(scope="module")
def reference() -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = json.loads(REFERENCE.read_text(encoding="utf-8"))
    return found


def test_vectors_are_those_of_the_training(
    embed: Callable[[list[str]], Numbers], reference: dict[str, list[dict[str, Any]]]
) -> None:
    texts = [one["text"] for one in reference["texts"]]
    expected = np.array([one["vector"] for one in reference["texts"]], np.float32)
    got = embed(texts)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-5)
    assert (got * expected).sum(axis=1).min() > 0.9999
    alone = np.concatenate([embed([text]) for text in texts])
    np.testing.assert_allclose(got, alone, atol=1e-4)


def test_scores_are_those_of_the_training(
    score: Callable[[list[tuple[str, str]]], Numbers], reference: dict[str, list[dict[str, Any]]]
) -> None:
    pairs = [(one["query"], one["document"]) for one in reference["pairs"]]
    np.testing.assert_allclose(score(pairs), [one["score"] for one in reference["pairs"]], atol=0.01)


def test_they_rank_what_they_have_not_seen(
    embed: Callable[[list[str]], Numbers], score: Callable[[list[tuple[str, str]]], Numbers]
) -> None:
    """Held-out phrasings, as in training/pooling/README.md but few."""
    found = {skill: score_skill(skill, 8, embed, score) for skill in ("paraphrase", "fact", "mention")}
    for skill in ("fact", "mention"):
        assert found[skill]["search"]["embedding"]["recall@1"] > 0.8
        assert found[skill]["ranking"]["reranker"]["recall@1"] > 0.9
    other_words = found["paraphrase"]
    assert other_words["search"]["bm25"]["recall@1"] < 0.3 < 0.7 < other_words["search"]["embedding"]["recall@1"]
    assert other_words["ranking"]["reranker"]["recall@1"] > 0.6


@pytest.mark.parametrize(("name", "type"), [(demo.EMBEDDING, ModelType.EMBEDDING), (demo.RERANKER, ModelType.RERANKER)])
def test_the_directory_is_whole_and_small(name: str, type: ModelType) -> None:
    path = path_of(name)
    description.check(path)
    found = description.describe(path)
    assert (found.type, found.dtype, found.context, found.license) == (type, "float16", LENGTH, "mit")
    assert 3_000_000 < found.parameters < 3_200_000
    assert sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) <= MAX_SIZE


def test_both_have_the_same_tokenizer_in_lower_case_with_pairs() -> None:
    one, other = (path_of(name) for name in (demo.EMBEDDING, demo.RERANKER))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (one / name).read_bytes() == (other / name).read_bytes()
    theirs = AutoTokenizer.from_pretrained(one, local_files_only=True)
    assert theirs.model_max_length == LENGTH and theirs.pad_token_id == 0
    tokenizer = Tokenizer(other)
    assert (
        tokenizer.encode_texts(["A QUINCE"]) == tokenizer.encode_texts(["a  quince"]) == [theirs("a quince").input_ids]
    )
    ((token_ids, second_from),) = tokenizer.encode_pairs("a pear", ["a quince"])
    both = theirs("a pear", "a quince")
    assert token_ids == both.input_ids and second_from == both.token_type_ids.index(1)
