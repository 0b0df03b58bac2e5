from __future__ import annotations

import pytest

from quince.chat import sse


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["data: one", "", "data: two", ""], ["one", "two"]),
        ([": keepalive", "", ": keepalive", "", "data: one", ""], ["one"]),
        (["event: x", "id: 1", "data: one", "retry: 5", ""], ["one"]),
        (["data: a", "data: b", ""], ["a\nb"]),
        (["data:tight", "", "data:  two spaces", ""], ["tight", " two spaces"]),
        (["data", ""], [""]),
        (["database: no", ""], []),
        (["data: whole", "", "data: cut"], ["whole"]),
        ([], []),
    ],
)
def test_events(lines: list[str], expected: list[str]) -> None:
    assert list(sse.events(lines)) == expected
