"""Pooling and what follows it, as the files of sentence-transformers say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from quince.engine.pooling import Pooling, load_pooling, normalize
from quince.errors import ModelLoadError

LENGTHS = [1, 4, 3]
USUAL = Pooling(("mean",), [])


def hidden() -> np.ndarray[Any, Any]:
    """[3, 5, 4]; NaN where the padding is."""
    states = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    for row, length in enumerate(LENGTHS):
        states[row, length:] = np.nan
    return states


def pooled(pooling: Pooling, prompt_tokens: tuple[int, ...] = (0, 0, 0)) -> np.ndarray[Any, Any]:
    return np.array(pooling(mx.array(hidden()), mx.array(LENGTHS), mx.array(prompt_tokens)))


EXPECTED = {
    "cls": lambda text: text[0],
    "lasttoken": lambda text: text[-1],
    "max": lambda text: text.max(0),
    "mean": lambda text: text.mean(0),
    "mean_sqrt_len_tokens": lambda text: text.sum(0) / np.sqrt(len(text)),
    "weightedmean": lambda text: np.average(text, axis=0, weights=np.arange(1, len(text) + 1)),
}


@pytest.mark.parametrize("mode", EXPECTED)
def test_each_mode(mode: str) -> None:
    expected = [EXPECTED[mode](row[:length]) for row, length in zip(hidden(), LENGTHS, strict=True)]
    np.testing.assert_allclose(pooled(Pooling((mode,), [])), expected, atol=1e-6)


def test_several_modes_are_joined() -> None:
    both = pooled(Pooling(("cls", "max"), []))
    np.testing.assert_array_equal(both, np.hstack([pooled(Pooling((mode,), [])) for mode in ("cls", "max")]))


def test_a_prompt_that_is_left_out_does_not_count() -> None:
    expected = [row[skip:length].mean(0) for row, length, skip in zip(hidden(), LENGTHS, (0, 2, 1), strict=True)]
    got = pooled(Pooling(("mean",), [], include_prompt=False), (0, 2, 1))
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_array_equal(pooled(Pooling(("mean",), []), (0, 2, 1)), pooled(Pooling(("mean",), [])))


def test_normalizing_leaves_zeros() -> None:
    vectors = np.array(normalize(mx.array([[3.0, 4.0], [0.0, 0.0]])))
    np.testing.assert_allclose(vectors, [[0.6, 0.8], [0, 0]], atol=1e-6)


# Files


def write(path: Path, modules: list[str], pooling: dict[str, Any] | None = None) -> None:
    listed = [
        {"idx": number, "path": "" if name == "Transformer" else f"{number}_{name}", "type": f"somewhere.models.{name}"}
        for number, name in enumerate(modules)
    ]
    (path / "modules.json").write_text(json.dumps(listed))
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling" / "config.json").write_text(json.dumps(pooling or {"pooling_mode": "cls"}))


def test_without_files_a_model_pools_as_usual(tmp_path: Path) -> None:
    assert load_pooling(tmp_path, USUAL) is USUAL


@pytest.mark.parametrize(
    ("config", "modes"),
    [
        ({"pooling_mode": "lasttoken"}, ("lasttoken",)),
        ({"pooling_mode": ["cls", "mean"]}, ("cls", "mean")),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, ("mean",)),
        ({"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}, ("cls", "max")),
        ({"word_embedding_dimension": 4}, ("mean",)),
    ],
)
def test_both_spellings_of_modes(tmp_path: Path, config: dict[str, Any], modes: tuple[str, ...]) -> None:
    write(tmp_path, ["Transformer", "Pooling"], config)
    assert load_pooling(tmp_path, USUAL).modes == modes


def test_dense_and_normalize_follow_in_their_order(tmp_path: Path) -> None:
    write(tmp_path, ["Transformer", "Pooling", "Dense", "Dense", "Normalize"])
    draw = np.random.default_rng(1)
    shapes = {"2_Dense": (6, 4), "3_Dense": (3, 6)}
    matrices = {name: draw.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    for name, activation in (("2_Dense", "Tanh"), ("3_Dense", "Identity")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(
            json.dumps({"activation_function": f"torch.nn.modules.activation.{activation}"})
        )
        mx.save_safetensors(
            str(tmp_path / name / "model.safetensors"),
            {"linear.weight": mx.array(matrices[name]), "linear.bias": mx.array([0.5] * len(matrices[name]))},
        )
    first = hidden()[:, 0]
    expected = np.tanh(first @ matrices["2_Dense"].T + 0.5) @ matrices["3_Dense"].T + 0.5
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(pooled(load_pooling(tmp_path, USUAL)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("modules", "pooling", "message"),
    [
        (["Transformer", "Pooling", "LSTM"], None, "the module 'LSTM'"),
        (["WordEmbeddings", "Pooling"], None, "modules.json lists WordEmbeddings, Pooling"),
        (["Transformer", "Pooling"], {"pooling_mode": "middle"}, "pooling by 'middle'"),
        (["Transformer", "Pooling", "Dense"], None, "2_Dense"),
    ],
)
def test_what_is_not_known_is_named(
    tmp_path: Path, modules: list[str], pooling: dict[str, Any] | None, message: str
) -> None:
    write(tmp_path, modules, pooling)
    with pytest.raises(ModelLoadError, match=message):
        load_pooling(tmp_path, USUAL)
