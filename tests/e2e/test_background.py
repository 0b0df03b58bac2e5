"""Servers in the background, with real processes: what is left after whatever happened to them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.e2e.conftest import StartServer
from tests.e2e.helpers import chat_body
from tests.e2e.server_process import QUINCE, wait_for
from tests.e2e.user import Quince

DEMO = "quince-demo"


@pytest.fixture
def quince(tmp_path: Path) -> Iterator[Quince]:
    user = Quince(tmp_path / "a home")
    try:
        yield user
    finally:
        user.close()


def answers(server: dict[str, Any]) -> bool:
    body = chat_body("What is the capital of France?", max_tokens=8)
    answer = httpx2.post(server["address"] + "/v1/chat/completions", json=body, trust_env=False, timeout=60)
    return answer.status_code == 200


def test_start_kill_start_stop(quince: Quince) -> None:
    """A server that was killed leaves nothing that is in the way of the next one."""
    first = quince.start(DEMO)
    port = str(first["port"])
    assert answers(first)
    assert (first["state"], first["model"], first["models"][0]["name"]) == ("ready", DEMO, DEMO)
    assert psutil.Process(first["pid"]).terminal() is None
    assert os.getsid(first["pid"]) == first["pid"]
    os.kill(first["pid"], signal.SIGKILL)
    wait_for(lambda: not quince.processes(), within=10, what="the engine ends with its server")
    assert (quince.run("status").returncode, quince.run("status").stdout) == (1, "no server is running\n")

    again = quince.run("start", DEMO, "--port", port)
    assert again.returncode == 0, again.stderr
    (second,) = quince.servers()
    assert answers(second)
    assert Path(second["log"]).name == f"server-{port}.log"
    assert (quince.home / "logs" / f"server-{port}.log.1").is_file()

    stopped = quince.run("stop")
    assert (stopped.returncode, stopped.stdout) == (0, f"stopped {second['address']} (pid {second['pid']})\n")
    assert quince.processes() == []
    assert quince.leftovers() == []
    gone = quince.run("stop")
    assert (gone.returncode, gone.stderr) == (1, "quince: no server is running\n")


def test_two_servers_and_all(quince: Quince) -> None:
    one, other = quince.start(), quince.start()
    assert quince.run("status").returncode == 0
    which = quince.run("stop")
    assert which.returncode == 1
    assert all(str(server["port"]) in which.stderr for server in (one, other))
    assert "--port" in which.stderr
    assert quince.run("stop", "--port", str(one["port"])).returncode == 0
    assert [server["pid"] for server in quince.servers()] == [other["pid"]]
    assert quince.run("stop", "--port", str(one["port"])).stderr.endswith(
        f"no server is running on port {one['port']}\n"
    )
    third = quince.start()
    done = quince.run("stop", "--all")
    assert sorted(done.stdout.split("\n")[:-1]) == sorted(
        f"stopped {server['address']} (pid {server['pid']})" for server in (other, third)
    )
    assert quince.processes() == []
    assert quince.run("stop", "--all").returncode == 0


def test_loaded_models(quince: Quince) -> None:
    server = quince.start("--idle-ttl", "600")
    assert json.loads(quince.run("ps", "--json").stdout) == []
    assert quince.run("ps").stdout == "no model is loaded\n"
    assert answers(server)
    (model,) = json.loads(quince.run("ps", "--json").stdout)
    assert (model["name"], model["state"], model["port"]) == (DEMO, "ready", server["port"])
    assert (model["running"], model["waiting"]) == (0, 0)
    assert 500 < model["expires_in"] <= 600
    assert model["memory"] > 10**7
    assert DEMO in quince.run("ps").stdout


def test_a_taken_port(quince: Quince) -> None:
    """The sentence says by whom. The log of the server that has it goes on."""
    server = quince.start()
    log = Path(server["log"]).read_text()
    result = quince.run("start", "--port", str(server["port"]))
    assert result.returncode == 1
    assert f"in use by Quince (pid {server['pid']})" in result.stderr
    assert Path(server["log"]).read_text() == log
    assert [one["pid"] for one in quince.servers()] == [server["pid"]]
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        result = quince.run("start", "--port", str(occupied.getsockname()[1]))
    assert result.returncode == 1
    assert "is in use by" in result.stderr
    assert "Quince (pid" not in result.stderr
    assert quince.run("stop").returncode == 0
    assert quince.leftovers() == []


def test_two_starts_at_once(quince: Quince) -> None:
    """One of them serves, the other says why it does not."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    both = [quince.begin("start", "--port", port) for _ in range(2)]
    results = [(*process.communicate(timeout=90), process.returncode) for process in both]
    assert sorted(code for *_, code in results) == [0, 1]
    (told,) = [err for _, err, code in results if code]
    assert f"port {port} on 127.0.0.1 is in use" in told
    (server,) = quince.servers()
    assert Path(server["log"]).is_file()
    assert quince.run("stop").returncode == 0
    assert quince.leftovers() == []


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (("--port", "99999"), 2, "--port"),
        (("--nothing",), 2, "--nothing"),
        (("one", "two"), 2, "two"),
        (("no-such-model",), 1, "no-such-model"),
    ],
)
def test_what_cannot_be_started(quince: Quince, args: tuple[str, ...], code: int, told: str) -> None:
    result = quince.run("start", *args)
    assert result.returncode == code
    assert told in result.stderr
    assert quince.processes() == []
    assert quince.leftovers() == []


