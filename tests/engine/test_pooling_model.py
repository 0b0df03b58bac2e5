"""Models that are read: equal to NumPy's arithmetic, and alone as in any batch."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from quince.engine.messages import PoolInput, PoolRequest, Task
from quince.engine.pooling_core import PoolingCore
from quince.engine.pooling_model import PoolingModel, load
from quince.engine.pooling_runner import PoolingRunner
from quince.errors import ModelLoadError
from tests import numpy_reference, pooling_models
from tests.pooling_models import CONFIGS, NO, YES

LENGTHS = (1, 2, 5, 13, 40, 41, 90, 200)
TASKS = {name: Task.SCORE if "reranker" in name else Task.EMBED for name in CONFIGS}


def inputs(name: str, lengths: tuple[int, ...] = LENGTHS) -> list[PoolInput]:
    draw = random.Random(3)
    pairs = TASKS[name] is Task.SCORE and "bert" in name
    return [
        PoolInput([draw.randrange(128) for _ in range(length)], length // 2 if pairs else None) for length in lengths
    ]


def results(model: PoolingModel, asked: list[PoolInput], *, max_batch_tokens: int = 4096) -> np.ndarray[Any, Any]:
    """By the engine's own core, in whatever batches it makes."""
    return results_of(PoolingCore(PoolingRunner(model.head), max_batch_tokens=max_batch_tokens), model, asked)


def results_of(core: PoolingCore, model: PoolingModel, asked: list[PoolInput]) -> np.ndarray[Any, Any]:
    labels = (NO, YES) if model.model_type == "qwen3" and model.dimensions == 1 else None
    core.add(PoolRequest("r", asked, labels))
    found: dict[int, bytes] = {}
    while core.has_work():
        found.update((one.index, one.values) for output in core.step() for one in output.pooled)
    rows = [np.frombuffer(found[index], "<f4") for index in range(len(asked))]
    return np.stack(rows)


def as_numpy(weights: dict[str, mx.array]) -> dict[str, numpy_reference.Array]:
    prefixes = ("roberta.", "model.")
    return {
        next((name.removeprefix(one) for one in prefixes if name.startswith(one)), name): np.array(value, np.float64)
        for name, value in weights.items()
    }


def unit(vectors: list[numpy_reference.Array]) -> numpy_reference.Array:
    stacked = np.stack(vectors)
    return np.asarray(stacked / np.linalg.norm(stacked, axis=1, keepdims=True))


@pytest.mark.parametrize("name", CONFIGS)
def test_alone_as_in_any_batch(name: str, tmp_path: Path) -> None:
    pooling_models.save(name, tmp_path)
    model = load(tmp_path, TASKS[name], max_model_len=None)
    asked = inputs(name)
    alone = np.concatenate([results(model, [one]) for one in asked])
    head_rows = results(model, asked, max_batch_tokens=1024)
    # All in one rectangle, most of it padding, which the scheduler would not make.
    everything = [np.frombuffer(one, "<f4") for one in _one_batch(model, asked)]
    assert alone.shape == (len(asked), model.dimensions)
    assert np.std(alone, axis=0).max() > 1e-3, "the inputs make no difference"
    np.testing.assert_allclose(head_rows, alone, atol=1e-5)
    np.testing.assert_allclose(np.stack(everything), alone, atol=1e-5)


def _one_batch(model: PoolingModel, asked: list[PoolInput]) -> list[bytes]:
    from quince.engine.pooling_scheduler import PoolBatch, PoolJob, PoolRow

    labels = (NO, YES) if model.model_type == "qwen3" else None
    job = PoolJob("r", labels, waiting=len(asked), open=len(asked))
    return PoolingRunner(model.head).run(PoolBatch([PoolRow(job, index, one) for index, one in enumerate(asked)]))


def test_qwen3_embedding_is_the_last_tokens_state(tmp_path: Path) -> None:
    weights = as_numpy(pooling_models.save("qwen3-embedding", tmp_path))
    asked = inputs("qwen3-embedding")
    config = CONFIGS["qwen3-embedding"]
    expected = unit([numpy_reference.qwen3(one.token_ids, weights, config)[-1] for one in asked])
    got = results(load(tmp_path, Task.EMBED, max_model_len=None), asked)
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_qwen3_reranker_is_the_probability_of_yes(tmp_path: Path) -> None:
    weights = as_numpy(pooling_models.save("qwen3-reranker", tmp_path))
    asked = inputs("qwen3-reranker")
    config = CONFIGS["qwen3-reranker"]
    states = [numpy_reference.qwen3(one.token_ids, weights, config)[-1] for one in asked]
    expected = [numpy_reference.softmax((weights["lm_head.weight"] @ one)[[NO, YES]])[1] for one in states]
    got = results(load(tmp_path, Task.SCORE, max_model_len=None), asked)
    np.testing.assert_allclose(got[:, 0], expected, atol=2e-5)


