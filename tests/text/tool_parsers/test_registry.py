from __future__ import annotations

import json

import pytest

from quince.errors import UsageError
from quince.models import demo
from quince.text.tool_parsers import FORMATS, detect, get

# What tells each family, as its published template has it.
TEMPLATES = [
    ("hermes", '{{- \'<tool_call>\\n{"name": "\' }}{{- tool_call.name }}'),
    ("qwen3_coder", "{{- '<tool_call>\\n<function=' + tool_call.name + '>\\n' }}{{- '<parameter=' + k + '>\\n' }}"),
    ("glm45", "{{ '\\n<tool_call>' + tc.name }}\n<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v }}</arg_value>"),
    ("glm47", "{{ '<tool_call>' + tc.name }}<arg_key>{{ k }}</arg_key><arg_value>{{ v }}</arg_value>"),
    ("longcat", "<longcat_tool_call>{function-name}\n<longcat_arg_key>{arg-key-1}</longcat_arg_key>"),
    ("longcat_json", '<longcat_tool_call>\n{"name": <function-name>}'),
    ("minimax_m2", "{%- set toolcall_begin_token = '<minimax:tool_call>' -%}<invoke name="),
    ("minicpm5", "{{- '<function name=\"' ~ tool_call.name ~ '\">' }}{{- '<param name=\"' ~ k ~ '\">' }}"),
    ("muse_spark", "to=self<|message|> <atem:function_calls>"),
    ("kimi_k2", "<|tool_calls_section_begin|>"),
    ("kimi_k3", "{{- '<|open|>' + tag -}}{{- '<|sep|>' -}}{{- open_tag('tools') -}}"),
    ("gemma4", "{{- '<|tool_call>call:' + function['name'] + '{' -}} '}<tool_call|>'"),
    ("function_gemma", "<start_function_call>call: <end_function_call>"),
    ("pythonic", '{{- "<|tool_call_start|>[" + calls + "]<|tool_call_end|>" -}}'),
    ("pythonic", "List of tools: <|tool_list_start|>["),
    ("mistral_list", "{{- '[TOOL_CALLS] [' }}"),
    ("mistral", "{{- '[TOOL_CALLS]' + name + '[ARGS]' + arguments }}"),
    (
        "deepseek_v3",
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['type'] + '<｜tool▁sep｜>' + '\\n' + '```json'",
    ),
    ("deepseek_v31", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>' + tool['function']['name'] + '<｜tool▁sep｜>'"),
    ("harmony", "<|start|>assistant to=functions. <|channel|>commentary json<|message|>"),
    ("nemotron", "<TOOLCALL>["),
    ("phi4_mini", "<|tool_call|><|/tool_call|>"),
    ("llama3", "{{- '<|python_tag|>' + tool_call.name }}"),
    (None, "{{ messages }}"),
]


@pytest.mark.parametrize(("name", "template"), TEMPLATES)
def test_the_template_tells_the_family(name: str | None, template: str) -> None:
    found = detect(template)
    assert (found.name if found else None) == name


def test_every_family_is_told_by_a_template() -> None:
    assert {name for name, _ in TEMPLATES if name} == set(FORMATS)


def test_a_vocabulary_tells_what_the_template_does_not() -> None:
    found = detect("{{ messages }}", {"<|tool_call_start|>", "<|tool_call_end|>"})
    assert found is not None and found.name == "pythonic"


def test_the_demo_model_writes_hermes() -> None:
    path = demo.path(demo.CHAT)
    assert path is not None
    found = detect((path / "chat_template.jinja").read_text(encoding="utf-8"))
    assert found is not None and found.name == "hermes"


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    assert get("json_tools") is get("hermes")
    with pytest.raises(UsageError, match=r"'nope': known are .*hermes.*qwen3_coder"):
        get("nope")


def test_ids_are_such_as_the_family_takes_back() -> None:
    assert get("hermes").new_id("f", 0) != get("hermes").new_id("f", 0)
    assert len(get("mistral").new_id("f", 0)) == 9 and get("mistral").new_id("f", 0).isalnum()
    assert get("kimi_k2").new_id("f", 1) == "functions.f:1"
    assert json.dumps(get("hermes").new_id("f", 0)).startswith('"call_')
