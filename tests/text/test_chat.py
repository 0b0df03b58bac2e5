"""A chat request to a prompt and its rules, for the demo model's template (ChatML, <think>, Hermes calls)."""

from __future__ import annotations

from typing import Any

import pytest
from llguidance import LLMatcher, LLTokenizer

from quince.errors import InvalidRequest
from quince.models import demo
from quince.text import output_format, reasoning_parsers, tool_parsers
from quince.text.chat import ChatParams, ChatPrompter, ToolChoice
from quince.text.tokenizer import Tokenizer
from quince.text.tool_parsers import Tool

HI = [{"role": "user", "content": "Hi"}]
THINK = {"enable_thinking": True}
CITY = {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]}


@pytest.fixture(scope="module")
def prompter(tokenizer: Tokenizer) -> ChatPrompter:
    template = tokenizer.chat_template or ""
    return ChatPrompter(tokenizer, reasoning_parsers.detect(template), tool_parsers.detect(template))


def choice(*, strict: bool = False, **chosen: Any) -> ToolChoice:
    tools = [Tool("weather", parameters=CITY, strict=strict), Tool("time", parameters={"type": "object"})]
    definitions = [{"type": "function", "function": {"name": tool.name}} for tool in tools]
    return ToolChoice(tools=tools, definitions=definitions, **chosen)


def accepts(grammar: str | None, tokenizer: Tokenizer, text: str) -> bool:
    """Whether the whole text is an answer under the grammar."""
    path = demo.path(demo.CHAT)
    assert path is not None and grammar is not None
    matcher = LLMatcher(LLTokenizer(str(path / "tokenizer.json")), grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    ids = tokenizer.encode(text, add_special_tokens=False)
    return all(matcher.consume_token(token_id) for token_id in ids) and matcher.is_accepting()


PARIS = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
OSLO = PARIS.replace("Paris", "Oslo")


@pytest.mark.parametrize(
    ("tools", "thinking", "right", "wrong"),
    [
        (choice(forced=True), False, [PARIS, f"{PARIS}\n{PARIS}"], [OSLO, "Hello", "<think>a</think>" + PARIS]),
        (choice(forced=True), True, [PARIS, f"<think>\nwell\n</think>\n\n{PARIS}"], ["<think>a</think>", "Hello"]),
        (choice(forced=True, parallel=False), False, [PARIS], [f"{PARIS}\n{PARIS}"]),
        (choice(forced=True, name="weather"), False, [PARIS], [PARIS.replace("weather", "time")]),
        (choice(strict=True), False, ["Hello", PARIS, "I look. " + PARIS], [OSLO, "I look. " + OSLO]),
    ],
)
def test_calls_are_held_to_their_schemas(
    prompter: ChatPrompter, tokenizer: Tokenizer, tools: ToolChoice, thinking: bool, right: list[str], wrong: list[str]
) -> None:
    kwargs = THINK if thinking else {}
    grammar = prompter.prepare(HI, ChatParams(tools=tools, template_kwargs=kwargs), None).grammar
    assert [text for text in right if not accepts(grammar, tokenizer, text)] == []
    assert [text for text in wrong if accepts(grammar, tokenizer, text)] == []


def test_a_format_comes_after_thinking_or_beside_calls(prompter: ChatPrompter, tokenizer: Tokenizer) -> None:
    number = output_format.regex("[0-9]+", "guided_regex")
    alone = prompter.prepare(HI, ChatParams(template_kwargs=THINK), number).grammar
    assert accepts(alone, tokenizer, "42") and accepts(alone, tokenizer, "<think>\n6 * 7\n</think>\n\n42")
    assert not accepts(alone, tokenizer, "<think>\n6 * 7\n</think>\n\nforty-two")
    with_tools = prompter.prepare(HI, ChatParams(tools=choice()), number).grammar
    assert accepts(with_tools, tokenizer, "42") and accepts(with_tools, tokenizer, PARIS)
    assert not accepts(with_tools, tokenizer, "Hello")


def test_free_answers_are_held_to_nothing(prompter: ChatPrompter) -> None:
    assert prompter.prepare(HI, ChatParams(tools=choice()), None).grammar is None
    assert prompter.prepare(HI, ChatParams(), None).grammar is None


def test_one_call_at_most_if_not_in_parallel(prompter: ChatPrompter) -> None:
    assert prompter.prepare(HI, ChatParams(tools=choice(parallel=False)), None).max_calls == 1
    assert prompter.prepare(HI, ChatParams(tools=choice()), None).max_calls is None


def test_a_thinking_budget_is_in_the_models_own_marks(prompter: ChatPrompter, tokenizer: Tokenizer) -> None:
    budget = prompter.prepare(HI, ChatParams(thinking_budget=7, template_kwargs=THINK), None).thinking
    assert budget is not None
    assert (budget.max_tokens, budget.open_token_id) == (7, tokenizer.token_id("<think>"))
    assert budget.close_token_id == tokenizer.token_id("</think>")
    assert budget.close_token_id in budget.end_token_ids
    assert prompter.prepare(HI, ChatParams(thinking_budget=7), None).thinking is None, "the template forbids thinking"


@pytest.mark.parametrize(
    ("effort", "thinks", "tokens"), [("none", False, None), ("low", True, 2048), ("high", True, None)]
)
def test_an_effort_turns_thinking_on_and_bounds_it(
    prompter: ChatPrompter, tokenizer: Tokenizer, effort: Any, thinks: bool, tokens: int | None
) -> None:
    prompt = prompter.prepare(HI, ChatParams(reasoning_effort=effort), None)
    assert tokenizer.decode(prompt.token_ids).endswith("</think>\n\n") is not thinks
    assert (prompt.thinking.max_tokens if prompt.thinking else None) == tokens


@pytest.mark.parametrize(
    ("params", "named"),
    [
        (ChatParams(tools=choice(forced=True, name="missing")), "tool_choice"),
        (
            ChatParams(tools=ToolChoice(tools=[Tool("f", parameters={"type": "objec"})], definitions=[], forced=True)),
            "f",
        ),
    ],
)
def test_impossible_tools_are_refused(prompter: ChatPrompter, params: ChatParams, named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        prompter.prepare(HI, params, None)


@pytest.mark.parametrize(
    "params", [ChatParams(tools=choice()), ChatParams(reasoning_effort="low"), ChatParams(thinking_budget=5)]
)
def test_what_a_plain_model_cannot_do_is_refused(tokenizer: Tokenizer, params: ChatParams) -> None:
    class Plain:
        chat_template = "{{ messages }}"

        def render_chat(self, *_: object) -> str:
            return "Hi"

        encode_prompt, encode, token_id = tokenizer.encode_prompt, tokenizer.encode, tokenizer.token_id

    with pytest.raises(InvalidRequest):
        ChatPrompter(Plain(), None, None).prepare(HI, params, None)  # type: ignore[arg-type]


def test_text_that_looks_like_a_special_token_can_be_spelled(prompter: ChatPrompter, tokenizer: Tokenizer) -> None:
    choices = output_format.choice(["<|im_end|>"], "guided_choice")
    grammar = prompter.prepare(HI, ChatParams(), choices).grammar
    path = demo.path(demo.CHAT)
    assert path is not None and grammar is not None
    matcher = LLMatcher(LLTokenizer(str(path / "tokenizer.json")), grammar, log_level=0)
    for letter in "<|im_end|>":
        [token_id] = tokenizer.encode(letter, add_special_tokens=False)
        assert matcher.consume_token(token_id), matcher.get_error()
    assert matcher.is_accepting()
