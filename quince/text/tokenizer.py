"""A model's tokenizer and chat template, as its publisher set them up."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from quince.errors import InvalidRequest, ModelLoadError
from quince.text.detokenizer import Detokenizer
from quince.text.vocabulary import Vocabulary

# One of these must be there; without any, transformers makes an empty tokenizer.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tiktoken.model")


class Tokenizer:
    """Loads from a local directory with transformers; never asks the network."""

    def __init__(self, path: Path) -> None:
        """Raises ModelLoadError if there is no usable tokenizer."""
        if not any((path / name).is_file() for name in TOKENIZER_FILES):
            raise ModelLoadError(f"{path} has no tokenizer ({', '.join(TOKENIZER_FILES)})")
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it advises installing PyTorch
        from transformers import AutoTokenizer  # slow to import: not before a model is loaded

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(path, local_files_only=True)
        except Exception as error:
            raise ModelLoadError(f"{path.name}: the tokenizer cannot be loaded: {error}") from error
        if not self._tokenizer.is_fast:
            raise ModelLoadError(f"{path.name}: only fast tokenizers (tokenizer.json) are supported")
        self.eos_token_ids = _eos_token_ids(path, self._tokenizer.eos_token_id)
        self.chat_template = _chat_template(self._tokenizer.chat_template)
        self.has_file = (path / "tokenizer.json").is_file()
        self.vocabulary = Vocabulary(self._tokenizer.backend_tokenizer)
        added = self._tokenizer.backend_tokenizer.get_added_tokens_decoder()
        self._hidden_token_ids = frozenset(number for number, token in added.items() if token.special)
        # The tokens that a grammar cannot spell as text, with their ids: llguidance counts marks like <think> among
        # them even where the vocabulary does not.
        self.special_tokens: dict[str, int] = {
            token.content: number
            for number, token in added.items()
            if token.special or (token.content.startswith("<") and token.content.endswith(">"))
        }

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))
        except (UnicodeEncodeError, TypeError) as error:  # lone surrogates
            raise InvalidRequest(f"the text cannot be tokenized: {error}") from error

    def decode(self, token_ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=False))

    def token_id(self, text: str) -> int | None:
        """The one token that ``text`` is by itself, if it is one."""
        number: int | None = self._tokenizer.backend_tokenizer.token_to_id(text)
        return number

    def render_chat(
        self,
        messages: Sequence[dict[str, Any]],
        template_kwargs: dict[str, Any],
        tools: Sequence[dict[str, Any]] | None = None,
    ) -> str:
        """The prompt text of a conversation. Raises what the template raises.

        ``template_kwargs`` are the template's own variables: a name that means something to transformers (another
        template, say) is an InvalidRequest.
        """
        render = self._tokenizer.apply_chat_template
        if taken := sorted(template_kwargs.keys() & inspect.signature(render).parameters.keys()):
            raise InvalidRequest(f"chat_template_kwargs: '{taken[0]}' cannot be set", param="chat_template_kwargs")
        return str(render(list(messages), tools=tools, tokenize=False, add_generation_prompt=True, **template_kwargs))

    def spell_out(self, grammar: str) -> str:
        """The grammar with text in it that looks like a special token spelled letter by letter: llguidance takes
        forced text for the special token and then refuses it."""
        spelled = any(token in grammar for token in self.special_tokens)
        return f'%llguidance {{"no_forcing": true}}\n{grammar}' if spelled else grammar

    def detokenizer(self, visible_token_ids: Collection[int] = ()) -> Detokenizer:
        """``visible_token_ids``: special tokens that are text all the same."""
        return Detokenizer(self._tokenizer.backend_tokenizer, self._hidden_token_ids, visible_token_ids)


def _chat_template(template: str | dict[str, str] | None) -> str | None:
    """The template that renders conversations; with several, the one for tools knows most."""
    if isinstance(template, dict):
        return template.get("tool_use") or template.get("default")
    return template


def _eos_token_ids(path: Path, own: int | None) -> tuple[int, ...]:
    """Every token that ends an answer, from the generation config, the model config and the tokenizer."""
    ids = set() if own is None else {own}
    for name in ("generation_config.json", "config.json"):
        value = read_json(path / name).get("eos_token_id")
        ids.update([value] if isinstance(value, int) else value or [])
    return tuple(sorted(ids))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty if there is no such file or it holds something else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
