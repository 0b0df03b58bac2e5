"""What an embedding model wants to read before a text: instructions by purpose, as its publisher wrote them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from quince.errors import InvalidRequest
from quince.text.tokenizer import read_json

# The purposes that clients name, each in its own words: Cohere's, Voyage's, Jina's, sentence-transformers'.
_PURPOSES: tuple[tuple[str, ...], ...] = (
    ("query", "search_query", "retrieval.query", "retrieval-query"),
    ("document", "passage", "search_document", "retrieval.passage", "retrieval-document"),
    ("classification",),
    ("clustering", "separation"),
    ("sts", "text-matching", "semantic_similarity"),
)
_QUERY, _DOCUMENT = _PURPOSES[:2]
# An instruction is the part of a query's prompt that says what is sought, as in these two families.
_INSTRUCTIONS = (
    re.compile(r"(?P<before>Instruct: ).*(?P<after>\n ?Query: ?)", re.DOTALL),
    re.compile(r"(?P<before>task: ).*(?P<after> \| query: )", re.DOTALL),
)
# Conversions to MLX often lose the publisher's file.
_FAMILY_PROMPTS = {
    "qwen3": {
        "query": "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:",
        "document": "",
    },
}


@dataclass(frozen=True, kw_only=True)
class PromptChoice:
    """What a request says of its texts: a prompt by its name, a purpose, an instruction for queries; or nothing."""

    prompt_name: str | None = None
    input_type: str | None = None
    instruction: str | None = None

    def __bool__(self) -> bool:
        return any((self.prompt_name, self.input_type, self.instruction))


class Prompts:
    """A model's prompts by their names; ``default`` is used where a request says nothing."""

    def __init__(self, named: Mapping[str, str], default: str | None = None) -> None:
        self._named = dict(named)
        self._default = self._named.get(default, "") if default else ""

    @classmethod
    def read(cls, path: Path) -> Prompts:
        """From config_sentence_transformers.json; without one, what the family is known to want."""
        file = path / "config_sentence_transformers.json"
        if not file.is_file():
            return cls(_FAMILY_PROMPTS.get(str(read_json(path / "config.json").get("model_type")), {}))
        written = read_json(file)
        prompts = written.get("prompts")
        named = prompts if isinstance(prompts, dict) else {}
        default = written.get("default_prompt_name")
        return cls(
            {str(name): text for name, text in named.items() if isinstance(text, str)},
            default if isinstance(default, str) else None,
        )

    def choose(self, choice: PromptChoice) -> str:
        """What to put before the texts. Raises InvalidRequest for what this model has not."""
        if choice.prompt_name is not None:
            if choice.input_type is not None or choice.instruction is not None:
                other = "instruction" if choice.input_type is None else "input_type"
                raise InvalidRequest(f"{other} cannot be combined with prompt_name", param=other)
            return self._by_name(choice.prompt_name)
        if choice.instruction is not None:
            return self._with_instruction(choice)
        return self._default if choice.input_type is None else self._by_purpose(choice.input_type)

    def _by_name(self, name: str) -> str:
        if name not in self._named:
            known = f"it has {', '.join(self._named)}" if self._named else "it has none"
            raise InvalidRequest(f"prompt_name: this model has no prompt '{name}': {known}", param="prompt_name")
        return self._named[name]

    def _by_purpose(self, purpose: str) -> str:
        """Models without prompts read texts for every purpose alike, and most read documents as they are."""
        own = {name.lower(): text for name, text in self._named.items()}
        same = next((names for names in _PURPOSES if purpose.lower() in names), (purpose.lower(),))
        for name in (purpose.lower(), *same):
            if name in own:
                return own[name]
        if same is _DOCUMENT or (same in _PURPOSES and not own):
            return ""
        known = ", ".join(self._named) or ", ".join(names[0] for names in _PURPOSES)
        raise InvalidRequest(f"input_type: this model knows no '{purpose}'; it knows {known}", param="input_type")

    def _with_instruction(self, choice: PromptChoice) -> str:
        if choice.input_type is not None and choice.input_type.lower() not in _QUERY:
            raise InvalidRequest("instruction: it is for queries (input_type query)", param="instruction")
        query = self._by_purpose("query") if self._named else ""
        for pattern in _INSTRUCTIONS:
            if found := pattern.fullmatch(query):
                return f"{found['before']}{choice.instruction}{found['after']}"
        raise InvalidRequest("instruction: this model takes none", param="instruction")
