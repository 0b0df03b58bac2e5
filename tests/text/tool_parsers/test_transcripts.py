from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quince.text.tool_parsers import FORMATS, get
from tests.text.transcripts import json_families, tag_families
from tests.text.transcripts.model import TOOLS, Transcript, cut, run

TRANSCRIPTS = [*json_families.TRANSCRIPTS, *tag_families.TRANSCRIPTS]
SIZES = st.lists(st.integers(0, 7), max_size=200)
MARKS = sorted({mark for format_ in FORMATS.values() for mark in format_.markers})
PIECES = st.lists(
    st.sampled_from(
        [
            *MARKS,
            *'{}[]()"\\,:=<> \n',
            '"name"',
            '"arguments"',
            "call:",
            "f",
            "<function=f>",
            "<parameter=a>",
            "é",
            "😀",
        ]
    ),
    max_size=40,
).map("".join)


def test_every_family_has_a_transcript() -> None:
    assert {transcript.family for transcript in TRANSCRIPTS} == set(FORMATS)


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=str)
def test_calls_and_content_come_out_at_once_and_by_characters(transcript: Transcript) -> None:
    for pieces in ([transcript.text], list(transcript.text)):
        result = run(get(transcript.family).parser(TOOLS), pieces)
        assert result.content == transcript.content
        assert result.shown() == list(transcript.calls)


@given(st.sampled_from(TRANSCRIPTS), SIZES)
def test_any_cut_gives_the_same(transcript: Transcript, sizes: list[int]) -> None:
    format_ = get(transcript.family)
    assert run(format_.parser(TOOLS), cut(transcript.text, sizes)) == run(format_.parser(TOOLS), [transcript.text])


@given(st.sampled_from(TRANSCRIPTS), st.integers(0, 500), SIZES)
def test_an_answer_that_ends_anywhere_gives_the_same(transcript: Transcript, end: int, sizes: list[int]) -> None:
    format_, text = get(transcript.family), transcript.text[:end]
    assert run(format_.parser(TOOLS), cut(text, sizes)) == run(format_.parser(TOOLS), [text])


@given(st.sampled_from(sorted(FORMATS)), PIECES, SIZES)
def test_no_text_raises(family: str, text: str, sizes: list[int]) -> None:
    format_ = FORMATS[family]
    assert run(format_.parser(TOOLS), cut(text, sizes)) == run(format_.parser(TOOLS), [text])


@given(st.sampled_from(TRANSCRIPTS), st.integers(0, 300), st.integers(0, 20), SIZES)
def test_a_transcript_with_a_hole_gives_the_same(transcript: Transcript, at: int, size: int, sizes: list[int]) -> None:
    format_, text = get(transcript.family), transcript.text[:at] + transcript.text[at + size :]
    assert run(format_.parser(TOOLS), cut(text, sizes)) == run(format_.parser(TOOLS), [text])


@given(st.sampled_from(sorted(FORMATS)), st.text(alphabet="ab <[{\n日😀", max_size=60), SIZES)
def test_text_without_calls_is_left_as_it_is(family: str, text: str, sizes: list[int]) -> None:
    result = run(FORMATS[family].parser(TOOLS), cut(text, sizes))
    assert (result.content, result.calls) == (text, [])


def test_the_name_comes_first_and_arguments_as_they_are_written() -> None:
    parser = get("hermes").parser(TOOLS)
    assert parser.push('Hi <tool_call>{"name": "get_wea') != []
    assert [type(delta).__name__ for delta in parser.push('ther"')] == ["ToolCallStart"]
    assert [delta.arguments for delta in parser.push(', "arguments": {"city": "Z')] == ['{"city": "Z']  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("family", "begin", "end"),
    [
        ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "', '"}}</tool_call>'),
        ("hermes", '<tool_call>{"arguments": {"a": "', '"}, "name": "f"}</tool_call>'),
        ("qwen3_coder", "<tool_call><function=get_weather><parameter=city>", "</parameter></function></tool_call>"),
        ("qwen3_coder", "<tool_call><function=f><parameter=a>", "</parameter></function></tool_call>"),
        ("gemma4", '<|tool_call>call:f{a:<|"|>', '<|"|>}<tool_call|>'),
        ("pythonic", "<|tool_call_start|>[f(a='", "')]<|tool_call_end|>"),
    ],
)
def test_long_arguments_take_linear_time(family: str, begin: str, end: str) -> None:
    def seconds(tokens: int) -> float:
        parser, started = get(family).parser(TOOLS), time.perf_counter()
        run(parser, [begin, *["lorem "] * tokens, end])
        return time.perf_counter() - started

    seconds(1000)
    assert min(seconds(20_000) for _ in range(2)) < 40 * min(seconds(2_000) for _ in range(3))


def test_text_that_begins_like_a_header_is_not_held_back_for_ever() -> None:
    for family, begin in (("harmony", "<|channel|>"), ("glm47", "<tool_call>"), ("minimax_m2", "<invoke ")):
        parser = get(family).parser(TOOLS)
        assert parser.push(begin + "x" * 1000) != []
