"""What a tool's JSON schema says of a value that a model wrote without JSON's quotes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from quince.text.tool_parsers.literals import literal_to_json

ALL_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
STRING = frozenset({"string"})
_NUMBER = frozenset({"integer", "number"})
_TYPES: dict[type, frozenset[str]] = {
    str: STRING,
    int: _NUMBER,
    float: _NUMBER,
    bool: frozenset({"boolean"}),
    dict: frozenset({"object"}),
    list: frozenset({"array"}),
    type(None): frozenset({"null"}),
}
# Deeper or circular references are as good as no schema.
MAX_REFERENCES = 16

Schema = Mapping[str, Any]


def properties_of(parameters: Schema) -> dict[str, Any]:
    """The schemas of a tool's parameters, by name."""
    properties = parameters.get("properties")
    return dict(properties) if isinstance(properties, Mapping) else {}


def resolve(schema: Any, root: Schema) -> Schema:
    """The schema that a local reference stands for; an empty one if there is none."""
    for _ in range(MAX_REFERENCES):
        if not isinstance(schema, Mapping):
            return {}
        reference = schema.get("$ref")
        if not isinstance(reference, str):
            return schema
        schema = _at(reference, root)
    return {}


def _at(reference: str, root: Schema) -> Any:
    if not reference.startswith("#"):
        return {}
    found: Any = root
    for part in reference[1:].split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, Mapping) or name not in found:
            return {}
        found = found[name]
    return found


def types_of(schema: Any, root: Schema, depth: int = 0) -> frozenset[str]:
    """The JSON types that a value may have; all if the schema does not say. An integer counts as a number too."""
    schema = resolve(schema, root)
    types = ALL_TYPES
    if depth > MAX_REFERENCES:
        return types
    if "type" in schema:
        types &= _named(schema["type"])
    if "const" in schema:
        types &= type_of(schema["const"])
    if isinstance(schema.get("enum"), list):
        types &= frozenset().union(*map(type_of, schema["enum"]))
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            types &= frozenset().union(*(types_of(choice, root, depth + 1) for choice in schema[key]))
    for part in schema["allOf"] if isinstance(schema.get("allOf"), list) else []:
        types &= types_of(part, root, depth + 1)
    return types


def _named(names: Any) -> frozenset[str]:
    listed = [names] if isinstance(names, str) else names if isinstance(names, list) else []
    types = frozenset(name for name in listed if isinstance(name, str))
    return (types | {"integer"} if "number" in types else types) & ALL_TYPES or ALL_TYPES


def type_of(value: Any) -> frozenset[str]:
    """The types that a value belongs to."""
    if isinstance(value, float) and not value.is_integer():
        return frozenset({"number"})
    return _TYPES[type(value)]


def is_text(schema: Any, root: Schema) -> bool:
    """The value can only be a string: what the model writes is that string, whatever it looks like."""
    return types_of(schema, root) == STRING


def to_json(raw: str, schema: Any, root: Schema) -> str:
    """A value as the model wrote it, as JSON text of a type that the schema allows; else as a string.

    JSON is kept as it is written; what Python would write (``True``, ``{'a': None}``) becomes JSON.
    """
    types = types_of(schema, root)
    if types == STRING:
        return quote(raw)
    written = raw.strip()
    if (value := json_or_none(written)) is not None and type_of(value[0]) & types:
        return written
    if "boolean" in types and written.lower() in ("true", "false"):
        return written.lower()
    if "null" in types and written.lower() in ("null", "none"):
        return "null"
    if written[:1] in ("{", "[", "(") and types & {"object", "array"}:
        converted = literal_to_json(written)
        if converted is not None and json_or_none(converted) is not None:
            return converted
    return quote(raw)


def json_or_none(text: str) -> tuple[Any] | None:
    """A JSON value, in a tuple because it may be null; None if it is no JSON."""
    try:
        return (json.loads(text, parse_constant=_refuse),)
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def quote(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
