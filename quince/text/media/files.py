"""Files in allowed directories. About files outside of them nothing is found out, not even whether they exist."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from quince.text.media.references import Refusal

_OPEN = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO would block, a link could lead outside


def path_of(url: str) -> str:
    """The path in a ``file:`` URL, or the absolute path itself. Raises Refusal."""
    if url.startswith("/"):
        path = url
    else:
        host, slash, rest = url[len("file:") :].removeprefix("//").partition("/")
        if host not in ("", "localhost"):
            raise Refusal("a file URL begins with 'file:///': files of other machines cannot be read")
        path = slash + unquote(rest, errors="surrogateescape")
    if not path.startswith("/") or "\0" in path or ".." in PurePosixPath(path).parts:
        raise Refusal("a file is named by an absolute path without '..'")
    return path


def read(path: str, directories: Sequence[Path], max_bytes: int) -> bytes:
    """The content of a regular file below one of ``directories``. Blocks. Raises Refusal.

    Links are followed first, as long as they stay below; then the result is opened from the directory on, component by
    component, and without following links: what is put in its place meanwhile is not read.
    """
    below = _below(path, directories)
    if below is None:  # said before the file system is asked anything
        raise Refusal(_outside(directories))
    root = os.path.realpath(below)
    real = os.path.realpath(path)
    if real == root or not real.startswith(os.path.join(root, "")):
        raise Refusal(_outside(directories))
    try:
        with ExitStack() as opened:
            descriptor = _open_below(root, os.path.relpath(real, root), opened)
            return _read_regular(descriptor, max_bytes)
    except OSError as error:
        raise Refusal(f"the file cannot be read: {error.strerror or 'unknown error'}") from None


def _below(path: str, directories: Sequence[Path]) -> str | None:
    """The allowed directory that ``path`` names by its letters, in the spelling of the setting or a resolved one."""
    parts = PurePosixPath(os.path.normpath(path))
    spellings = (spelling for one in directories for spelling in (str(one), os.path.realpath(one)))
    return next((spelling for spelling in spellings if parts.is_relative_to(spelling)), None)


def _outside(directories: Sequence[Path]) -> str:
    if not directories:
        return "this server reads no files (the setting allowed_media_path names the directories that it may read)"
    return "the path is outside the directories that this server may read (the setting allowed_media_path)"


def _open_below(root: str, relative: str, opened: ExitStack) -> int:
    """A descriptor that ``opened`` closes. Raises OSError, also for a link in any component of ``relative``."""
    descriptor = os.open(root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    opened.callback(os.close, descriptor)
    *folders, name = PurePosixPath(relative).parts
    for folder in folders:
        descriptor = os.open(folder, _OPEN | os.O_DIRECTORY, dir_fd=descriptor)
        opened.callback(os.close, descriptor)
    descriptor = os.open(name, _OPEN, dir_fd=descriptor)
    opened.callback(os.close, descriptor)
    return descriptor


def _read_regular(descriptor: int, max_bytes: int) -> bytes:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise Refusal("the path is not a regular file's")
    if status.st_size > max_bytes:
        raise Refusal(f"it is larger than {max_bytes} bytes")
    blocks: list[bytes] = []
    left = status.st_size  # no more, even if the file grows; none of a kernel's endless files, which have no size
    while left and (block := os.read(descriptor, left)):
        blocks.append(block)
        left -= len(block)
    return b"".join(blocks)
