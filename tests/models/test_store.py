"""The models on disk: what is found, under which names, and what changes leave behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from quince.errors import InvalidModel, ModelNotFound, StoreError
from quince.models import description
from quince.models.aliases import shipped
from quince.models.model_type import ModelType
from quince.models.store import ModelStore, Source, check_name, of_this_user
from tests.demo_models import DEMOS
from tests.models.conftest import DEMO, write_model, write_safetensors


def install(store: ModelStore, path: Path, name: str, repo_id: str = "quinces/tiny") -> None:
    """As a pull does: from the staging directory."""
    store.staging.mkdir(parents=True, exist_ok=True)
    staged = store.staging / f"{name}-staged"
    shutil.copytree(path, staged)
    store.install(staged, name, Source(repo_id=repo_id, revision="1" * 40))


def cache(directory: Path, repo_id: str, model: Path, revision: str = "a" * 40) -> Path:
    """As huggingface_hub does: blobs, and a snapshot of links to them."""
    folder = directory / f"models--{repo_id.replace('/', '--')}"
    for name in ("blobs", "refs", f"snapshots/{revision}"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(revision)
    for i, file in enumerate(sorted(model.iterdir())):
        shutil.copy(file, folder / "blobs" / str(i))
        (folder / "snapshots" / revision / file.name).symlink_to(folder / "blobs" / str(i))
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_model(tmp_path / "tiny")


def test_an_empty_home_has_the_demo_models(store: ModelStore) -> None:
    demo, *others = store.models()
    assert [other.name for other in others] == DEMOS[1:] and {other.origin for other in others} == {"demo"}
    types = {other.name: other.type for other in others}
    assert types["quince-demo-embedding"] is ModelType.EMBEDDING
    assert types["quince-demo-reranker"] is ModelType.RERANKER
    assert (demo.name, demo.origin, demo.type) == ("quince-demo", "demo", ModelType.LLM)
    found = demo.manifest.description
    assert (found.quantization, found.context, found.license) == ("bfloat16", 8192, "mit")
    assert 5_000_000 < found.parameters < 5_500_000
    assert not store.directory.exists(), "looking must not write"


def test_installed_models_are_found_by_every_name(store: ModelStore, tiny: Path) -> None:
    install(store, tiny, "tiny")
    store.set_alias("little", "tiny")
    assert [model.name for model in store.models()] == [*DEMOS, "tiny"]
    for name in ("tiny", "little", "quinces/tiny"):
        assert store.get(name).path == store.directory / "tiny"


def test_a_repository_means_its_unquantised_model_first(store: ModelStore, tiny: Path) -> None:
    shutil.copytree(tiny, store.staging / "four")
    source = Source(repo_id="quinces/tiny", revision="1" * 40, quantized_here=True)
    store.install(store.staging / "four", "tiny-4bit", source)
    assert store.get("quinces/tiny").name == "tiny-4bit"
    install(store, tiny, "tiny")
    assert store.get("quinces/tiny").name == "tiny"


def test_the_hugging_face_cache_is_found(store: ModelStore, tmp_path: Path, tiny: Path) -> None:
    cache(tmp_path / "hf-cache", "mlx-community/tiny", tiny)
    model = store.get("mlx-community/tiny")
    assert (model.origin, model.manifest.source.revision) == ("cache", "a" * 40)
    assert [one.name for one in store.models()] == [*DEMOS, "mlx-community/tiny"]
    with pytest.raises(StoreError, match="other programs"):
        store.remove("mlx-community/tiny")


@pytest.mark.parametrize("damage", ["config.json", "model.safetensors", "tokenizer.json"])
def test_half_of_a_cached_model_is_none(store: ModelStore, tmp_path: Path, tiny: Path, damage: str) -> None:
    """A data set, a model in another format, or a download under way."""
    folder = cache(tmp_path / "hf-cache", "mlx-community/tiny", tiny)
    (folder / "snapshots" / ("a" * 40) / damage).unlink()
    assert store.find("mlx-community/tiny") is None
    assert [one.name for one in store.models()] == DEMOS


def test_shipped_aliases_mean_hub_ids(store: ModelStore, tmp_path: Path, tiny: Path) -> None:
    assert store.resolve_alias("qwen3:0.6b") == "mlx-community/Qwen3-0.6B-4bit"
    assert store.find("qwen3:0.6b") is None
    install(store, tiny, "Qwen3-0.6B-4bit", "mlx-community/Qwen3-0.6B-4bit")
    assert store.get("qwen3:0.6b").name == "Qwen3-0.6B-4bit"
    store.set_alias("qwen3:0.6b", "quince-demo")
    assert store.get("qwen3:0.6b").name == "quince-demo", "the user's aliases go first"


def test_the_shipped_aliases_are_well_formed() -> None:
    for alias, target in shipped().items():
        check_name(alias)
        assert alias == alias.lower() and target.count("/") == 1
        assert target not in shipped()


@pytest.mark.parametrize(
    "alias", ["", ".hidden", "a/b", "../x", "a b", "x" * 129, "quince-demo", "tiny", "default", "model"]
)
def test_what_cannot_be_an_alias(store: ModelStore, tiny: Path, alias: str) -> None:
    install(store, tiny, "tiny")
    with pytest.raises(StoreError):
        store.set_alias(alias, "quince-demo")
    assert store.aliases() == {}


def test_an_alias_needs_a_target_and_no_circle(store: ModelStore) -> None:
    with pytest.raises(ModelNotFound):
        store.set_alias("one", "nothing")
    store.set_alias("one", "quince-demo")
    store.set_alias("two", "one")
    with pytest.raises(StoreError, match="itself"):
        store.set_alias("one", "two")
    assert store.get("two").name == "quince-demo"


def test_aliases_that_go_round_in_circles_end(store: ModelStore) -> None:
    """Written by hand, perhaps."""
    store.directory.mkdir(parents=True)
    (store.directory / "aliases.json").write_text('{"one": "two", "two": "one"}')
    assert store.find("one") is None


def test_removing_a_model_removes_its_aliases(store: ModelStore, tiny: Path) -> None:
    install(store, tiny, "tiny")
    store.set_alias("little", "tiny")
    store.set_alias("other", "quince-demo")
    assert store.remove("little") == "little"
    assert store.find("tiny") is not None, "removing an alias leaves its model"
    store.set_alias("little", "tiny")
    assert store.remove("tiny") == "tiny"
    assert store.aliases() == {"other": "quince-demo"}
    assert sorted(path.name for path in store.directory.glob("[!.]*")) == ["aliases.json"]
    assert list(store.staging.iterdir()) == []


@pytest.mark.parametrize("name", ["nothing", "../../etc", "/etc", ".staging", "aliases.json", ""])
def test_removing_what_is_not_a_model(store: ModelStore, tiny: Path, name: str) -> None:
    install(store, tiny, "tiny")
    store.set_alias("little", "tiny")
    with pytest.raises(ModelNotFound):
        store.remove(name)
    assert store.get("little").name == "tiny"


def test_the_demo_model_stays(store: ModelStore) -> None:
    with pytest.raises(StoreError, match="cannot be removed"):
        store.remove("quince-demo")


def test_a_copy_shares_the_data_and_outlives_the_original(store: ModelStore, tiny: Path) -> None:
    install(store, tiny, "tiny")
    copy = store.copy("tiny", "second")
    inode = (store.directory / "tiny" / "model.safetensors").stat().st_ino
    assert (copy.path / "model.safetensors").stat().st_ino == inode
    store.remove("tiny")
    description.check(store.get("second").path)
    with pytest.raises(StoreError, match="already"):
        store.copy("second", "second")


def test_a_copy_of_a_cached_model_holds_files(store: ModelStore, tmp_path: Path, tiny: Path) -> None:
    cache(tmp_path / "hf-cache", "mlx-community/tiny", tiny)
    copy = store.copy("mlx-community/tiny", "mine")
    assert not any(path.is_symlink() for path in copy.path.iterdir())
    shutil.rmtree(tmp_path / "hf-cache")
    description.check(store.get("mine").path)


def test_a_failed_installation_changes_nothing(store: ModelStore, tiny: Path) -> None:
    install(store, tiny, "tiny")
    before = (store.directory / "tiny" / "quince.json").read_bytes()
    broken = store.staging / "broken"
    shutil.copytree(tiny, broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(InvalidModel):
        store.install(broken, "tiny", Source(repo_id="quinces/tiny"))
    assert (store.directory / "tiny" / "quince.json").read_bytes() == before


def test_a_directory_put_there_by_hand(store: ModelStore, tiny: Path) -> None:
    """No quince.json: everything is read from the files. A broken one hides nobody else."""
    shutil.copytree(tiny, store.directory / "by-hand")
    shutil.copytree(tiny, store.directory / "broken")
    (store.directory / "broken" / "config.json").write_text("{")
    assert [model.name for model in store.models()] == [*DEMOS, "by-hand"]
    assert store.get("by-hand").manifest.description.context == 512


# What a directory says about itself


def test_every_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel) as refused:
        description.check(tmp_path)
    assert all(word in refused.value.message for word in ("config.json", "model*.safetensors", "tokenizer.json"))


@pytest.mark.parametrize("size", [0, 4, 200, 100_000])
def test_cut_weights_are_found_without_loading_them(tiny: Path, size: int) -> None:
    with (tiny / "model.safetensors").open("r+b") as file:
        file.truncate(size)
    with pytest.raises(InvalidModel, match=r"model\.safetensors"):
        description.check(tiny)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"model_type": 5}', "\xff"])
def test_a_config_that_is_none(tiny: Path, text: str) -> None:
    (tiny / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InvalidModel, match=r"config\.json"):
        description.check(tiny)


@pytest.mark.parametrize(
    ("config", "names", "name", "expected"),
    [
        ({"architectures": ["Qwen3ForCausalLM"]}, set(), "Qwen3-0.6B", ModelType.LLM),
        ({"architectures": ["GPT2LMHeadModel"]}, set(), "gpt2", ModelType.LLM),
        ({}, set(), "x", ModelType.LLM),
        ({"architectures": ["Qwen2VLForConditionalGeneration"], "vision_config": {}}, set(), "x", ModelType.VLM),
        ({"architectures": ["Idefics3ForConditionalGeneration"], "image_token_id": 3}, set(), "x", ModelType.VLM),
        ({"architectures": ["BertModel"]}, set(), "all-MiniLM-L6-v2", ModelType.EMBEDDING),
        ({"architectures": ["XLMRobertaModel"]}, set(), "bge-m3", ModelType.EMBEDDING),
        ({"architectures": ["ModernBertForMaskedLM"]}, set(), "x", ModelType.EMBEDDING),
        ({"architectures": ["Qwen3ForCausalLM"]}, {"modules.json"}, "x", ModelType.EMBEDDING),
        ({"architectures": ["Qwen3ForCausalLM"]}, set(), "Qwen3-Embedding-0.6B-4bit", ModelType.EMBEDDING),
        ({"architectures": ["XLMRobertaForSequenceClassification"]}, set(), "x", ModelType.RERANKER),
        ({"architectures": ["Qwen3ForCausalLM"]}, {"modules.json"}, "Qwen3-Reranker-0.6B", ModelType.RERANKER),
    ],
)
def test_types(config: dict[str, object], names: set[str], name: str, expected: ModelType) -> None:
    assert description.detect_type(config, names, name) is expected


def test_quantised_weights_are_counted_unpacked(tmp_path: Path) -> None:
    mx = pytest.importorskip("mlx.core")
    path = write_model(tmp_path / "q", quantization={"bits": 4, "group_size": 64})
    packed, scales, biases = mx.quantize(mx.random.normal((8, 128)), group_size=64, bits=4)
    weights = {"a.weight": packed, "a.scales": scales, "a.biases": biases, "norm.weight": mx.ones(128)}
    mx.save_safetensors(str(path / "model.safetensors"), weights, metadata={"format": "mlx"})
    found = description.describe(path)
    assert (found.parameters, found.quantization, found.group_size) == (8 * 128 + 128, "4-bit", 64)


def test_templates_in_every_place(tiny: Path) -> None:
    assert DEMO is not None
    assert description.chat_template(tiny) == (DEMO / "chat_template.jinja").read_text()
    (tiny / "chat_template.jinja").unlink()
    for value, expected in [
        ("{{ one }}", "{{ one }}"),
        ([{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}], "d"),
        (None, None),
    ]:
        (tiny / "tokenizer_config.json").write_text(json.dumps({"chat_template": value}))
        assert description.chat_template(tiny) == expected


def test_a_header_that_lies_about_its_length(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_safetensors(path, size=10)
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])
    with pytest.raises(InvalidModel):
        description.safetensors_header.read(path)


def test_another_directory_of_models(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """QUINCE_MODELS_DIR moves them, and what is there by hand counts; without it they are in the home directory."""
    monkeypatch.setenv("QUINCE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    assert of_this_user().directory == tmp_path / "home" / "models"
    monkeypatch.setenv("QUINCE_MODELS_DIR", str(tmp_path / "elsewhere"))
    shutil.copytree(tiny, tmp_path / "elsewhere" / "Tiny-4bit")
    store = of_this_user()
    assert store.get("Tiny-4bit").path == tmp_path / "elsewhere" / "Tiny-4bit"
    install(store, tiny, "tiny")
    assert (tmp_path / "elsewhere" / "tiny" / "quince.json").is_file()
    assert store.remove("Tiny-4bit") == "Tiny-4bit"
    assert not (tmp_path / "home").exists()
