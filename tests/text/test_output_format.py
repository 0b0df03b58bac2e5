"""Schemas to grammars: what comes out of them is valid, and what they cannot be held to is refused."""

from __future__ import annotations

import functools
import itertools
import json
import random
import re
from typing import Any

import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer
from tokenizers import Tokenizer

from quince.errors import InvalidRequest
from quince.models import demo
from quince.text import output_format
from quince.text.output_format import OutputFormat
from tests.text import json_schemas
from tests.text.json_schemas import Schema, assert_valid

PARAM = "response_format"
SEEDS = range(4)
MAX_TOKENS = 250


class _Vocabulary:
    """The demo model's tokens, for random walks through a grammar."""

    def __init__(self) -> None:
        path = demo.path(demo.CHAT)
        assert path is not None
        text = (path / "tokenizer.json").read_text(encoding="utf-8")
        self._tokenizer = Tokenizer.from_str(text)
        self._end = self._tokenizer.token_to_id("<|im_end|>")
        self._closing = [self._tokenizer.token_to_id(mark) for mark in '"}]']
        self._checker = LLTokenizer(text, eos_token=self._end)

    def walk(self, form: OutputFormat, seed: int) -> str | None:
        """What a model that knows nothing says; None if it has not come to an end. Soon, it prefers to."""
        chance = random.Random(seed)
        matcher = LLMatcher(self._checker, f"start: {form.expression}", log_level=0)
        said: list[int] = []
        while len(said) < MAX_TOKENS:
            bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
            allowed = np.flatnonzero(np.unpackbits(bits, bitorder="little")).tolist()
            assert not matcher.is_error(), matcher.get_error()
            hurry = len(said) / MAX_TOKENS + 0.2
            ends = matcher.is_stopped() or allowed == [self._end]
            if ends or (self._end in allowed and chance.random() < hurry):
                return str(self._tokenizer.decode(said, skip_special_tokens=False))
            closing = [token for token in self._closing if token in allowed]
            among = (
                closing if closing and chance.random() < hurry else [token for token in allowed if token != self._end]
            )
            said.append(chance.choice(among))
            assert matcher.consume_token(said[-1]), matcher.get_error()
        return None


@functools.cache
def vocabulary() -> _Vocabulary:
    return _Vocabulary()


def checked(schema: Schema | bool) -> OutputFormat:
    form = output_format.json_schema(schema, PARAM)
    form.check()
    return form


def problem(schema: Schema | bool) -> str:
    with pytest.raises(InvalidRequest) as failure:
        checked(schema)
    assert failure.value.param == PARAM
    return failure.value.message


def answers(schema: Schema) -> list[str]:
    """Those of a few random answers that come to an end: all of them valid."""
    form = checked(schema)
    ended = [text for seed in SEEDS if (text := vocabulary().walk(form, seed)) is not None]
    for text in ended:
        assert_valid(text, schema)
    return ended


def allows(schema: Schema, value: Any) -> bool:
    matcher = LLMatcher(LLTokenizer("byte"), f"start: {checked(schema).expression}")
    said = list(json.dumps(value, ensure_ascii=False).encode())
    return matcher.validate_tokens(said) == len(said) and matcher.consume_tokens(said) and matcher.is_accepting()


# The fixtures


def test_there_are_enough_schemas() -> None:
    counts = [
        len(json_schemas.answered(topic)) + len(json_schemas.long(topic)) + len(json_schemas.refused(topic))
        for topic in json_schemas.topics()
    ]
    assert sum(counts) >= 300


@pytest.mark.parametrize("topic", json_schemas.topics())
def test_answers_are_valid(topic: str) -> None:
    for schema in json_schemas.answered(topic):
        assert answers(schema), f"no answer came to an end: {schema}"


@pytest.mark.parametrize("topic", json_schemas.topics())
def test_long_answers_go_on(topic: str) -> None:
    """They are neither refused nor do they get stuck."""
    for schema in json_schemas.long(topic):
        assert len(answers(schema)) < len(SEEDS)


@pytest.mark.parametrize("topic", json_schemas.topics())
def test_refusals_are_sentences_that_name_the_parameter(topic: str) -> None:
    for schema, because in json_schemas.refused(topic):
        message = problem(schema)
        assert re.match(rf"{PARAM}(\.\S+)?: ", message), schema
        assert because in message, schema
        assert len(message) < 700 and "\n" not in message and "<state>" not in message


# What llguidance alone would get wrong


