from __future__ import annotations

import stat
from pathlib import Path

import pytest

from quince.chat.conversation import Conversation
from quince.errors import UsageError


def test_what_is_sent() -> None:
    chat = Conversation(system="Be short.")
    chat.ask("One?", [])
    chat.answer("One.")
    chat.ask("Two?", [])
    assert chat.to_send() == [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "One."},
        {"role": "user", "content": "Two?"},
    ]


def test_a_question_without_an_answer_is_forgotten() -> None:
    chat = Conversation()
    chat.ask("One?", [])
    chat.answer("")
    assert chat.to_send() == []


def test_images_go_before_the_text(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"GIF89a")
    chat = Conversation()
    chat.ask("What is it?", [tmp_path / "a.gif"])
    (message,) = chat.to_send()
    assert [part["type"] for part in message["content"]] == ["image_url", "text"]


def test_settings() -> None:
    chat = Conversation()
    for name, text in (("temperature", "0.7"), ("top_k", "5"), ("thinking", "off")):
        chat.set(name, text)
    assert chat.fields() == {"temperature": 0.7, "top_k": 5, "chat_template_kwargs": {"enable_thinking": False}}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("temperature", "hot"),
        ("temperature", "3"),
        ("top_p", "nan"),
        ("top_p", "0"),
        ("max_tokens", "0"),
        ("seed", "-1"),
        ("thinking", "?"),
    ],
)
def test_a_wrong_value_names_what_is_allowed(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"{name} is .*, not '"):
        Conversation().set(name, text)


def test_an_unknown_setting_names_those_that_there_are() -> None:
    with pytest.raises(UsageError, match="temperature, top_p"):
        Conversation().set("heat", "1")


def test_saved_and_loaded(tmp_path: Path) -> None:
    chat = Conversation("talker", "Be short.")
    chat.set("seed", "4")
    chat.ask("One?", [])
    chat.answer("One.")
    path = tmp_path / "chat.json"
    chat.save(path)
    chat.save(path)  # over itself
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["chat.json"]
    other = Conversation()
    other.load(path)
    assert (other.model, other.to_send(), other.fields()) == (chat.model, chat.to_send(), chat.fields())


def test_nothing_else_is_written_over(tmp_path: Path) -> None:
    path = tmp_path / "thesis.txt"
    path.write_text("Chapter 1")
    with pytest.raises(UsageError, match="no saved conversation"):
        Conversation().save(path)
    assert path.read_text() == "Chapter 1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": "quince-chat-1"}',
        '{"format": "quince-chat-9", "model": null, "system": null, "settings": {}, "messages": []}',
        '{"format": "quince-chat-1", "model": "x", "system": null, "settings": {"heat": "1"}, "messages": []}',
    ],
)
def test_a_file_that_cannot_be_loaded_changes_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "chat").write_text(text)
    chat = Conversation("talker", "Be short.")
    with pytest.raises(UsageError):
        chat.load(tmp_path / "chat")
    assert (chat.model, chat.system) == ("talker", "Be short.")
