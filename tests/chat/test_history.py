from __future__ import annotations

import stat
from pathlib import Path

import pytest

from quince.chat import history
from quince.chat.history import History


class Editor:
    def __init__(self) -> None:
        self.entries: list[str] = []
        self.auto = True

    def add_history(self, line: str, /) -> None:
        self.entries.append(line)

    def set_auto_history(self, enabled: bool, /) -> None:
        self.auto = enabled


def test_from_one_run_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "home" / "history"
    first = History(path, Editor())
    for entry in ("one", '"""two\nlines"""', "drei ünd"):
        first.add(entry)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    editor = Editor()
    History(path, editor)
    assert editor.entries == ["one", '"""two\nlines"""', "drei ünd"]
    assert not editor.auto


def test_half_a_line_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "history"
    path.write_bytes(b'"one"\n"two"\n"thr')
    editor = Editor()
    History(path, editor)
    assert editor.entries == ["one", "two"]


def test_it_does_not_grow_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "KEPT", 3)
    path = tmp_path / "history"
    writer = History(path, Editor())
    for number in range(7):
        writer.add(str(number))
    editor = Editor()
    History(path, editor)
    assert editor.entries == ["4", "5", "6"]
    assert path.read_text() == '"4"\n"5"\n"6"\n'


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file")
    editor = Editor()
    History(tmp_path / "home" / "history", editor).add("one")
    assert editor.entries == ["one"]


def test_without_an_editor_nothing_is_kept(tmp_path: Path) -> None:
    History(tmp_path / "history", None).add("one")
    assert list(tmp_path.iterdir()) == []
