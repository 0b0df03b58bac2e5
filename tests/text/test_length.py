"""Texts that are far too long are known to be so without all of them being tokenized."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

from quince.text import length
from quince.text.length import LengthBound, characters, groups
from tests.text.test_segments import Counting, byte_level, lower, metaspace, prepending

PROSE = "The heron, 12 of them; and then\n  some <|im_start|> more. Ünï ✓ "
UNKNOWN = "漢" * 4000


def bert() -> Tokenizer:
    """Words of more than 100 letters are one token, and spaces are none."""
    vocab = {"[UNK]": 0, **{prefix + letter: 1 + ord(letter) for prefix in ("", "##") for letter in "abcdefgh"}}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def squeezing() -> Tokenizer:
    """As ALBERT's and XLM-RoBERTa's: runs of spaces are one, and those at the ends are none."""
    tokenizer = metaspace()
    runs = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Strip(), normalizers.NFKC(), runs])
    return tokenizer


def masked() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, special=True, normalized=False)])
    return tokenizer


@pytest.mark.parametrize("make", [byte_level, metaspace, prepending, lower, bert, squeezing, masked])
@pytest.mark.parametrize(
    "text",
    [PROSE * 60, " " * 4000, "\n" * 4000 + "<mask>", "a" * 4000, UNKNOWN, "e\u0301" * 2000, " a" * 2000, "ab " * 1500],
    ids=["prose", "spaces", "mask", "word", "unknown", "accents", "letters", "words"],
)
def test_what_is_refused_is_too_long(make, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(length, "SLICE", 256)
    monkeypatch.setattr(length, "MARGIN", 100)
    tokenizer = make()
    tokens = len(tokenizer.encode(text, add_special_tokens=False).ids)
    bound = LengthBound(tokenizer)
    for most in (1, 10, 100, 1000):
        least = bound.at_least([text], most)
        assert least is None or most < least <= tokens
        begun = tokenizer.encode(bound.beginning(text, most), add_special_tokens=False).ids
        assert begun[:most] == tokenizer.encode(text, add_special_tokens=False).ids[:most]


def test_it_reads_no_more_than_it_must() -> None:
    tokenizer = Counting(byte_level())
    bound = LengthBound(tokenizer)
    least = bound.at_least([PROSE * 40_000], 4096)
    assert least is not None and least > 4096
    assert tokenizer.characters < 10 * 4096
    tokenizer.characters = 0
    assert len(bound.beginning(PROSE * 40_000, 4096)) < 10 * 4096
    assert tokenizer.characters < 10 * 4096


def test_several_texts_are_too_long_together() -> None:
    bound = LengthBound(byte_level())
    texts = [PROSE * 10] * 1000
    assert bound.at_least(texts[:1], 4096) is None
    assert (bound.at_least(texts, 4096) or 0) > 4096


def test_short_texts_are_not_even_read() -> None:
    tokenizer = Counting(byte_level())
    bound = LengthBound(tokenizer)
    assert bound.at_least([PROSE], 10) is None
    assert bound.beginning(PROSE, 10) == PROSE
    assert tokenizer.characters == 0


def test_characters_of_what_json_holds() -> None:
    assert (
        characters([{"role": "user", "content": "x" * 100}, {"a": [1, None, "yz"]}]) == 4 + 4 + 7 + 100 + 1 + 1 + 1 + 2
    )


def test_characters_of_what_is_deep() -> None:
    deep: object = "abc"
    for _ in range(100_000):
        deep = {"n": [deep]}
    assert characters(deep) == 100_000 + 3


def test_groups() -> None:
    assert list(groups(["a", "bb", "cccc", "d", "e"], len, 3)) == [["a", "bb"], ["cccc"], ["d", "e"]]
    assert list(groups([], len, 3)) == []
