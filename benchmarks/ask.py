"""One streamed question at a time, with its answer: conversations go on with what was answered."""

from __future__ import annotations

import http.client
import json
import time
import urllib.parse
from typing import Any

import msgspec


class Answer(msgspec.Struct, frozen=True):
    """``ttft`` in milliseconds, from before the connection is opened; ``usage`` as the server sent it."""

    text: str
    ttft: float
    usage: dict[str, Any]

    @property
    def prompt_tokens(self) -> int:
        return int(self.usage.get("prompt_tokens", 0))

    @property
    def cached_tokens(self) -> int:
        """What the server says that it took from its cache."""
        return int((self.usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)


def ask(url: str, model: str | None, messages: list[dict[str, Any]], max_tokens: int) -> Answer:
    """Greedy. Raises OSError where the server cannot be reached or refuses."""
    body = {
        "messages": messages,
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **({} if model is None else {"model": model}),
    }
    data = json.dumps(body)
    started = time.perf_counter()
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(url).netloc, timeout=600)
    connection.request("POST", "/v1/chat/completions", data, {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise OSError(f"{url}: {response.status} {response.read(500)!r}")
    first, pieces, usage = 0.0, [], {}
    for line in response:
        if not line.startswith(b"data: {"):
            continue
        chunk = json.loads(line[6:])
        usage = chunk.get("usage") or usage
        for choice in chunk.get("choices") or ():
            if piece := (choice.get("delta") or {}).get("content"):
                first = first or time.perf_counter()
                pieces.append(piece)
    connection.close()
    if not pieces:
        raise OSError(f"{url}: an answer without text")
    return Answer("".join(pieces), 1000 * (first - started), usage)
