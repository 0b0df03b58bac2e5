"""What a class of settings says about its fields: for command lines, tables and example files."""

from __future__ import annotations

import types
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo


@dataclass(frozen=True)
class Setting:
    """One field. ``kind`` is bool, int, float, str or Path: what the value is, or each of ``many``.

    ``choices`` are the values that it takes, if they are few, as text; ``bounds`` is a sentence, or empty.
    """

    name: str
    description: str
    kind: type
    many: bool
    secret: bool
    choices: tuple[str, ...]
    bounds: str
    default: Any

    @property
    def flag(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def help(self) -> str:
        """The description with the default (where it is a value) and the bounds."""
        text = self.description
        if self.default not in (None, ()):
            text = f"{text.removesuffix('.')} (default: {shown(self.default)})."
        return f"{text} {self.bounds}".rstrip()

    @property
    def meaning(self) -> str:
        """``with_choices`` and whether it is a list: for files and tables. Command lines show that in other ways."""
        return self.with_choices + (" A list for several." if self.many else "")

    @property
    def with_choices(self) -> str:
        """``help`` with the choices, if there are any."""
        return f"{self.help} One of {', '.join(self.choices)}." if self.choices else self.help


def describe(settings: type[BaseModel]) -> dict[str, Setting]:
    """The settings by name, in the order of the class."""
    return {name: _describe(name, field) for name, field in settings.model_fields.items()}


def shown(value: Any) -> str:
    """A value as people write it."""
    match value:
        case bool():
            return "on" if value else "off"
        case float():
            return f"{value:g}"
        case tuple() | list():
            return ", ".join(shown(one) for one in value)
    return str(value)


def _describe(name: str, field: FieldInfo) -> Setting:
    kind, many, choices = _unwrap(field.annotation)
    return Setting(
        name=name,
        description=field.description or "",
        kind=str if kind not in (bool, int, float, Path) else kind,
        many=many,
        secret=kind is SecretStr,
        choices=choices,
        bounds=_bounds(field.metadata),
        default=field.get_default(call_default_factory=True),
    )


def _unwrap(annotation: Any) -> tuple[Any, bool, tuple[str, ...]]:
    """The type of a value, whether there may be several, and what it is chosen from."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _unwrap(arguments[0])
    if origin in (Union, types.UnionType):
        return _unwrap(next(one for one in arguments if one is not type(None)))
    if origin in (tuple, list):
        return _unwrap(arguments[0])[0], True, _unwrap(arguments[0])[2]
    if origin is Literal:
        return type(arguments[0]), False, tuple(str(choice) for choice in arguments)
    return annotation, False, ()


def _bounds(metadata: Iterable[Any]) -> str:
    """A sentence; that a number is not negative needs none."""
    bounds: dict[str, Any] = {}
    for constraint in metadata:
        match constraint:
            case Ge(ge=bound):
                bounds["at least"] = bound
            case Gt(gt=bound):
                bounds["more than"] = bound
            case Le(le=bound):
                bounds["at most"] = bound
            case Lt(lt=bound):
                bounds["less than"] = bound
    if bounds.keys() == {"at least", "at most"}:
        return f"From {bounds['at least']} to {bounds['at most']}."
    if bounds == {"at least": 0}:
        return ""
    found = ", ".join(f"{words} {bound}" for words, bound in bounds.items())
    return f"{found[:1].upper()}{found[1:]}." if found else ""
