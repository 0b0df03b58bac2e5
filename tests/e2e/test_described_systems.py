"""Every command line of the described systems' documents, as it is typed there: docs/migrating.md has the table.

Differences: models are demo models, directories are the test's, and ports are free ones (the defaults are checked in
tests/cli). ``python app.py`` and ``python -m app.main`` are other programs' files: their table has what to type here.
A line that asks for nothing else than another one is run up to the server that it would start.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import mlx.core as mx
import pytest
from mlx.utils import tree_flatten
from mlx_lm import load
from mlx_lm.tuner.utils import linear_to_lora_layers

from quince.models import demo
from tests.cli.test_mlx_server import LAUNCH, Started, served
from tests.cli.test_mlx_server import started as started  # the fixture
from tests.cli.test_service import SHOWN, Tool
from tests.e2e.helpers import chat_body
from tests.e2e.server_process import ServerProcess, wait_for
from tests.e2e.user import Quince
from tests.hub_server import HubServer

MLX_SERVER = (sys.executable, "-m", "quince.cli.mlx_server")
MLX_SERVE = (sys.executable, "-m", "quince.cli.mlx_serve")
CHAT, VISION, EMBEDDING, RERANKER = (str(demo.path(name)) for name in demo.NAMES)
LORA = {"rank": 2, "scale": 20.0, "dropout": 0.0}
QUESTION = "What is the capital of France?"


def test_the_executables_are_installed() -> None:
    scripts = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts["mlx-server"] == f"{MLX_SERVER[-1]}:main" and scripts["mlx-serve"] == f"{MLX_SERVE[-1]}:main"


def ask(server: ServerProcess, model: str | None = "any name", **fields: Any) -> dict[str, Any]:
    body = chat_body(QUESTION, max_tokens=8, model=model, **fields)
    answer = server.post("/v1/chat/completions", {name: value for name, value in body.items() if value is not None})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


# mlx-server


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As mlx_lm.lora leaves it, for the demo model, with random weights."""
    path = tmp_path_factory.mktemp("adapter")
    model = load(CHAT)[0]
    model.freeze()
    linear_to_lora_layers(model, 2, LORA)
    weights = {name: mx.random.normal(w.shape) for name, w in tree_flatten(model.trainable_parameters())}
    mx.save_safetensors(str(path / "adapters.safetensors"), weights)
    (path / "adapter_config.json").write_text(json.dumps({"num_layers": 2, "lora_parameters": LORA}))
    return str(path)


class Directory:
    """Where a user of mlx-server types: its servers run in it."""

    def __init__(self, path: Path, adapter: str) -> None:
        self.path = path
        self.adapter = adapter

    def serve(self, *args: str, env: Mapping[str, str] | None = None) -> ServerProcess:
        """What is typed, with ADAPTER for one, and on a free port."""
        typed = [self.adapter if argument == "ADAPTER" else argument for argument in args]
        if "--port" in typed:
            typed[typed.index("--port") + 1] = "0"
        elif not {"MLX_SERVER_PORT"} & (env or {}).keys() and "--config" not in typed:
            typed += ["--port", "0"]
        return ServerProcess(
            self.path / "terminal",
            *typed,
            env={"HOME": str(self.path), **(env or {})},
            program=MLX_SERVER,
            cwd=self.path,
        )

    def configure(self, **settings: Any) -> None:
        described = {
            "host": "127.0.0.1",
            "port": 0,
            "log_level": "INFO",
            "model_path": CHAT,
            "adapter_path": None,
            "default_max_tokens": 150,
            "default_temperature": 0.7,
            "logs_dir": "./logs",
            "cors_enabled": True,
            "cors_origins": ["*"],
        }
        (self.path / "config.json").write_text(json.dumps({**described, **settings}))


@pytest.fixture
def directory(tmp_path: Path, adapter: str) -> Directory:
    return Directory(tmp_path, adapter)


def answers(server: ServerProcess, directory: Directory) -> None:
    """To any name, and to none."""
    assert "Paris" in ask(server)["choices"][0]["message"]["content"]
    assert "Paris" in ask(server, None)["choices"][0]["message"]["content"]
    assert server.base_url.startswith("http://127.0.0.1:")


