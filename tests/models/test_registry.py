"""Names with an adapter behind, beside names of models that have colons of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from quince.config import ServeConfig
from quince.errors import ModelNotFound
from quince.models.registry import ModelRegistry
from quince.models.store import ModelStore
from tests.models.conftest import write_model
from tests.models.test_store import install


def registry(tmp_path: Path, model: str, **settings: object) -> ModelRegistry:
    store = ModelStore(tmp_path, cache=tmp_path / "cache")
    for name in ("tiny", "tiny:sql", "other"):
        install(store, write_model(tmp_path / "sources" / name, size=1000), name, f"quinces/{name}")
    adapters = ("sql=/a", "poet=/b")
    return ModelRegistry(ServeConfig(home=tmp_path, model=model, adapters=adapters, **settings), store)  # type: ignore[arg-type]


def test_a_name_with_an_adapter_behind_means_both(tmp_path: Path) -> None:
    names = registry(tmp_path, "other")
    for base in ("other", "default", "model"):
        assert names.recall(f"{base}:sql") is None
        assert (names.resolve(f"{base}:sql").stored, names.resolve(f"{base}:sql").adapter) == (names.only, "sql")
        assert names.recall(f"{base}:sql") == names.resolve(f"{base}:sql")
    assert names.resolve("other").adapter is names.resolve(None).adapter is None


def test_models_go_before_adapters(tmp_path: Path) -> None:
    names = registry(tmp_path, "tiny:sql")
    assert names.resolve("tiny:sql").adapter is None
    assert names.resolve("tiny:sql:sql").adapter == "sql"


def test_what_is_no_adapter_of_this_model_is_not_found(tmp_path: Path) -> None:
    names = registry(tmp_path, "other")
    for name in ("other:nobody", "tiny:poet", ":sql", "sql"):
        with pytest.raises(ModelNotFound, match=r"It serves: other, other:sql, other:poet\."):
            names.resolve(name)


def test_any_name_may_have_an_adapter(tmp_path: Path) -> None:
    names = registry(tmp_path, "other", any_model_name=True)
    assert [names.resolve(name).adapter for name in ("gpt-4", "gpt-4:sql", "gpt-4:nobody")] == [None, "sql", None]
