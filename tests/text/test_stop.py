from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quince.text.stop import StopStrings

TEXT = st.text(alphabet="ab\u65e5", max_size=30)
STOPS = st.lists(st.text(alphabet="ab\u65e5", min_size=1, max_size=5), max_size=4)


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces, at = [], 0
    for size in sizes:
        pieces.append(text[at : at + size])
        at += size
    return [*pieces, text[at:]]


@given(TEXT, STOPS, st.lists(st.integers(0, 4), max_size=20))
def test_any_cut_shows_what_stands_before_the_stop_that_is_complete_first(
    text: str, stops: list[str], sizes: list[int]
) -> None:
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    expected = text[: min(found)[1]] if found else text
    matcher, shown = StopStrings(stops), ""
    for piece in cut(text, sizes):
        shown += matcher.push(piece)
        assert expected.startswith(shown), "something was shown that is part of a stop string"
        if matcher.matched:
            break
    else:
        shown += matcher.flush()
    assert matcher.matched == bool(found)
    assert shown == expected


def test_a_longer_one_that_is_still_open_does_not_delay_a_complete_one() -> None:
    for pieces in (["abcd"], ["abc", "d"], ["a", "b", "c"]):
        matcher, shown = StopStrings(["abcd", "c"]), ""
        for piece in pieces:
            shown += matcher.push(piece)
            if matcher.matched:
                break
        assert (shown, matcher.matched) == ("ab", True)


def test_text_is_held_back_only_as_long_as_needed() -> None:
    matcher = StopStrings(["###"])
    assert [matcher.push(piece) for piece in ("a#", "#", "b#", "c")] == ["a", "", "##b", "#c"]


@pytest.mark.parametrize("stops", [[], [""]])
def test_no_stop_strings_hold_nothing_back(stops: list[str]) -> None:
    assert StopStrings(stops).push("anything") == "anything"


def test_a_prefix_of_a_stop_string_at_the_end_is_text() -> None:
    matcher = StopStrings(["STOP"])
    assert matcher.push("ab ST") == "ab "
    assert matcher.flush() == "ST"