def is_open(server: ServerProcess, directory: Directory) -> None:
    assert server.base_url.startswith("http://0.0.0.0:")
    ask(server)


def is_configured(server: ServerProcess, directory: Directory) -> None:
    has_one_model(server, directory)
    body = {**chat_body(QUESTION), "max_tokens": None}
    assert server.post("/v1/chat/completions", body).json()["usage"]["completion_tokens"] == 150
    origin = server.http.get(server.base_url + "/v1/models", headers={"Origin": "http://page"})
    assert origin.headers["access-control-allow-origin"] == "*"
    assert "Quince" in (directory.path / "logs" / "mlx-server.log").read_text()


def has_all_options(server: ServerProcess, directory: Directory) -> None:
    assert server.base_url.startswith("http://0.0.0.0:")
    assert server.get("/v1/models").status_code == 401
    server.http.headers["Authorization"] = "Bearer secret-key"
    body = {**chat_body(QUESTION), "max_tokens": None}
    assert server.post("/v1/chat/completions", body).json()["usage"]["completion_tokens"] == 200
    assert "Paris" not in ask(server)["choices"][0]["message"]["content"], "its adapter speaks"
    assert " DEBUG " in (directory.path / "server.log").read_text()


def is_verbose(server: ServerProcess, directory: Directory) -> None:
    is_open(server, directory)
    assert " DEBUG " in server.logs()


def is_set_by_variables(server: ServerProcess, directory: Directory) -> None:
    assert server.get("/v1/models").status_code == 401
    server.http.headers["Authorization"] = "Bearer your-secret-key"
    is_verbose(server, directory)


def has_context(server: ServerProcess, directory: Directory) -> None:
    answers(server, directory)
    assert server.get("/v1/models").json()["data"][0]["max_model_len"] == 4096


def has_a_key(server: ServerProcess, directory: Directory) -> None:
    assert server.get("/v1/models").status_code == 401
    server.http.headers["Authorization"] = "Bearer key"
    has_context(server, directory)


def is_launched(server: ServerProcess, directory: Directory) -> None:
    is_open(server, directory)
    figures = server.get("/v1/queue/stats").json()["queue_stats"]
    assert (figures["max_concurrency"], figures["max_queue_size"]) == (1, 100)


def has_one_model(server: ServerProcess, directory: Directory) -> None:
    answers(server, directory)
    assert [model["id"] for model in server.get("/v1/models").json()["data"]] == [Path(CHAT).name]


@dataclasses.dataclass(frozen=True)
class Line:
    args: tuple[str, ...]
    check: Callable[[ServerProcess, Directory], None]
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)


def words(typed: str) -> tuple[str, ...]:
    return tuple(CHAT if word == "MODEL" else VISION if word == "VLM" else word for word in typed.split())


def line(typed: str, check: Callable[[ServerProcess, Directory], None], **env: str) -> Line:
    return Line(words(typed), check, env)


