from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models

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


# Characters that are no token are spelled in tokens of single bytes, which are decoded run by run (Llama 2, Gemma).
LETTERS = "abc▁"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPACE = decoders.Replace("▁", " ")
FALLBACKS = {
    "gemma": decoders.Sequence([SPACE, decoders.ByteFallback(), decoders.Fuse()]),
    "llama": decoders.Sequence([SPACE, decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]),
}


def byte_fallback(family: str) -> RustTokenizer:
    vocab = {name: number for number, name in enumerate([*LETTERS, *BYTES])}
    tokenizer = RustTokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    tokenizer.decoder = FALLBACKS[family]
    return tokenizer


def ids_of(tokenizer: RustTokenizer, *parts: str | bytes) -> list[int]:
    names = [name for part in parts for name in ([BYTES[byte] for byte in part] if isinstance(part, bytes) else part)]
    return [tokenizer.token_to_id(name) for name in names]


@pytest.mark.parametrize("family", FALLBACKS)
@pytest.mark.parametrize(
    ("parts", "text"),
    [
        (["a", "€".encode(), "b"], "a€b"),
        (["a", "€".encode(), b"\xff", "b▁c"], "a€\ufffdb c"),
        (["a", "😀".encode(), b"\xf0\x9f", "▁b"], "a😀\ufffd\ufffd b"),
        (["a", b"\n\xe2", "b"], "a\n\ufffdb"),
        (["a", b"\x80" * (MAX_CHARACTER_TOKENS + 1), "▁b"], "a" + REPLACEMENT * (MAX_CHARACTER_TOKENS + 1) + " b"),
        (["a", "€".encode(), b"\xe2"], "a€"),
    ],
)
def test_stray_bytes_between_characters(family: str, parts: list[str | bytes], text: str) -> None:
    tokenizer = byte_fallback(family)
    assert "".join(feed(Detokenizer(tokenizer), ids_of(tokenizer, *parts))) == text


@pytest.mark.parametrize("family", FALLBACKS)
@given(st.lists(st.sampled_from([*LETTERS, *(bytes([byte]) for byte in range(0x80, 0x100)), "€".encode()])))
def test_no_bytes_lose_the_text_around_them(family: str, parts: list[str | bytes]) -> None:
    tokenizer = byte_fallback(family)
    ids = ids_of(tokenizer, "a", *parts)

    def letters(text: str) -> str:
        return "".join(one for one in text if one in "abc ")

    assert letters("".join(feed(Detokenizer(tokenizer), ids))) == letters(tokenizer.decode(ids))


def test_a_token_that_is_shown_ends_a_character() -> None:
    fallback = byte_fallback("llama")
    shown = fallback.token_to_id("c")
    ids = [*ids_of(fallback, "a", b"\xe2"), shown, *ids_of(fallback, "▁b")]
    assert "".join(feed(Detokenizer(fallback, (shown,), (shown,)), ids)) == "ac b"


@pytest.mark.parametrize("family", FALLBACKS)
def test_text_goes_on_behind_a_prompt(family: str) -> None:
    fallback = byte_fallback(family)
    answer = ids_of(fallback, "▁b", "€".encode())
    for prompt in (ids_of(fallback, "a"), ids_of(fallback, "a", "€".encode()), ids_of(fallback, "abc" * 10)):
        assert "".join(feed(Detokenizer(fallback, after=prompt), answer)) == " b€"
    torn = ids_of(fallback, "a", b"\xe2")
    assert "".join(feed(Detokenizer(fallback, after=torn), ids_of(fallback, "b"))) == "b"
