from __future__ import annotations

import json
import threading

import mlx.core as mx
import numpy as np
import pytest

from quince.engine.messages import AddRequest, FinishReason
from quince.engine.structured import Constraint, GrammarCompiler
from quince.engine.token_masks import TokenMasks
from quince.sampling import SamplingParams, ThinkingBudget
from tests.engine.driver import make_core, run
from tests.tiny_models import END_TOKEN_ID, VOCAB_SIZE, build, tokenizer_file

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 1, "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
CLOSE, END = ord("|"), (ord("|"), ord("\n"))
AFTER_FIVE = ThinkingBudget(max_tokens=5, close_token_id=CLOSE, end_token_ids=END)


def lark(rules: str) -> SamplingParams:
    return SamplingParams(max_tokens=40, grammar=rules, stop_token_ids=(END_TOKEN_ID,))


def json_request(name: str, **params: object) -> AddRequest:
    grammar = "start: %json " + json.dumps({**SCHEMA, "x-guidance": {"whitespace_flexible": False}})
    sampling = SamplingParams(**{"max_tokens": 60, "stop_token_ids": (END_TOKEN_ID,), "grammar": grammar, **params})  # type: ignore[arg-type]
    return AddRequest(name, [5, 6, 7], sampling)


def text_of(token_ids: list[int]) -> str:
    return bytes(token for token in token_ids if token != END_TOKEN_ID).decode()


def compiled(params: SamplingParams) -> Constraint:
    matcher = GrammarCompiler(tokenizer_file(), VOCAB_SIZE).compile(params).result()
    return Constraint(matcher, params.thinking)


def allowed(*rows: Constraint | None) -> list[set[int]]:
    masks = TokenMasks(VOCAB_SIZE)
    masks.start(rows, [None] * len(rows))
    return [set(np.flatnonzero(np.array(row)).tolist()) for row in masks.result().tokens]


def test_a_mask_is_what_the_grammar_allows() -> None:
    digits = compiled(lark('start: /[0-9]+/ | "no"'))
    free = allowed(digits, None)
    assert free == [{ord(c) for c in "0123456789n"}, set(range(VOCAB_SIZE))]
    digits.advance(ord("n"))
    assert allowed(digits) == [{ord("o")}]
    digits.advance(ord("o"))
    assert allowed(digits) == [{END_TOKEN_ID}]


def test_a_token_that_the_grammar_forbids_is_told() -> None:
    constraint = compiled(lark("start: /[0-9]+/"))
    assert constraint.advance(ord("a"))


def test_a_constraint_restarts_from_what_was_said() -> None:
    constraint = compiled(lark('start: "abc"'))
    assert constraint.advance(ord("a")) is None
    constraint.restart([ord("a"), ord("b")])
    assert allowed(constraint) == [{ord("c")}]


def test_the_same_grammar_twice_is_two_matchers() -> None:
    compiler = GrammarCompiler(tokenizer_file(), VOCAB_SIZE)
    one, two = (Constraint(compiler.compile(lark('start: "abc"')).result(), None) for _ in range(2))
    one.advance(ord("a"))
    assert allowed(one, two) == [{ord("b")}, {ord("a")}]


def test_a_grammar_that_does_not_compile_says_why_and_wakes() -> None:
    woken = threading.Event()
    future = GrammarCompiler(tokenizer_file(), VOCAB_SIZE, woken.set).compile(lark("start: missing"))
    assert woken.wait(10)
    with pytest.raises(ValueError, match="missing"):
        future.result()


def said(budget: ThinkingBudget, wants: str) -> str:
    """What a model says that wants to say ``wants`` for ever."""
    constraint, text = Constraint(None, budget), ""
    for _ in range(20):
        (may,) = allowed(constraint)
        token = next(iter(may)) if len(may) == 1 else ord(wants[len(text) % len(wants)])
        constraint.advance(token)
        text += chr(token)
    return text