def test_a_model_that_cannot_be_loaded(quince: Quince, model_dir: Path, tmp_path: Path) -> None:
    """The server would try again and again: nobody in the background wants that."""
    broken = shutil.copytree(model_dir, tmp_path / "broken")
    weights = next(broken.glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    header = int.from_bytes(content[:8], "little")
    content[8 : 8 + header] = content[8 : 8 + header].replace(b"q_proj", b"x_proj")
    weights.write_bytes(content)
    result = quince.run("start", "--port", "0", str(broken))
    assert result.returncode == 1
    assert "cannot be loaded" in result.stderr
    assert quince.processes() == []
    assert quince.leftovers() == []


def test_a_home_that_cannot_be_written(quince: Quince, start_server: StartServer) -> None:
    """In the background that is the end; in the foreground it is a warning."""
    quince.home.write_text("no directory")
    result = quince.run("start", "--port", "0")
    assert result.returncode == 1
    assert "quince: cannot write into" in result.stderr
    server = start_server(env={"QUINCE_HOME": str(quince.home)})
    assert "`quince status` and `quince stop` will not find this server" in server.logs()
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("number", "delay"), [(signal.SIGINT, 0), (signal.SIGTERM, 0.3), (signal.SIGINT, 0.8), (signal.SIGTERM, 1.5)]
)
def test_ctrl_c_while_it_starts(quince: Quince, number: signal.Signals, delay: float) -> None:
    """A model that takes long to load: nothing is left of its server."""
    process = quince.begin("start", "--port", "0", DEMO)
    wait_for(lambda: list(quince.home.glob("logs/starting-*")), within=30, what="the command has begun")
    time.sleep(delay)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    if process.returncode == 0:  # it was up already
        assert "Quince is up" in out
        assert quince.run("stop").returncode == 0
    else:
        assert "quince: interrupted: the server that was starting has been stopped\n" in err
    assert quince.processes() == []
    assert quince.leftovers() == []


def open_stream(server: dict[str, Any]) -> contextlib.AbstractContextManager[httpx2.Response]:
    body = chat_body(max_tokens=1500, stream=True)
    return httpx2.stream("POST", server["address"] + "/v1/chat/completions", json=body, trust_env=False, timeout=60)


def test_stop_lets_requests_finish(quince: Quince) -> None:
    server = quince.start(DEMO, QUINCE_DRAIN_TIMEOUT="60")
    with open_stream(server) as answer:
        pieces = answer.iter_text()
        first = next(pieces)
        assert json.loads(quince.run("status", "--json").stdout)[0]["running"] == 1
        stopping = quince.begin("stop")
        text = first + "".join(pieces)
    assert "[DONE]" in text
    assert '"error"' not in text
    _, told = stopping.communicate(timeout=60)
    assert stopping.returncode == 0
    assert "running requests get up to 60 s" in told


def test_stop_by_force_does_not(quince: Quince) -> None:
    server = quince.start(DEMO, QUINCE_DRAIN_TIMEOUT="60")
    with open_stream(server) as answer:
        pieces = answer.iter_text()
        next(pieces)
        started = time.monotonic()
        assert quince.run("stop", "--force").returncode == 0
        assert time.monotonic() - started < 15
        with contextlib.suppress(httpx2.TransportError):
            assert "[DONE]" not in "".join(pieces)
    assert quince.processes() == []
    assert quince.leftovers() == []


def test_ctrl_c_while_it_stops(quince: Quince) -> None:
    """The server still ends, when its request has."""
    server = quince.start(DEMO, QUINCE_DRAIN_TIMEOUT="60")
    with open_stream(server) as answer:
        pieces = answer.iter_text()
        next(pieces)
        process = quince.begin("stop")
        assert process.stderr is not None
        assert "running requests get" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert (process.returncode, "Traceback" in err) == (1, False)
        assert err.startswith("quince: interrupted: what was told to stop still ends")
        assert "[DONE]" in "".join(pieces)
    wait_for(lambda: not quince.processes(), within=20, what="the server has ended")