@pytest.mark.parametrize(
    ("format_", "good", "bad"),
    [
        ("date", ["2024-02-29", "2000-02-29", "2023-12-31", "0001-01-01"], ["2023-02-29", "1900-02-29", "0000-01-01"]),
        ("time", ["23:59:59Z", "00:00:00.5+05:30"], ["23:59:60Z", "24:00:00Z"]),
        ("date-time", ["2024-02-29T12:00:00Z"], ["2023-02-29T12:00:00Z", "2024-02-29T12:00:60Z"]),
    ],
)  # fmt: skip
def test_dates_and_times_exist(format_: str, good: list[str], bad: list[str]) -> None:
    schema = {"type": "string", "format": format_}
    assert [value for value in good if not allows(schema, value)] == []
    assert [value for value in bad if allows(schema, value)] == []


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer"},
        {"type": "integer", "minimum": 0},
        {"type": "integer", "maximum": 0},
        {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
        {"type": "integer", "minimum": -(2**63), "exclusiveMaximum": 2**63},
        {"type": ["integer", "null"], "minimum": -(2**63), "maximum": 2**63 - 1},
    ],
)
def test_integers_end_where_they_are_exact(schema: Schema) -> None:
    edges = {-(2**53), -(2**53) + 1, 0, 2**53 - 1, 2**53}
    edge_allowed = {value for value in edges if allows(schema, value)}
    assert 0 in edge_allowed
    assert edge_allowed <= {-(2**53) + 1, 0, 2**53 - 1}


def test_unique_items_that_need_not_be() -> None:
    assert allows({"type": "array", "uniqueItems": False}, [1, 1])


@pytest.mark.parametrize(
    ("schema", "where"),
    [
        ({"type": "object", "properties": {"a": {"type": "array", "items": {"not": {}}}}}, ".properties.a.items"),
        ({"type": "object", "properties": {"n": {"const": 2**70}}}, ".properties.n"),
        ({"anyOf": [{"type": "null"}, {"type": "object", "minProperties": 2}]}, ".anyOf.1"),
        ({"$defs": {"d": {"type": "string", "pattern": "(?=a)"}}, "$ref": "#/$defs/d"}, ".$defs.d"),
    ],
)
def test_a_refusal_says_where(schema: Schema, where: str) -> None:
    assert problem(schema).startswith(f"{PARAM}{where}: ")


def nested(depth: int) -> Schema:
    schema: Schema = {"type": "boolean"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize("depth", [100, 400, 3000])
def test_deep_schemas_are_held_to_or_refused(depth: int) -> None:
    try:
        form = checked(nested(depth))
    except InvalidRequest as refusal:
        assert len(refusal.message) < 700
        assert depth > 50
    else:
        assert vocabulary().walk(form, 1)


def test_references_in_circles_that_end() -> None:
    """A chain of references, the last of which may be left out, in every order of definition."""
    names = [f"d{number}" for number in range(30)]
    for order in (names, names[::-1]):
        definitions: Schema = {
            name: {"type": "object", "properties": {"n": {"$ref": f"#/$defs/{after}"}}, "required": ["n"]}
            for name, after in itertools.pairwise(order)
        }
        last = {"anyOf": [{"type": "null"}, {"$ref": f"#/$defs/{order[0]}"}]}
        checked({"$ref": f"#/$defs/{order[0]}", "$defs": {**definitions, order[-1]: last}})
        del last["anyOf"][0]  # type: ignore[attr-defined]
        message = problem({"$ref": f"#/$defs/{order[0]}", "$defs": {**definitions, order[-1]: last}})
        assert "for ever" in message


def test_false_and_true_are_schemas() -> None:
    assert allows(True, {"anything": [1]})  # type: ignore[arg-type]
    assert "false" in problem(False)


def test_a_schema_that_is_too_large() -> None:
    assert "longer than" in problem({"enum": ["x" * 2**20]})


# Other forms


@pytest.mark.parametrize("grammar", ['start: "a" <|im_end|>', "start: <[5]>", 'start: %json {"const": 1}'])
def test_a_grammar_may_name_tokens(grammar: str) -> None:
    output_format.lark(grammar, "guided_grammar").check()


@pytest.mark.parametrize("option", ["yes", "", 'a "quoted" \\ one', "line\nbreak", "🍐 é 世界", "{}", "a|b", "/x/"])
def test_choices_are_taken_literally(option: str) -> None:
    form = output_format.choice([option, "another"], "guided_choice")
    form.check()
    assert {vocabulary().walk(form, seed) for seed in range(8)} == {option, "another"}


@pytest.mark.parametrize("pattern", ["[0-9]{3}", "a/b", "(yes|no)!", "\\w{2,4}", "é+x", '"{3}'])
def test_a_regex_is_the_whole_answer(pattern: str) -> None:
    form = output_format.regex(pattern, "guided_regex")
    form.check()
    ended = [text for seed in range(8) if (text := vocabulary().walk(form, seed)) is not None]
    assert ended
    assert [text for text in ended if not re.fullmatch(pattern, text)] == []


@pytest.mark.parametrize(
    "form",
    [
        output_format.lark("start: missing", "guided_grammar"),
        output_format.lark("no grammar at all", "guided_grammar"),
        output_format.lark('start: "a"\n}\nstart: "b"', "guided_grammar"),
        output_format.lark("", "guided_grammar"),
        OutputFormat("/(/", "guided_regex"),
        output_format.regex("x(a?){500}a{500}", "guided_regex"),
    ],
    ids=lambda form: form.expression[:30],
)
def test_other_forms_that_cannot_be_followed(form: OutputFormat) -> None:
    with pytest.raises(InvalidRequest) as failure:
        form.check()
    assert failure.value.message.startswith(f"{form.param}: ")
    assert len(failure.value.message) < 700
