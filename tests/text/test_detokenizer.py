from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quince.text.detokenizer import MAX_CHARACTER_TOKENS, REPLACEMENT, Detokenizer
from quince.text.tokenizer import Tokenizer

SAMPLES = [
    "Hello, world!",
    "日本語のテキスト",
    "👩‍👩‍👧‍👦 family 🏳️‍🌈",
    "naïve café",
    "  two  spaces\n\n\ttab",
    "Ελληνικά",
    "",
]


def feed(detokenizer: Detokenizer, ids: list[int]) -> list[str]:
    return [detokenizer.push(token_id) for token_id in ids] + [detokenizer.flush()]


@pytest.mark.parametrize("text", SAMPLES)
def test_the_pieces_join_to_the_text(tokenizer: Tokenizer, text: str) -> None:
    assert "".join(feed(tokenizer.detokenizer(), tokenizer.encode(text, add_special_tokens=False))) == text


@given(st.text(max_size=60).filter(lambda text: REPLACEMENT not in text))
def test_no_piece_ever_holds_a_torn_character(tokenizer: Tokenizer, text: str) -> None:
    pieces = feed(tokenizer.detokenizer(), tokenizer.encode(text, add_special_tokens=False))
    assert not any(REPLACEMENT in piece for piece in pieces)
    assert "".join(pieces) == text


@given(st.text(max_size=30).filter(lambda text: REPLACEMENT not in text), st.data())
def test_a_character_cut_off_at_the_end_is_left_out(tokenizer: Tokenizer, text: str, data: st.DataObject) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    kept = ids[: data.draw(st.integers(0, len(ids)))]
    shown = "".join(feed(tokenizer.detokenizer(), kept))
    assert text.startswith(shown)
    assert REPLACEMENT not in shown


def test_any_ids_are_accepted(tokenizer: Tokenizer) -> None:
    rng = random.Random(1)
    for _ in range(50):
        ids = [rng.randrange(4000) for _ in range(300)]
        whole = tokenizer.detokenizer()
        "".join(feed(whole, ids))


def test_bytes_that_are_no_character_do_not_hold_the_text_back(tokenizer: Tokenizer) -> None:
    """A run of continuation bytes never becomes a character: it is given out, and what follows is not lost."""
    continuation = tokenizer.encode("é", add_special_tokens=False)[-1:]
    detokenizer = tokenizer.detokenizer()
    pieces = [detokenizer.push(token_id) for token_id in continuation * 3 * MAX_CHARACTER_TOKENS]
    pieces += feed(detokenizer, tokenizer.encode("then text", add_special_tokens=False))
    assert "".join(pieces).endswith("then text")


def test_special_tokens_are_left_out(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("a", add_special_tokens=False), tokenizer.eos_token_ids[0]]
    assert "".join(feed(tokenizer.detokenizer(), ids)) == "a"
