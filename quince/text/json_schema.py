"""What is done to a JSON schema before llguidance compiles it: bounds for weak models, refusals of what would fail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

# Integers without bounds get those that every JSON reader represents exactly: a weak model writes digits for ever.
MAX_INTEGER = 2**53 - 1
# llguidance's formats allow what no calendar or clock has: 29 February in any year, the year 0, 60 seconds. It holds a
# string to its format and to a pattern at once.
_DAY = (
    "([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)-"
    "((0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)"
    "|([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)-02-29"
)
_TIME = "[0-2][0-9]:[0-5][0-9]:[0-5][0-9][^z]*"
_REAL_TIMES = {"date": f"^({_DAY})$", "time": f"^{_TIME}$", "date-time": f"^({_DAY})T{_TIME}$"}

MAX_PASSES = 100  # through a schema, in search of references without end

# Where schemas stand within schemas.
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "allOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties")
# What only llguidance's regular expressions read as set operations and named classes.
_FOREIGN_CLASS = re.compile(r"\[[^\]]*?(\[:|&&|~~|--)")
_MINIMUM, _MAXIMUM = {"minimum", "exclusiveMinimum"}, {"maximum", "exclusiveMaximum"}

Schema = dict[str, Any]


def _bounded_alone(schema: Schema) -> Schema:
    changed = dict(schema)
    if schema.get("uniqueItems") is False:
        del changed["uniqueItems"]
    if (real := _REAL_TIMES.get(str(schema.get("format")))) is not None:
        changed.setdefault("pattern", real)
    if schema.get("type") == "integer" and not schema.keys() & {"multipleOf", "enum", "const"}:
        if not schema.keys() & _MINIMUM:
            changed["minimum"] = -MAX_INTEGER
        if not schema.keys() & _MAXIMUM:
            changed["maximum"] = MAX_INTEGER
    for keyword in (*_MINIMUM, *_MAXIMUM):
        if isinstance(bound := schema.get(keyword), int):
            changed[keyword] = max(-MAX_INTEGER, bound) if keyword in _MINIMUM else min(bound, MAX_INTEGER)
    return changed


def bounded(schema: Schema) -> Schema:
    """The same with bounds for every integer that has none, and times that exist; without what asks for nothing."""
    changed = _bounded_alone(schema)
    for keyword in _MAPS:
        if isinstance(members := schema.get(keyword), dict):
            changed[keyword] = {
                name: bounded(part) if isinstance(part, dict) else part for name, part in members.items()
            }
    for keyword in _LISTS:
        if isinstance(members := schema.get(keyword), list):
            changed[keyword] = [bounded(part) if isinstance(part, dict) else part for part in members]
    for keyword in _SINGLE:
        if isinstance(part := schema.get(keyword), dict):
            changed[keyword] = bounded(part)
    return changed


# What llguidance compiles and does not hold an answer to


def not_held_to(schema: Schema) -> tuple[str, str] | None:
    """Where a schema asks for what an answer would not keep, and why it would not."""
    waiting = [("", schema)]
    while waiting:
        path, part = waiting.pop()
        wanted = part.get("minProperties")
        if isinstance(wanted, int) and wanted > len(_list(part, "required")) + 1:
            # Names of further properties may come twice, and then count once.
            return path, "minProperties is supported up to one more than there are required properties"
        if isinstance(pattern := part.get("pattern"), str) and (foreign := _FOREIGN_CLASS.search(pattern)):
            return path, f"the pattern {pattern} uses {foreign[1]} in a class, which is not ECMAScript's"
        for keyword in ("const", "enum", "multipleOf"):
            if _inexact(part.get(keyword)):
                return path, f"{keyword} has an integer beyond {MAX_INTEGER}, which would not be written exactly"
        waiting += [(f"{path}.{name}", inner) for name, inner in parts(part)]
    return None if _has_end(schema) else ("", "it refers to itself for ever: no answer could end")


def _inexact(value: Any) -> bool:
    if isinstance(value, list | dict):
        return any(_inexact(part) for part in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, int) and abs(value) > MAX_INTEGER


def _has_end(root: Schema) -> bool:
    """Whether a value of the schema can be finite; references that are finite are found one after the other."""
    targets = {ref: target for ref in _references(root) if (target := _target(ref, root)) is not None}
    finite: set[str] = set(targets) ^ set(_references(root))  # of what is not known, nothing is said
    for _ in range(MAX_PASSES):
        found = {ref for ref, target in targets.items() if ref not in finite and _is_finite(target, finite)}
        if not found:
            return _is_finite(root, finite)
        finite |= found
    return True


def _is_finite(schema: Any, finite: set[str]) -> bool:
    """A value can be finite, given the references whose values can."""
    if not isinstance(schema, dict):
        return True
    if isinstance(reference := schema.get("$ref"), str) and reference not in finite:
        return False
    for keyword in ("anyOf", "oneOf"):
        choices = _list(schema, keyword)
        if choices and not any(_is_finite(choice, finite) for choice in choices):
            return False
    return all(_is_finite(part, finite) for part in _needed(schema))


def _needed(schema: Schema) -> Iterator[Any]:
    """The schemas of what no value of a schema can be without."""
    yield from _list(schema, "allOf")
    properties, fixed, count = schema.get("properties"), _list(schema, "prefixItems"), schema.get("minItems")
    if schema.get("type") == "object" and isinstance(properties, dict):
        yield from (properties.get(name) for name in _list(schema, "required") if isinstance(name, str))
    if schema.get("type") == "array" and isinstance(count, int):
        yield from fixed[:count]
        if count > len(fixed):
            yield schema.get("items")


def _list(schema: Schema, keyword: str) -> list[Any]:
    value = schema.get(keyword)
    return value if isinstance(value, list) else []


def _references(root: Schema) -> set[str]:
    found, waiting = set(), [root]
    while waiting:
        part = waiting.pop()
        if isinstance(reference := part.get("$ref"), str):
            found.add(reference)
        waiting += [inner for _, inner in parts(part)]
    return found


def _target(reference: str, root: Schema) -> Any:
    """What a local reference stands for; None if it is none."""
    if reference not in ("", "#") and not reference.startswith("#/"):
        return None
    found: Any = root
    for name in unquote(reference[1:]).split("/")[1:]:
        found = found.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(found, dict) else None
    return found


def parts(schema: Schema) -> Iterator[tuple[str, Schema]]:
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
