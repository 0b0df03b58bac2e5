"""``quince run`` through pipes and on a real terminal."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.chat.fake_server import END, USAGE, fake_server, says
from tests.e2e.server_process import QUINCE, ServerProcess, environment, is_alive, wait_for
from tests.e2e.terminal import CTRL_C, CTRL_D, Terminal

QUESTION = "What is the capital of France?"
ANSWER = "The capital of France is Paris."
PROMPT = ">>> "


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A home of the test's own, by which its processes are found; a port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
    own = {"QUINCE_HOME": str(tmp_path / "home"), "HF_HUB_CACHE": str(tmp_path / "cache"), "QUINCE_PORT": port}
    return environment({**own, "TERM": "xterm"})


def ask(*args: str, env: dict[str, str], piped: str | None = None) -> subprocess.CompletedProcess[str]:
    stdin: dict[str, object] = {"stdin": subprocess.DEVNULL} if piped is None else {"input": piped}
    return subprocess.run(  # type: ignore[call-overload, no-any-return]
        [*QUINCE, "run", *args], capture_output=True, text=True, timeout=120, env=env, check=False, **stdin
    )


def processes(env: dict[str, str]) -> list[psutil.Process]:
    """What lives with this home: the command, its server, the server's engines."""

    def has_home(process: psutil.Process) -> bool:
        try:
            return process.environ().get("QUINCE_HOME") == env["QUINCE_HOME"] and is_alive(process)
        except psutil.Error:
            return False

    return [process for process in psutil.process_iter() if has_home(process)]


@pytest.fixture
def nothing_left(env: dict[str, str]) -> Iterator[None]:
    yield
    try:
        wait_for(lambda: not processes(env), within=20, what="every process has ended")
    finally:
        for process in processes(env):
            process.kill()


def test_a_pipe_gets_the_answer_alone(demo_server: ServerProcess, env: dict[str, str]) -> None:
    result = ask("--url", demo_server.base_url, QUESTION, env=env)
    assert (result.returncode, result.stdout, result.stderr) == (0, ANSWER + "\n", "")


def prompt_tokens(server: ServerProcess) -> int:
    """Of the chat model, beside which others may be loaded. None yet, if it is not."""
    models: dict[str, dict[str, int]] = server.get("/stats").json()["models"]
    return models.get("quince-demo", {}).get("prompt_tokens", 0)


def test_the_running_server_is_found(demo_server: ServerProcess, env: dict[str, str]) -> None:
    """By host and port; with the model named, and the question piped."""
    env["QUINCE_PORT"] = demo_server.base_url.rpartition(":")[2]
    before = prompt_tokens(demo_server)
    result = ask("quince-demo", env=env, piped=QUESTION + "\n")
    assert (result.returncode, result.stdout, result.stderr) == (0, ANSWER + "\n", "")
    assert prompt_tokens(demo_server) > before


def test_what_is_typed_goes_before_what_is_piped(env: dict[str, str]) -> None:
    with fake_server(says("Short."), END, USAGE, "[DONE]") as server:
        result = ask("--url", server.url, "-v", "--system", "Be short.", "summarise", env=env, piped="long text\n")
    assert (result.returncode, result.stdout) == (0, "Short.\n")
    assert result.stderr.startswith("prompt: 7 tokens (4 cached), ")
    assert [message["content"] for message in server.bodies[0]["messages"]] == ["Be short.", "summarise\n\nlong text"]


@pytest.mark.usefixtures("nothing_left")
def test_a_server_of_its_own(env: dict[str, str]) -> None:
    result = ask(QUESTION, env=env)
    assert (result.returncode, result.stdout, result.stderr) == (0, ANSWER + "\n", "")
    assert not processes(env)


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("name", [(), ("paris",), ("quince-demo-vision",)])
def test_what_the_configuration_file_says(env: dict[str, str], name: tuple[str, ...]) -> None:
    """It names the model of `quince serve`, which others may be asked beside; its aliases are names here, too."""
    home = Path(env["QUINCE_HOME"])
    home.mkdir()
    section = "models:\n  quince-demo:\n    alias: paris\n"
    (home / "config.yaml").write_text(f"model: quince-demo\napi_key: k\n{section}")
    result = ask(*name, QUESTION, "--temperature", "0", env=env)
    assert (result.returncode, result.stderr) == (0, "")
    assert (result.stdout == ANSWER + "\n") == (name != ("quince-demo-vision",))


