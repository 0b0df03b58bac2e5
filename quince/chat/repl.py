"""The interactive chat: a prompt, answers as they come, and commands that begin with a slash."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from quince.chat import images
from quince.chat.client import ChatClient, Ending
from quince.chat.conversation import SETTINGS, Conversation
from quince.chat.history import History
from quince.chat.terminal import AnswerWriter, has_colours, neutralise
from quince.errors import QuinceError, UsageError

PROMPT, MORE = ">>> ", "... "
QUOTES = '"""'

Ask = Callable[[str], str]  # a prompt to a line; EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C


def answer(client: ChatClient, chat: Conversation, writer: AnswerWriter, notes: TextIO, *, verbose: bool) -> None:
    """Ask, and write what comes. ``notes``: where statistics and warnings go.

    A Ctrl-C is passed on once the request is cancelled, and what had come by then is remembered.
    """
    said: list[str] = []
    ending: Ending | None = None
    try:
        with contextlib.closing(client.chat(chat.model, chat.to_send(), chat.fields())) as pieces:
            for piece in pieces:
                if isinstance(piece, Ending):
                    ending = piece
                elif piece.thinking:
                    writer.think(piece.text)
                else:
                    said.append(piece.text)
                    writer.write(piece.text)
    finally:
        writer.end()
        chat.answer("".join(said))
    if ending is not None and ending.finish_reason == "length":
        notes.write("quince: the answer was cut: it reached max_tokens or the end of the context\n")
    if ending is not None and verbose:
        notes.write(statistics(ending) + "\n")


def statistics(ending: Ending) -> str:
    cached = f" ({ending.cached_tokens} cached)" if ending.cached_tokens else ""
    # The first token's time is the prompt's.
    speed = f"{(ending.completion_tokens - 1) / ending.rest:.1f} tokens/s" if ending.rest > 0 else "at once"
    return (
        f"prompt: {ending.prompt_tokens} tokens{cached}, first token after {ending.first_after:.2f} s; "
        f"answer: {ending.completion_tokens} tokens, {speed}"
    )


