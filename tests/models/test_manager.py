"""Who is loaded, who waits and who has to go: the real manager over fake engine processes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import shutil
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from quince.config import ServeConfig
from quince.engine.messages import AddRequest, EngineConfig
from quince.errors import (
    EngineUnavailable,
    InsufficientMemory,
    InvalidRequest,
    ModelLoadError,
    ModelNotFound,
    QueueFull,
    QueueTimeout,
    RequestCancelled,
    UsageError,
)
from quince.models import memory
from quince.models.manager import ModelManager
from quince.models.model_type import ModelType
from quince.models.slot import ModelState
from quince.models.store import ModelStore
from quince.sampling import SamplingParams
from tests.hub_server import HubServer
from tests.models.conftest import write_model
from tests.models.test_store import install

FAKE_ENGINE = (sys.executable, "-m", "tests.engine.fake_engine")
MIB = 2**20


class Models:
    """Makes installed models, and managers over them."""

    def __init__(self, home: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.store = ModelStore(home)
        self._home = home
        self._caplog = caplog

    def add(self, *names: str, marker: str | None = None, **config: Any) -> None:
        for name in names:
            source = write_model(self._home / "sources" / name, size=1000, **config)
            if marker is not None:
                (source / marker).touch()
            install(self.store, source, name, f"quinces/{name}")

    def mark(self, name: str, marker: str, there: bool = True) -> None:
        path = self.store.directory / name / marker
        path.touch() if there else path.unlink()

    @asynccontextmanager
    async def manager(self, **settings: Any) -> AsyncIterator[ModelManager]:
        manager = ModelManager(ServeConfig(home=self._home, **settings), FAKE_ENGINE)
        try:
            await manager.start()
            yield manager
        finally:
            await manager.stop()

    def loads(self, name: str) -> int:
        return sum(record.message.startswith(f"loaded {name} ") for record in self._caplog.records)


@pytest.fixture
def models(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Models:
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf-cache"))
    return Models(tmp_path / "home", caplog)


async def use(manager: ModelManager, name: str | None, tokens: int = 1, **options: Any) -> list[int]:
    """One request: its answer is its prompt."""
    async with manager.acquire(name, new_name(), **options) as model:
        return await answer(model.engine, [1, *range(10, 10 + tokens)])


def new_name() -> str:
    return f"request-{time.monotonic_ns()}-{os.urandom(4).hex()}"


async def answer(engine: Any, prompt: list[int]) -> list[int]:
    request = AddRequest(new_name(), prompt, SamplingParams(max_tokens=100))
    batches = [batch async for batch in engine.generate(request)]
    return [token for batch in batches for output in batch for token in output.token_ids]


async def state(manager: ModelManager, name: str) -> ModelState:
    return (await manager.status(name)).state


async def until(condition: Callable[[], Any], within: float = 5) -> None:
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        await asyncio.sleep(0.01)


def engines() -> list[psutil.Process]:
    """The engine processes that this process has started and that still run."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if FAKE_ENGINE[-1] in child.cmdline():
                found.append(child)
    return found


def engine_pid(manager: ModelManager, name: str) -> int:
    (model,) = (model for model in manager.models if model.name == name)
    assert model.engine.pid is not None
    return model.engine.pid


def told(engine: Any) -> EngineConfig:
    config: EngineConfig = engine._config
    return config


def loaded(manager: ModelManager) -> list[str]:
    return sorted(model.name for model in manager.models)


async def test_twenty_first_requests_load_once(models: Models) -> None:
    models.add("one", marker="slow")
    async with models.manager() as manager:
        assert manager.models == []
        answers = await asyncio.gather(*(use(manager, "one", 3) for _ in range(20)))
    assert answers == [[1, 10, 11, 12]] * 20
    assert models.loads("one") == 1


async def test_every_name_of_a_model_is_the_same_engine(models: Models) -> None:
    models.add("one")
    models.store.set_alias("uno", "one")
    async with models.manager() as manager:
        for name in ("one", "uno", "quinces/one"):
            await use(manager, name)
        assert loaded(manager) == ["one"]
    assert models.loads("one") == 1


