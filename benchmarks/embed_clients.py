"""Clients that embed short texts, one after the other, until told to stop. Runs as a process of its own.

Reads a Clients as a line of JSON from stdin, and answers with an Embedded line when stdin has another line or ends.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from urllib.parse import urlsplit

import msgspec
import uvloop

WORDS = ("bread", "river", "window", "garden", "letter", "winter", "market", "stone", "music", "paper")


class Clients(msgspec.Struct, frozen=True):
    """``pause``: a client waits up to so many seconds between two requests. Texts have 1 to ``words`` words."""

    url: str
    model: str
    count: int
    pause: float
    words: int


class Embedded(msgspec.Struct, frozen=True):
    """``latencies`` in seconds; ``seconds`` from the first request to the end."""

    latencies: list[float]
    errors: list[str]
    seconds: float


async def _client(clients: Clients, number: int, stop: asyncio.Event, latencies: list[float]) -> None:
    """Raises OSError for an answer that is none."""
    draw = random.Random(number)
    place = urlsplit(clients.url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        while not stop.is_set():
            text = " ".join(draw.choices(WORDS, k=draw.randint(1, clients.words)))
            body = msgspec.json.encode({"model": clients.model, "input": text, "encoding_format": "base64"})
            head = (
                f"POST /v1/embeddings HTTP/1.1\r\nHost: {place.netloc}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            started = time.perf_counter()
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = next(
                int(line[15:]) for line in answer.lower().split(b"\r\n") if line.startswith(b"content-length")
            )
            payload = await reader.readexactly(length)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise OSError(f"{answer.splitlines()[0]!r} {payload[:300]!r}")
            latencies.append(time.perf_counter() - started)
            await asyncio.sleep(draw.random() * clients.pause)
    finally:
        writer.close()


def _length(head: bytes) -> int:
    """Of the body after the head of an answer, in lower case."""
    return next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))


async def _play(clients: Clients) -> Embedded:
    stop = asyncio.Event()
    latencies: list[float] = []
    started = time.perf_counter()
    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), stop.set)
    played = (_client(clients, number, stop, latencies) for number in range(clients.count))
    ended = await asyncio.gather(*played, return_exceptions=True)
    errors = [repr(one) for one in ended if one is not None]
    return Embedded(latencies, errors, time.perf_counter() - started)


def main() -> None:
    clients = msgspec.json.decode(os.read(0, 65536), type=Clients)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.stdout.buffer.write(msgspec.json.encode(runner.run(_play(clients))))


if __name__ == "__main__":
    main()