def test_a_server_that_hangs(quince: Quince) -> None:
    server = quince.start(DEMO)
    os.kill(server["pid"], signal.SIGSTOP)
    started = time.monotonic()
    result = quince.run("status")
    assert time.monotonic() - started < 10
    assert result.returncode == 1
    assert "not answering" in result.stdout
    forced = quince.run("stop", "--force")
    assert forced.returncode == 0
    assert "killed" in forced.stdout
    assert quince.processes() == []


def test_keys(quince: Quince) -> None:
    """Without a key of the server its figures are unknown, but not that it is up."""
    server = quince.start("--api-key", "secret")
    (without,) = quince.servers()
    assert (without["state"], without["models"], without["running"]) == ("ready", None, None)
    (with_key,) = json.loads(quince.run("status", "--json", QUINCE_API_KEY="secret").stdout)
    assert (with_key["models"], with_key["running"]) == ([], 0)
    assert "secret" not in "".join(path.read_text() for path in quince.home.glob("servers/*"))
    assert not [process for process in quince.processes() if "secret" in " ".join(process.cmdline())]
    assert server["pid"] == with_key["pid"]


def test_a_configuration_that_was_broken_since(quince: Quince) -> None:
    """What runs is told and stopped all the same."""
    server = quince.start()
    (quince.home / "config.yaml").write_text("prot: 1\n")
    told = quince.run("status", "--json")
    assert [one["pid"] for one in json.loads(told.stdout)] == [server["pid"]]
    assert "unknown key 'prot'" in told.stderr
    assert quince.run("stop").returncode == 0


def test_a_server_in_the_foreground(quince: Quince) -> None:
    """It is found and stopped like one in the background; a closed terminal ends it as SIGTERM does."""
    for end in ("stop", "hangup"):
        with quince.running("serve", "--port", "0") as process:
            wait_for(lambda: any(server["state"] == "ready" for server in quince.servers()), within=30, what="it is up")
            (server,) = quince.servers()
            assert (server["pid"], server["log"]) == (process.pid, None)
            if end == "stop":
                assert quince.run("stop").returncode == 0
            else:
                process.send_signal(signal.SIGHUP)
            _, err = process.communicate(timeout=30)
            assert process.returncode == 0
            assert err.rstrip().endswith("stopped")
        assert quince.leftovers() == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has a full disk at hand")
def test_a_full_disk_for_the_log(quince: Quince) -> None:
    """What cannot be written is lost; the server lives on."""
    with open("/dev/full", "wb") as full:
        process = subprocess.Popen([*QUINCE, "serve", "--port", "0", DEMO], stdout=full, stderr=full, env=quince.env)
    wait_for(lambda: any(server["state"] == "ready" for server in quince.servers()), within=30, what="it is up")
    (server,) = quince.servers()
    engine = psutil.Process(server["pid"]).children()[0]
    engine.kill()  # which is logged
    wait_for(lambda: server["pid"] and answers(server), within=30, what="the engine is back")
    assert quince.run("stop").returncode == 0
    assert process.wait(10) is not None


def test_readiness_and_watchdog(quince: Quince, tmp_path: Path) -> None:
    """The protocol of a systemd service, with the real server."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(str(quince.temporary / "notify"))
        heard.settimeout(60)
        manager = {"NOTIFY_SOCKET": str(quince.temporary / "notify"), "WATCHDOG_USEC": "600000"}
        with quince.running("serve", "--port", "0", DEMO, **manager) as process:
            messages = [heard.recv(4096).decode()]
            while "READY=1" not in messages[-1]:
                messages.append(heard.recv(4096).decode())
            assert all(message.startswith("STATUS=loading") for message in messages[:-1])
            assert answers(quince.servers()[0])
            assert heard.recv(4096).decode().startswith("WATCHDOG=1")
            process.send_signal(signal.SIGSTOP)
            heard.settimeout(1)  # five times as long as between two pings
            with pytest.raises(TimeoutError):
                for _ in range(20):  # some may have been on their way
                    heard.recv(4096)
            process.send_signal(signal.SIGCONT)
            heard.settimeout(10)
            assert heard.recv(4096).decode().startswith("WATCHDOG=1")
            process.terminate()
            while "STOPPING=1" not in messages[-1]:
                messages.append(heard.recv(4096).decode())
            process.communicate(timeout=30)
            assert process.returncode == 0
