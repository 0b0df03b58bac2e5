from __future__ import annotations

import pytest

from quince.engine.forward import TextForward
from quince.engine.support import Support, probe
from tests import tiny_models

ODD = {
    "gemma2": Support(batches=True, pads=True, mask_axes=5),
    "mamba": Support(batches=True, pads=False),
    "gpt_bigcode": Support(batches=False, pads=False),
}


@pytest.mark.parametrize("name", sorted(tiny_models.CONFIGS))
def test_what_each_family_can_do_is_found_out(name: str) -> None:
    assert probe(TextForward(tiny_models.build(name)), tiny_models.VOCAB_SIZE) == ODD.get(
        name, Support(batches=True, pads=True)
    )


def test_a_state_without_a_batched_form_runs_alone() -> None:
    model = tiny_models.build("qwen3")

    class OwnCache:
        """As the model's usual cache, but of a class that says nothing about batches."""

        def __init__(self) -> None:
            from mlx_lm.models.cache import KVCache

            self._cache = KVCache()

        def __getattr__(self, name: str) -> object:
            if name == "merge":
                raise AttributeError(name)
            return getattr(self._cache, name)

    class Model(type(model)):  # type: ignore[misc]
        def make_cache(self) -> list[OwnCache]:
            return [OwnCache() for _ in self.layers]

    model.__class__ = Model
    assert probe(TextForward(model), tiny_models.VOCAB_SIZE) == Support(batches=False, pads=False)


@pytest.mark.parametrize("scale", [0.0, float("nan")])
def test_a_model_whose_logits_tell_nothing_is_taken_at_its_word(scale: float) -> None:
    model = tiny_models.build("qwen3")
    model.lm_head.weight = model.lm_head.weight * scale
    assert probe(TextForward(model), tiny_models.VOCAB_SIZE) == Support(batches=True, pads=True)
