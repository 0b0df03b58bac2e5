"""Kimi K3 (XTML): tags of three special tokens, the type of every value in its tag.

    <|open|>tools<|sep|><|open|>call tool="f" index="1"<|sep|>
    <|open|>argument key="a" type="string"<|sep|>text<|close|>argument<|sep|>
    <|close|>call<|sep|><|close|>tools<|sep|>

(without the newlines). Instead of arguments a call may have one block of JSON, in a tag ``json type="object"``. The
section follows the response, which may be empty, and which the prompt may have opened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quince.text.tool_parsers.grammar import Rules
from quince.text.tool_parsers.schema import is_text, types_of
from quince.text.tool_parsers.tagged import Tags, attributes
from quince.text.tool_parsers.tagged_format import TaggedFormat

OPEN, CLOSE, END = "<|open|>", "<|close|>", "<|sep|>"
RESPONSE = (f"{OPEN}response{END}", f"{CLOSE}response{END}")


class KimiK3(TaggedFormat):
    name = "kimi_k3"
    markers = (OPEN, CLOSE, END)
    tags = Tags(
        section=(f"{OPEN}tools{END}", f"{CLOSE}tools{END}"),
        call=(f"{OPEN}call ", f"{CLOSE}call{END}"),
        param=(f"{OPEN}argument ", f"{CLOSE}argument{END}"),
        call_heading=attributes("tool", END),
        param_heading=attributes("key", END),
        json_block=(f'{OPEN}json type="object"{END}', f"{CLOSE}json{END}"),
    )
    opening, closing = tags.section
    newline = ""

    def matches(self, template: str) -> bool:
        return OPEN in template and END in template and ("open_tag('tools')" in template or f"{OPEN}tools" in template)

    def before(self, rules: Rules) -> str:
        return " ".join(f"({rules.literal(mark)})?" for mark in RESPONSE)

    def call_head(self, rules: Rules, name: str) -> str:
        begin, end = rules.literal(f'{OPEN}call tool="{_attribute(name)}" index="'), rules.literal(f'"{END}')
        return f"{begin} /[1-9][0-9]?/ {end}"

    def param_head(self, name: str, schema: Any, root: Mapping[str, Any]) -> str:
        kind = "string" if is_text(schema, root) else _kind(types_of(schema, root))
        return f'{OPEN}argument key="{_attribute(name)}" type="{kind}"{END}'


def _kind(types: frozenset[str]) -> str:
    """The type that a tag gives for a value that is no plain string; where several are possible, any but string."""
    if types <= {"number", "integer"}:
        return "number"
    return next(kind for kind in ("object", "array", "boolean", "null", "number", "string") if kind in types)


def _attribute(value: str) -> str:
    return value.replace("&", "&amp;").replace('"', "&quot;")
