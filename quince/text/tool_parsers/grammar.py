"""Grammars that allow nothing but a family's calls: llguidance's dialect of Lark, as text.

llguidance itself runs in the engine process; here rules are only written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from quince.errors import InvalidRequest
from quince.text.json_schema import bounded
from quince.text.output_format import JSON_STYLE
from quince.text.tool_parsers.schema import is_text, properties_of, resolve

# Calls of one answer: a weak model would otherwise write them until its tokens are used up.
MAX_CALLS = 16
# What a parameter list can be made of where it is not JSON itself. The rest says nothing about which keys there are.
_OBJECT_KEYS = {"type", "properties", "required", "additionalProperties", "$defs", "definitions", "title"}
_OBJECT_KEYS |= {"description", "$schema", "$id", "default", "examples", "strict", "x-guidance", "$comment"}
_COMBINING = {"allOf", "anyOf", "oneOf", "$ref", "if", "not", "patternProperties", "unevaluatedProperties"}
_OUTSIDE = re.compile(r'"\$ref": "((?!#/(?:\$defs|definitions)/)[^"]*)')
_FORMATS = {
    "date": r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])",
    "time": r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
}
_FORMATS["date-time"] = f"{_FORMATS['date']}T{_FORMATS['time']}"


@dataclass(frozen=True)
class Grammar:
    """Rules to put into a larger grammar, and the name of the one to begin with. All names share a prefix."""

    rules: str
    start: str

    @property
    def has_special_tokens(self) -> bool:
        """Whether it takes tokens that text cannot spell."""
        return "<[" in self.rules


class Rules:
    """Writes the rules of one grammar.

    ``special_tokens``: the tokens of the vocabulary that no text in a grammar matches, with their ids. A mark that is
    one of them is written as that token, any other as text.
    """

    def __init__(self, prefix: str, special_tokens: Mapping[str, int]) -> None:
        self._prefix = prefix
        self._special = special_tokens
        self._lines: list[str] = []
        names = sorted(filter(None, special_tokens), key=len, reverse=True)
        self._pattern = re.compile("(" + ("|".join(map(re.escape, names)) or "(?!)") + ")")

    def rule(self, body: str, options: str = "") -> str:
        return self._add(f"{self._prefix}_{len(self._lines)}", options, body)

    def terminal(self, body: str) -> str:
        return self._add(f"{self._prefix}_{len(self._lines)}".upper(), "", body)

    def _add(self, name: str, options: str, body: str) -> str:
        self._lines.append(f"{name}{options}: {body}")
        return name

    def grammar(self, body: str) -> Grammar:
        start = self.rule(body)
        return Grammar("\n".join(self._lines) + "\n", start)

    def literal(self, text: str) -> str:
        """Exactly this text, the special tokens in it as tokens."""
        return " ".join(self._parts(text)) or '""'

    def _parts(self, text: str) -> list[str]:
        pieces = filter(None, self._pattern.split(text))
        return [f"<[{self._special[piece]}]>" if piece in self._special else _quoted(piece) for piece in pieces]

    def arguments(self, parameters: Mapping[str, Any]) -> str:
        """All of a tool's arguments as one JSON object."""
        schema = object_schema(parameters)
        return self.json(schema, schema)

    def json(self, schema: Any, root: Mapping[str, Any]) -> str:
        """A value of ``schema``, whose references are to ``root``, as JSON."""
        schema = schema if isinstance(schema, Mapping) else {} if schema is not False else {"not": {}}
        if schema is not root and (found := _OUTSIDE.search(json.dumps(schema))):
            raise InvalidRequest(
                f"a tool's parameters refer to '{found[1]}': only $defs can be referred to", param="tools"
            )
        definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}
        whole = {"x-guidance": JSON_STYLE, **bounded({**definitions, **closed(schema)})}
        return self.rule("%json " + json.dumps(whole, ensure_ascii=False))

    def text_before(self, end: str, body: str = "/(?s:.*)/") -> str:
        """Text that the terminal ``body`` describes, then the mark ``end``, which is not in it."""
        parts = self._parts(end)
        if parts[0].startswith("<["):
            return f"{self.terminal(body)} {' '.join(parts)}"
        first = json.loads(parts[0])
        inside = self.terminal(f"({body}) & ~{_regex(f'(?s:.*){_escaped(first)}(?s:.*)')} & /(?s:.*)/")
        return " ".join([self.rule(inside, f"[suffix={parts[0]}]"), *parts[1:]])

    def string_before(self, schema: Any, root: Mapping[str, Any], end: str) -> str:
        """A string that ``schema`` allows, without quotes, then ``end``."""
        schema = resolve(schema, root)
        choices = [schema["const"]] if "const" in schema else schema.get("enum")
        if choices is None:
            return self.text_before(end, string_pattern(schema))
        choices = [choice for choice in choices if isinstance(choice, str) and end not in choice]
        if not choices:
            raise InvalidRequest("a tool's parameter allows no value", param="tools")
        return f"({' | '.join(map(self.literal, choices))}) {self.literal(end)}"

    def members(self, items: Sequence[tuple[str, bool]], separator: str = "") -> str:
        """Expressions in their order, the optional ones (False) perhaps left out, ``separator`` between them."""
        between = self.literal(separator) if separator else ""
        first = rest = '""'
        for item, required in reversed(items):
            after = self.rule(rest)
            ahead = self.rule(first)
            first = f"{item} {after}" + ("" if required else f" | {ahead}")
            rest = f"{between} {item} {after}" + ("" if required else f" | {after}")
        return self.rule(first)

    def parameters(
        self, parameters: Mapping[str, Any], member: Callable[[str, Any, Mapping[str, Any]], str], separator: str = ""
    ) -> str:
        """A tool's parameters where each is written for itself: ``member`` writes one, from its name, schema and root.

        Raises InvalidRequest if the schema is more than a list of properties.
        """
        root = resolve(parameters, parameters)
        if unknown := sorted(root.keys() - _OBJECT_KEYS):
            raise InvalidRequest(
                f"a tool's parameters use '{unknown[0]}', which this model's call format cannot be held to",
                param="tools",
            )
        properties = properties_of(root)
        required = root.get("required") or []
        properties |= {name: {} for name in required if name not in properties}
        items = [(member(name, schema, parameters), name in required) for name, schema in properties.items()]
        return self.members(items, separator)

    def value(self, schema: Any, root: Mapping[str, Any], end: str, quotes: tuple[str, str] = ("", "")) -> str:
        """One parameter's value and ``end``: a string stands between ``quotes`` as it is, anything else is JSON."""
        if is_text(schema, root):
            before = self.literal(quotes[0]) if quotes[0] else ""
            return f"{before} {self.string_before(schema, root, quotes[1] + end)}"
        return f"{self.json(schema, root)} {self.literal(end) if end else ''}"


def closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The same, with only the declared properties where it does not say: a weak model writes others for ever."""
    result = dict(schema)
    if not result.keys() & _COMBINING and isinstance(result.get("properties"), Mapping):
        result.setdefault("additionalProperties", False)
        result["properties"] = {
            name: closed(part) if isinstance(part, Mapping) else part for name, part in result["properties"].items()
        }
    if isinstance(result.get("items"), Mapping):
        result["items"] = closed(result["items"])
    return result


def object_schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A tool's parameters as the schema of a JSON object; a tool that declares none takes none."""
    if not parameters.keys() & (_COMBINING | {"additionalProperties", "required", "minProperties"}):
        parameters = {**parameters, "properties": properties_of(parameters)}
    return {"type": "object", **parameters}


def string_pattern(schema: Mapping[str, Any]) -> str:
    """The terminal for a string's pattern, format and length."""
    parts = []
    if isinstance(pattern := schema.get("pattern"), str):
        parts.append(" | ".join(map(_anchored, _alternatives(pattern))))
    if schema.get("format") in _FORMATS:
        parts.append(f"/{_FORMATS[schema['format']]}/")
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength", "")
    if shortest or longest != "":
        parts.append(f"/(?s:.{{{shortest},{longest}}})/")
    return " & ".join(f"({part})" for part in parts) or "/(?s:.*)/"


def _anchored(pattern: str) -> str:
    """A search pattern without anchors as one for the whole string."""
    start, end = pattern.startswith("^"), re.search(r"(?<!\\)(\\\\)*\$$", pattern) is not None
    inner = pattern[1:] if start else pattern
    inner = inner[:-1] if end else inner
    return _regex(f"{'' if start else '(?s:.*)'}({inner}){'' if end else '(?s:.*)'}")


def _alternatives(pattern: str) -> list[str]:
    """A pattern's alternatives at the outermost level: each has anchors of its own."""
    parts, depth, inside, escaped = [""], 0, False, False
    for character in pattern:
        if character == "|" and not (depth or inside or escaped):
            parts.append("")
            continue
        parts[-1] += character
        if not escaped:
            inside = character == "[" or (inside and character != "]")
            depth += (character == "(") - (character == ")") if not inside else 0
        escaped = character == "\\" and not escaped
    return parts


def _regex(pattern: str) -> str:
    """A regular expression between slashes."""
    escaped = re.sub(r"(\\[\s\S])|/", lambda found: found[1] or r"\/", pattern)
    return "/" + escaped.replace("\n", r"\n") + "/"


def _escaped(text: str) -> str:
    """Text as a regular expression."""
    return re.escape(text).replace("\\\n", "\n")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