async def test_the_least_recently_used_goes(models: Models) -> None:
    models.add("one", "two", "three")
    async with models.manager(max_loaded_models=2) as manager:
        for name in ("one", "two", "one", "three"):
            await use(manager, name)
        assert loaded(manager) == ["one", "three"]
        assert [await state(manager, name) for name in ("one", "two", "three")] == [
            ModelState.READY,
            ModelState.UNLOADED,
            ModelState.READY,
        ]


async def test_an_idle_one_goes_before_a_busy_one(models: Models) -> None:
    models.add("one", "two", "three")
    async with models.manager(max_loaded_models=2) as manager, manager.acquire("one", "r"):
        await use(manager, "two")  # used last, but idle
        await use(manager, "three")
        assert loaded(manager) == ["one", "three"]


async def test_a_busy_engine_is_not_unloaded(models: Models) -> None:
    models.add("one", "two")
    async with models.manager(max_loaded_models=1) as manager:
        async with manager.acquire("one", "r") as model:
            waiting = asyncio.create_task(use(manager, "two"))
            late = None
            while await state(manager, "one") is not ModelState.DRAINING:
                await asyncio.sleep(0.01)
            late = asyncio.create_task(use(manager, "one"))  # has to wait: else "two" would starve
            await asyncio.sleep(0.3)
            assert not waiting.done() and not late.done()
            assert loaded(manager) == ["one"]
            assert await answer(model.engine, [1, 5]) == [1, 5], "what runs goes on"
        assert await asyncio.gather(waiting, late) == [[1, 10], [1, 10]]
        assert models.loads("one") == 2 and models.loads("two") == 1


async def test_two_models_in_turn_under_load(models: Models) -> None:
    """Room for one: every request is answered, and an engine ends before the next one starts."""
    models.add("one", "two")
    most = 0
    async with models.manager(max_loaded_models=1) as manager:

        async def client(number: int) -> None:
            nonlocal most
            for i in range(5):
                assert await use(manager, ("one", "two")[(number + i) % 2]) == [1, 10]
                most = max(most, len(engines()))

        await asyncio.gather(*(client(number) for number in range(4)))
    assert most == 1


async def test_idle_models_are_unloaded(models: Models) -> None:
    models.add("one", "two")
    async with models.manager(idle_ttl=0.4) as manager:
        await use(manager, "one")
        pid = engine_pid(manager, "one")
        async with manager.acquire("two", "r"):
            await until(lambda: loaded(manager) == ["two"])
            await asyncio.sleep(0.5)
            assert loaded(manager) == ["two"], "a busy model is not idle"
        assert not psutil.pid_exists(pid)
        await until(lambda: not manager.models)
        assert await use(manager, "one") == [1, 10]


async def test_keep_alive_goes_before_the_idle_time(models: Models) -> None:
    models.add("one", "two")
    async with models.manager(idle_ttl=0.3) as manager:
        await use(manager, "one", keep_alive=math.inf)
        assert (await manager.status("one")).expires_in == math.inf
        await asyncio.sleep(0.6)
        assert loaded(manager) == ["one"]
    async with models.manager(idle_ttl=60) as manager:
        await use(manager, "one")
        await use(manager, "two", keep_alive=0)
        await until(lambda: loaded(manager) == ["one"])
        await use(manager, "one", keep_alive=0.1)
        await until(lambda: not manager.models)


async def test_a_load_begins_the_idle_time_anew(models: Models) -> None:
    models.add("one")
    async with models.manager(idle_ttl=60) as manager:
        await use(manager, "one")
        (slot,) = manager.slots
        slot.last_used -= 59
        assert (await manager.status("one")).expires_in < 2
        assert (await manager.load("one")).expires_in > 50
        slot.last_used -= 59
        assert (await manager.load("one", keep_alive=30)).expires_in > 20, "from now on, not from its last request"


