from __future__ import annotations

from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from quince.errors import InvalidRequest
from quince.text import chat_template
from quince.text.tokenizer import Tokenizer


def test_one_spelling_for_content_roles_and_arguments() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    developer, assistant = chat_template.normalise(
        [{"role": "developer", "content": parts}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    )
    assert developer == {"role": "system", "content": "ab"}
    assert assistant["content"] == ""
    assert assistant["tool_calls"][0]["function"]["arguments"] == {"a": 1}


def test_images_stay_in_their_places() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}]
    (user,) = chat_template.normalise([{"role": "user", "content": parts}])
    assert user["content"] == parts


LISTS = "{% for m in messages %}{{ m.role }}:{% for p in m.content %}<{{ p.type }}>{{ p.text }}{% endfor %}{% endfor %}"
STRINGS = "{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}"
EITHER = (
    "{% for m in messages %}{{ m.role }}:{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}<{{ p.type }}>{{ p.text }}{% endfor %}{% endif %}{% endfor %}"
)


class TemplateOnly:
    """As transformers renders, of a model that has a template and nothing else."""

    def __init__(self, template: str) -> None:
        self.chat_template = template

    def render_chat(self, messages: list[Any], kwargs: dict[str, Any], tools: object = None) -> str:
        return ImmutableSandboxedEnvironment().from_string(self.chat_template).render(messages=messages, tools=tools)


@pytest.mark.parametrize(
    ("template", "as_parts", "prompt"),
    [(LISTS, True, "system:<text>Seeuser:<image><text>Hi"), (EITHER, False, "system:Seeuser:<image><text>Hi")],
)
def test_templates_get_content_as_they_read_it(template: str, as_parts: bool, prompt: str) -> None:
    """A template that knows only lists would leave the text out of a string, and say nothing."""
    tokenizer: Any = TemplateOnly(template)
    assert chat_template.wants_parts(tokenizer) is as_parts
    content = [{"type": "image"}, {"type": "text", "text": "Hi"}]
    messages = [{"role": "system", "content": "See"}, {"role": "user", "content": content}]
    assert chat_template.render(tokenizer, messages, {}, as_parts=as_parts) == prompt


@pytest.mark.parametrize("template", [STRINGS, "", "Hi", "{{ raise_exception('no') }}"])
def test_other_templates_get_strings(template: str) -> None:
    tokenizer: Any = TemplateOnly(template)
    assert not chat_template.wants_parts(tokenizer)


def test_calls_and_results_find_each_other() -> None:
    calls = [{"function": {"name": name, "arguments": "{}"}} for name in ("first", "second")]
    results = [{"role": "tool", "content": str(number)} for number in (1, 2)]
    regular = chat_template.normalise([{"role": "assistant", "tool_calls": calls}, *results])
    ids = [call["id"] for call in regular[0]["tool_calls"]]
    assert len(set(ids)) == 2
    assert [(result["tool_call_id"], result["name"]) for result in regular[1:]] == list(
        zip(ids, ["first", "second"], strict=True)
    )


def test_own_ids_and_names_stay() -> None:
    call = {"id": "mine", "function": {"name": "f", "arguments": {}}}
    result = {"role": "tool", "tool_call_id": "mine", "content": "1"}
    regular = chat_template.normalise([{"role": "assistant", "tool_calls": [call]}, result])
    assert regular[0]["tool_calls"][0]["id"] == "mine"
    assert (regular[1]["tool_call_id"], regular[1]["name"]) == ("mine", "f")


@pytest.mark.parametrize("arguments", ["not json", None, {"a": 1}, ""])
def test_any_arguments_reach_the_template(tokenizer: Tokenizer, arguments: object) -> None:
    call = {"type": "function", "function": {"name": "lookup", "arguments": arguments}}
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": None, "tool_calls": [call]}]
    assert "lookup" in chat_template.render(tokenizer, [*messages, {"role": "tool", "content": "7"}], {})


def test_the_demo_template(tokenizer: Tokenizer) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    prompt = chat_template.render(tokenizer, messages, {})
    assert prompt.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n")
    assert prompt.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    thinking = chat_template.render(tokenizer, messages, {"enable_thinking": True})
    assert thinking.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("name", ["chat_template", "tokenize", "conversation", "add_generation_prompt", "tools"])
def test_template_kwargs_are_the_templates_own(tokenizer: Tokenizer, name: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        chat_template.render(tokenizer, [{"role": "user", "content": "x"}], {name: "{{ 1 }}"})


def test_what_the_template_refuses_is_the_clients_fault() -> None:
    class Refusing:
        chat_template = "{{ messages }}"

        def render_chat(self, *_: object) -> str:
            from jinja2 import TemplateError

            raise TemplateError("roles must alternate")

    with pytest.raises(InvalidRequest, match="roles must alternate"):
        chat_template.render(Refusing(), [{"role": "user", "content": "x"}], {})  # type: ignore[arg-type]


def test_templates_that_want_arguments_as_text_get_them() -> None:
    class Concatenating:
        chat_template = "{{ messages }}"

        def render_chat(self, messages: list[dict[str, Any]], *_: object) -> str:
            return "args: " + messages[0]["tool_calls"][0]["function"]["arguments"]

    call = {"function": {"name": "f", "arguments": {"city": "Köln"}}}
    messages = [{"role": "assistant", "content": "", "tool_calls": [call]}]
    assert chat_template.render(Concatenating(), messages, {}) == 'args: {"city": "Köln"}'  # type: ignore[arg-type]