QUEUE = "--max-concurrency 1 --queue-timeout 300 --queue-size 100"
LINES = {
    "model": line("MODEL", has_one_model),
    "model-and-config": line("MODEL --config config.json", is_configured),
    "no-model": line("", answers),
    "every-option": line(
        "MODEL --host 0.0.0.0 --port 8080 --adapter ADAPTER --max-tokens 200 --temperature 0.8 --log-level DEBUG "
        "--log-file server.log --api-key secret-key",
        has_all_options,
    ),
    "variables": line(
        "",
        is_set_by_variables,
        MLX_SERVER_HOST="0.0.0.0",
        MLX_SERVER_PORT="0",
        MLX_SERVER_MODEL_PATH=CHAT,
        MLX_SERVER_LOG_LEVEL="DEBUG",
        MLX_SERVER_API_KEY="your-secret-key",
    ),
    "short-option": line("-m MODEL --port 8081 --ctx-size 4096 --api-key key", has_a_key),
    "launch-module-vlm": line(f"launch --model-path VLM --model-type vlm {QUEUE}", is_launched),
    "launch-every-option": line(f"launch --model-path MODEL --model-type lm --port 8000 {QUEUE}", is_launched),
    "app-options": line("MODEL --host 0.0.0.0 --port 8000 --verbose", is_verbose),
}
OF_MODEL = {"any_model_name": True, "model": CHAT}
OPEN = {"host": "0.0.0.0"}
# What is not as in a `quince serve` without any words. Each setting is one that a line above shows at work.
MEANINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "port-and-log-level": ("MODEL --port 8000 --log-level INFO", OF_MODEL),
    "port-and-host": ("MODEL --port 8080 --host 0.0.0.0", {**OF_MODEL, **OPEN, "port": 8080}),
    "adapter": ("MODEL --adapter ADAPTER", {**OF_MODEL, "adapter": "ADAPTER"}),
    "config": (
        "--config config.json",
        {
            **OF_MODEL,
            "port": 0,
            "max_tokens": 150,
            "temperature": 0.7,
            "log_file": Path("logs/mlx-server.log"),
            "cors_origin": ("*",),
        },
    ),
    "host": ("--host 0.0.0.0", {"any_model_name": True, **OPEN}),
    "debug": (
        "--log-level DEBUG --log-file debug.log",
        {"any_model_name": True, "log_level": "debug", "log_file": Path("debug.log")},
    ),
    "model-option": ("--model MODEL --port 8080", {**OF_MODEL, "port": 8080, "ctx_size": 4096}),
    "launch-module": (f"launch --model-path MODEL --model-type lm {QUEUE}", {**OF_MODEL, **LAUNCH}),
    "launch": ("launch --model-path MODEL --model-type lm --port 8000", {**OF_MODEL, **LAUNCH}),
    "app": ("MODEL --host 0.0.0.0", {**OF_MODEL, **OPEN}),
    "app-workers": ("MODEL --workers 1", OF_MODEL),
}


@pytest.mark.parametrize("name", LINES)
def test_mlx_server(directory: Directory, name: str) -> None:
    directory.configure()
    typed = LINES[name]
    with directory.serve(*typed.args, env=typed.env) as server:
        server.wait_ready()
        typed.check(server, directory)
        assert server.stop() == 0


@pytest.mark.parametrize("name", MEANINGS)
def test_mlx_server_means(directory: Directory, started: Started, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    directory.configure()
    typed, expected = MEANINGS[name]
    assert served(started, monkeypatch, *words(typed)) == expected


def test_mlx_server_stop(directory: Directory) -> None:
    with directory.serve(CHAT) as server:
        server.wait_ready()
        env = {"QUINCE_HOME": str(server.temporary / "quince_home"), "HOME": str(directory.path)}
        stopped = subprocess.run([*MLX_SERVER, "--stop"], env=env, capture_output=True, text=True, check=False)
        assert (stopped.returncode, stopped.stderr.count("\n")) == (0, 1), stopped.stderr
        assert stopped.stdout == f"stopped {server.base_url} (pid {server.pid})\n"
        assert server.process.wait(5) == 0
        again = subprocess.run([*MLX_SERVER, "--stop"], env=env, capture_output=True, text=True, check=False)
        assert (again.returncode, again.stderr) == (1, "mlx-server: no server is running\n")


def test_mlx_server_reload(directory: Directory, tmp_path: Path) -> None:
    """A copy of the program whose files may be touched: the server starts again, and ends with what is told to end."""
    shutil.copytree(
        Path(demo.__file__).parents[2], tmp_path / "copy" / "quince", ignore=shutil.ignore_patterns("__pycache__")
    )
    env = {"PYTHONPATH": str(tmp_path / "copy")}
    with directory.serve(CHAT, "--reload", env=env) as server:
        server.wait_ready()
        first = server.engines()
        (tmp_path / "copy" / "quince" / "errors.py").touch()
        wait_for(lambda: "the program has changed" in server.logs(), within=20, what="the change is seen")
        wait_for(lambda: not any(one.is_running() for one in first), within=20, what="the first server has ended")
        wait_for(lambda: server.logs().count("Quince") > 1, within=30, what="the next one listens")
        address = re.findall(r"on (http://\S+:\d+)", server.logs())[-1]
        wait_for(lambda: answers_health(server, address), within=30, what="it is ready")
        assert server.engines()
        assert server.stop() == 0
        assert not server.engines()


def answers_health(server: ServerProcess, address: str) -> bool:
    try:
        return server.http.get(address + "/health").status_code == 200
    except httpx2.TransportError:
        return False


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (("--help",), 0, ("Usage: mlx-server [OPTIONS]", "mlx-server launch --help")),
        (("launch", "--help"), 0, ("Usage: mlx-server launch [OPTIONS]", "--max-concurrency")),
        (("--version",), 0, ("mlx-server (Quince) ",)),
        ((CHAT, "--workers", "2"), 1, ("more than one brings nothing",)),
    ],
    ids=["help", "launch-help", "version", "app-two-workers"],
)
def test_mlx_server_tells(args: tuple[str, ...], code: int, words: tuple[str, ...]) -> None:
    told = subprocess.run([*MLX_SERVER, *args], capture_output=True, text=True, check=False)
    assert told.returncode == code
    assert all(word in told.stdout + told.stderr for word in words)


