"""What models may take and what one will take."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from quince.models import memory


def test_an_estimate_is_more_than_the_weights() -> None:
    assert memory.estimate(0) == memory.ENGINE_OVERHEAD
    assert memory.estimate(10 * 10**9) == memory.ENGINE_OVERHEAD + 11 * 10**9


def test_an_engine_leaves_room_for_others() -> None:
    assert memory.share(400, 1800, []) == 400 + 700
    assert memory.share(400, 1800, [400, 500]) == 400 + 250
    assert memory.share(400, 1000, [400, 500, 800]) == 400 + 100, "one of them fits"
    assert memory.share(400, 400, [1]) == 400


def test_the_budget_leaves_the_system_some_memory() -> None:
    assert 0 < memory.default_budget() <= memory.BUDGET_SHARE * psutil.virtual_memory().total


@pytest.mark.parametrize(("text", "limited"), [("1000000\n", True), ("max\n", False), ("", False)])
def test_a_container_has_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, limited: bool) -> None:
    limit = tmp_path / "memory.max"
    limit.write_text(text)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setattr(memory, "_CGROUP_LIMITS", (str(limit), str(tmp_path / "nothing")))
    assert (memory.default_budget() == 750_000) is limited
