from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from quince.errors import InvalidRequest
from quince.text import reasoning_parsers
from quince.text.tool_parsers import FORMATS, Tool, ToolFormat, chain
from quince.text.tool_parsers.grammar import MAX_CALLS, Rules, closed, string_pattern
from tests.text.tool_parsers.walk import MAX_TOKENS, Vocabulary, vocabulary
from tests.text.transcripts.model import Result, run

SHORT = {"type": "string", "maxLength": 6}
FULL = Tool(
    "book",
    "Book a room",
    {
        "type": "object",
        "properties": {
            "city": SHORT,
            "unit": {"type": "string", "enum": ["c", "f", 'ö"</'], "description": "with what a schema says besides"},
            "nights": {"type": "integer", "minimum": 1, "maximum": 30},
            "guests": {
                "type": "array",
                "minItems": 1,
                "maxItems": 2,
                "items": {"type": "object", "properties": {"n": SHORT, "x": {"type": "boolean"}}, "required": ["n"]},
            },
            "code": {"type": "string", "pattern": "^[a-z]{2}/[0-9]$|^zz$"},
            "note": {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}]},
            "colour": {"$ref": "#/$defs/colour"},
        },
        "required": ["unit", "guests", "code", "note"],
        "additionalProperties": False,
        "$defs": {"colour": {"enum": ["red", "blue"]}},
    },
)
NONE = Tool("now")
OPTIONAL = Tool("pause", None, {"type": "object", "properties": {"s": {"type": "number", "enum": [1, 2.5]}}})
TOOLS = (FULL, NONE, OPTIONAL)
SEEDS = range(12)


def _check(format_: ToolFormat, text: str, tools: tuple[Tool, ...]) -> Result:
    parser = format_.parser(tools)
    if format_.name in reasoning_parsers.FORMATS:  # takes off what stands around messages and responses
        parser = chain(reasoning_parsers.get(format_.name).parser(False), parser)
    result = run(parser, [text])
    schemas = {tool.name: tool.parameters for tool in tools}
    assert result.calls, text
    for call, arguments in zip(result.calls, result.arguments, strict=True):
        value = json.loads(arguments)
        assert isinstance(value, dict)
        jsonschema.validate(value, dict(schemas[call.name]))
        if call.name == "now":
            assert value == {}
    return result


def _vocabulary(format_: ToolFormat, special: bool) -> Vocabulary:
    return vocabulary(format_.markers if special else ())


@pytest.mark.parametrize("special", [False, True], ids=["text", "special"])
@pytest.mark.parametrize("family", sorted(FORMATS))
def test_a_forced_call_is_one_that_the_schema_allows(family: str, special: bool) -> None:
    format_ = FORMATS[family]
    words = _vocabulary(format_, special)
    grammar = format_.grammar(TOOLS, parallel=False, special_tokens=words.special_tokens)
    names = set()
    for seed in SEEDS:
        text = words.walk(grammar, seed)
        assert text is not None
        result = _check(format_, text, TOOLS)
        assert (len(result.calls), result.content) == (1, "")
        names.add(result.calls[0].name)
    assert len(names) > 1


@pytest.mark.parametrize("family", sorted(FORMATS))
def test_parallel_calls_are_several(family: str) -> None:
    format_ = FORMATS[family]
    words = _vocabulary(format_, True)
    grammar = format_.grammar((NONE, OPTIONAL), parallel=True, special_tokens=words.special_tokens)
    counts = []
    for seed in SEEDS:
        text = words.walk(grammar, seed)
        assert text is not None
        result = _check(format_, text, (NONE, OPTIONAL))
        assert result.content == ""
        counts.append(len(result.calls))
    assert min(counts) >= 1 and max(counts) <= MAX_CALLS
    assert (max(counts) > 1) == format_.several


