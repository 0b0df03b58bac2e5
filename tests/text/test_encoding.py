"""Texts and pairs as encoders read them: special tokens stay when a text is cut."""

from __future__ import annotations

import pytest

from quince.errors import InvalidRequest
from quince.text.tokenizer import Tokenizer
from tests import pooling_models
from tests.pooling_models import BOS, END, EOS


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("bert")
    pooling_models.save("bert", path)
    return Tokenizer(path)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    path = tmp_path_factory.mktemp("qwen3")
    pooling_models.save("qwen3-embedding", path)
    return Tokenizer(path)


def ids(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_single_texts(pairs: Tokenizer, ends: Tokenizer) -> None:
    assert pairs.encode_texts(["ab", ""]) == [[BOS, *ids("ab"), EOS], [BOS, EOS]]
    assert ends.encode_texts(["ab", ""]) == [[*ids("ab"), END], [END]]
    assert ends.encode_bare(["ab", ""]) == [ids("ab"), []]


def test_a_text_that_is_cut_ends_as_it_should(pairs: Tokenizer, ends: Tokenizer) -> None:
    assert pairs.encode_texts(["abcdef", "ab"], max_length=4) == [[BOS, *ids("ab"), EOS], [BOS, *ids("ab"), EOS]]
    assert ends.encode_texts(["abcdef"], max_length=4) == [[*ids("abc"), END]]


def test_pairs(pairs: Tokenizer) -> None:
    assert pairs.encode_pairs("ab", ["c", "def"]) == [
        ([BOS, *ids("ab"), EOS, *ids("c"), EOS], 4),
        ([BOS, *ids("ab"), EOS, *ids("def"), EOS], 4),
    ]


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ("ab", "cdefghij", ("ab", "cdefgh")),
        ("abcdefghij", "kl", ("abcdef", "kl")),
        ("abcdefgh", "ijklmnop", ("abcd", "ijkl")),
    ],
)
def test_the_longer_of_a_pair_is_cut_first(pairs: Tokenizer, first: str, second: str, kept: tuple[str, str]) -> None:
    ((got, second_from),) = pairs.encode_pairs(first, [second], max_length=11)
    assert got == [BOS, *ids(kept[0]), EOS, *ids(kept[1]), EOS]
    assert second_from == len(kept[0]) + 2


def test_a_text_is_cut_between_tokens(ends: Tokenizer) -> None:
    assert ends.cut("abcdef", 2) == "ab"
    assert ends.cut("ab", 2) == "ab"


def test_tokens_that_are_none_are_named(ends: Tokenizer) -> None:
    assert ends.decode_known([*ids("ab"), END]) == "ab<|endoftext|>"
    with pytest.raises(InvalidRequest, match="99999 is no token"):
        ends.decode_known([97, 99999])