@pytest.mark.parametrize(
    ("budget", "wants", "expected"),
    [
        (AFTER_FIVE, "t", "ttttt|\n" + 13 * "t"),
        (ThinkingBudget(max_tokens=0, close_token_id=CLOSE, end_token_ids=END), "t", "|\n" + 18 * "t"),
        (AFTER_FIVE, "tt|abcdefghijklmnopqrst", "tt|abcdefghijklmnopq"),
        (
            ThinkingBudget(max_tokens=2, close_token_id=CLOSE, end_token_ids=END, open_token_id=ord("(")),
            "ab(tttttttttttttttttt",
            "ab(tt|\ntttttttttttttt"[:20],
        ),
        (
            ThinkingBudget(max_tokens=2, close_token_id=CLOSE, end_token_ids=END, open_token_id=ord("(")),
            "no thinking at all!!",
            "no thinking at all!!",
        ),
    ],
)  # fmt: skip
def test_a_thinking_budget_ends_thinking_and_nothing_else(budget: ThinkingBudget, wants: str, expected: str) -> None:
    assert said(budget, wants) == expected


def test_a_budget_and_a_grammar_agree() -> None:
    params = SamplingParams(
        max_tokens=9,
        grammar='start: /[a-z]*/ "|" "\\n"? /[0-9]+/',
        thinking=ThinkingBudget(max_tokens=2, close_token_id=CLOSE, end_token_ids=END),
        stop_token_ids=(END_TOKEN_ID,),
    )
    constraint = compiled(params)
    for letter in "ab|\n":
        (may,) = allowed(constraint)
        assert ord(letter) in may
        assert len(may) == 1 or letter in "ab"
        constraint.advance(ord(letter))
    assert allowed(constraint) == [{ord(digit) for digit in "0123456789"}]


# In the engine


@pytest.fixture(scope="module")
def model() -> object:
    return build("qwen3")


def test_answers_follow_the_schema_beside_free_text(model) -> None:
    requests = [json_request(str(seed), seed=seed, temperature=1.0) for seed in range(12)]
    requests += [AddRequest(f"free-{seed}", [1, 2], SamplingParams(max_tokens=30, seed=seed)) for seed in range(4)]
    answers = run(make_core(model), requests)
    complete = 0
    for request in requests[:12]:
        answer = answers[request.request_id]
        if answer.finish_reason is FinishReason.STOP:
            value = json.loads(text_of(answer.token_ids))
            assert 1 <= value["age"] <= 99 and len(value["name"]) <= 8
            complete += 1
    assert complete >= 10
    assert all(len(answers[f"free-{seed}"].token_ids) == 30 for seed in range(4))


def test_a_grammar_that_is_cut_ends_by_length(model) -> None:
    answer = run(make_core(model), [json_request("r", max_tokens=5)])["r"]
    assert (answer.finish_reason, text_of(answer.token_ids)) == (FinishReason.LENGTH, '{"nam')


def test_what_cannot_be_compiled_is_refused_alone(model) -> None:
    broken = json_request("broken", grammar="start: missing")
    answers = run(make_core(model), [broken, json_request("fine")])
    assert answers["broken"].refused and "missing" in (answers["broken"].error or "")
    assert answers["fine"].finish_reason is FinishReason.STOP


def test_an_abort_while_compiling_ends_the_request(model) -> None:
    core = make_core(model)
    core.add(json_request("r"))
    core.abort(["r"])
    assert [output.finish_reason for output in core.step()] == [FinishReason.ABORT]
    assert not core.has_work()


def test_memory_of_finished_requests_is_let_go(model) -> None:
    core = make_core(model)
    run(core, [json_request(str(i)) for i in range(3)])
    assert not core.runner._constraints
    mx.clear_cache()


def test_a_limit_of_the_grammar_library_is_an_error_not_an_end(model) -> None:
    """The mask then allows only the end of the answer."""
    schema = {"type": "object", "properties": {f"p{n}": {"type": "null"} for n in range(2500)}}
    request = json_request("r", grammar="start: %json " + json.dumps(schema), max_tokens=200)
    answers = run(make_core(model), [request, json_request("fine")])
    assert answers["r"].finish_reason is FinishReason.ERROR and answers["r"].refused
    assert "<state>" not in (answers["r"].error or "") and len(answers["r"].error or "") < 400
    assert answers["fine"].finish_reason is FinishReason.STOP


def test_an_aborted_grammar_is_not_compiled(model) -> None:
    core = make_core(model)
    core.add(json_request("first"))
    core.add(json_request("second", grammar='start: "b"'))
    assert core.is_compiling()
    core.abort(["first", "second"])
    assert not core.is_compiling()
    assert [output.finish_reason for output in core.step()] == [FinishReason.ABORT] * 2