@pytest.mark.parametrize("family", sorted(FORMATS))
def test_every_family_can_be_held_to_one_tool(family: str) -> None:
    words = vocabulary()
    text = words.walk(FORMATS[family].grammar([NONE], parallel=False), 0)
    assert text is not None and "now" in text


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("name", sorted(reasoning_parsers.FORMATS))
def test_thinking_comes_before_a_call(name: str, opened: bool) -> None:
    """The thinking itself is bounded here by the walk: a model of no knowledge ends it rarely where marks are text."""
    thinking = reasoning_parsers.get(name)
    format_ = FORMATS.get(name, FORMATS["hermes"])
    marks = (*thinking.markers, *format_.markers)
    words = vocabulary(marks)
    before = thinking.grammar(opened, content=False, special_tokens=words.special_tokens)
    grammar = format_.grammar([NONE], parallel=False, special_tokens=words.special_tokens)
    ended = 0
    for seed in range(3):
        text = words.walk(grammar, seed, before)
        if text is None:
            continue
        ended += 1
        result = run(chain(thinking.parser(opened), format_.parser([NONE])), [text])
        assert [call.name for call in result.calls] == ["now"], text
        assert result.content == ""
    assert ended or opened, MAX_TOKENS


@pytest.mark.parametrize("parameters", [{"anyOf": [{"required": ["a"]}]}, {"patternProperties": {"a": {}}}])
def test_what_a_format_cannot_be_held_to_is_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="cannot be held to"):
        FORMATS["qwen3_coder"].grammar([Tool("f", None, parameters)], parallel=False)


def test_a_reference_to_elsewhere_is_refused() -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "array", "items": {"$ref": "#"}}}}
    with pytest.raises(InvalidRequest, match="only \\$defs"):
        FORMATS["qwen3_coder"].grammar([Tool("f", None, parameters)], parallel=False)


def test_a_required_parameter_that_is_not_declared_is_written() -> None:
    parameters = {"type": "object", "required": ["a"], "properties": {"b": {"const": "x"}}}
    text = vocabulary().walk(FORMATS["glm47"].grammar([Tool("f", None, parameters)], parallel=False), 3)
    assert text is None or "<arg_key>a</arg_key>" in text


def test_strings_without_quotes_are_held_to_pattern_length_and_format() -> None:
    assert string_pattern({}) == "/(?s:.*)/"
    for schema, valid in (
        ({"pattern": "[/|]", "maxLength": 3}, lambda text: "/" in text or "|" in text),
        ({"pattern": r"^\d+$|^a(b|c)$", "maxLength": 4}, lambda text: text.isdigit() or text in ("ab", "ac")),
        ({"minLength": 2, "maxLength": 3}, lambda text: 2 <= len(text) <= 3),
        ({"format": "date"}, lambda text: len(text) == 10 and text[4] == "-"),
        ({"const": "a b"}, lambda text: text == "a b"),
    ):
        parameters = {"type": "object", "properties": {"a": {"type": "string", **schema}}, "required": ["a"]}
        tool = Tool("f", None, parameters)
        for seed in range(5):
            text = vocabulary().walk(FORMATS["qwen3_coder"].grammar([tool], parallel=False), seed)
            assert text is not None
            result = run(FORMATS["qwen3_coder"].parser([tool]), [text])
            assert valid(json.loads(result.arguments[0])["a"]), text


def test_objects_are_closed_where_the_schema_does_not_say() -> None:
    inner = {"type": "object", "properties": {"a": {}}}
    assert closed({"properties": {"x": inner, "y": True}}) == {
        "properties": {"x": {**inner, "additionalProperties": False}, "y": True},
        "additionalProperties": False,
    }
    assert closed({"type": "integer", "minimum": 1}) == {"type": "integer", "minimum": 1}
    assert closed({"allOf": [inner]}) == {"allOf": [inner]}
    assert closed({**inner, "additionalProperties": True})["additionalProperties"] is True


def test_rules_write_marks_as_tokens_where_they_are() -> None:
    rules = Rules("x", {"<a>": 7})
    assert rules.literal('<a>b"\n<a>') == '<[7]> "b\\"\\n" <[7]>'
    assert rules.literal("") == '""'
    assert Rules("x", {}).literal("<a>") == '"<a>"'
