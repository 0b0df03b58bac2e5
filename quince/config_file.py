"""A configuration file's text to names, values and lines.

Values are the text that stands in the file, as in an environment variable: no 0123 becomes an octal number and no "no"
becomes a bool on its way to a setting that holds text. JSON is read by the same reader, once it is known to be valid.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import yaml

from quince.errors import UsageError
from quince.settings import Setting

MAX_SIZE = 256 * 2**10
MAX_DEPTH = 8
_NULL = "tag:yaml.org,2002:null"


@dataclass(frozen=True)
class Entry:
    """A value and the line (from 1) that its key or it stands in. None is YAML's null, or nothing after the colon."""

    value: str | list[Entry] | dict[str, Entry] | None
    line: int


def read(path: Path) -> Mapping[str, Entry]:
    """The file's entries; none in an empty file. Keys are as written.

    Raises UsageError, one sentence with file and line, for anything else. It quotes no values: they may be
    secret.
    """
    text = _text(path)
    try:
        if path.suffix.lower() == ".json" and text.strip():
            json.loads(text)
            text = text.replace("\t", " ")  # in valid JSON, tabs stand between values only
        reader = _Reader(text, path)
        try:
            node = reader.get_single_node()
        finally:
            reader.dispose()
    except json.JSONDecodeError as error:
        _refuse(path, error.lineno, f"this is no JSON: {error.msg}")
    except RecursionError:
        _refuse(path, 1, "this is nested too deeply")
    except yaml.reader.ReaderError as error:
        _refuse(path, text.count("\n", 0, error.position) + 1, "a control character stands here")
    except yaml.MarkedYAMLError as error:
        problem = " ".join((error.problem or "").split())
        if "'\\t'" in problem:
            problem = "a tab stands here: indent with spaces"
        _refuse(path, _line(error.problem_mark or error.context_mark), problem or "this is no YAML")
    if node is None:
        return {}
    entry = _entry(node, path)
    if entry.value is None:
        return {}
    if not isinstance(entry.value, dict):
        _refuse(path, entry.line, "settings are written as 'name: value'")
    return entry.value


@dataclass(frozen=True)
class Written:
    """A setting in a file, under the ``key`` that stands there."""

    path: Path
    key: str
    entry: Entry

    @property
    def place(self) -> str:
        return f"{self.path}, line {self.entry.line}"

    def text(self, setting: Setting) -> str | list[str]:
        """Its value. Raises UsageError if it has not the shape of one."""
        match self.entry.value:
            case str() as text:
                return [text] if setting.many else text
            case list() as entries if setting.many:
                texts = [entry.value for entry in entries if isinstance(entry.value, str)]
                if len(texts) == len(entries):
                    return texts
        expected = "a list of values" if setting.many else "one value"
        raise UsageError(f"{self.place}: {self.key}: {expected} belongs here")


def by_name(
    path: Path, entries: Mapping[str, Entry], known: Collection[str], elsewhere: Mapping[str, str]
) -> dict[str, Written]:
    """The entries by the names of settings; - may be written for _.

    Raises UsageError for a key that is not ``known``, with the nearest that is, or with what ``elsewhere`` says of it.
    """
    found: dict[str, Written] = {}
    for key, entry in entries.items():
        written = Written(path, key, entry)
        name = key.replace("-", "_")
        if name in elsewhere:
            raise UsageError(f"{written.place}: {key}: {elsewhere[name]}")
        if name not in known:
            raise UsageError(f"{written.place}: unknown key '{key}'{_hint(key, known)}")
        if name in found:
            raise UsageError(f"{written.place}: '{key}' stands here again, after line {found[name].entry.line}")
        found[name] = written
    return found


def _hint(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key.replace("-", "_"), known, 1)
    return f"; did you mean '{close[0].replace('_', '-') if '-' in key else close[0]}'?" if close else ""


class _Mark(Protocol):
    """Of PyYAML's two: a place in a text, its line counted from 0."""

    @property
    def line(self) -> int: ...


class _Reader(yaml.SafeLoader):
    """Refuses what settings do not need, before it takes effect: aliases grow without bound, tags make objects."""

    def __init__(self, text: str, path: Path) -> None:
        super().__init__(text)
        self._path = path
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.Event = self.peek_event()  # type: ignore[no-untyped-call]
        line = _line(event.start_mark)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            _refuse(self._path, line, "anchors (&) and aliases (*) are not supported; quote text that begins so")
        if getattr(event, "tag", None) is not None:
            _refuse(self._path, line, "tags (!) are not supported; quote text that begins so")
        if self._depth > MAX_DEPTH:
            _refuse(self._path, line, "this is nested too deeply")
        self._depth += 1
        node: yaml.Node | None = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SIZE + 1)
    except IsADirectoryError:
        raise UsageError(f"{path} is a directory, not a configuration file") from None
    except OSError as error:
        raise UsageError(f"the configuration file {path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_SIZE:
        raise UsageError(f"{path} is too large for a configuration file: at most {MAX_SIZE // 2**10} KiB are read")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        _refuse(path, data.count(b"\n", 0, error.start) + 1, "this is no UTF-8 text")


def _entry(node: yaml.Node, path: Path, line: int | None = None) -> Entry:
    line = _line(node.start_mark) if line is None else line
    match node:
        case yaml.MappingNode():
            return Entry(_entries(node, path), line)
        case yaml.SequenceNode():
            return Entry([_entry(one, path) for one in node.value], line)
    return Entry(None if node.tag == _NULL else _whole(node.value), line)


def _entries(node: yaml.MappingNode, path: Path) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for key, value in node.value:
        line = _line(key.start_mark)
        if not isinstance(key, yaml.ScalarNode):
            _refuse(path, line, "a name is text, not a list or a section")
        name = _whole(key.value)
        if name in found:
            _refuse(path, line, f"'{name}' stands here again, after line {found[name].line}")
        found[name] = _entry(value, path, line)
    return found


def _line(mark: _Mark | None) -> int:
    return 1 if mark is None else mark.line + 1


def _whole(text: str) -> str:
    """JSON may write a character as two halves of it; a half alone is none."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _refuse(path: Path, line: int, problem: str) -> NoReturn:
    raise UsageError(f"{path}, line {line}: {problem}")
