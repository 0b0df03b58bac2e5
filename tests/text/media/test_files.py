from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from quince.text.media import files
from quince.text.media.references import Refusal

LIMIT = 1000


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    directory = tmp_path / "allowed"
    (directory / "deep").mkdir(parents=True)
    (directory / "a.png").write_bytes(b"inside")
    (directory / "deep" / "b c.png").write_bytes(b"deeper")
    (tmp_path / "secret").write_bytes(b"outside")
    (tmp_path / "allowed-not").mkdir()
    (tmp_path / "allowed-not" / "a.png").write_bytes(b"outside")
    return directory


def read(path: Path | str, *directories: Path, limit: int = LIMIT) -> bytes:
    return files.read(files.path_of(str(path)), directories, limit)


def test_files_below_an_allowed_directory_are_read(allowed: Path) -> None:
    assert read(allowed / "a.png", allowed) == b"inside"
    assert read(f"{allowed}//./deep/b c.png", Path("/nowhere"), allowed) == b"deeper"
    assert read(f"file://{allowed}/deep/b%20c.png", allowed) == b"deeper"
    assert read(f"FILE://localhost{allowed}/a.png", allowed) == b"inside"


def test_links_may_lead_from_one_place_of_a_directory_to_another(allowed: Path) -> None:
    (allowed / "link.png").symlink_to(allowed / "deep" / "b c.png")
    (allowed / "folder").symlink_to("deep")
    alias = allowed.parent / "alias"
    alias.symlink_to(allowed)
    assert read(allowed / "link.png", allowed) == b"deeper"
    assert read(allowed / "folder" / "b c.png", allowed) == b"deeper"
    assert read(alias / "a.png", alias) == b"inside"
    assert read(allowed / "a.png", alias) == b"inside", "the setting names the directory by a link"


def refusal(path: Path | str, *directories: Path, limit: int = LIMIT) -> str:
    with pytest.raises(Refusal) as refused:
        read(path, *directories, limit=limit)
    return str(refused.value)


def test_nothing_is_told_about_what_is_outside(allowed: Path) -> None:
    outside = allowed.parent
    (allowed / "to-secret").symlink_to(outside / "secret")
    (allowed / "to-missing").symlink_to(outside / "missing")
    (allowed / "to-folder").symlink_to(outside)
    (allowed / "itself").symlink_to(allowed)
    paths = [
        outside / "secret", outside / "missing", outside / "allowed-not" / "a.png", "/etc/passwd", "/etc/shadow",
        "/dev/zero", "/proc/self/mem", "/proc/self/environ", "/", "file:///etc/passwd", allowed,
        allowed / "itself", allowed / "to-secret", allowed / "to-missing",
        allowed / "to-folder" / "secret", allowed / "to-folder" / "missing",
    ]  # fmt: skip
    assert len({refusal(path, allowed) for path in paths}) == 1
    assert len({refusal(path) for path in [allowed / "a.png", *paths]}) == 1


def test_the_file_system_is_not_asked_about_what_is_outside(allowed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither answers nor the time that they take can tell."""
    asked: list[str] = []
    real = os.path.realpath
    monkeypatch.setattr(os.path, "realpath", lambda path, **kw: asked.append(str(path)) or real(path, **kw))
    refusal("/etc/passwd", allowed)
    refusal(allowed.parent / "secret", allowed)
    assert set(asked) == {str(allowed)}


@pytest.mark.parametrize(
    "url",
    [
        "file:a.png",
        "file:",
        "file://other/a.png",
        "file://[::1/a",
        "file:///a%00b",
        "/a\0b",
        "/a/../b",
        "file:///a/%2e%2e/b",
        "a.png",
    ],
)
def test_odd_paths_are_refused(url: str) -> None:
    with pytest.raises(Refusal):
        files.path_of(url)


def test_what_is_no_regular_file_is_refused_at_once(allowed: Path) -> None:
    os.mkfifo(allowed / "fifo")
    for name in ("fifo", "deep"):
        assert "regular" in refusal(allowed / name, allowed)
    assert "regular" in refusal("/dev/zero", Path("/dev"))
    # Regular for the kernel, and without a size.
    assert read("/proc/self/mem", Path("/proc")) == b""
    assert "No such file" in refusal(allowed / "missing.png", allowed)
    assert "Not a directory" in refusal(allowed / "a.png" / "b", allowed)


def test_an_unreadable_file(allowed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def guarded(path: str, *args: int, **kw: int) -> int:
        if path == "a.png":  # as for anybody but root, who reads everything
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return real(path, *args, **kw)

    monkeypatch.setattr(os, "open", guarded)
    assert "Permission denied" in refusal(allowed / "a.png", allowed)


def test_a_large_file_is_not_read(allowed: Path) -> None:
    with (allowed / "large").open("wb") as file:
        file.truncate(10**12)
    assert "larger" in refusal(allowed / "large", allowed)
    assert read(allowed / "a.png", allowed, limit=6) == b"inside"
    assert "larger" in refusal(allowed / "a.png", allowed, limit=5)


@pytest.mark.parametrize("swapped", ["a.png", "deep"])
def test_what_is_put_in_place_after_the_check_is_not_followed(
    allowed: Path, monkeypatch: pytest.MonkeyPatch, swapped: str
) -> None:
    """The moment between the check and the opening, made long enough to swap a file or a folder for a link."""
    secret = allowed.parent / "elsewhere"
    secret.mkdir()
    (secret / "b c.png").write_bytes(b"outside")
    real = os.open

    def swap_first(path: str, *args: int, **kw: int) -> int:
        if path == str(allowed):
            (allowed / swapped).rename(allowed / "gone")
            (allowed / swapped).symlink_to(secret if swapped == "deep" else allowed.parent / "secret")
        return real(path, *args, **kw)

    monkeypatch.setattr(os, "open", swap_first)
    path = allowed / swapped if swapped == "a.png" else allowed / swapped / "b c.png"
    assert "cannot be read" in refusal(path, allowed)


def test_no_descriptor_stays_open(allowed: Path) -> None:
    before = len(os.listdir("/dev/fd"))
    for path in (allowed / "a.png", allowed / "deep", allowed / "missing"):
        try:
            read(path, allowed)
        except Refusal:
            continue
    assert len(os.listdir("/dev/fd")) == before
