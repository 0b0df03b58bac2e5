"""What commands print: results on standard output, for people or as JSON; progress on standard error."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

# Wide enough that nothing is cut or wrapped where a program reads.
UNLIMITED = 10_000
# Without a terminal, progress is a line at a time: when the step changes, and this often (seconds) within one.
LINE_EVERY = 10.0


@dataclass(frozen=True)
class Column:
    """One column of a table: what people read of each object."""

    name: str
    cell: Callable[[Mapping[str, Any]], str]
    right: bool = False


class Output:
    """The one sink of a command. ``json``: results as JSON. ``quiet``: no progress and no confirmations."""

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self._json = json
        self._quiet = quiet
        self._console = _console()

    def table(self, columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> None:
        """``rows`` are the objects of ``--json``; people see ``columns`` of them, the last ones only if they fit."""
        if self._json:
            self._print_json(rows)
            return
        table = Table(box=box.SIMPLE_HEAD if self._console.is_terminal else None, pad_edge=False, show_edge=False)
        shown = _fitting(columns, rows, self._console.width)
        for column in shown:
            # A name that is cut could not be copied: it goes on in the next line.
            table.add_column(column.name, justify="right" if column.right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(column.cell(row)) for column in shown))
        self._console.print(table)

    def record(self, value: Mapping[str, Any], shown: Iterable[tuple[str, str]]) -> None:
        """One object: as JSON, or as names and values in two columns."""
        if self._json:
            self._print_json(value)
            return
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for name, text in shown:
            table.add_row(Text(name, "bold"), Text(text))
        self._console.print(table)

    def text(self, text: str) -> None:
        """As it is: for what is copied or piped."""
        print(text.removesuffix("\n"))  # noqa: T201 - the one place; says nothing where standard output is closed

    def warning(self, sentence: str) -> None:
        """That something is not as it should be, beside the result."""
        print(f"quince: {sentence}", file=sys.stderr)  # noqa: T201 - the one place

    def done(self, sentence: str, value: Mapping[str, Any]) -> None:
        """That a change was made."""
        if self._json:
            self._print_json(value)
        elif not self._quiet:
            self._console.print(Text(sentence), soft_wrap=True)

    @contextmanager
    def progress(self) -> Iterator[ProgressSink]:
        """Where a long command tells how far it is: a bar on a terminal, lines elsewhere."""
        console = Console(stderr=True)
        if self._quiet:
            yield _Silent()
        elif console.is_terminal:
            with _bars(console) as bars:
                yield _Bar(bars)
        else:
            yield _Lines()

    def _print_json(self, value: Any) -> None:
        self.text(msgspec.json.format(msgspec.json.encode(value)).decode())


class ProgressSink(Protocol):
    """Told what is done now and, in bytes, how much of how much (total 0: nothing to count). From any thread."""

    def update(self, status: str, completed: int, total: int) -> None: ...


class _Silent:
    def update(self, status: str, completed: int, total: int) -> None:
        pass


class _Bar:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._step = ""
        self._task: TaskID | None = None

    def update(self, status: str, completed: int, total: int) -> None:
        step = _step(status, total)
        if step != self._step or self._task is None:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._step, self._task = step, self._bars.add_task(step, total=total or None)
        self._bars.update(self._task, completed=completed)


class _Lines:
    def __init__(self) -> None:
        self._told = ("", 0.0)

    def update(self, status: str, completed: int, total: int) -> None:
        step = _step(status, total)
        last, when = self._told
        if step == last and (time.monotonic() - when < LINE_EVERY and completed < total):
            return
        self._told = (step, time.monotonic())
        share = f" {100 * completed // total} % of {total / 1e6:.1f} MB" if total else ""
        print(f"{step}{share}", file=sys.stderr, flush=True)  # noqa: T201 - the one place


def _step(status: str, total: int) -> str:
    """Several files come at once: which one was heard of last says nothing."""
    return "downloading" if total else status


def _fitting(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]], width: int) -> Sequence[Column]:
    """As many of the columns as have room side by side, and the first in any case."""
    room = width
    for count, column in enumerate(columns):
        room -= max(len(column.name), *(len(column.cell(row)) for row in rows), 0) + 3
        if room < -3 and count:
            return columns[:count]
    return columns


def _bars(console: Console) -> Progress:
    columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(bar_width=None), TaskProgressColumn()]
    if console.width >= 70:
        columns.append(DownloadColumn())
    if console.width >= 100:
        columns += [TransferSpeedColumn(), TimeRemainingColumn()]
    return Progress(*columns, console=console, transient=True, expand=True)


def _console() -> Console:
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=UNLIMITED)
