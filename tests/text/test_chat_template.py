from __future__ import annotations

import pytest

from quince.errors import InvalidRequest
from quince.text import chat_template
from quince.text.tokenizer import Tokenizer


def test_one_spelling_for_content_roles_and_arguments() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    assert chat_template.normalise(
        {"role": "developer", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    ) == {
        "role": "system",
        "content": "ab",
    }
    regular = chat_template.normalise({"role": "assistant", "content": None, "tool_calls": [call]})
    assert regular["content"] == ""
    assert regular["tool_calls"][0]["function"]["arguments"] == {"a": 1}


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
        has_chat_template = True

        def render_chat(self, messages: object, template_kwargs: object) -> str:
            from jinja2 import TemplateError

            raise TemplateError("roles must alternate")

    with pytest.raises(InvalidRequest, match="roles must alternate"):
        chat_template.render(Refusing(), [{"role": "user", "content": "x"}], {})  # type: ignore[arg-type]
