"""A lean streaming client: raw sockets, httptools and msgspec. Runs as a process of its own.

Reads Jobs as JSON lines from stdin and answers each with a JobResult line. Every request opens its own connection.
A piece of text is timed when the bytes that hold it are read.
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

import httptools
import msgspec

from quince.bench.workload import ClientSpec, Job, JobResult, RequestResult, RequestSpec


class _Delta(msgspec.Struct):
    """Thinking is text, too; servers have two names for it."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


class _Message(msgspec.Struct):
    message: str


class _Refusal(msgspec.Struct):
    error: _Message


# JSON is spelled by characters but for the words in its strings.
_WORD_OR_CHARACTER = re.compile(" [a-z]{4}|.")

_NO_DELTA = _Delta()
_decoder = msgspec.json.Decoder(_Chunk)


class _Exchange(asyncio.Protocol):
    """One request and its streamed answer."""

    def __init__(self, request: bytes, result: RequestResult, count: Callable[[str], int]) -> None:
        """``count`` tells how many tokens a piece of text holds."""
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._result = result
        self._count = count
        self._parser = httptools.HttpResponseParser(self)
        self._rest = b""
        self._now = 0.0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by class
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._now = time.monotonic()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(f"not HTTP: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(f"connection lost: {exc}" if exc else None)

    def on_body(self, body: bytes) -> None:  # the parser calls this
        if self._parser.get_status_code() != 200:
            self._end(_refusal(self._parser.get_status_code(), body))
            return
        lines = (self._rest + body).split(b"\n")
        self._rest = lines.pop()
        for line in lines:
            if line.startswith(b"data: "):
                self._take(line[6:])

    def on_message_complete(self) -> None:  # the parser calls this
        self._end()

    def _take(self, data: bytes) -> None:
        if data.startswith(b"[DONE]"):
            self._end()
            return
        chunk = _decoder.decode(data)
        result = self._result
        if bytes(chunk.error) not in (b"", b"null"):
            result.error = bytes(chunk.error).decode()
        for choice in chunk.choices:
            delta = choice.delta or _NO_DELTA
            if text := delta.content or delta.reasoning_content or delta.reasoning:
                result.times.append(self._now)
                result.counts.append(self._count(text))
            result.finish_reason = choice.finish_reason or result.finish_reason
        if chunk.usage is not None:
            result.prompt_tokens = chunk.usage.prompt_tokens
            result.completion_tokens = chunk.usage.completion_tokens
            details = chunk.usage.prompt_tokens_details
            result.cached_tokens = (details.cached_tokens or 0) if details else 0

    def _end(self, error: str | None = None) -> None:
        if self.finished.done():
            return
        self._result.error = self._result.error or error
        self._result.ended = time.monotonic()
        self.finished.set_result(None)
        if self._transport is not None:
            self._transport.close()


def _refusal(status: int, body: bytes) -> str:
    """What a server says in place of an answer."""
    try:
        return msgspec.json.decode(body, type=_Refusal).error.message
    except msgspec.MsgspecError:
        return f"HTTP {status}: {body[:200]!r}"


def _encode(job: Job, spec: RequestSpec) -> bytes:
    body: dict[str, object] = {
        "messages": [{"role": "user", "content": _content(spec)}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": spec.max_tokens,
        "temperature": spec.temperature,
        "top_p": spec.top_p,
        "ignore_eos": True,
    }
    if spec.schema is not None:
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "list", "schema": spec.schema}}
    if job.model is not None:
        body["model"] = job.model
    data = msgspec.json.encode(body)
    url = urlsplit(job.url)
    head = (
        f"POST {url.path.rstrip('/')}/v1/chat/completions HTTP/1.1\r\nHost: {url.netloc}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\nConnection: close\r\n"
    )
    key = "" if job.key is None else f"Authorization: Bearer {job.key}\r\n"
    return f"{head}{key}\r\n".encode() + data


def _content(spec: RequestSpec) -> str | list[dict[str, object]]:
    if spec.image is None:
        return spec.prompt
    return [{"type": "image_url", "image_url": {"url": spec.image}}, {"type": "text", "text": spec.prompt}]


async def _client(job: Job, client: ClientSpec) -> list[RequestResult]:
    results = []
    requests = [(_encode(job, spec), _token_count(job, spec)) for spec in client.requests]
    await asyncio.sleep(max(0.0, job.start_at + client.offset - time.monotonic()))
    for request, count in requests:
        result = RequestResult(client.tag, time.monotonic())
        results.append(result)
        await _exchange(job, request, result, count)
    return results


def _token_count(job: Job, spec: RequestSpec) -> Callable[[str], int]:
    if not job.count_words:
        return lambda text: 1
    if spec.schema is None:
        return lambda text: text.count(" ")
    return lambda text: len(_WORD_OR_CHARACTER.findall(text))


async def _exchange(job: Job, request: bytes, result: RequestResult, count: Callable[[str], int]) -> None:
    url = urlsplit(job.url)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(job.timeout):
            _, protocol = await loop.create_connection(
                lambda: _Exchange(request, result, count),
                url.hostname or "",
                url.port or (443 if url.scheme == "https" else 80),
                ssl=url.scheme == "https" or None,
            )
            await protocol.finished
    except (OSError, TimeoutError) as error:
        result.error = repr(error)
        result.ended = time.monotonic()


async def run(job: Job) -> JobResult:
    before = time.process_time()
    answers = await asyncio.gather(*(_client(job, client) for client in job.clients))
    return JobResult([result for answer in answers for result in answer], time.process_time() - before)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def main() -> None:
    for line in sys.stdin.buffer:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            result = runner.run(run(msgspec.json.decode(line, type=Job)))
        sys.stdout.buffer.write(msgspec.json.encode(result) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
