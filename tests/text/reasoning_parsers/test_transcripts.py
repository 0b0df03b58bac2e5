from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quince.errors import UsageError
from quince.text import tool_parsers
from quince.text.reasoning_parsers import FORMATS, detect, get
from quince.text.tool_parsers import chain
from tests.text.transcripts import json_families
from tests.text.transcripts.model import TOOLS, Call, Transcript, cut, run
from tests.text.transcripts.reasoning import TRANSCRIPTS

SIZES = st.lists(st.integers(0, 7), max_size=100)
MARKS = sorted({mark for format_ in FORMATS.values() for mark in format_.markers})
PIECES = st.lists(st.sampled_from([*MARKS, *" \n<a", "to=f", " to=self", "analysis", "final"]), max_size=30).map(
    "".join
)


def test_every_format_has_a_transcript() -> None:
    assert {transcript.family for transcript in TRANSCRIPTS} == set(FORMATS)


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=str)
def test_reasoning_and_text_come_apart_at_once_and_by_characters(transcript: Transcript) -> None:
    for pieces in ([transcript.text], list(transcript.text)):
        result = run(get(transcript.family).parser(transcript.opened), pieces)
        assert (result.reasoning, result.content) == (transcript.reasoning, transcript.content)


@given(st.sampled_from(TRANSCRIPTS), st.integers(0, 400), SIZES)
def test_any_cut_of_any_beginning_gives_the_same(transcript: Transcript, end: int, sizes: list[int]) -> None:
    format_, text = get(transcript.family), transcript.text[:end]
    assert run(format_.parser(transcript.opened), cut(text, sizes)) == run(format_.parser(transcript.opened), [text])


@given(st.sampled_from(sorted(FORMATS)), st.booleans(), PIECES, SIZES)
def test_no_text_raises(name: str, opened: bool, text: str, sizes: list[int]) -> None:
    format_ = FORMATS[name]
    assert run(format_.parser(opened), cut(text, sizes)) == run(format_.parser(opened), [text])


@given(st.sampled_from(json_families.HERMES), SIZES)
def test_calls_behind_the_thinking_are_calls(transcript: Transcript, sizes: list[int]) -> None:
    parser = chain(get("think").parser(True), tool_parsers.get(transcript.family).parser(TOOLS))
    result = run(parser, cut(f"Hm <tool_call>?\n</think>\n\n{transcript.text}", sizes))
    assert (result.reasoning, result.content) == ("Hm <tool_call>?", transcript.content)
    assert result.shown() == list(transcript.calls)


@given(SIZES)
def test_harmony_in_two_stages(sizes: list[int]) -> None:
    text = (
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>Wait.<|end|>"
        '<|start|>assistant<|channel|>commentary to=functions.now <|constrain|>json<|message|>{"a": [1]}<|call|>'
    )
    result = run(chain(get("harmony").parser(False), tool_parsers.get("harmony").parser(TOOLS)), cut(text, sizes))
    assert (result.reasoning, result.content) == ("a", "Wait.")
    assert result.shown() == [Call("now", {"a": [1]})]


@given(SIZES)
def test_muse_in_two_stages(sizes: list[int]) -> None:
    text = (
        " to=self<|message|>a<|eom|><|start|>assistant to=now<|message|>"
        '<atem:function_calls>\n<atem:invoke name="now">\n'
        "</atem:invoke>\n</atem:function_calls><|eot|>"
    )
    result = run(chain(get("muse_spark").parser(False), tool_parsers.get("muse_spark").parser(TOOLS)), cut(text, sizes))
    assert (result.reasoning, result.content) == ("a", "")
    assert result.shown() == [Call("now", {})]


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{ '<think>\\n' }}", "think"),
        ("{{ '<|channel|>analysis<|message|>' }}", "harmony"),
        ("to=self<|message|> <atem:function_calls>", "muse_spark"),
        ("open_tag('think') open_tag('tools') '<|open|>' '<|sep|>'", "kimi_k3"),
        ("'<|channel>thought\\n<channel|>'", "gemma4"),
        ("[THINK]", "mistral"),
        ("<|START_THINKING|>", "cohere"),
        ("<longcat_think>", "longcat"),
        ("no thinking", None),
    ],
)
def test_the_template_tells_the_format(template: str, name: str | None) -> None:
    found = detect(template)
    assert (found.name if found else None) == name


def test_a_vocabulary_tells_what_the_template_does_not() -> None:
    found = detect("", {"<think>", "</think>"})
    assert found is not None and found.name == "think"


def test_a_prompt_tells_whether_the_block_is_open() -> None:
    assert get("think").opened("<|im_start|>assistant\n<think>\n")
    assert not get("think").opened("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not get("think").opened("What is <think>?<|im_end|>\n<|im_start|>assistant\n")
    assert get("kimi_k3").opened('<|open|>message role="assistant"<|sep|><|open|>think<|sep|>')
    assert not get("gemma4").opened("<|turn>model\n<|channel>thought\n<channel|>")
    assert not get("harmony").opened("<|start|>assistant")
    assert not get("harmony").closed("<|start|>assistant")
    assert get("harmony").opened("<|start|>assistant<|channel|>analysis<|message|>")
    assert get("harmony").closed("<|start|>assistant<|channel|>final<|message|>")
    assert get("think").closed("<think>\n\n</think>\n\n") and not get("think").closed("<think>\n")
    assert get("gemma4").closed("<|turn>model\n<|channel>thought\n<channel|>")
    assert get("kimi_k3").closed('<|open|>message role="assistant"<|sep|><|open|>response<|sep|>')


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    assert get("gpt_oss") is get("harmony")
    with pytest.raises(UsageError, match=r"'nope': known are .*harmony.*think"):
        get("nope")