# mlx-serve


@pytest.fixture
def user(tmp_path: Path) -> Iterator[Quince]:
    """With a hub that has a model of every type, and a home directory without anything."""
    found = Quince(tmp_path / "home", MLX_SERVE)
    with HubServer() as hub:
        for path in (CHAT, VISION, EMBEDDING, RERANKER):
            hub.add(f"Qwen/{Path(path).name.replace('quince', 'my')}", Path(path))
        found.env |= {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": "", "HOME": str(tmp_path)}
        try:
            yield found
        finally:
            found.close()


def told(user: Quince, *args: str) -> Any:
    result = user.run(*args, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


PULLS = [
    ("pull Qwen/my-demo --type llm", "my-demo", "llm", None),
    ("pull Qwen/my-demo --type llm --quantize 4", "my-demo-4bit", "llm", 4),
    ("pull Qwen/my-demo-vision --type vlm", "my-demo-vision", "vlm", None),
    ("pull Qwen/my-demo-vision --type vlm --quantize 4", "my-demo-vision-4bit", "vlm", 4),
    ("pull Qwen/my-demo-embedding --type embedding", "my-demo-embedding", "embedding", None),
    ("pull Qwen/my-demo-reranker --type reranker", "my-demo-reranker", "reranker", None),
]


def test_mlx_serve_pull(user: Quince) -> None:
    for typed, name, type, _ in PULLS:
        result = user.run(*typed.split())
        assert result.returncode == 0, result.stderr
        assert f"installed {name} ({type}, " in result.stdout
    listed = {model["name"]: (model["type"], model["bits"]) for model in told(user, "list")}
    assert [listed[name] for _, name, *_ in PULLS] == [(type, bits) for *_, type, bits in PULLS]


def test_mlx_serve_list_remove_and_quantize(user: Quince) -> None:
    assert user.run("pull", "Qwen/my-demo", "--type", "llm").returncode == 0
    assert user.run("quantize", "my-demo", "--bits", "4").returncode == 0
    shown = [line.split()[0] for line in user.run("list").stdout.splitlines()]
    assert shown == ["NAME", *demo.NAMES, "my-demo", "my-demo-4bit"]
    assert user.run("remove", "my-demo").stdout == "removed my-demo\n"
    assert [model["name"] for model in told(user, "list")] == [*demo.NAMES, "my-demo-4bit"]


def test_mlx_serve_start_in_the_foreground(user: Quince, tmp_path: Path) -> None:
    program = (*MLX_SERVE, "start", "--foreground", "--port", "0")
    with ServerProcess(tmp_path / "log", env={"HOME": str(tmp_path)}, program=program) as server:
        server.wait_ready()
        assert server.base_url.startswith("http://0.0.0.0:")
        assert "Paris" in ask(server, "quince-demo")["choices"][0]["message"]["content"]
        assert server.post("/v1/chat/completions", chat_body(model="any name")).status_code == 404
        assert server.stop() == 0


@pytest.mark.parametrize(
    ("args", "loaded"),
    [
        ((), []),
        (
            ("--host", "0.0.0.0", "--preload", "quince-demo", "--preload", "quince-demo-embedding"),
            ["quince-demo", "quince-demo-embedding"],
        ),
    ],
    ids=["start", "host-port-and-preloads"],
)
def test_mlx_serve_start(user: Quince, args: tuple[str, ...], loaded: list[str]) -> None:
    server = user.start(*args)
    assert server["host"] == "0.0.0.0"
    shown = user.run("status", "--port", str(server["port"]))
    assert shown.returncode == 0 and server["address"] in shown.stdout

    def models() -> list[str]:
        (one,) = user.servers()
        return sorted(model["name"] for model in one["models"] if model["state"] == "ready")

    wait_for(lambda: models() == loaded, within=60, what="the models are loaded")
    assert user.run("stop", "--port", str(server["port"])).stdout.startswith(f"stopped {server['address']} ")
    assert user.processes() == []


@pytest.mark.parametrize("typed", ["stop", "stop --force", "stop --all"], ids=["stop", "force", "all"])
def test_mlx_serve_stop(user: Quince, typed: str) -> None:
    servers = [user.start() for _ in range(2 if "--all" in typed else 1)]
    stopped = user.run(*typed.split())
    assert stopped.returncode == 0 and stopped.stdout.count("stopped") == len(servers)
    assert user.processes() == []
    assert user.run("status").stdout == "no server is running\n"


def test_mlx_serve_config(user: Quince, tmp_path: Path) -> None:
    assert user.run("config", "--path").stdout == f"{tmp_path / '.mlx-serve' / 'config.yaml'}\n"
    example = user.run("config", "--example").stdout
    (tmp_path / ".mlx-serve").mkdir()
    (tmp_path / ".mlx-serve" / "config.yaml").write_text(example.replace("port: 8000", "port: 0"))
    shown = user.run("config").stdout
    assert re.search(r"^idle_ttl +1800 +\S+config.yaml, line \d+ *$", shown, re.MULTILINE)
    server = user.start()
    assert json.loads(Path(server["log"]).read_text().splitlines()[0])["level"] == "info", "its log is JSON"
    assert user.run("stop").returncode == 0
    # Models are where the file has them.
    assert user.run("pull", "Qwen/my-demo", "--type", "llm").returncode == 0
    assert (tmp_path / ".mlx-serve" / "models" / "my-demo" / "config.json").is_file()


def test_mlx_serve_variables(user: Quince, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    shutil.copytree(CHAT, tmp_path / "models" / "Qwen3-0.6B-4bit")
    variables = {
        "MLX_SERVE_HOST": "127.0.0.1",
        "MLX_SERVE_PORT": "0",
        "MLX_SERVE_MODELS_DIR": str(tmp_path / "models"),
        "MLX_SERVE_LOG_LEVEL": "DEBUG",
        "MLX_SERVE_PRELOAD_MODELS": "Qwen3-0.6B-4bit",
        "MLX_SERVE_AUTO_DOWNLOAD": "false",
    }
    started = user.run("start", **variables)
    assert started.returncode == 0, started.stderr
    (server,) = user.servers()
    assert server["host"] == "127.0.0.1" and " DEBUG " in Path(server["log"]).read_text()
    wait_for(lambda: "loaded Qwen3-0.6B-4bit" in Path(server["log"]).read_text(), within=60, what="it is loaded")


SERVICE = {
    "install": "--user daemon-reload",
    "start": "--user start --no-block quince.service",
    "stop": "--user stop quince.service",
    "status": "--user show quince.service --property=",
    "enable": "--user enable quince.service",
    "disable": "--user disable quince.service",
    "uninstall": "--user disable quince.service",
}


@pytest.mark.skipif(platform.system() != "Linux", reason="a stand-in for systemctl")
def test_mlx_serve_service(user: Quince, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    systemctl = Tool(tmp_path / "bin", "systemctl")
    systemctl.answers(SHOWN)
    env = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "XDG_CONFIG_HOME": str(tmp_path / ".config")}
    unit = tmp_path / ".config" / "systemd" / "user" / "quince.service"
    for command, expected in SERVICE.items():
        result = user.run("service", command, **env)
        assert result.returncode == 0, result.stderr
        assert any(call.startswith(expected) for call in systemctl.calls()), command
        if command == "install":
            assert '"serve" "--host" "0.0.0.0" "--port" "8000"' in unit.read_text()
    assert not unit.exists()
