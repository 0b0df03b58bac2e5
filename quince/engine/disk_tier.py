"""The prefix cache's files on disk, and the thread that reads and writes them. No MLX in here.

The engine thread hands over host copies and picks up what was read; it never waits for the disk. Both ways are bounded
in bytes: when the disk is behind, what would be written is not taken, and reading pauses.

Invariants
- One directory per model identity; a file's name says what it holds, so that servers that share it write the same.
- A file comes into being by a rename. Whatever cannot be verified is deleted and was never there; a file that has
  vanished was another server's to delete.
- All files below the root, of all models, take at most ``max_bytes``: those used least recently go first. Another
  server's are counted at least whenever a sixteenth of that was written.
- An I/O error turns the tier off, with one warning.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from quince.engine import disk_files
from quince.engine.disk_files import BrokenFile, Entry
from quince.engine.disk_index import DiskIndex, Found, Piece
from quince.engine.host_arrays import HostArrays, LoadedPart

logger = logging.getLogger(__name__)

STAGED_BYTES = 128 * 2**20  # on the way to the disk, and as many on the way back
FIRST_RATE = 200e6  # bytes per second, until it was measured
HEADER_BYTES = 16 * 2**10  # more than a header has besides its tokens
SHARE = 16  # of max_bytes: how much is written between two counts, and freed at once
MEASURED_BYTES = 2**16  # of smaller files, the time is that of opening them
_IDENTITY = re.compile("[0-9a-f]{32}")
LOST_AFTER = 60.0  # seconds after which a temporary file is nobody's any more


Read = TypeVar("Read")


@dataclass(eq=False)
class Load:
    """Files that are being read. ``parts`` come in order, and end early where a file is broken or gone. ``used``: what
    counts as used by that, the first of a prompt last."""

    wanted: deque[Piece | Entry]
    used: list[Entry]
    parts: deque[LoadedPart] = field(default_factory=deque)
    finished: bool = False


@dataclass(frozen=True)
class _Write:
    entry: Entry
    host: HostArrays
    used: list[Entry]


class DiskTier:
    """``find`` what there is, ``load`` it; ``write`` what ``has_room``. Every method is for the engine thread."""

    def __init__(self, root: Path, identity: str, *, max_bytes: int, wake: Callable[[], None] = lambda: None) -> None:
        """``wake``: called by the thread when there is something to pick up, or room again."""
        self.max_bytes = max_bytes
        self.rate = FIRST_RATE  # at which files are read and verified, bytes per second
        self._root = root
        self._directory = root / identity
        self._identity = identity
        self._wake = wake
        self._changed = threading.Condition()
        self._index = DiskIndex()
        self._writes: deque[_Write] = deque()
        self._loads: deque[Load] = deque()
        self._staged = 0  # bytes handed over and not written yet
        self._read = 0  # bytes read and not picked up yet
        self._off = self._closing = False
        self._busy = True
        self._used_bytes = 0  # of all models, as far as it is known
        self._uncounted = 0  # written since all files were counted
        self._clock = 0
        self._thread = threading.Thread(target=self._work, name="disk-tier", daemon=True)
        self._thread.start()

    @property
    def off(self) -> bool:
        return self._off

    @property
    def nbytes(self) -> int:
        """What the files of all models take, as far as this process knows."""
        return self._used_bytes

    # The engine's side

    def find(self, token_ids: Sequence[int], limit: int, *, have: int, key: Hashable = None) -> Found:
        with self._changed:
            return self._index.find(token_ids, limit, have=have, key=key)

    def __contains__(self, entry: Entry) -> bool:
        with self._changed:
            return entry.name in self._index

    def has_room(self, nbytes: int) -> bool:
        """Whether so much can be handed over now."""
        return not self._off and (self._staged == 0 or self._staged + nbytes <= STAGED_BYTES)

    def write(self, entry: Entry, host: HostArrays, used: Iterable[Entry] = ()) -> None:
        """Have a file written. ``used``: those of the tokens before it, which must not go before it goes."""
        with self._changed:
            if not self._off:
                self._writes.append(_Write(entry, host, list(used)))
                self._staged += host.nbytes
                self._index.add(entry)
                self._changed.notify_all()

    def load(self, wanted: Sequence[Piece | Entry], used: Sequence[Entry] = ()) -> Load:
        """Read these files, in this order. ``used``: those of the tokens before them, in order."""
        load = Load(deque(wanted), [*(_entry(one) for one in reversed(wanted)), *reversed(used)])
        with self._changed:
            load.finished = self._off
            self._loads.append(load)
            self._changed.notify_all()
        return load

    def take(self, load: Load) -> LoadedPart | None:
        """The next part, if it was read already."""
        with self._changed:
            if not load.parts:
                return None
            part = load.parts.popleft()
            self._read -= part.host.nbytes
            self._changed.notify_all()
            return part

    def cancel(self, load: Load) -> None:
        """Its parts are not wanted any more."""
        with self._changed:
            load.wanted.clear()
            self._read -= sum(part.host.nbytes for part in load.parts)
            load.parts.clear()
            load.finished = True
            self._changed.notify_all()

    def drain(self, timeout: float) -> bool:
        """Wait until everything that was handed over is written. Returns whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._off or not (self._writes or self._busy), timeout)

    def wait_for_room(self, nbytes: int, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._off or self.has_room(nbytes), timeout) and not self._off

    def close(self) -> None:
        """End the thread; what is staged is not written any more."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    # The thread's side

    def _work(self) -> None:
        try:
            self._open()
        except OSError as error:
            self._turn_off(error)
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._closing or self._next_load() or self._writes)
                if self._closing:
                    return
                self._busy = True
                load = self._next_load()
                write = self._writes[0] if self._writes and load is None else None
            try:
                if load is not None:
                    self._read_next(load)
                elif write is not None:
                    self._write_file(write)
            except OSError as error:
                self._turn_off(error)
            self._wake()

    def _turn_off(self, error: OSError) -> None:
        with self._changed:
            if not self._off:
                logger.warning("the prefix cache's disk tier is off from now on: %s", error)
            self._off = True
            self._index.clear()
            self._writes.clear()
            self._staged = 0
            for load in self._loads:
                load.wanted.clear()
                load.finished = True
            self._loads.clear()
            self._changed.notify_all()

    def _open(self) -> None:
        """Read the headers of what earlier servers have left, the latest first."""
        self._make_directory()
        files = sorted(self._count(), reverse=True)
        for _, _, path in files:
            if self._closing:
                return
            if path.parent != self._directory:
                continue
            entry = self._verified(path, disk_files.read_entry)
            if entry is not None:
                with self._changed:
                    self._index.add(entry)

    def _make_directory(self) -> None:
        self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.mkdir(mode=0o700, exist_ok=True)

    def _verified(self, path: Path, read: Callable[[Path, str], Read]) -> Read | None:
        """What ``read`` makes of a file; what is broken, or gone, was not there."""
        try:
            return read(path, self._identity)
        except FileNotFoundError:
            self._forget(path.name)
        except BrokenFile as error:
            logger.info("the prefix cache discards a file: %s", error)
            path.unlink(missing_ok=True)
            self._forget(path.name)
        return None

    def _forget(self, name: str) -> None:
        with self._changed:
            self._index.discard(name)

    # Reading

    def _next_load(self) -> Load | None:
        """Under the lock. Reading pauses while nobody picks up what was read."""
        while self._loads and not self._loads[0].wanted:
            self._loads.popleft().finished = True
        return self._loads[0] if self._loads and self._read < STAGED_BYTES else None

    def _read_next(self, load: Load) -> None:
        with self._changed:
            if not load.wanted:
                return
            wanted, entry = load.wanted[0], _entry(load.wanted.popleft())
            used, load.used = load.used, []
            host = next((write.host for write in self._writes if write.entry == entry), None)  # not written yet
        self._touch(used)
        if host is None:
            host = self._read_file(self._directory / entry.name)
        part = None
        if host is not None and isinstance(wanted, Piece):
            cut = host.cut(wanted.start - entry.start, wanted.stop - entry.start)
            part = LoadedPart(wanted.start, wanted.stop, cut)
        elif host is not None:
            part = LoadedPart(entry.start, entry.start, host)
        with self._changed:
            if part is None:
                load.wanted.clear()
            elif not load.finished:
                load.parts.append(part)
                self._read += part.host.nbytes
            load.finished = load.finished or not load.wanted

    def _read_file(self, path: Path) -> HostArrays | None:
        started = time.perf_counter()
        host = self._verified(path, disk_files.read)
        seconds = time.perf_counter() - started
        if host is not None and host.nbytes >= MEASURED_BYTES:
            self.rate += (host.nbytes / max(seconds, 1e-6) - self.rate) / 4
        return host

    # Writing

    def _write_file(self, write: _Write) -> None:
        size = write.host.nbytes + len(write.entry.tokens) + HEADER_BYTES
        if self._used_bytes + size > self.max_bytes or self._uncounted > self.max_bytes // SHARE:
            self._trim(size)
        written = 0
        if size <= self.max_bytes:
            with contextlib.suppress(FileNotFoundError):  # somebody has emptied the directory
                self._make_directory()
                written = disk_files.write(self._directory / write.entry.name, self._identity, write.entry, write.host)
        self._used_bytes += written
        self._uncounted += written
        # What begins a prompt goes after what is behind it.
        self._touch([write.entry, *reversed(write.used)])
        with self._changed:
            if not written:
                self._index.discard(write.entry.name)
            if self._writes:
                self._writes.popleft()
                self._staged -= write.host.nbytes

    def _touch(self, entries: Iterable[Entry]) -> None:
        """Count these as used now, the last of them last."""
        for entry in entries:
            self._clock = max(self._clock + 1, time.time_ns())
            with contextlib.suppress(FileNotFoundError):
                os.utime(self._directory / entry.name, ns=(self._clock, self._clock))

    def _trim(self, nbytes: int) -> None:
        """Make room for a file: count all there are, and if they are too many, delete down to a share less."""
        files = sorted(self._count())
        if self._used_bytes + nbytes <= self.max_bytes:
            return
        for _, size, path in files:
            if self._used_bytes + nbytes <= self.max_bytes - self.max_bytes // SHARE:
                return
            path.unlink(missing_ok=True)
            self._used_bytes -= size
            if path.parent == self._directory:
                self._forget(path.name)

    def _count(self) -> list[tuple[int, int, Path]]:
        """When each file of any model was used, its size and where it is; deletes what a killed writer has left."""
        files, total = [], 0
        directories = [path for path in self._root.iterdir() if _IDENTITY.fullmatch(path.name) and path.is_dir()]
        for path in itertools.chain.from_iterable(directory.iterdir() for directory in directories):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            if path.suffix == disk_files.TEMPORARY and time.time() - status.st_mtime > LOST_AFTER:
                path.unlink(missing_ok=True)
                continue
            total += status.st_size
            if path.suffix in (".segment", ".snapshot"):
                files.append((status.st_mtime_ns, status.st_size, path))
        self._used_bytes, self._uncounted = total, 0
        return files


def _entry(wanted: Piece | Entry) -> Entry:
    return wanted.entry if isinstance(wanted, Piece) else wanted
