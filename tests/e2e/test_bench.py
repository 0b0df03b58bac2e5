"""``quince bench``: its server is its own, and ends with it."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.chat.fake_server import END, USAGE, fake_server, says
from tests.e2e.server_process import QUINCE, environment, is_alive, wait_for

SHORT = ("-c", "1", "--requests", "1", "--prompt-tokens", "8", "--max-tokens", "4")


@pytest.fixture
def env(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A home whose configuration file asks for a key; no process of it outlives the test."""
    (tmp_path / "config.yaml").write_text("api_key: from-the-file\n")
    env = environment({"QUINCE_HOME": str(tmp_path)})
    try:
        yield env
    finally:
        for process in processes(env):
            process.kill()


def processes(env: dict[str, str]) -> list[psutil.Process]:
    def has_home(process: psutil.Process) -> bool:
        try:
            return process.environ().get("QUINCE_HOME") == env["QUINCE_HOME"] and is_alive(process)
        except psutil.Error:
            return False

    return [process for process in psutil.process_iter() if has_home(process)]


def bench(*args: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*QUINCE, "bench", *args, *SHORT], capture_output=True, text=True, timeout=120, env=env, check=False
    )


def test_it_measures_where_servers_want_a_key(env: dict[str, str]) -> None:
    result = bench("--json", env=env)
    assert result.returncode == 0, result.stderr
    (level,) = json.loads(result.stdout)
    assert (level["concurrency"], level["completion_tokens"]) == (1, 4)
    assert processes(env) == []


@pytest.mark.parametrize(
    ("model", "said"), [("quince-demo-embedding", "is of type embedding"), ("no-such-model", "there is no model")]
)
def test_what_cannot_be_measured_is_one_sentence(env: dict[str, str], model: str, said: str) -> None:
    result = bench(model, env=env)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("quince: ") and said in result.stderr
    assert result.stderr.count("\n") == 1 and "{" not in result.stderr


def test_thinking_is_text(env: dict[str, str]) -> None:
    thinking = [{"choices": [{"delta": {name: "so "}}]} for name in ("reasoning_content", "reasoning")]
    with fake_server(*thinking, says("yes"), END, USAGE, "[DONE]") as server:
        result = bench("--json", "--url", server.url, env=env)
    (level,) = json.loads(result.stdout)
    assert level["ttft_p50"] > 0 and level["gap_p50"] >= 0
    assert server.keys == ["Bearer from-the-file"] * 2


@pytest.mark.skipif(shutil.which("openssl") is None, reason="a certificate is made by openssl")
def test_https(env: dict[str, str], tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    files = ("-keyout", str(key), "-out", str(certificate))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", *names, *files], check=True, capture_output=True
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with fake_server(says("so"), says("yes"), END, USAGE, "[DONE]") as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = server.url.replace("http://127.0.0.1", "https://localhost")
        assert "certificate verify failed" in bench("--url", url, env=env).stderr
        result = bench("--json", "--url", url, env=env | {"SSL_CERT_FILE": str(certificate)})
    assert json.loads(result.stdout)[0]["completion_tokens"] == 3, result.stderr


def test_a_key_does_not_go_out_in_the_clear(env: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [*QUINCE, "bench", "--url", f"https://127.0.0.1:{listener.getsockname()[1]}", *SHORT]
        with subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            listener.settimeout(30)
            connection, _ = listener.accept()
            with connection:
                received = connection.recv(2**16)
            _, told = process.communicate(timeout=30)
    assert received.startswith(b"\x16\x03"), "a TLS handshake"
    assert process.returncode == 1 and told.count(b"\n") == 1


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://localhost", "http://", "http://localhost:99999", "here"])
def test_what_is_no_address(env: dict[str, str], url: str) -> None:
    result = bench("--url", url, env=env)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == f"quince: --url {url}: an address is like http://127.0.0.1:8000\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_its_server_ends_with_it(env: dict[str, str], number: signal.Signals) -> None:
    with subprocess.Popen([*QUINCE, "bench", "--requests", "1000"], env=env, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: len(processes(env)) >= 3, within=30, what="command, server and engine run")
        finally:
            process.send_signal(number)
    wait_for(lambda: not processes(env), within=20, what="every process has ended")