@pytest.mark.usefixtures("nothing_left")
def test_a_directory(env: dict[str, str], model_dir: Path) -> None:
    """One that the server of this port does not have: it gets a server of its own."""
    with fake_server() as server:
        env["QUINCE_PORT"] = server.url.rpartition(":")[2]
        result = ask(str(model_dir), "hello", "--max-tokens", "4", "--temperature", "0", env=env)
    assert (result.returncode, server.bodies) == (0, [])
    assert result.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--url", "http://127.0.0.1:9", "Well?"), "no server answers at http://127.0.0.1:9"),
        (("--url", "here", "Well?"), "an address is like"),
        (("quince-dem", "Well?"), "did you mean quince-demo?"),
        (("nobody/nothing", "Well?"), "`quince pull nobody/nothing`"),
        (("--image", "/no/such.png", "Well?"), "/no/such.png: No such file"),
        ((), "there is nothing to ask"),
    ],
)
@pytest.mark.usefixtures("nothing_left")
def test_a_problem_is_one_sentence(env: dict[str, str], args: tuple[str, ...], said: str) -> None:
    result = ask(*args, env=env)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("quince: ") and result.stderr.count("\n") == 1
    assert said in result.stderr


def test_a_word_that_is_nearly_a_model_is_not_asked(env: dict[str, str]) -> None:
    with fake_server(says("Yes."), END, "[DONE]") as server:
        env["QUINCE_PORT"] = server.url.rpartition(":")[2]
        result = ask("quince-dem", env=env, piped="Well?")
        assert (result.returncode, server.bodies) == (1, [])
        assert "did you mean quince-demo?" in result.stderr
        assert ask("quinces", env=env, piped="Well?").returncode == 0
    assert [message["content"] for message in server.bodies[0]["messages"]] == ["quinces\n\nWell?"]


def test_a_word_is_asked_where_every_name_is_the_model_s(env: dict[str, str]) -> None:
    with fake_server(says("Yes."), END, "[DONE]") as server:
        env["QUINCE_PORT"] = server.url.rpartition(":")[2]
        server.any_name = True
        assert ask("Hello", env=env).stdout == "Yes.\n"
        assert ask("talker", env=env, piped="Well?").stdout == "Yes.\n"
    assert [body["messages"][0]["content"] for body in server.bodies] == ["Hello", "Well?"]