class Repl:
    """One sitting. ``run`` returns when the user leaves."""

    def __init__(
        self, client: ChatClient, chat: Conversation, history: History, *, verbose: bool, ask: Ask = input
    ) -> None:
        self._client = client
        self._chat = chat
        self._history = history
        self._verbose = verbose
        self._ask = ask
        self._files: list[Path] = []
        self._commands: dict[str, tuple[str, str, Callable[[str], None]]] = {
            "help": ("", "what can be typed here", self._help),
            "clear": ("", "forget what was said; the system text and the settings stay", self._clear),
            "system": ("TEXT", "how the model is to behave; without TEXT, no longer", self._system),
            "model": ("NAME", "go on with another model; without NAME, list them", self._model),
            "set": ("NAME VALUE", f"one of {', '.join(SETTINGS)}", self._set),
            "show": ("", "the model, the system text, the settings and how much was said", self._show),
            "save": ("FILE", "write the conversation to a file", self._save),
            "load": ("FILE", "go on with a saved conversation", self._load),
            "image": ("PATH", "send an image with the next message", self._image),
            "bye": ("", "leave; so does Ctrl-D", self._bye),
        }

    def run(self) -> None:
        self._say("/help lists the commands; Ctrl-D leaves.")
        with contextlib.suppress(EOFError):
            while True:
                self._turn()

    def _turn(self) -> None:
        try:
            text = read_message(self._ask)
        except KeyboardInterrupt:
            self._say("\nCtrl-D or /bye leaves.")
            return
        if not text.strip():
            return
        self._history.add(text)
        try:
            if text.startswith("/") and not self._starts_with_image(text):
                self._command(text[1:])
            else:
                self._talk(text)
        except KeyboardInterrupt:
            self._say("")
        except QuinceError as error:
            self._say(neutralise(error.message))
        except OSError as error:
            self._say(neutralise(f"{error.filename}: {error.strerror}"))

    def _starts_with_image(self, text: str) -> bool:
        """A path of an image begins with a slash as well, but not with a command."""
        return text[1:].partition(" ")[0] not in self._commands and bool(images.extract(text)[1])

    def _command(self, text: str) -> None:
        name, _, argument = text.partition(" ")
        if name.strip() not in self._commands:
            raise UsageError(f"there is no command /{name.strip()}; /help lists them")
        self._commands[name.strip()][2](unquoted(argument.strip()))

    def _talk(self, text: str) -> None:
        text, files = images.extract(unquoted(text))
        self._chat.ask(text, [*self._files, *files])
        self._files.clear()
        writer = AnswerWriter(sys.stdout, colours=has_colours(sys.stdout))
        answer(self._client, self._chat, writer, sys.stderr, verbose=self._verbose)

    def _say(self, text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    # Commands

    def _help(self, argument: str) -> None:
        for name, (parameter, meaning, _) in self._commands.items():
            self._say(f"  /{name} {parameter}".ljust(20) + meaning)
        self._say(f"A message of several lines stands between {QUOTES} and {QUOTES}. A path of an image in a message")
        self._say("sends the image. Ctrl-C stops an answer.")

    def _clear(self, argument: str) -> None:
        self._chat.clear()
        self._files.clear()

    def _system(self, argument: str) -> None:
        self._chat.system = argument or None

    def _model(self, argument: str) -> None:
        if argument:
            if not self._client.knows(argument):
                raise UsageError(f"the server has no model '{argument}'; /model lists them")
            self._chat.model = argument
            return
        for name in self._client.models():
            self._say(neutralise(name))

    def _set(self, argument: str) -> None:
        name, _, value = argument.partition(" ")
        self._chat.set(name, value.strip())

    def _show(self, argument: str) -> None:
        self._say(f"model: {neutralise(self._chat.model or self._first())}, at {self._client.url}")
        self._say(f"system: {neutralise(self._chat.system) if self._chat.system else 'none'}")
        settings = (f"{name} {value}" for name, value in self._chat.settings.items())
        self._say(f"settings: {neutralise(', '.join(settings)) or 'the server decides'}")
        self._say(f"messages: {len(self._chat.messages)}")

    def _first(self) -> str:
        return next(iter(self._client.models()), "none")

    def _save(self, argument: str) -> None:
        path = _file(argument)
        self._chat.save(path)
        self._say(f"saved to {path}")

    def _load(self, argument: str) -> None:
        self._chat.load(_file(argument))
        self._show("")

    def _image(self, argument: str) -> None:
        path = _file(argument)
        images.data_url(path)  # told now, not with the next message
        self._files.append(path)
        self._say("it goes with the next message")

    def _bye(self, argument: str) -> None:
        raise EOFError


def read_message(ask: Ask) -> str:
    """A line, or lines from one triple quote to the next: of a message, or of a command's text."""
    text = ask(PROMPT)
    if text.count(QUOTES) != 1 or not _opens(text):
        return text
    lines = [text]
    while QUOTES not in lines[-1] or len(lines) == 1:
        lines.append(ask(MORE))
    return "\n".join(lines)


def _opens(text: str) -> bool:
    """A quote in the middle of a sentence opens nothing."""
    before = text.partition(QUOTES)[0].strip()
    return before == "" or (before.startswith("/") and " " not in before)


def unquoted(text: str) -> str:
    """Without the triple quotes around it."""
    text = text.strip()
    if len(text) >= 2 * len(QUOTES) and text.startswith(QUOTES) and text.endswith(QUOTES):
        return text.removeprefix(QUOTES).removesuffix(QUOTES).strip("\n")
    return text


def _file(argument: str) -> Path:
    if not argument:
        raise UsageError("which file?")
    return Path(argument.strip("'\"").replace("\\ ", " ")).expanduser()
