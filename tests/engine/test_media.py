from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from quince.engine.media import keyed_token_ids, problem
from quince.engine.messages import MediaInput

PROMPT = [5, 9, 9, 9, 6, 9, 9, 7]


def media(key: str, *runs: tuple[int, int]) -> MediaInput:
    return MediaInput(key, 9, list(runs), [])


def test_text_keeps_its_ids_and_media_get_their_own() -> None:
    keyed = keyed_token_ids(PROMPT, [media("a", (1, 3)), media("b", (5, 2))])
    assert [token for token in keyed if token >= 0] == [5, 6, 7]
    assert [token < 0 for token in keyed] == [token == 9 for token in PROMPT]
    assert len(set(keyed)) == len(keyed)
    assert min(keyed) >= -(2**63)


def test_ids_depend_on_content_and_place_in_it_only() -> None:
    alone = keyed_token_ids(PROMPT, [media("a", (1, 3))])[1:4]
    split = keyed_token_ids([1, 9, 2, 9, 9, 3], [media("a", (1, 1), (3, 2))])
    assert [split[1], *split[3:5]] == alone
    other = keyed_token_ids(PROMPT, [media("b", (1, 3))])[1:4]
    assert not set(other) & set(alone)


@given(st.text(max_size=10), st.integers(1, 50))
def test_a_longer_run_begins_with_the_same_ids(key: str, count: int) -> None:
    short, long = (keyed_token_ids([9] * n, [media(key, (0, n))]) for n in (count, count + 1))
    assert long[:count] == short


def test_what_is_no_place_is_told() -> None:
    assert problem(PROMPT, [media("a", (1, 3)), media("b", (5, 2))]) is None
    for wrong in (
        [media("a", (5, 2)), media("b", (1, 3))],
        [media("a", (1, 3)), media("b", (3, 1))],
        [media("a", (1, 0))],
        [media("a", (6, 2))],
        [media("a", (-1, 2))],
    ):
        assert problem(PROMPT, wrong), wrong
