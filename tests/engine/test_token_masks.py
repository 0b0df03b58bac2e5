from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from quince.engine.structured import Constraint, GrammarCompiler
from quince.engine.token_masks import Allowed, TokenMasks
from quince.sampling import SamplingParams
from tests.tiny_models import END_TOKEN_ID, VOCAB_SIZE, tokenizer_file

COMPILER = GrammarCompiler(tokenizer_file(), VOCAB_SIZE)


def saying(text: str) -> Constraint:
    sampling = SamplingParams(max_tokens=9, grammar=f'start: "{text}"', stop_token_ids=(END_TOKEN_ID,))
    return Constraint(COMPILER.compile(sampling).result(), None)


def step(masks: TokenMasks, rows: list[Constraint | None], said: str | None = None) -> Allowed:
    masks.start(rows, [None] * len(rows) if said is None else [ord(letter) for letter in said])
    return masks.result()


def letters(allowed: Allowed) -> list[str]:
    """What each row may say; ``*`` for everything."""
    rows = [np.flatnonzero(np.array(row)).tolist() for row in allowed.tokens]
    return ["*" if len(row) == VOCAB_SIZE else "".join(map(chr, row)) for row in rows]


def test_masks_take_what_was_said_and_tell_whose_grammar_forbids_it() -> None:
    rows = [saying("ab"), None, saying("ab"), None]
    allowed = step(TokenMasks(VOCAB_SIZE), rows, "azzz")
    assert letters(allowed)[0] == "b"
    assert list(allowed.errors) == [2]


@pytest.mark.parametrize("kept", [1, 2, 5, 100])
def test_masks_are_right_whether_they_were_kept_or_not(kept: int) -> None:
    masks = TokenMasks(VOCAB_SIZE, kept=kept)
    words = ["abcabd", "bcabda", "cabdab"]
    rows = [saying(word) for word in words]
    assert letters(step(masks, [*rows, None])) == ["a", "b", "c", "*"]
    for at in range(1, 6):
        said = "".join(word[at - 1] for word in words)
        mx.eval(allowed := step(masks, [*rows, None], said + "x").tokens)
        assert letters(Allowed(allowed, {})) == [*(word[at] for word in words), "*"]


def test_a_batch_may_have_more_masks_than_are_kept() -> None:
    masks = TokenMasks(VOCAB_SIZE, kept=2)
    assert letters(step(masks, [saying(letter) for letter in "abcdefab"])) == list("abcdefab")
    assert letters(step(masks, [saying(letter) for letter in "ba"])) == list("ba")


def test_only_new_masks_are_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = TokenMasks(VOCAB_SIZE)
    filled: list[list[int]] = []
    fill = masks._fill
    monkeypatch.setattr(masks, "_fill", lambda step: (filled.append(step.filled), fill(step))[1])
    for word in ("ab", "ba", "ac"):
        step(masks, [saying(letter) for letter in word])
    assert [len(places) for places in filled] == [2, 0, 1]
