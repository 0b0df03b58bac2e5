"""A small client of the chat API: this server's, or any other that speaks OpenAI's."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx2
import msgspec

from quince.chat import sse
from quince.chat.terminal import neutralise
from quince.errors import RemoteError

# Seconds. An answer may take as long as it takes: its reader has Ctrl-C.
CONNECT_TIMEOUT = 5.0
QUICK = httpx2.Timeout(2.0, connect=1.0)
START_TIMEOUT = 600.0  # a large model is read from the disk in that time
POLL = 0.03
_DONE = "[DONE]"
_CHATTING = ("llm", "vlm")


@dataclass(frozen=True)
class Piece:
    """A part of an answer: of its text, or of the thinking before it."""

    text: str
    thinking: bool = False


@dataclass(frozen=True)
class Ending:
    """How an answer ended. Times are in seconds: until the first piece, and from there to the end."""

    finish_reason: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    first_after: float
    rest: float


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Error(msgspec.Struct):
    message: str = "no reason was given"


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


class _Refusal(msgspec.Struct):
    error: _Error


class _Model(msgspec.Struct):
    id: str
    type: str = "llm"


class _Models(msgspec.Struct):
    data: list[_Model]


class ChatClient:
    """One server. Raises RemoteError for what it refuses, and for everything that breaks between it and us."""

    def __init__(self, url: str, key: str | None = None) -> None:
        """``url`` with or without the /v1 at its end."""
        self.url = url.rstrip("/").removesuffix("/v1")
        self._http = httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT),
            trust_env=False,
        )

    def __enter__(self) -> ChatClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def health(self) -> Mapping[str, Any] | None:
        """What /health says; None if nobody answers soon, or somebody who is not Quince."""
        try:
            body = self._http.get("/health", timeout=QUICK).json()
        except (httpx2.HTTPError, ValueError):
            return None
        return body if isinstance(body, dict) and {"status", "reason", "models"} <= body.keys() else None

    def wait_ready(self, alive: Callable[[], bool] = lambda: False) -> bool:
        """Wait while the server is still loading. False if there is none, or none any more.

        ``alive``: whether it may still come, if nobody answers. Raises RemoteError with why a model cannot be loaded.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline:
            health = self.health()
            if health is None and not alive():
                return False
            if health is not None and health["status"] == "ok":
                return True
            if health is not None and (reason := _load_failure(health["models"])):
                raise RemoteError(neutralise(reason))
            time.sleep(POLL)
        return False

    def models(self) -> list[str]:
        """The models that chat, the server's first one first."""
        with self._told():
            answer = self._http.get("/v1/models")
            self._check(answer)
            found = msgspec.json.decode(answer.content, type=_Models).data
        return [model.id for model in found if model.type in _CHATTING]

    def knows(self, name: str) -> bool:
        """Whether the server has a model by this name, of whichever type: by its own rules, aliases included."""
        with self._told():
            answer = self._http.get(f"/v1/models/{quote(name, safe='')}")
            if answer.status_code == httpx2.codes.NOT_FOUND:
                return False
            self._check(answer)
        return True

    def chat(
        self, model: str | None, messages: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
    ) -> Generator[Piece | Ending, None, None]:
        """The answer, and last its Ending. Closing the generator cancels the request on the server."""
        body = {**settings, "messages": messages, "stream": True, "stream_options": {"include_usage": True}}
        if model is not None:
            body["model"] = model
        sent = time.monotonic()
        with self._told(), self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
            if answer.is_error:
                answer.read()
                self._check(answer)
            yield from _read(sse.events(answer.iter_lines()), sent)

    def _check(self, answer: httpx2.Response) -> None:
        if answer.is_error:
            try:
                reason = msgspec.json.decode(answer.content, type=_Refusal).error.message
            except msgspec.MsgspecError:
                reason = f"{answer.status_code} {answer.reason_phrase}"
            raise RemoteError(f"the server at {self.url} refuses: {neutralise(reason)}")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except httpx2.ConnectError as error:
            raise RemoteError(f"no server answers at {self.url}: {error}") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise RemoteError(f"the connection to {self.url} broke off: {error or type(error).__name__}") from None
        except msgspec.MsgspecError:
            raise RemoteError(f"what answers at {self.url} does not speak OpenAI's chat API") from None


def _load_failure(models: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Why an engine could not load its model. The server would go on trying."""
    return next((model["last_error"] for model in models.values() if model["last_error"]), None)


def _read(events: Iterator[str], sent: float) -> Iterator[Piece | Ending]:
    first, reason, usage = None, None, _Usage()
    for data in events:
        if data == _DONE:
            break
        chunk = msgspec.json.decode(data, type=_Chunk)
        if chunk.error is not None:
            raise RemoteError(f"the answer broke off: {neutralise(chunk.error.message)}")
        usage = chunk.usage or usage
        for choice in chunk.choices:
            reason = choice.finish_reason or reason
            for piece in _pieces(choice.delta):
                first = first or time.monotonic()
                yield piece
    if reason is None:
        raise RemoteError("the answer broke off: the server ended it without a reason")
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None
    first, end = first or time.monotonic(), time.monotonic()
    yield Ending(reason, usage.prompt_tokens, cached or 0, usage.completion_tokens, first - sent, end - first)


def _pieces(delta: _Delta) -> Iterator[Piece]:
    if thinking := delta.reasoning_content or delta.reasoning:
        yield Piece(thinking, thinking=True)
    if delta.content:
        yield Piece(delta.content)
