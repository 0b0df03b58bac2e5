"""A conversation: what has been said, to which model, with which settings. Kept in a file on request."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from quince.chat import images
from quince.errors import UsageError

_FORMAT = "quince-chat-1"


def _between(low: float, high: float) -> Callable[[str], float]:
    def read(text: str) -> float:
        value = float(text)
        if not low <= value <= high:
            raise ValueError
        return value

    return read


def _share(text: str) -> float:
    value = _between(0, 1)(text)
    if value == 0:
        raise ValueError
    return value


def _count(least: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        value = int(text)
        if value < least:
            raise ValueError
        return value

    return read


def _switch(text: str) -> dict[str, bool]:
    return {"enable_thinking": {"on": True, "off": False}[text]}


# What /set knows: the request's field, how its text is read, and what is allowed, in words.
SETTINGS: Mapping[str, tuple[str, Callable[[str], Any], str]] = {
    "temperature": ("temperature", _between(0, 2), "a number from 0 to 2"),
    "top_p": ("top_p", _share, "a number above 0, up to 1"),
    "top_k": ("top_k", _count(0), "a whole number"),
    "min_p": ("min_p", _between(0, 1), "a number from 0 to 1"),
    "max_tokens": ("max_tokens", _count(1), "a whole number above 0"),
    "seed": ("seed", _count(0), "a whole number"),
    "thinking": ("chat_template_kwargs", _switch, "on or off"),
}


class _Saved(msgspec.Struct, kw_only=True):
    format: str
    model: str | None
    system: str | None
    settings: dict[str, str]
    messages: list[dict[str, Any]]


class Conversation:
    """``model`` None is the server's first. ``settings`` are as they were typed, by the names of SETTINGS."""

    def __init__(self, model: str | None = None, system: str | None = None) -> None:
        self.model = model
        self.system = system
        self.settings: dict[str, str] = {}
        self.messages: list[dict[str, Any]] = []

    def set(self, name: str, text: str) -> None:
        """Raises UsageError, naming what is known or allowed."""
        if name not in SETTINGS:
            raise UsageError(f"there is no setting '{name}': {', '.join(SETTINGS)}")
        _, read, allowed = SETTINGS[name]
        try:
            read(text)
        except (ValueError, KeyError):
            raise UsageError(f"{name} is {allowed}, not '{text}'") from None
        self.settings[name] = text

    def fields(self) -> dict[str, Any]:
        """The settings as fields of a request."""
        return {SETTINGS[name][0]: SETTINGS[name][1](text) for name, text in self.settings.items()}

    def ask(self, text: str, files: Sequence[Path]) -> None:
        """Add what the user says. Raises UsageError or OSError for a file that is no image."""
        text = text.encode(errors="replace").decode()  # a terminal may send what is no UTF-8
        content: str | list[dict[str, Any]] = text
        if files:
            parts = [{"type": "image_url", "image_url": {"url": images.data_url(file)}} for file in files]
            content = [*parts, {"type": "text", "text": text}] if text else parts
        self.messages.append({"role": "user", "content": content})

    def answer(self, text: str) -> None:
        """Add what the model said; if it said nothing, forget the question: a conversation alternates."""
        if text:
            self.messages.append({"role": "assistant", "content": text})
        else:
            self.messages.pop()

    def to_send(self) -> list[dict[str, Any]]:
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        return [*system, *self.messages]

    def clear(self) -> None:
        self.messages.clear()

    # Files

    def save(self, path: Path) -> None:
        """Write all of it, for this user's eyes. Raises UsageError over a file that is something else."""
        if path.exists():
            _read(path)
        saved = _Saved(
            format=_FORMAT, model=self.model, system=self.system, settings=self.settings, messages=self.messages
        )
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(saved)))
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def load(self, path: Path) -> None:
        """Take the place of this conversation by a saved one. Raises UsageError, then nothing has changed."""
        saved = _read(path)
        loaded = Conversation(saved.model, saved.system)
        for name, text in saved.settings.items():
            loaded.set(name, text)
        self.model, self.system = loaded.model, loaded.system
        self.settings, self.messages = loaded.settings, saved.messages


def _read(path: Path) -> _Saved:
    try:
        saved = msgspec.json.decode(path.read_bytes(), type=_Saved)
    except msgspec.MsgspecError:
        raise UsageError(f"{path} is no saved conversation") from None
    if saved.format != _FORMAT:
        raise UsageError(f"{path} is of another version of Quince")
    return saved
