"""The embedded vision model: complete, small, and right about pictures that it has not seen."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
from mlx_vlm.utils import load_processor

from quince.models import demo, description
from quince.models.model_type import ModelType
from training.vision import draw, evaluate, files, scenes

FILES = (
    "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
    "preprocessor_config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip
MOST_BYTES = 8 << 20
# Held-out questions of a skill that must be right of eight; "compare" has words to read, which the model is bad at.
AT_LEAST = {
    "describe": 7, "count": 8, "colour": 8, "where": 8, "yes or no": 8, "read a number": 8, "compare": 6, "no image": 8,
}  # fmt: skip


@pytest.fixture(scope="module")
def directory() -> Path:
    path = demo.path(demo.VISION)
    assert path is not None
    return path


def test_its_files_are_there_and_small(directory: Path) -> None:
    assert {file.name for file in directory.iterdir()} == set(FILES)
    assert sum(file.stat().st_size for file in directory.iterdir()) < MOST_BYTES
    assert all(file.stat().st_mode & 0o444 == 0o444 for file in directory.iterdir()), (
        "an installed server may read them"
    )


def test_its_files_are_those_that_it_was_trained_with(directory: Path) -> None:
    def content(name: str) -> object:
        return json.loads((directory / name).read_text(encoding="utf-8"))

    assert (directory / "chat_template.jinja").read_text(encoding="utf-8") == files.TEMPLATE
    assert content("processor_config.json") == files.processor()
    assert content("preprocessor_config.json") == files.image_processor()


def test_it_is_a_vision_model(directory: Path) -> None:
    description.check(directory)
    found = description.describe(directory)
    assert (found.type, found.architecture, found.context, found.license) == (ModelType.VLM, "idefics3", 2048, "mit")
    assert 3_500_000 < found.parameters < 4_000_000
    assert found.has_template


@pytest.mark.parametrize("side", [128, 96, 320])
def test_its_processor_gives_the_pixels_of_training(directory: Path, side: int) -> None:
    rng = Random(side)
    picture = draw.picture(scenes.shapes(rng, "eval"), rng, side)
    found = load_processor(directory)(text="<image>", images=[picture], return_tensors="np")
    of_training = draw.fitted(picture).astype(np.float32) / 127.5 - 1
    values = np.asarray(found["pixel_values"], dtype=np.float32)
    assert values.shape == (1, 1, 3, files.SIDE, files.SIDE)
    np.testing.assert_allclose(values[0, 0].transpose(1, 2, 0), of_training, atol=1e-5)


@pytest.fixture(scope="module")
def answer(directory: Path) -> evaluate.Generate:
    return evaluate.mlx_backend(directory)


@pytest.mark.parametrize(("skill", "least"), AT_LEAST.items())
def test_held_out_questions_are_answered(answer: evaluate.Generate, skill: str, least: int) -> None:
    outcomes = evaluate.score(answer, skill, 8)
    assert sum(outcome["right"] for outcome in outcomes) >= least, outcomes
