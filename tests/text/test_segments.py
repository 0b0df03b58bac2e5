from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from quince.text import segments
from quince.text.segments import SegmentEncoder, split_tokens

DEMO = Path(__file__).parents[2] / "quince" / "models" / "demo" / "quince-demo" / "tokenizer.json"
MARKS = ["<|im_start|>", "<|im_end|>", "<|endoftext|>"]


def byte_level() -> Tokenizer:
    return Tokenizer.from_file(str(DEMO))


def metaspace() -> Tokenizer:
    """As Llama 2's and T5's: what begins the text gets a space, what follows a special token does not."""
    letters = [chr(n) for n in range(32, 127)] + ["▁", "▁a", "▁the", "he", "in", "er"]
    vocab = [("<unk>", 0.0), *((piece, -float(len(letters) - i)) for i, piece in enumerate(letters))]
    tokenizer = Tokenizer(models.Unigram(vocab, 0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.add_special_tokens([AddedToken(mark, special=True, normalized=False) for mark in MARKS])
    return tokenizer


def prepending() -> Tokenizer:
    """As Mistral's and Gemma's: a normalizer puts a space in front; one token takes spaces beside it, one is a word."""
    tokenizer = metaspace()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = None
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, special=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("word", single_word=True), AddedToken("<|im", normalized=False)])
    tokenizer.add_tokens([AddedToken("<|im_start|>user", normalized=False)])
    return tokenizer


def lower() -> Tokenizer:
    tokenizer = metaspace()
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"\s+|\w+"), "isolated")
    return tokenizer


@pytest.mark.parametrize("make", [byte_level, metaspace, prepending, lower])
def test_parts_give_what_the_whole_gives(make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MIN_LENGTH", 6)
    tokenizer = make()
    encoder = SegmentEncoder(tokenizer)
    piece = st.sampled_from([*MARKS, "<mask>", "<|im", "word", " ", "\n", "  a", "the heron", "Ünï ✓", "user\n", "<"])

    @settings(max_examples=300, deadline=None)
    @given(st.lists(piece | st.text(max_size=12), max_size=20).map("".join))
    def check(text: str) -> None:
        text = text.encode(errors="ignore").decode()
        expected = tokenizer.encode(text, add_special_tokens=False).ids
        assert encoder.encode(text) == expected
        assert encoder.encode(text) == expected  # of what is remembered

    check()


def test_a_conversation_that_goes_on_is_not_tokenized_again() -> None:
    tokenizer = Counting(byte_level())
    encoder = SegmentEncoder(tokenizer)
    text = "".join(f"<|im_start|>user\n{'a word ' * 500}{n}<|im_end|>\n" for n in range(4))
    encoder.encode(text)
    tokenizer.characters = 0
    longer = f"{text}<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"
    assert encoder.encode(longer) == byte_level().encode(longer, add_special_tokens=False).ids
    assert tokenizer.characters < 200


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "MAX_CACHED_LENGTH", 5000)
    tokenizer = Counting(byte_level())
    encoder = SegmentEncoder(tokenizer)
    texts = ["".join(random.Random(n).choices("abcdefgh ", k=1000)) for n in range(20)]
    for text in texts:
        encoder.encode(text)
    tokenizer.characters = 0
    for text in reversed(texts):  # the last five first
        encoder.encode(text)
    assert tokenizer.characters == 15 * 1000


def test_only_tokens_that_stand_alone_split() -> None:
    assert set(split_tokens(prepending().get_added_tokens_decoder().values())) == {"<|im_end|>", "<|endoftext|>"}
    hidden = AddedToken("to<|endoftext|>", normalized=False)
    assert split_tokens([*metaspace().get_added_tokens_decoder().values(), hidden]) == []
    assert set(split_tokens(metaspace().get_added_tokens_decoder().values())) == set(MARKS)


class Counting:
    """A tokenizer that counts the characters that it has read."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.characters = 0

    def get_added_tokens_decoder(self) -> dict[int, AddedToken]:
        return self._tokenizer.get_added_tokens_decoder()

    def encode_batch_fast(self, texts: list[str], *, add_special_tokens: bool) -> object:
        self.characters += sum(map(len, texts))
        return self._tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)
