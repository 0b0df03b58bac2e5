"""What a client may demand of an answer's form, as a grammar for llguidance (Lark with its extensions)."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from quince.errors import InvalidRequest
from quince.text.json_schema import Schema, bounded, not_held_to, parts

# White space has one form, as most JSON that models have read: where it may vary, a weak model pads for ever.
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
_LARK = "%lark"

MAX_SIZE = 2**18  # characters of a schema or grammar: compiling one of twice that may take ten seconds
SEARCH_SECONDS = 0.3  # for finding which part of a schema is wrong
MAX_PROBLEM = 500  # characters of what is told of what is wrong
MAX_PATH = 100  # characters of where it is


@dataclass(frozen=True)
class OutputFormat:
    """What was ``written`` as a Lark expression, or else a JSON ``schema``. ``param`` is what the client called it, for
    errors."""

    param: str
    written: str = ""
    schema: Schema | None = None

    @cached_property
    def expression(self) -> str:
        """What stands on the right side of a Lark rule."""
        return self.written if self.schema is None else _json(self.schema)

    def check(self) -> None:
        """Raises InvalidRequest that says what cannot be compiled and where. Takes up to seconds: not on the loop."""
        try:
            too_long = len(self.expression) > MAX_SIZE
        except RecursionError:
            raise InvalidRequest(f"{self.param}: it is nested too deeply", param=self.param) from None
        if too_long:
            raise InvalidRequest(f"{self.param}: it is longer than {MAX_SIZE} characters", param=self.param)
        where = ""
        problem = compile_error(f"start: {self.expression}")
        if self.schema is not None:
            if problem is not None:
                where = _where(self.schema, self.schema.get("$defs"))
            else:
                where, problem = not_held_to(self.schema) or ("", None)
        if problem is None and not self.expression.startswith(_LARK):  # which may name the model's own tokens
            problem = _start_error(f"start: {self.expression}")
        if problem is not None:
            raise InvalidRequest(f"{self.param}{_shortened(where, MAX_PATH)}: {problem}", param=self.param)


def json_object(param: str) -> OutputFormat:
    return json_schema({"type": "object"}, param)


def json_schema(schema: Schema | bool, param: str) -> OutputFormat:
    # false and true are schemas too; only an object can carry the style.
    return OutputFormat(param, schema=schema if isinstance(schema, dict) else {} if schema else {"allOf": [False]})


def regex(pattern: str, param: str) -> OutputFormat:
    from llguidance import regex_to_lark

    return OutputFormat(param, f"/{regex_to_lark(pattern)}/" if pattern else '""')


def choice(options: list[str], param: str) -> OutputFormat:
    return OutputFormat(param, " | ".join(json.dumps(option) for option in options))


def lark(grammar: str, param: str) -> OutputFormat:
    """A grammar of the client's own; its rule ``start`` is where it begins."""
    return OutputFormat(param, f"{_LARK} {{\n{grammar}\n}}")


def compile_error(grammar: str) -> str | None:
    """What llguidance says of a grammar that it cannot compile, without its listing of what we have written."""
    from llguidance import LLMatcher  # not before somebody asks for a format

    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if not failed:
        return None
    message = messages[0].split("\n   1 | start:")[0].strip()
    return _sentence(re.sub(r"at 1\(\d+\): (failed to compile JSON schema: )?", "", message))


def _start_error(grammar: str) -> str | None:
    """What llguidance says when an answer begins, of what it has compiled and yet cannot follow."""
    from llguidance import LLMatcher, LLTokenizer

    matcher = LLMatcher(LLTokenizer("byte"), grammar, log_level=0)
    matcher.compute_bitmask()
    if not matcher.is_error() and (forced := matcher.compute_ff_tokens()):
        matcher.consume_tokens(forced)
        matcher.compute_bitmask()
    return _sentence(matcher.get_error()) if matcher.is_error() else None


def _sentence(message: str) -> str:
    """llguidance's words without its state, its pictures and its own options."""
    message = message.split("\n<state>")[0]
    message = re.sub(r"(?s)regex parse error:\s*(.*?)\n\s*\^+\s*error: ", r"the pattern \1 is wrong: ", message)
    if keys := re.search(r"Unimplemented keys: \[(.*)\]", message):
        message = f"{keys[1]} is not supported" if "," not in keys[1] else f"{keys[1]} are not supported"
    if message.startswith("oneOf constraints"):
        message = (
            "oneOf is supported only where no value can match two of its schemas, of plainly other forms: use anyOf"
        )
    return _shortened(re.sub(r"\s+", " ", message.strip()), MAX_PROBLEM)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."


def _json(schema: Schema) -> str:
    return "%json " + json.dumps({**bounded(schema), "x-guidance": JSON_STYLE})


def _where(schema: Schema, definitions: Any) -> str:
    """The path to the innermost part of a schema that cannot be compiled by itself, as far as it is found in time."""
    path, searching, deadline = "", True, time.monotonic() + SEARCH_SECONDS
    while searching:
        searching = False
        for name, part in parts(schema):
            if "$ref" in part:  # what it points to is looked at in its own place
                continue
            if time.monotonic() > deadline:
                return path
            alone = part if definitions is None else {**part, "$defs": definitions}
            if compile_error(f"start: {_json(alone)}") is not None:
                schema, path, searching = part, f"{path}.{name}", True
                break
    return path
