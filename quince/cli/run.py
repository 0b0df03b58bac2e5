"""``quince run``"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, TextIO

import typer

if TYPE_CHECKING:
    from quince.chat.client import ChatClient
    from quince.chat.conversation import Conversation

MAX_PIPED = 8 * 2**20  # bytes
INTERRUPTED = 130  # what shells say of a command that Ctrl-C ended


def run(  # noqa: PLR0913 - one parameter per option
    model: Annotated[
        str | None,
        typer.Argument(
            help="An installed model, an alias, a directory or a hub id; default: the server's first.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Argument(help="What to ask; without it, and without a pipe, a conversation begins.", show_default=False),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="Chat through this server.  [the one on this machine, else one of its own]"),
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option("--image", help="Image to ask about; repeat it for several.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", help="How the model is to behave.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2, help="0 is greedy.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer in tokens.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Tokens and times of each answer.")] = False,
) -> None:
    """Chat in the terminal: through a running server if there is one. PROMPT alone is enough; so is a pipe."""
    from quince.chat.conversation import Conversation

    chat = Conversation(system=system)
    for name, value in (("temperature", temperature), ("max_tokens", max_tokens)):
        if value is not None:
            chat.set(name, str(value))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an answer may hold what this terminal cannot show
    try:
        _run(chat, model, prompt, url, image or [], verbose)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _run(
    chat: Conversation, model: str | None, prompt: str | None, url: str | None, image: list[Path], verbose: bool
) -> None:
    from quince.chat.target import connect, is_model

    if prompt is None and model is not None and not is_model(model, url):
        model, prompt = None, model
    chat.model = model
    interactive = prompt is None and not image and _is_terminal(sys.stdin) and _is_terminal(sys.stdout)
    question = None if interactive else _question(prompt)
    with connect(model, url, sys.stderr if _is_terminal(sys.stderr) else None) as client:
        if question is None:
            _converse(client, chat, verbose)
        else:
            text, found = question
            chat.ask(text, [*image, *found])
            _answer_once(client, chat, verbose)


def _is_terminal(stream: TextIO | None) -> bool:
    """A stream that was closed before we began is None."""
    return stream is not None and stream.isatty()


def _question(prompt: str | None) -> tuple[str, list[Path]]:
    """What was typed, then what was piped; images are looked for only in what was typed."""
    from quince.chat import images
    from quince.errors import UsageError

    piped = "" if sys.stdin is None or (prompt is not None and _is_terminal(sys.stdin)) else _read_all(sys.stdin.buffer)
    typed, found = images.extract(prompt or "")
    text = "\n\n".join(part for part in (typed, piped.strip("\n")) if part.strip())
    if not text and not found:
        raise UsageError("there is nothing to ask: give a PROMPT, or pipe one")
    return text, found


def _read_all(stream: IO[bytes]) -> str:
    from quince.errors import UsageError

    data = stream.read(MAX_PIPED + 1)
    if len(data) > MAX_PIPED:
        raise UsageError(f"what is piped is too long: more than {MAX_PIPED >> 20} MiB")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError("what is piped is no text in UTF-8") from None


def _answer_once(client: ChatClient, chat: Conversation, verbose: bool) -> None:
    from quince.chat.repl import answer
    from quince.chat.terminal import AnswerWriter, has_colours

    answer(client, chat, AnswerWriter(sys.stdout, colours=has_colours(sys.stdout)), sys.stderr, verbose=verbose)


def _converse(client: ChatClient, chat: Conversation, verbose: bool) -> None:
    from quince import environment
    from quince.chat.history import History, readline_editor
    from quince.chat.repl import Repl

    Repl(client, chat, History(environment.home() / "history", readline_editor()), verbose=verbose).run()