async def test_those_who_wait_for_a_load_can_be_cancelled(models: Models) -> None:
    models.add("one", marker="slow")
    async with models.manager() as manager:

        async def wait(name: str) -> None:
            async with manager.acquire("one", name):
                pass

        waiting = [asyncio.create_task(wait(name)) for name in "abcd"]
        await until(lambda: manager.slots and manager.slots[0].waiting == 4)
        assert manager.abort(["b", "nobody"]) == ["b"]
        with pytest.raises(RequestCancelled):
            await waiting[1]
        assert manager.slots[0].waiting == 3
        await waiting[0]
        await asyncio.gather(waiting[2], waiting[3])
        assert manager.abort() == []
        await manager.unload("one")
        waiting = [asyncio.create_task(wait(name)) for name in "ab"]
        await until(lambda: manager.slots[0].waiting == 2)
        assert sorted(manager.abort()) == ["a", "b"]
        ends = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(end) for end in ends] == [RequestCancelled] * 2


@pytest.mark.parametrize(("marker", "said"), [("broken", "no such model"), ("dies", "killed while loading")])
async def test_a_model_that_cannot_be_loaded(models: Models, marker: str, said: str) -> None:
    models.add("good")
    models.add("bad", marker=marker)
    async with models.manager() as manager:
        await use(manager, "good")
        errors = await asyncio.gather(*(use(manager, "bad") for _ in range(5)), return_exceptions=True)
        for error in errors:
            assert isinstance(error, ModelLoadError) and said in error.message and error.status == 503
            assert error.retry_after and error.retry_after > 5
        assert len({id(error) for error in errors}) == 5
        status = await manager.status("bad")
        assert status.state is ModelState.FAILED and status.error and said in status.error
        assert manager.health() == (True, "ready")
        children = engines()
        await asyncio.sleep(1)  # an engine that is restarted in a loop would be back by now
        assert engines() == children
        assert len(children) == 1
        assert await use(manager, "good") == [1, 10]
        models.mark("bad", marker, there=False)
        with pytest.raises(ModelLoadError):
            await use(manager, "bad")  # not tried again yet
        assert (await manager.load("bad")).state is ModelState.READY
        assert await use(manager, "bad") == [1, 10]