@pytest.mark.usefixtures("nothing_left")
def test_a_broken_model(env: dict[str, str], model_dir: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (broken / name).write_bytes((model_dir / name).read_bytes())
    result = ask(str(broken), "Well?", env=env)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("quince: ") and result.stderr.count("\n") == 1


def test_an_image_for_a_text_model(demo_server: ServerProcess, env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    result = ask("--url", demo_server.base_url, f"What is {tmp_path}/a.gif ?", env=env)
    assert (result.returncode, result.stdout) == (1, "")
    assert "image" in result.stderr and result.stderr.count("\n") == 1


def test_a_long_prompt_is_no_path(env: dict[str, str]) -> None:
    long = "~nobody " + "on and on " * 1000
    with fake_server(says("Yes."), END, "[DONE]") as server:
        assert ask("--url", server.url, long, env=env).stdout == "Yes.\n"
        assert ask("--url", server.url, long.replace(" ", ""), env=env).stdout == "Yes.\n"
    assert [body["messages"][0]["content"] for body in server.bodies] == [long, long.replace(" ", "")]


@pytest.mark.parametrize(("piped", "said"), [(b"\xff\xfe", "no text in UTF-8"), (b"x" * (9 << 20), "too long")])
def test_what_cannot_be_asked(env: dict[str, str], piped: bytes, said: str) -> None:
    result = subprocess.run(
        [*QUINCE, "run", "Well?"], input=piped, capture_output=True, timeout=60, env=env, check=False
    )
    assert (result.returncode, result.stdout, result.stderr.count(b"\n")) == (1, b"", 1)
    assert said in result.stderr.decode()


def test_a_reader_that_leaves(env: dict[str, str]) -> None:
    with fake_server(says("on and on "), None) as server:
        command = [*QUINCE, "run", "--url", server.url, "Well?"]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
        ) as process:
            assert process.stdout is not None and process.stderr is not None
            assert process.stdout.read(3) == b"on "
            process.stdout.close()
            assert process.stderr.read() == b""
        assert server.left.wait(10)


def test_ctrl_c_ends_a_single_answer(env: dict[str, str]) -> None:
    with fake_server(says("on and on "), None) as server:
        with Terminal(*QUINCE, "run", "--url", server.url, "Well?", env=env) as terminal:
            terminal.expect("on and on on")
            terminal.type(CTRL_C)
            assert terminal.wait() == 130
            assert "Traceback" not in terminal.shown
        assert server.left.wait(10)


def test_a_conversation_on_a_terminal(demo_server: ServerProcess, env: dict[str, str]) -> None:
    with Terminal(*QUINCE, "run", "--url", demo_server.base_url, env=env) as terminal:
        terminal.expect(PROMPT)
        terminal.type("/set temperature 0\n")
        terminal.expect(PROMPT)
        terminal.type('"""What is the\ncapital of France?"""\n')
        terminal.expect("\r\nThe capital of France is Paris.\r\n")
        terminal.expect(PROMPT)
        terminal.type("/show\n")
        terminal.expect("messages: 2")
        terminal.expect(PROMPT)
        terminal.type(CTRL_D)
        assert terminal.wait() == 0


def test_ctrl_c_stops_the_answer_and_the_conversation_goes_on(env: dict[str, str]) -> None:
    with (
        fake_server(says("on \x1b[2J"), None) as server,
        Terminal(*QUINCE, "run", "--url", server.url, env=env) as terminal,
    ):
        terminal.expect(PROMPT)
        terminal.type("Well?\n")
        terminal.expect("on ␛[2Jon ␛[2J")
        terminal.type(CTRL_C)
        terminal.expect(PROMPT)
        assert server.left.wait(10)
        terminal.type("/show\n")
        terminal.expect("messages: 2")
        terminal.type("/bye\n")
        assert terminal.wait() == 0


def test_thinking_is_dim(env: dict[str, str]) -> None:
    with (
        fake_server(says("", reasoning_content="hm"), says("Yes."), END, "[DONE]") as server,
        Terminal(*QUINCE, "run", "--url", server.url, "Well?", env=env) as terminal,
    ):
        terminal.expect("\x1b[2mhm\x1b[0m\r\n\r\nYes.\r\n")
        assert terminal.wait() == 0


def test_history_comes_back(env: dict[str, str]) -> None:
    """After a terminal that was closed, too."""
    with fake_server(says("Yes."), END, "[DONE]") as server:
        for _ in range(2):
            with Terminal(*QUINCE, "run", "--url", server.url, env=env) as terminal:
                terminal.expect(PROMPT)
                terminal.type("Is it so?\n" if not server.bodies else "\x1b[A\n")
                terminal.expect("Yes.")
                terminal.expect(PROMPT)
    assert [body["messages"][-1]["content"] for body in server.bodies] == ["Is it so?", "Is it so?"]
    history = Path(env["QUINCE_HOME"]) / "history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


@pytest.mark.parametrize("ending", ["kill -9", "closed terminal", "terminated"])
@pytest.mark.usefixtures("nothing_left")
def test_its_own_server_ends_with_it(env: dict[str, str], ending: str) -> None:
    with Terminal(*QUINCE, "run", env=env) as terminal:
        terminal.expect(PROMPT)
        terminal.type(QUESTION + "\n")
        terminal.expect(ANSWER)
        assert len(processes(env)) == 3  # itself, the server and the engine
        if ending == "closed terminal":
            terminal.close()
            assert terminal.process.wait(20) == -signal.SIGHUP
        else:
            os.kill(terminal.process.pid, signal.SIGKILL if ending == "kill -9" else signal.SIGTERM)
            terminal.wait()


@pytest.mark.usefixtures("nothing_left")
def test_ctrl_c_while_its_server_starts(env: dict[str, str]) -> None:
    with Terminal(*QUINCE, "run", env=env) as terminal:
        terminal.expect("starting one for this chat")
        terminal.type(CTRL_C)
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.shown
