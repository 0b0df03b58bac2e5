"""Pulls from a hub of our own with the real client: every way in which they end."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from quince.errors import (
    AccessDenied,
    ConvertError,
    DiskFull,
    InvalidModel,
    PullCancelled,
    PullError,
    QuinceError,
    RepositoryNotFound,
    StoreError,
)
from quince.models.hub import RETRIES
from quince.models.model_type import ModelType
from quince.models.store import ModelStore
from tests.hub_server import CHUNK, GOOD_TOKEN, HubServer
from tests.models.conftest import REPO, Puller, write_model

WEIGHTS = "model.safetensors"


def sentence(error: pytest.ExceptionInfo[QuinceError]) -> str:
    """The message, which must be fit for one line on a terminal."""
    message = error.value.message
    assert message and "\n" not in message and "Traceback" not in message
    return message


def test_a_pull_installs_a_whole_model(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    repo = hub.add(REPO, write_model(tmp_path / "tiny", shards=3))
    model = pull()
    assert model == pull.store.get("tiny") == pull.store.get(REPO)
    assert (model.manifest.source.repo_id, model.manifest.source.revision) == (REPO, repo.revision)
    description = model.manifest.description
    assert (description.type, description.context, description.license) == (ModelType.LLM, 512, "apache-2.0")
    for name, content in repo.files.items():
        assert (model.path / name).read_bytes() == content
    assert pull.visible() == ["tiny"]
    assert [path.name for path in pull.store.staging.iterdir()] == ["quinces--tiny.lock"]
    last = [one for one in pull.progress if one.total][-1]
    assert last.completed == last.total == sum(len(content) for content in repo.files.values())
    assert hub.leaked_tokens == []


def test_a_cut_connection_goes_on_where_it_was(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    repo = hub.add(REPO, write_model(tmp_path / "tiny"))
    size = len(repo.files[WEIGHTS])
    repo.cuts[WEIGHTS] = [size // 2]
    model = pull()
    assert (model.path / WEIGHTS).read_bytes() == repo.files[WEIGHTS]
    assert hub.bytes_sent(WEIGHTS) <= size + 8192  # what was under way at the cut may be lost
    assert [one.start > 0 for one in hub.sent if one.name == WEIGHTS] == [False, True]


def test_a_pull_that_was_cut_at_half_resumes(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    repo = hub.add(REPO, write_model(tmp_path / "tiny", size=1_000_000))
    size = len(repo.files[WEIGHTS])
    repo.cuts[WEIGHTS] = [size // 2] + [0] * RETRIES
    with pytest.raises(PullError) as broken:
        pull()
    assert "pull again" in sentence(broken)
    assert (pull.installed, pull.visible()) == ([], [])
    model = pull()
    assert (model.path / WEIGHTS).read_bytes() == repo.files[WEIGHTS]
    starts = [one.start for one in hub.sent if one.name == WEIGHTS]
    assert starts[-1] >= size // 2 - 8192
    assert hub.bytes_sent(WEIGHTS) <= size + 8192


def test_a_server_that_cannot_resume_sends_everything_again(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    """A partial file that is longer than the real one (somebody else's, say) is dropped."""
    repo = hub.add(REPO, write_model(tmp_path / "tiny"))
    staged = pull.store.staging / f"quinces--tiny@{repo.revision[:12]}"
    staged.mkdir(parents=True)
    (staged / f"{WEIGHTS}.part").write_bytes(bytes(len(repo.files[WEIGHTS]) - 1000))  # wrong bytes
    with pytest.raises(PullError) as broken:
        pull()
    assert "checksum" in sentence(broken)
    assert (pull().path / WEIGHTS).read_bytes() == repo.files[WEIGHTS]


def test_a_wrong_token(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, write_model(tmp_path / "tiny"))
    with pytest.raises(AccessDenied) as refused:
        pull(token="hf_wrong")
    assert "token" in sentence(refused) and "wrong" in sentence(refused)
    assert (pull.installed, pull.visible()) == ([], [])


def test_a_private_repository_wants_a_token(
    pull: Puller, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, write_model(tmp_path / "tiny"), private=True)
    with pytest.raises(RepositoryNotFound) as refused:
        pull()
    assert "private" in sentence(refused)
    monkeypatch.setenv("HF_TOKEN", GOOD_TOKEN)  # the usual place
    assert pull().name == "tiny"
    assert hub.leaked_tokens == []


@pytest.mark.parametrize("token", [None, GOOD_TOKEN])
def test_a_missing_repository(pull: Puller, token: str | None) -> None:
    with pytest.raises(RepositoryNotFound) as refused:
        pull("quinces/nothing", token=token)
    assert "quinces/nothing" in sentence(refused)
    assert pull.visible() == []


def test_a_name_that_is_no_repository(pull: Puller, hub: HubServer) -> None:
    with pytest.raises(QuinceError) as refused:
        pull("a/b/c")
    assert "a/b/c" in sentence(refused)
    assert hub.requests == []


def test_a_gated_repository(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, write_model(tmp_path / "tiny"), gated=True)
    with pytest.raises(AccessDenied) as refused:
        pull(token=GOOD_TOKEN)
    assert "gated" in sentence(refused) and f"{hub.endpoint}/{REPO}" in sentence(refused)
    assert (pull.installed, pull.visible()) == ([], [])


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_checksum_mismatch(pull: Puller, hub: HubServer, tmp_path: Path, name: str) -> None:
    """Large files have sha256, small ones git's: either is checked."""
    repo = hub.add(REPO, write_model(tmp_path / "tiny"), corrupt={name})
    with pytest.raises(PullError) as broken:
        pull()
    assert name in sentence(broken) and "checksum" in sentence(broken)
    assert (pull.installed, pull.visible()) == ([], [])
    repo.corrupt.clear()
    assert (pull().path / name).read_bytes() == repo.files[name]


def test_the_network_is_down(pull: Puller, hub: HubServer, store: ModelStore) -> None:
    hub.endpoint = "http://127.0.0.1:9"
    with pytest.raises(PullError) as refused:
        pull()
    assert "cannot be reached" in sentence(refused)


@pytest.mark.parametrize(("status", "word"), [(500, "500"), (503, "503"), (429, "too many")])
def test_the_hub_is_out_of_order(pull: Puller, hub: HubServer, status: int, word: str) -> None:
    hub.status = status
    with pytest.raises(PullError) as refused:
        pull()
    assert word in sentence(refused)


@pytest.mark.parametrize("missing", ["config.json", WEIGHTS, "tokenizer.json"])
def test_what_is_missing_is_named_before_the_download(
    pull: Puller, hub: HubServer, tmp_path: Path, missing: str
) -> None:
    path = write_model(tmp_path / "tiny")
    (path / missing).unlink()
    hub.add(REPO, path)
    with pytest.raises(InvalidModel) as refused:
        pull()
    assert missing.replace("model.safetensors", "model*.safetensors") in sentence(refused)
    assert hub.sent == []


def test_weights_of_another_kind_are_named(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    path = write_model(tmp_path / "tiny")
    (path / WEIGHTS).rename(path / "pytorch_model.bin")
    hub.add(REPO, path)
    with pytest.raises(InvalidModel) as refused:
        pull()
    assert "pytorch_model.bin" in sentence(refused)


def test_a_missing_shard_is_named(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    path = write_model(tmp_path / "tiny", shards=3)
    (path / "model-00002-of-00003.safetensors").unlink()
    hub.add(REPO, path)
    with pytest.raises(InvalidModel) as refused:
        pull()
    assert "model-00002-of-00003.safetensors" in sentence(refused)
    assert pull.visible() == []


def test_two_pulls_of_one_repository_at_once(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    repo = hub.add(REPO, write_model(tmp_path / "tiny", size=400_000), bytes_per_second=1_000_000)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: pull(), range(2))
    assert first == second
    assert hub.bytes_sent(WEIGHTS) == len(repo.files[WEIGHTS])
    assert any("waiting" in one.status for one in pull.progress)


def test_pulls_of_two_repositories_at_once(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    both_under_way = threading.Barrier(2, timeout=10)
    for name in ("one", "two"):
        repo = hub.add(f"quinces/{name}", write_model(tmp_path / name))
        repo.on_chunk = lambda name, sent: both_under_way.wait() if name == WEIGHTS and sent == CHUNK else None
    with ThreadPoolExecutor(2) as pool:
        assert [model.name for model in pool.map(pull, ("quinces/one", "quinces/two"))] == ["one", "two"]
    assert not any("waiting" in one.status for one in pull.progress)


def test_a_cancelled_pull_resumes(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    repo = hub.add(REPO, write_model(tmp_path / "tiny", size=500_000), bytes_per_second=500_000)

    def cancel_once_some_has_come(name: str, sent: int) -> None:
        if any(one.file == WEIGHTS and one.file_completed for one in pull.progress):
            pull.cancelled.set()

    repo.on_chunk = cancel_once_some_has_come
    with pytest.raises(PullCancelled) as stopped:
        pull()
    assert "cancelled" in sentence(stopped)
    assert hub.bytes_sent(WEIGHTS) < len(repo.files[WEIGHTS]), "it ended with the download only"
    assert (pull.installed, pull.visible()) == ([], [])
    repo.on_chunk = lambda name, sent: None
    pull.cancelled.clear()
    pull()
    assert [one.start > 0 for one in hub.sent if one.name == WEIGHTS] == [False, True]


def test_a_broken_pull_can_be_thrown_away(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, write_model(tmp_path / "tiny"), corrupt={WEIGHTS})
    with pytest.raises(PullError):
        pull()
    with (
        pull.store.lock("quinces--tiny", threading.Event(), lambda: None),
        pytest.raises(StoreError, match="being pulled"),
    ):
        pull.store.remove(REPO)
    assert pull.store.remove(REPO) == REPO
    assert list(pull.store.staging.glob("*@*")) == []


# The disk


@contextlib.contextmanager
def tmpfs(path: Path, size: int) -> Iterator[None]:
    path.mkdir()
    mounted = (
        sys.platform == "linux"
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)], capture_output=True, check=False
        ).returncode
    )
    if not mounted:
        pytest.skip("no tmpfs can be mounted here (that needs Linux and root)")
    try:
        yield
    finally:
        subprocess.run(["umount", str(path)], check=True)


def test_the_disk_fills_up(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else writes while the pull runs; once there is room again, it goes on."""
    monkeypatch.setattr("quince.models.pull.SPARE", 0)
    home = tmp_path / "home"
    repo = hub.add(REPO, write_model(tmp_path / "tiny", size=2_000_000), bytes_per_second=5_000_000)
    with tmpfs(home, size=4_000_000):
        ballast = home / "ballast"

        def fill(name: str, sent: int) -> None:
            if name == WEIGHTS and sent > 500_000 and not ballast.exists():
                ballast.write_bytes(b"")
                with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
                    while file.write(bytes(4096)):
                        pass

        repo.on_chunk = fill
        pull = Puller(ModelStore(home, cache=tmp_path / "none"), hub)
        with pytest.raises(DiskFull) as full:
            pull()
        assert "full" in sentence(full)
        assert (pull.installed, pull.visible()) == ([], [])
        repo.on_chunk = lambda name, sent: None
        ballast.unlink()
        assert pull().name == "tiny"
        assert [one.start for one in hub.sent if one.name == WEIGHTS][-1] > 100_000


def test_a_write_that_finds_no_room(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    """The same without root: the file stands for a device that is always full."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    repo = hub.add(REPO, write_model(tmp_path / "tiny"))
    staged = pull.store.staging / f"quinces--tiny@{repo.revision[:12]}"
    staged.mkdir(parents=True)
    (staged / f"{WEIGHTS}.part").symlink_to("/dev/full")
    with pytest.raises(DiskFull) as full:
        pull()
    assert "full" in sentence(full)
    assert pull.visible() == []


def test_too_small_a_disk_is_told_before_the_download(
    pull: Puller, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add(REPO, write_model(tmp_path / "tiny"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10_000))
    with pytest.raises(DiskFull) as full:
        pull()
    assert "needed" in sentence(full) and "free" in sentence(full)
    assert hub.sent == []


# Names, types, revisions


def test_a_name_that_another_model_has(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, write_model(tmp_path / "tiny"))
    hub.add("others/tiny", write_model(tmp_path / "tiny-2", seed=7))
    pull()
    with pytest.raises(StoreError) as refused:
        pull("others/tiny")
    assert REPO in sentence(refused) and "--name" in sentence(refused)
    assert pull("others/tiny", name="tiny-too").name == "tiny-too"
    assert pull.installed == ["tiny", "tiny-too"]


def test_a_newer_revision_takes_the_older_one_s_place(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, write_model(tmp_path / "tiny"))
    first = pull()
    asked = len(hub.sent)
    assert pull() == first
    assert len(hub.sent) == asked, "what is there already was fetched again"
    repo = hub.add(REPO, write_model(tmp_path / "newer", seed=9))
    second = pull()
    assert second.manifest.source.revision == repo.revision
    assert (second.path / WEIGHTS).read_bytes() == repo.files[WEIGHTS]
    assert pull.installed == ["tiny"]


def test_a_revision_that_is_not_there(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, write_model(tmp_path / "tiny"))
    with pytest.raises(RepositoryNotFound) as refused:
        pull(revision="v9")
    assert "revision" in sentence(refused)


def test_the_type_can_be_given(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, write_model(tmp_path / "tiny"))
    assert pull(type=ModelType.RERANKER).type is ModelType.RERANKER
    assert pull.store.get("tiny").type is ModelType.RERANKER


@pytest.mark.parametrize("options", [{"bits": 3}, {"group_size": 5, "bits": 4}])
def test_a_quantisation_that_does_not_exist(pull: Puller, hub: HubServer, options: dict[str, Any]) -> None:
    with pytest.raises(ConvertError) as refused:
        pull(**options)
    assert "not supported" in sentence(refused)
    assert hub.requests == []


def test_what_is_quantised_already_is_not_quantised_again(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, write_model(tmp_path / "tiny", quantization={"bits": 8, "group_size": 64}))
    with pytest.raises(ConvertError) as refused:
        pull(bits=4)
    assert "already quantised" in sentence(refused)
    assert pull().manifest.description.bits == 8


def test_the_manifest_is_readable(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, write_model(tmp_path / "tiny"))
    written = json.loads((pull().path / "quince.json").read_text())
    assert written["source"]["repo_id"] == REPO
    assert written["description"]["type"] == "llm"


def test_waiting_for_another_pull_can_be_cancelled(pull: Puller, hub: HubServer, tmp_path: Path) -> None:
    hub.add(REPO, write_model(tmp_path / "tiny"))
    with pull.store.lock("quinces--tiny", threading.Event(), lambda: None):
        threading.Timer(0.3, pull.cancelled.set).start()
        with pytest.raises(PullCancelled):
            pull()
