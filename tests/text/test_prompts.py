"""Prompts by name, by purpose and with instructions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quince.errors import InvalidRequest
from quince.text.prompts import PromptChoice, Prompts

QWEN = Prompts({"query": "Instruct: Given a web search query, retrieve\nQuery:", "document": ""})
GEMMA = Prompts(
    {
        "query": "task: search result | query: ",
        "document": "title: none | text: ",
        "STS": "task: sentence similarity | query: ",
        "Clustering": "task: clustering | query: ",
    }
)
NONE = Prompts({})


@pytest.mark.parametrize(
    ("prompts", "choice", "expected"),
    [
        (GEMMA, PromptChoice(), ""),
        (GEMMA, PromptChoice(prompt_name="STS"), "task: sentence similarity | query: "),
        (GEMMA, PromptChoice(input_type="search_document"), "title: none | text: "),
        (GEMMA, PromptChoice(input_type="retrieval.query"), "task: search result | query: "),
        (GEMMA, PromptChoice(input_type="clustering"), "task: clustering | query: "),
        (GEMMA, PromptChoice(input_type="text-matching"), "task: sentence similarity | query: "),
        (GEMMA, PromptChoice(instruction="fact checking"), "task: fact checking | query: "),
        (QWEN, PromptChoice(input_type="passage"), ""),
        (QWEN, PromptChoice(instruction="Find code"), "Instruct: Find code\nQuery:"),
        (QWEN, PromptChoice(instruction="Find code", input_type="query"), "Instruct: Find code\nQuery:"),
        (NONE, PromptChoice(input_type="query"), ""),
        (NONE, PromptChoice(input_type="search_document"), ""),
        (Prompts({"query": "search: "}), PromptChoice(input_type="document"), ""),
        (Prompts({"query": "search: "}, "query"), PromptChoice(), "search: "),
    ],
)
def test_what_stands_before_the_text(prompts: Prompts, choice: PromptChoice, expected: str) -> None:
    assert prompts.choose(choice) == expected


@pytest.mark.parametrize(
    ("prompts", "choice", "param", "message"),
    [
        (GEMMA, PromptChoice(prompt_name="sts"), "prompt_name", "it has query, document, STS, Clustering"),
        (NONE, PromptChoice(prompt_name="query"), "prompt_name", "it has none"),
        (QWEN, PromptChoice(input_type="clustering"), "input_type", "it knows query, document"),
        (NONE, PromptChoice(input_type="cooking"), "input_type", "it knows query, document, classification"),
        (NONE, PromptChoice(instruction="Find code"), "instruction", "takes none"),
        (QWEN, PromptChoice(instruction="Find", input_type="document"), "instruction", "it is for queries"),
        (QWEN, PromptChoice(instruction="Find", prompt_name="query"), "instruction", "cannot be combined"),
        (QWEN, PromptChoice(input_type="query", prompt_name="query"), "input_type", "cannot be combined"),
    ],
)
def test_what_a_model_has_not_is_refused(prompts: Prompts, choice: PromptChoice, param: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as caught:
        prompts.choose(choice)
    assert caught.value.param == param


def test_prompts_are_the_publishers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
    assert Prompts.read(tmp_path).choose(PromptChoice(input_type="query")).startswith("Instruct: Given a web search")
    (tmp_path / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "Q: ", "other": None}, "default_prompt_name": "query"})
    )
    assert Prompts.read(tmp_path).choose(PromptChoice()) == "Q: "
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"prompts": []}))
    assert Prompts.read(tmp_path).choose(PromptChoice(input_type="query")) == ""
