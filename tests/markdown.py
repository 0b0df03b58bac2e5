"""What the tests read out of Markdown: fenced blocks, headings' anchors, links, and code within sentences."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
_FENCE = re.compile(r"^( *)(`{3,}|~{3,})(.*)$")
_NOT_RUN = re.compile(r"^ *<!-- not run: (.+?) -->$")
_HEADING = re.compile(r"^#{1,6} +(.+?)(?: +#+)?$")
_LINK = re.compile(r"!?\[(?:[^\[\]]|!\[[^\]]*\]\([^)]*\))*\]\(([^)\s]+)\)")
_CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block. ``line`` is its first line's number within the file, from 1; ``not_run`` says why, if it is."""

    path: Path
    line: int
    language: str
    text: str
    not_run: str | None

    def __str__(self) -> str:
        return f"{name(self.path)}:{self.line}"


@dataclass(frozen=True)
class Document:
    """``prose`` has as many lines as the file; those of fenced blocks are empty in it."""

    path: Path
    blocks: tuple[Block, ...]
    prose: str

    def anchors(self) -> set[str]:
        """As GitHub names them."""
        found: dict[str, int] = {}
        names = set()
        for line in self.prose.splitlines():
            if heading := _HEADING.match(line):
                text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1])
                anchor = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
                count = found[anchor] = found.get(anchor, 0) + 1
                names.add(anchor if count == 1 else f"{anchor}-{count - 1}")
        return names

    def links(self) -> list[str]:
        return _LINK.findall(_CODE.sub("", self.prose))

    def code(self) -> Iterator[str]:
        """What stands between backticks, in one line."""
        for paragraph in re.split(r"\n\s*\n|\n(?=[|\-#])", self.prose):
            for found in _CODE.finditer(paragraph):
                yield " ".join(found[2].split())


def documents() -> list[Path]:
    """Every Markdown file of the repository."""
    patterns = ("*.md", "docs/**/*.md", "examples/**/*.md", "benchmarks/*.md", "training/**/*.md", "quince/**/*.md")
    return sorted(path for pattern in patterns for path in REPOSITORY.glob(pattern))


def name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix() if path.is_relative_to(REPOSITORY) else path.name


def read(path: Path) -> Document:
    """Raises ValueError where a block is not closed, or a reason not to run one has no block."""
    lines = path.read_text(encoding="utf-8").splitlines()
    blocks: list[Block] = []
    prose: list[str] = []
    reason: str | None = None
    number = 0
    while number < len(lines):
        opened = _FENCE.match(lines[number])
        if opened:
            closed = _end(path, lines, number, opened[2])
            text = "\n".join(line.removeprefix(opened[1]) for line in lines[number + 1 : closed])
            blocks.append(Block(path, number + 2, opened[3].strip(), text + "\n", reason))
            reason = None
            prose += [""] * (closed - number + 1)
            number = closed + 1
            continue
        if lines[number].strip():
            if reason is not None:
                raise ValueError(f"{path}:{number + 1}: no block follows the reason not to run it")
            found = _NOT_RUN.match(lines[number])
            reason = found[1] if found else None
        prose.append(lines[number])
        number += 1
    if reason is not None:
        raise ValueError(f"{path}: no block follows the reason not to run it")
    return Document(path, tuple(blocks), "\n".join(prose) + "\n")


def _end(path: Path, lines: list[str], start: int, fence: str) -> int:
    """The index of the line that closes the block."""
    for index in range(start + 1, len(lines)):
        closing = _FENCE.match(lines[index])
        if closing and closing[2].startswith(fence) and not closing[3].strip():
            return index
    raise ValueError(f"{path}:{start + 1}: the block is not closed")
