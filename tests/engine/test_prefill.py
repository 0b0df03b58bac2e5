from __future__ import annotations

import pytest

from quince.engine.prefill import save_points

SYSTEM, FIRST, SECOND, THIRD = 4000, 4030, 4200, 4260  # where messages end


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (0, [512, 1024, 1536, 2048, 2560, 3072, 3584, SYSTEM, 4096, SECOND, THIRD, 4264]),
        (3800, [SYSTEM, 4096, SECOND, THIRD, 4264]),
        (SYSTEM - 5, [SYSTEM, 4096, SECOND, THIRD, 4264]),
        # A turn behind an answer: one more step for the few tokens that close it would be the longest wait of all.
        (FIRST - 3, [4096, SECOND, THIRD, 4264]),
        # Behind what the model thought, which is not said again, an answer is one message more.
        (FIRST - 20, [FIRST, 4096, SECOND, THIRD, 4264]),
        (SECOND - 3, [THIRD, 4264]),
        (THIRD - 3, [THIRD, 4264]),
        (4264, [4264]),
    ],
)
def test_snapshots_are_taken_where_prompts_part(start: int, expected: list[int]) -> None:
    assert save_points([SYSTEM, FIRST, SECOND, THIRD], start, 4264, 512) == expected


def test_without_messages_only_the_interval_and_the_end_count() -> None:
    assert save_points([], 500, 1100, 512) == [512, 1024, 1100]
    assert save_points([0, 1100, 2000], 0, 1100, 512) == [512, 1024, 1100]
