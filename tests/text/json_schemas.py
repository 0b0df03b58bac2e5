"""The JSON schemas of tests/fixtures/json_schemas, and what an answer that follows one is.

Each file has one topic: ``answered`` schemas an answer is held to, ``long`` ones too, but a random answer does not come
to its end; ``refused`` ones are a 400 that says ``because``.
"""

from __future__ import annotations

import datetime
import functools
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.validators import validator_for

FIXTURES = Path(__file__).parents[1] / "fixtures" / "json_schemas"

Schema = dict[str, Any]

_FORMATS = FormatChecker()


@_FORMATS.checks("date-time", ValueError)
def _is_date_time(value: Any) -> bool:
    return not isinstance(value, str) or datetime.datetime.fromisoformat(value).tzinfo is not None


@_FORMATS.checks("time", ValueError)
def _is_time(value: Any) -> bool:
    return not isinstance(value, str) or datetime.time.fromisoformat(value).tzinfo is not None


@_FORMATS.checks("uri", ValueError)
def _is_uri(value: Any) -> bool:
    return not isinstance(value, str) or bool(urlsplit(value).scheme)


@functools.cache
def _topics() -> dict[str, dict[str, list[Any]]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FIXTURES.glob("*.json"))}


def topics() -> list[str]:
    return list(_topics())


def answered(topic: str) -> list[Schema]:
    return _topics()[topic]["answered"]


def long(topic: str) -> list[Schema]:
    return _topics()[topic]["long"]


def refused(topic: str) -> list[tuple[Schema, str]]:
    return [(case["schema"], case["because"]) for case in _topics()[topic]["refused"]]


def assert_valid(text: str, schema: Schema) -> None:
    """The text is one JSON value of the schema, formats included."""
    validator = validator_for(schema, default=Draft202012Validator)(schema, format_checker=_FORMATS)
    error = next(validator.iter_errors(json.loads(text)), None)
    assert error is None, f"{error.message if error else ''}: {text} is not of {json.dumps(schema)}"
