"""What a client may demand of an answer's form, as a grammar for llguidance (Lark with its extensions)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from quince.errors import InvalidRequest

# White space has one form, as most JSON that models have read: where it may vary, a weak model pads for ever.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
# Integers without bounds get those that every JSON reader represents exactly: a weak model writes digits for ever.
MAX_INTEGER = 2**53 - 1

MAX_SIZE = 2**20  # characters of a schema or grammar
MAX_SEARCH = 500  # subschemas that are tried one by one to find the one that is wrong

# Where schemas stand within schemas.
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties")
_INTEGER_BOUNDS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "enum", "const"}

Schema = dict[str, Any]


@dataclass(frozen=True)
class OutputFormat:
    """``expression`` stands on the right side of a Lark rule. ``param`` is what the client called it, for errors."""

    expression: str
    param: str
    schema: Schema | None = None

    def check(self) -> None:
        """Raises InvalidRequest that says what cannot be compiled and where. Takes up to a second: not on the loop."""
        if len(self.expression) > MAX_SIZE:
            raise InvalidRequest(f"{self.param}: it is longer than {MAX_SIZE} characters", param=self.param)
        problem = compile_error(f"start: {self.expression}")
        if problem is not None:
            where = "" if self.schema is None else _where(self.schema, self.schema.get("$defs"))
            raise InvalidRequest(f"{self.param}{where}: {problem}", param=self.param)


def json_object(param: str) -> OutputFormat:
    return json_schema({"type": "object"}, param)


def json_schema(schema: Schema | bool, param: str) -> OutputFormat:
    # false and true are schemas too; only an object can carry the style.
    body = schema if isinstance(schema, dict) else {} if schema else {"not": {}}
    return OutputFormat(_json(body), param, body)


def regex(pattern: str, param: str) -> OutputFormat:
    from llguidance import regex_to_lark

    return OutputFormat(f"/{regex_to_lark(pattern)}/", param)


def choice(options: list[str], param: str) -> OutputFormat:
    return OutputFormat(" | ".join(json.dumps(option) for option in options), param)


def lark(grammar: str, param: str) -> OutputFormat:
    """A grammar of the client's own; its rule ``start`` is where it begins."""
    return OutputFormat("%lark {\n" + grammar + "\n}", param)


def compile_error(grammar: str) -> str | None:
    """What llguidance says of a grammar that it cannot compile, without its listing of what we have written."""
    from llguidance import LLMatcher  # not before somebody asks for a format

    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if not failed:
        return None
    message = messages[0].split("\n   1 | start:")[0].strip()
    return re.sub(r"at 1\(\d+\): (failed to compile JSON schema: )?", "", message)


def _json(schema: Schema) -> str:
    return "%json " + json.dumps({**_bounded(schema), "x-guidance": JSON_STYLE})


def _bounded(schema: Schema) -> Schema:
    """The same with bounds for every integer that has none."""
    changed = dict(schema)
    for keyword in _MAPS:
        if isinstance(members := schema.get(keyword), dict):
            changed[keyword] = {
                name: _bounded(part) if isinstance(part, dict) else part for name, part in members.items()
            }
    for keyword in _LISTS:
        if isinstance(members := schema.get(keyword), list):
            changed[keyword] = [_bounded(part) if isinstance(part, dict) else part for part in members]
    for keyword in _SINGLE:
        if isinstance(part := schema.get(keyword), dict):
            changed[keyword] = _bounded(part)
    if schema.get("type") == "integer" and not schema.keys() & _INTEGER_BOUNDS:
        changed |= {"minimum": -MAX_INTEGER, "maximum": MAX_INTEGER}
    return changed


def _where(schema: Schema, definitions: Any) -> str:
    """The path to the innermost part of a schema that cannot be compiled by itself."""
    path, tries = "", 0
    searching = True
    while searching:
        searching = False
        for name, part in _parts(schema):
            if "$ref" in part:  # what it points to is looked at in its own place
                continue
            tries += 1
            alone = part if definitions is None else {**part, "$defs": definitions}
            if tries <= MAX_SEARCH and compile_error(f"start: {_json(alone)}") is not None:
                schema, path, searching = part, f"{path}.{name}", True
                break
    return path


def _parts(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """The schemas directly within a schema, by their paths."""
    for keyword in _MAPS:
        members = schema.get(keyword)
        if isinstance(members, dict):
            yield from ((f"{keyword}.{name}", part) for name, part in members.items() if isinstance(part, dict))
    for keyword in _LISTS:
        members = schema.get(keyword)
        if isinstance(members, list):
            yield from ((f"{keyword}.{index}", part) for index, part in enumerate(members) if isinstance(part, dict))
    for keyword in _SINGLE:
        if isinstance(part := schema.get(keyword), dict):
            yield keyword, part
