"""Which model a section of the configuration is for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quince.config import ModelSection, ServeConfig
from quince.errors import ModelNotFound, UsageError
from quince.models.model_type import ModelType
from quince.models.registry import ModelRegistry
from quince.models.sections import ModelSections
from quince.models.store import ModelStore
from tests.models.conftest import write_model
from tests.models.test_store import install


@pytest.fixture
def registry(tmp_path: Path) -> Any:
    """``registry(name={"top_k": 5}, model=...)`` over two installed models, one and two, of quinces/one and /two."""
    store = ModelStore(tmp_path / "home", cache=tmp_path / "no-cache")
    for name in ("one", "two"):
        install(store, write_model(tmp_path / name), name, f"quinces/{name}")
    store.set_alias("uno", "one")

    def make(sections: dict[str, dict[str, Any]], **settings: Any) -> ModelRegistry:
        models = {name: ModelSection.model_validate(section) for name, section in sections.items()}
        return ModelRegistry(ServeConfig(home=tmp_path / "home", models=models, **settings), store)

    return make


def top_k(registry: ModelRegistry, name: str) -> int | None:
    return registry.settings(registry.resolve(name).stored).top_k


@pytest.mark.parametrize("name", ["one", "uno", "quinces/one"])
def test_a_section_is_for_what_its_name_means(registry: Any, name: str) -> None:
    found = registry({name: {"top_k": 5}, "not-here": {"top_k": 6}}, top_k=1)
    assert [top_k(found, one) for one in ("one", "uno", "quinces/one", "two")] == [5, 5, 5, 1]
    only = registry({name: {"top_k": 5}}, model="one")
    assert top_k(only, "one") == 5
    assert registry({name: {"top_k": 5}}, model="two").settings(only.resolve("one").stored).top_k is None


def test_the_aliases_of_a_model(tmp_path: Path, registry: Any) -> None:
    sections = {"quinces/one": {"alias": ["a", "b"]}, "uno": {"alias": ["c"]}, "two": {"top_k": 1}}
    found = registry(sections)
    config = ServeConfig(models={name: ModelSection.model_validate(one) for name, one in sections.items()})
    named = ModelSections(config, ModelStore(tmp_path / "home", cache=tmp_path / "no-cache"))
    assert [named.aliases(found.resolve(name).stored) for name in ("one", "two")] == [["a", "b", "c"], []]


def test_several_sections_that_mean_one_model_all_count(registry: Any) -> None:
    found = registry({"one": {"top_k": 1}, "uno": {"top_k": 2, "top_p": 0.5}})
    settings = found.settings(found.resolve("one").stored)
    assert (settings.top_k, settings.top_p) == (1, 0.5), "the model's own name goes before others"


def test_of_two_models_from_one_repository_one_is_meant(registry: Any, tmp_path: Path) -> None:
    found = registry({"quinces/one": {"top_k": 5}})
    store = ModelStore(tmp_path / "home")
    install(store, tmp_path / "one", "one-again", "quinces/one")
    latest, older = found.resolve("one-again").stored, found.resolve("one").stored
    assert (found.settings(latest).top_k, found.settings(older).top_k) == (5, None)


def test_aliases(registry: Any) -> None:
    for settings in ({}, {"model": "one"}):
        found = registry({"one": {"alias": ["chat", "uno", "two"]}}, **settings)
        assert found.resolve("chat").stored.name == found.resolve("uno").stored.name == "one"
    for settings in ({}, {"model": "two"}):
        found = registry({"uno": {"alias": ["chat", "two"]}}, **settings)
        assert found.resolve("two").stored.name == "two", "a model's own name goes first"
    with pytest.raises(ModelNotFound):
        found.resolve("chat")
    assert registry({"uno": {"alias": ["chat"]}}, model="chat").only.name == "one"
    assert registry({"not-here": {"alias": "chat"}}).target("chat") == "not-here"


def test_a_directory(registry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (str(tmp_path / "one"), "~/one", "one"):
        found = registry({name: {"top_k": 5, "alias": "chat"}}, model=str(tmp_path / "one"))
        assert top_k(found, "chat") == 5


@pytest.mark.parametrize("alias", ["default", "model"])
def test_an_alias_that_means_something_else(registry: Any, alias: str) -> None:
    with pytest.raises(UsageError, match=f"'{alias}' means the server's first model"):
        registry({"one": {"alias": alias}})


def test_a_type(registry: Any) -> None:
    found = registry({"one": {"model_type": "embedding"}, "two": {"model_type": "auto"}})
    types = {model.name: model.type for model in found.models()}
    assert (types["one"], types["two"]) == (ModelType.EMBEDDING, ModelType.LLM)
    assert found.resolve("one").stored.type is ModelType.EMBEDDING
    only = registry({"one": {"model_type": "embedding"}}, model="one", model_type="reranker")
    assert only.only.type is ModelType.EMBEDDING
