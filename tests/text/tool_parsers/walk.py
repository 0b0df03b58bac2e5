"""A model that knows nothing: a random walk through a grammar's masks, over a real vocabulary."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Sequence

import llguidance
import numpy as np
from tokenizers import Tokenizer

from quince.models import demo
from quince.text.tool_parsers.grammar import Grammar

MAX_TOKENS = 1500


class Vocabulary:
    """The demo model's, with ``marks`` as special tokens."""

    def __init__(self, marks: Sequence[str] = ()) -> None:
        path = demo.path(demo.CHAT)
        assert path is not None
        data = json.loads((path / "tokenizer.json").read_text(encoding="utf-8"))
        flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        added = [token for token in data["added_tokens"] if token["special"] and token["content"] not in marks]
        first = 1 + max(data["model"]["vocab"].values())
        contents = [*(token["content"] for token in added), *dict.fromkeys(marks)]
        data["added_tokens"] = [{"id": first + at, "content": mark, **flags} for at, mark in enumerate(contents)]
        text = json.dumps(data)
        self.tokenizer = Tokenizer.from_str(text)
        self.size = self.tokenizer.get_vocab_size()
        self.eos = self.tokenizer.token_to_id("<|im_end|>")
        self.special_tokens = {token["content"]: token["id"] for token in data["added_tokens"]}
        self._checker = llguidance.LLTokenizer(text, eos_token=self.eos)

    def walk(self, grammar: Grammar, seed: int, prefix: Grammar | None = None) -> str | None:
        """What comes out; None if it did not end in time. Raises AssertionError if the rules do not compile."""
        parts = [prefix, grammar] if prefix else [grammar]
        lark = f"start: {' '.join(part.start for part in parts)}\n" + "".join(part.rules for part in parts)
        compiled = llguidance.LLMatcher.grammar_from_lark(lark)
        assert llguidance.LLMatcher.validate_grammar(compiled, self._checker) == "", lark
        matcher, chance = llguidance.LLMatcher(self._checker, compiled), random.Random(seed)
        ids: list[int] = []
        while len(ids) < MAX_TOKENS:
            bits = np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8)
            allowed = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
            assert not matcher.get_error()
            if matcher.is_stopped() or (self.eos in allowed and chance.random() < 0.5):
                return str(self.tokenizer.decode(ids, skip_special_tokens=False))
            token = int(chance.choice([token for token in allowed if token != self.eos]))
            assert matcher.consume_token(token)
            ids.append(token)
        return None


@functools.cache
def vocabulary(marks: tuple[str, ...] = ()) -> Vocabulary:
    return Vocabulary(marks)
