from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quince.chat.terminal import AnswerWriter, has_colours, neutralise


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("lines\n\tand tabs", "lines\n\tand tabs"),
        ("\x1b[31mred\x1b[0m", "␛[31mred␛[0m"),
        ("\x1b]52;c;aGk=\x07", "␛]52;c;aGk=␇"),
        ("\x9b31m", "\ufffd31m"),
        ("real\rfake", "realfake"),
        ("one\r\ntwo", "one\ntwo"),
        ("\x00\x08\x7f", "␀␈␡"),
        ("\u202egnp.exe", "\ufffdgnp.exe"),
        ("\ud83d", "\ufffd"),
        ("日本語 👩‍👩‍👧 é שלום", "日本語 👩‍👩‍👧 é שלום"),
    ],
)
def test_neutralise(text: str, shown: str) -> None:
    assert neutralise(text) == shown


@given(st.text(st.characters()))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = neutralise(text)
    assert not any(ord(character) < 0x20 and character not in "\n\t" for character in shown)
    assert not any(0x7F <= ord(character) < 0xA0 for character in shown)
    shown.encode()


def written(*pieces: tuple[str, bool], stream: io.StringIO, colours: bool) -> str:
    writer = AnswerWriter(stream, colours=colours)
    for text, thinking in pieces:
        (writer.think if thinking else writer.write)(text)
    writer.end()
    return stream.getvalue()


THOUGHT = (("hm", True), (", well", True), ("Yes", False), (".", False))


def test_a_pipe_gets_the_answer_and_nothing_else() -> None:
    assert written(*THOUGHT, stream=io.StringIO(), colours=False) == "Yes.\n"
    assert written(("\x1b[1mas it is\n", False), stream=io.StringIO(), colours=False) == "\x1b[1mas it is\n"
    assert written(stream=io.StringIO(), colours=False) == ""


def test_a_terminal_shows_the_thinking_dim() -> None:
    assert written(*THOUGHT, stream=Terminal(), colours=True) == "\x1b[2mhm, well\x1b[0m\n\nYes.\n"


def test_without_colours_the_thinking_is_named() -> None:
    assert written(*THOUGHT, stream=Terminal(), colours=False) == "(thinking) hm, well\n\nYes.\n"


def test_an_answer_cut_in_its_thinking_leaves_the_terminal_plain() -> None:
    assert written(("hm", True), stream=Terminal(), colours=True) == "\x1b[2mhm\x1b[0m\n\n"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [({"TERM": "xterm"}, True), ({"TERM": "dumb"}, False), ({}, False), ({"TERM": "xterm", "NO_COLOR": "1"}, False)],
)
def test_colours(environ: dict[str, str], expected: bool) -> None:
    assert has_colours(Terminal(), environ) is expected
    assert not has_colours(io.StringIO(), environ)