async def test_a_failed_model_is_tried_again_later(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quince.models.slot.RETRY_AFTER", 0.2)
    models.add("bad", marker="broken")
    async with models.manager() as manager:
        with pytest.raises(ModelLoadError):
            await use(manager, "bad")
        models.mark("bad", "broken", there=False)
        await asyncio.sleep(0.3)
        assert await use(manager, "bad") == [1, 10]


async def test_a_model_without_a_usable_tokenizer(models: Models) -> None:
    models.add("good", "bad")
    (models.store.directory / "bad" / "tokenizer.json").write_text("{")
    async with models.manager() as manager:
        with pytest.raises(ModelLoadError, match="tokenizer"):
            await use(manager, "bad")
        assert await use(manager, "good") == [1, 10]
        assert loaded(manager) == ["good"]


async def test_a_killed_engine_comes_back_and_the_other_never_notices(models: Models) -> None:
    models.add("one", "two")
    async with models.manager() as manager:
        await use(manager, "one")
        async with manager.acquire("two", "r") as two:
            streaming = asyncio.create_task(answer(two.engine, [7, *range(20)]))
            await asyncio.sleep(0.1)
            os.kill(engine_pid(manager, "one"), signal.SIGKILL)
            with pytest.raises(EngineUnavailable):
                for _ in range(200):
                    await use(manager, "one")
                    await asyncio.sleep(0.005)
            assert await streaming == [7, *range(20)]
        for _ in range(500):
            try:
                assert await use(manager, "one") == [1, 10]
                break
            except EngineUnavailable:
                await asyncio.sleep(0.02)
        else:
            raise AssertionError("it never came back")
    assert models.loads("one") == 1, "its client restarted it"


async def test_a_model_that_dies_and_cannot_be_loaded_again_is_given_up(models: Models) -> None:
    models.add("one")
    async with models.manager() as manager:
        await use(manager, "one")
        models.mark("one", "broken")
        os.kill(engine_pid(manager, "one"), signal.SIGKILL)
        await until(lambda: not manager.models)
        assert await state(manager, "one") is ModelState.FAILED
        with pytest.raises(ModelLoadError, match="no such model"):
            await use(manager, "one")
        assert engines() == []


async def test_unloading_during_a_stream(models: Models) -> None:
    models.add("one")
    async with models.manager() as manager:
        async with manager.acquire("one", "r") as model:
            streaming = asyncio.create_task(answer(model.engine, [7, *range(10)]))
            await asyncio.sleep(0.1)
            assert (await manager.unload("one")).state is ModelState.DRAINING
            assert await streaming == [7, *range(10)]
        await until(lambda: not manager.models)
        assert await state(manager, "one") is ModelState.UNLOADED
        assert (await manager.unload("one")).state is ModelState.UNLOADED, "twice is no mistake"


async def test_unloading_ends_the_process(models: Models) -> None:
    models.add("one")
    async with models.manager() as manager:
        await manager.load("one")
        pid = engine_pid(manager, "one")
        assert (await manager.unload("one")).state is ModelState.UNLOADED
        assert not psutil.pid_exists(pid)


async def test_too_large_a_model_is_refused_with_the_numbers(models: Models) -> None:
    models.add("one")
    async with models.manager(memory_budget=100 * MIB) as manager:
        with pytest.raises(InsufficientMemory) as refused:
            await use(manager, "one")
        needed = memory.gigabytes(memory.estimate((models.store.get("one")).manifest.description.size))
        assert needed in refused.value.message and "0.10 GB" in refused.value.message
        assert engines() == []


async def test_memory_makes_room(models: Models) -> None:
    """Two fit, a third does not; and what an engine measures counts more than its estimate."""
    models.add("one", "two", "three")
    room = 2 * memory.ENGINE_OVERHEAD + 10 * MIB
    async with models.manager(memory_budget=room) as manager:
        for name in ("one", "two", "three"):
            await use(manager, name)
        assert loaded(manager) == ["three", "two"]


async def test_engines_share_the_memory(models: Models) -> None:
    models.add("one", "two", "three")
    estimate = memory.estimate(models.store.get("one").manifest.description.size)
    budget = 5 * estimate
    async with models.manager(memory_budget=budget) as manager:

        def limits() -> dict[str, int]:
            """What the engines were told, with what their processes take besides."""
            engines = {slot.stored.name: slot.engine for slot in manager.slots if slot.engine is not None}
            return {name: told(engine).memory_limit + memory.ENGINE_OVERHEAD for name, engine in engines.items()}

        await use(manager, "one")
        assert limits() == {"one": 3 * estimate}
        await use(manager, "two")
        assert limits() == {"one": 3 * estimate, "two": estimate + estimate // 2}
        await use(manager, "three")  # there is no room for it: the first one's is divided again
        assert limits()["three"] < 3 * estimate
        await use(manager, "one")
        assert limits().keys() == {"one", "two", "three"} and sum(limits().values()) <= budget
        assert models.loads("one") == 2


async def test_memory_that_is_asked_for_is_given_and_kept_from_others(models: Models) -> None:
    models.add("one", "two")
    asked = 3 * memory.ENGINE_OVERHEAD
    async with models.manager(memory_budget=2 * asked, memory_bytes=asked) as manager:
        await use(manager, "one")
        (engine,) = [slot.engine for slot in manager.slots if slot.engine is not None]
        assert told(engine).memory_bytes == asked
        await use(manager, "two")
        assert loaded(manager) == ["two"]


async def test_what_is_not_there_is_a_404_without_a_network_call(models: Models, default_hub: HubServer) -> None:
    async with models.manager() as manager:
        await use(manager, None)  # what no name means must not be what an empty one means
        for name in ("", "nothing", "quinces/tiny", "../../etc", "qwen3:0.6b"):
            with pytest.raises(ModelNotFound, match="does not exist"):
                await use(manager, name)
    assert default_hub.requests == []


async def test_auto_download(models: Models, default_hub: HubServer, tmp_path: Path) -> None:
    default_hub.add("quinces/tiny", write_model(tmp_path / "tiny"))
    async with models.manager(auto_download=True) as manager:
        answers = await asyncio.gather(*(use(manager, "quinces/tiny") for _ in range(5)))
        assert answers == [[1, 10]] * 5
        assert sum(request.startswith("api/models/") for request in default_hub.requests) == 1
        for name in ("nothing", "quinces/nothing"):
            with pytest.raises(ModelNotFound):
                await use(manager, name)
    assert models.loads("tiny") == 1


async def test_a_newer_version_takes_over(models: Models, tmp_path: Path) -> None:
    models.add("one")
    async with models.manager() as manager:
        await use(manager, "one")
        first = engine_pid(manager, "one")
        install(models.store, write_model(tmp_path / "newer", size=2000), "one", "quinces/one")
        assert await use(manager, "one") == [1, 10]
        assert engine_pid(manager, "one") != first
        assert not psutil.pid_exists(first)


async def test_a_newer_version_that_comes_during_a_load_takes_over(models: Models, tmp_path: Path) -> None:
    models.add("one", marker="slow")
    async with models.manager() as manager:
        loading = asyncio.create_task(manager.load("one"))
        await until(lambda: manager.slots and manager.slots[0].engine is not None)
        first = engines()
        install(models.store, write_model(tmp_path / "newer", size=2000), "one", "quinces/one")
        assert await use(manager, "one") == [1, 10]
        assert engines() != first
        assert (await loading).state is ModelState.READY
        assert models.loads("one") == 2


async def test_a_removed_model_is_unloaded(models: Models) -> None:
    models.add("one")
    async with models.manager() as manager:
        await use(manager, "one")
        shutil.rmtree(models.store.directory / "one")
        with pytest.raises(ModelNotFound):
            await use(manager, "one")
        await until(lambda: not manager.models)


async def test_preloading(models: Models) -> None:
    models.add("one", marker="slow")
    models.add("bad", marker="broken")
    async with models.manager(preload=("one", "bad")) as manager:
        assert manager.health() == (False, "loading")
        await until(lambda: manager.health()[0])
        assert loaded(manager) == ["one"]
        assert await state(manager, "bad") is ModelState.FAILED
    with pytest.raises(ModelNotFound):
        ModelManager(ServeConfig(home=models.store.directory.parent, preload=("nothing",)))


async def test_a_model_of_another_type(models: Models) -> None:
    models.add("embedder", architectures=["BertModel"])
    async with models.manager() as manager:
        with pytest.raises(InvalidRequest, match="of type embedding"):
            await use(manager, "embedder")
        assert await use(manager, "embedder", types=(ModelType.EMBEDDING,)) == [1, 10]


async def test_one_model_only(models: Models, tmp_path: Path) -> None:
    models.add("one", "two")
    models.store.set_alias("uno", "one")
    async with models.manager(model="one") as manager:
        await until(lambda: manager.health()[0])
        for name in (None, "default", "model", "one", "uno", "quinces/one", str(models.store.directory / "one")):
            assert await use(manager, name) == [1, 10]
        for name in ("two", "quince-demo"):
            with pytest.raises(ModelNotFound, match="It serves: one"):
                await use(manager, name)
        with pytest.raises(InvalidRequest, match="only model"):
            await manager.unload("one")
        assert [status.stored.name for status in await manager.statuses()] == ["one"]
    with pytest.raises(UsageError, match="there is no model"):
        ModelManager(ServeConfig(home=models.store.directory.parent, model="nothing"))


async def test_any_name_means_the_only_model(models: Models) -> None:
    models.add("one")
    async with models.manager(model="one", any_model_name=True) as manager:
        await until(lambda: manager.health()[0])
        assert await use(manager, "gpt-4") == [1, 10]


async def test_the_type_of_the_only_model_can_be_given(models: Models) -> None:
    models.add("one")
    async with models.manager(model="one", model_type="embedding") as manager:
        with pytest.raises(InvalidRequest, match="of type embedding"):
            await use(manager, "one")


@pytest.mark.parametrize(
    "settings",
    [
        {"adapter": "somewhere"},
        {"max_tokens": 5},
        {"temperature": 0.0},
        {"top_p": 0.5},
        {"top_k": 5},
        {"memory_bytes": 2**30},
        {"prefix_cache_bytes": 0},
        {"kv_bits": 8},
        {"kv_group_size": 64},
        {"tool_parser": "none"},
        {"reasoning_parser": "none"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_means_nothing_to_the_only_model_is_refused(models: Models, settings: dict[str, Any]) -> None:
    (name,) = settings
    home = models.store.directory.parent
    for model in ("quince-demo-embedding", "quince-demo-reranker"):
        with pytest.raises(UsageError, match=f"--{name.replace('_', '-')} .* is for models that write") as refused:
            ModelManager(ServeConfig(home=home, model=model, named=frozenset(settings), **settings))
        assert model in refused.value.message
    ModelManager(ServeConfig(home=home, named=frozenset(settings), **settings))
    ModelManager(ServeConfig(home=home, model="quince-demo", named=frozenset(settings), **settings))
    ModelManager(ServeConfig(home=home, model="quince-demo-embedding", **settings))  # the configuration file's


async def test_waiting_for_a_load_has_an_end(models: Models) -> None:
    models.add("one", "two")
    async with models.manager(max_loaded_models=1, queue_timeout=0.5) as manager, manager.acquire("one", "r"):
        with pytest.raises(QueueTimeout, match="two"):
            await use(manager, "two")


async def test_few_may_wait_for_a_load(models: Models) -> None:
    models.add("one", marker="slow")
    async with models.manager(max_running_requests=2, queue_size=1) as manager:
        results = await asyncio.gather(*(use(manager, "one") for _ in range(5)), return_exceptions=True)
        assert sum(isinstance(result, QueueFull) for result in results) == 2
        assert sum(result == [1, 10] for result in results) == 3


async def test_few_may_do_what_needs_no_engine(models: Models) -> None:
    """Tokenizing, and looking for models."""
    models.add("one")
    async with models.manager(max_running_requests=2, queue_size=1) as manager:
        async with manager.text("one"), manager.text("one"), manager.text("one"):
            with pytest.raises(QueueFull, match="texts are being tokenized"):
                async with manager.text("one"):
                    pass
        async with manager.text("one") as (name, _):
            assert name == "one"
        results = await asyncio.gather(*(manager.status(f"unknown-{n}") for n in range(5)), return_exceptions=True)
        assert sorted(type(result).__name__ for result in results) == ["ModelNotFound"] * 3 + ["QueueFull"] * 2


async def test_stopping_while_loading(models: Models) -> None:
    models.add("one", marker="slow")
    async with models.manager() as manager:
        waiting = asyncio.create_task(use(manager, "one"))
        await until(engines)
        await manager.stop()
        with pytest.raises(EngineUnavailable, match="shutting down"):
            await waiting
        assert engines() == []
        with pytest.raises(EngineUnavailable):
            await use(manager, "one")


async def test_a_waiter_that_leaves_does_not_break_the_load(models: Models) -> None:
    models.add("one", marker="slow")
    async with models.manager() as manager:
        first, second = (asyncio.create_task(use(manager, "one")) for _ in range(2))
        await asyncio.sleep(0.2)
        first.cancel()
        assert await second == [1, 10]
    assert models.loads("one") == 1


async def test_limits_of_one_type(models: Models) -> None:
    """They count models of their own type only, and what goes is of that type."""
    models.add("chat")
    models.add("one", "two", architectures=["BertModel"], model_type="bert")
    models.add("rank", architectures=["BertForSequenceClassification"], model_type="bert")
    async with models.manager(max_embedding_models=1, max_reranker_models=1) as manager:
        for name in ("chat", "rank", "one"):
            await manager.load(name)
        assert loaded(manager) == ["chat", "one", "rank"]
        await manager.load("two")
        assert loaded(manager) == ["chat", "rank", "two"]