@pytest.mark.parametrize("name", ["qwen3-embedding", "qwen3-reranker"])
def test_a_beginning_that_is_computed_once_changes_no_result(name: str, tmp_path: Path) -> None:
    pooling_models.save(name, tmp_path)
    model = load(tmp_path, TASKS[name], max_model_len=None)
    draw = random.Random(5)
    begin = [draw.randrange(128) for _ in range(70)]
    asked = [PoolInput([*begin, number, *one.token_ids], prompt_tokens=40) for number, one in enumerate(inputs(name))]
    core = PoolingCore(PoolingRunner(model.head, model.decoder), max_batch_tokens=256)
    together = results_of(core, model, asked)
    assert core.stats().prompt_tokens == len(begin) + sum(len(one.token_ids) - len(begin) for one in asked)
    np.testing.assert_allclose(together, np.concatenate([results(model, [one]) for one in asked]), atol=1e-5)


def test_beginnings_are_shared_where_no_token_sees_later_ones(tmp_path: Path) -> None:
    for name in CONFIGS:
        pooling_models.save(name, tmp_path / name)
        decoder = load(tmp_path / name, TASKS[name], max_model_len=None).decoder
        assert (decoder is not None) == name.startswith("qwen3"), name


def test_beginnings_are_not_shared_where_all_states_are_pooled(tmp_path: Path) -> None:
    pooling_models.save("qwen3-embedding", tmp_path)
    (tmp_path / "modules.json").write_text(
        json.dumps([{"path": "", "type": "x.Transformer"}, {"path": "1_Pooling", "type": "x.Pooling"}])
    )
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    assert load(tmp_path, Task.EMBED, max_model_len=None).decoder is None


def test_xlm_roberta_embedding_is_the_mean_of_all_states(tmp_path: Path) -> None:
    weights = as_numpy(pooling_models.save("xlm-roberta", tmp_path))
    asked = inputs("xlm-roberta")
    config = CONFIGS["xlm-roberta"]
    expected = unit([numpy_reference.xlm_roberta(one.token_ids, weights, config).mean(0) for one in asked])
    model = load(tmp_path, Task.EMBED, max_model_len=None)
    assert model.max_model_len == 254
    np.testing.assert_allclose(results(model, asked), expected, atol=2e-5)


def test_xlm_roberta_reranker_is_its_classifiers_probability(tmp_path: Path) -> None:
    weights = as_numpy(pooling_models.save("xlm-roberta-reranker", tmp_path))
    asked = inputs("xlm-roberta-reranker")
    config = CONFIGS["xlm-roberta-reranker"]
    expected = [numpy_reference.xlm_roberta_score(one.token_ids, weights, config) for one in asked]
    got = results(load(tmp_path, Task.SCORE, max_model_len=None), asked)
    np.testing.assert_allclose(got[:, 0], expected, atol=2e-5)


def test_a_pairs_second_text_is_another_segment(tmp_path: Path) -> None:
    pooling_models.save("bert-reranker", tmp_path)
    model = load(tmp_path, Task.SCORE, max_model_len=None)
    token_ids = list(range(20))
    scores = results(model, [PoolInput(token_ids, second_from) for second_from in (None, 5, 10)])[:, 0]
    assert len({round(float(score), 4) for score in scores}) == 3


# What is refused


def test_a_model_without_a_classifier_scores_nothing(tmp_path: Path) -> None:
    pooling_models.save("bert", tmp_path)
    with pytest.raises(ModelLoadError, match="it has no classifier"):
        load(tmp_path, Task.SCORE, max_model_len=None)


def test_a_classifier_of_many_classes_is_no_reranker(tmp_path: Path) -> None:
    config = {**CONFIGS["bert-reranker"], "id2label": {str(number): str(number) for number in range(5)}}
    pooling_models.CONFIGS["many"] = config
    try:
        pooling_models.save("many", tmp_path)
    finally:
        del pooling_models.CONFIGS["many"]
    with pytest.raises(ModelLoadError, match="5 classes"):
        load(tmp_path, Task.SCORE, max_model_len=None)


def test_a_context_longer_than_the_positions_is_refused(tmp_path: Path) -> None:
    pooling_models.save("bert", tmp_path)
    assert load(tmp_path, Task.EMBED, max_model_len=64).max_model_len == 64
    with pytest.raises(ModelLoadError, match="256 tokens at most, and --ctx-size is 300"):
        load(tmp_path, Task.EMBED, max_model_len=300)


def test_the_publishers_limit_counts(tmp_path: Path) -> None:
    pooling_models.save("bert", tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 50}))
    assert load(tmp_path, Task.EMBED, max_model_len=None).max_model_len == 50
    assert load(tmp_path, Task.EMBED, max_model_len=200).max_model_len == 200


def test_missing_weights_are_named(tmp_path: Path) -> None:
    weights = pooling_models.save("bert", tmp_path)
    del weights["embeddings.LayerNorm.bias"]
    mx.save_safetensors(str(tmp_path / "model.safetensors"), weights)
    with pytest.raises(ModelLoadError, match=r"embeddings\.LayerNorm\.bias"):
        load(tmp_path, Task.EMBED, max_model_len=None)


def test_an_unknown_architecture_is_named(tmp_path: Path) -> None:
    pooling_models.save("bert", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIGS["bert"], "model_type": "funnel"}))
    with pytest.raises(ModelLoadError, match="the model type funnel is not supported"):
        load(tmp_path, Task.EMBED, max_model_len=None)
