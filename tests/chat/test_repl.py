from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from quince.chat.client import ChatClient, Ending
from quince.chat.conversation import Conversation
from quince.chat.history import History
from quince.chat.repl import Repl, read_message, statistics, unquoted
from tests.chat.fake_server import END, USAGE, FakeServer, fake_server, says


def typing(*lines: str | type[BaseException]) -> Callable[[str], str]:
    """An ``input`` at which these are typed, then Ctrl-D."""
    left = iter(lines)

    def ask(prompt: str) -> str:
        line = next(left, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return ask


def sitting(server: FakeServer, path: Path, *lines: str | type[BaseException], verbose: bool = False) -> Conversation:
    chat = Conversation()
    with ChatClient(server.url) as client:
        Repl(client, chat, History(path / "history", None), verbose=verbose, ask=typing(*lines)).run()
    return chat


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["one line"], "one line"),
        (['"""one"""'], '"""one"""'),
        (['"""first', "second", 'third"""', "not this"], '"""first\nsecond\nthird"""'),
        (['/system """be', 'short"""'], '/system """be\nshort"""'),
        (['a """ in between', "next"], 'a """ in between'),
        (['"""', "text", '"""'], '"""\ntext\n"""'),
    ],
)
def test_messages_of_several_lines(lines: list[str], message: str) -> None:
    assert read_message(typing(*lines)) == message


def test_quotes_are_taken_off() -> None:
    assert unquoted('"""\nfirst\nsecond\n"""') == "first\nsecond"
    assert unquoted(' "hm" ') == '"hm"'


def test_a_conversation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_server(says("Yes."), END, USAGE, "[DONE]") as server:
        sitting(server, tmp_path, "One?", "", "/system Be short.", "/set temperature 0.5", "Two?", "/clear", "Three?")
    assert [[m["content"] for m in body["messages"]] for body in server.bodies] == [
        ["One?"],
        ["Be short.", "One?", "Yes.", "Two?"],
        ["Be short.", "Three?"],
    ]
    assert [body.get("temperature") for body in server.bodies] == [None, 0.5, 0.5]
    assert capsys.readouterr().out.count("Yes.\n") == 3


def test_commands_that_are_wrong_are_told_and_nothing_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with fake_server() as server:
        sitting(
            server,
            tmp_path,
            "/nothing",
            "/set heat 3",
            "/model none",
            "/load",
            f"/load {tmp_path}/no",
            "/image /dev/null",
        )
    assert server.bodies == []
    told = capsys.readouterr().out.splitlines()[1:]
    assert told == [
        "there is no command /nothing; /help lists them",
        "there is no setting 'heat': temperature, top_p, top_k, min_p, max_tokens, seed, thinking",
        "the server has no model 'none'; /model lists them",
        "which file?",
        f"{tmp_path}/no: No such file or directory",
        "/dev/null is no image: PNG, JPEG, WebP, GIF and BMP are",
    ]


def test_help_names_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_server() as server:
        sitting(server, tmp_path, "/help")
    out = capsys.readouterr().out
    for command in ("help", "clear", "system", "model", "set", "show", "save", "load", "image", "bye"):
        assert f"  /{command} " in out


def test_model_and_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_server(says("Yes."), END, "[DONE]") as server:
        sitting(server, tmp_path, "/model", "/show", "/model talker", "One?", "/show", "/bye", "Two?")
    assert [body["model"] for body in server.bodies] == ["talker"]
    assert f"model: talker, at {server.url}\nsystem: none\nsettings: the server decides\nmessages: 0" in (
        out := capsys.readouterr().out
    )
    assert "messages: 2" in out


def test_images(tmp_path: Path) -> None:
    for name in ("a.gif", "b.gif"):
        (tmp_path / name).write_bytes(b"GIF89a")
    with fake_server(says("A cat."), END, "[DONE]") as server:
        sitting(server, tmp_path, f"/image {tmp_path}/a.gif", f"And {tmp_path}/b.gif ?", f"{tmp_path}/b.gif", "Well?")
    counts = [len(body["messages"][-1]["content"]) for body in server.bodies]
    assert counts == [3, 1, len("Well?")]


def test_saved_and_loaded(tmp_path: Path) -> None:
    with fake_server(says("Yes."), END, "[DONE]") as server:
        sitting(server, tmp_path, "One?", f"/save {tmp_path}/chat")
        chat = sitting(server, tmp_path, f"/load {tmp_path}/chat")
    assert [message["content"] for message in chat.messages] == ["One?", "Yes."]


def test_a_refused_message_is_forgotten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_server() as server:
        server.refusal = (400, b'{"error": {"message": "no images here"}}')
        chat = sitting(server, tmp_path, "One?")
    assert chat.messages == []
    assert "refuses: no images here\n" in capsys.readouterr().out


def test_ctrl_c_at_the_prompt_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_server(says("Yes."), END, "[DONE]") as server:
        sitting(server, tmp_path, KeyboardInterrupt, "One?")
    assert len(server.bodies) == 1
    assert "Ctrl-D or /bye leaves." in capsys.readouterr().out


def test_statistics(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with fake_server(says("Yes."), END, USAGE, "[DONE]") as server:
        sitting(server, tmp_path, "One?", verbose=True)
    assert "prompt: 7 tokens (4 cached), first token after " in capsys.readouterr().err
    ending = Ending("stop", 10, 0, 21, 0.5, 2.0)
    assert statistics(ending) == "prompt: 10 tokens, first token after 0.50 s; answer: 21 tokens, 10.0 tokens/s"
