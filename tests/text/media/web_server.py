"""A web server on loopback that does to its clients what servers on the internet do."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpcore2

from quince.text.media.addresses import CheckedBackend

PUBLIC = "93.184.215.14"
NEVER = 3600.0


class WebServer:
    """Answers by the path. ``requests`` are what clients sent, ``left`` the paths whose client closed first."""

    def __init__(self, files: dict[str, bytes], redirects: dict[str, str]) -> None:
        self.files = files
        self.redirects = redirects
        self.requests: list[str] = []
        self.left: list[str] = []
        self.begun = asyncio.Event()
        self.open = 0
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                request = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.requests.append(request)
                path = request.split(" ")[1]
                answering = asyncio.create_task(self._answer(path.removeprefix("/"), writer))
                leaving = asyncio.create_task(reader.read(1))
                await asyncio.wait([answering, leaving], return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    self.left.append(path)
                answering.cancel()
                leaving.cancel()
                await asyncio.gather(answering, leaving, return_exceptions=True)
        finally:
            self.open -= 1
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, name: str, writer: asyncio.StreamWriter) -> None:
        if name in self.files:
            await _send(writer, _head(200, length=len(self.files[name])), self.files[name])
        elif name in self.redirects:
            await _send(writer, _head(302, location=self.redirects[name], length=0))
        elif name == "no-location":
            await _send(writer, _head(302, length=0))
        elif name.isdigit():
            await _send(writer, _head(int(name), length=2), b"no")
        else:
            await getattr(self, f"_{name.partition('?')[0]}", self._missing)(writer)

    async def _missing(self, writer: asyncio.StreamWriter) -> None:
        await _send(writer, _head(404, length=0))

    async def _drip(self, writer: asyncio.StreamWriter) -> None:
        await _send(writer, _head(200, length=5000))
        self.begun.set()
        while True:
            await _send(writer, b"\x89")
            await asyncio.sleep(0.01)

    async def _header_drip(self, writer: asyncio.StreamWriter) -> None:
        await _send(writer, b"HTTP/1.1 200 OK\r\n")
        while True:
            await _send(writer, b"A: b\r\n")
            await asyncio.sleep(0.01)

    async def _silent(self, writer: asyncio.StreamWriter) -> None:
        self.begun.set()
        await asyncio.sleep(NEVER)

    async def _endless(self, writer: asyncio.StreamWriter) -> None:
        await _send(writer, b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            await _send(writer, bytes(65536))

    async def _announced(self, writer: asyncio.StreamWriter) -> None:
        """Says that it is large and then sends nothing."""
        await _send(writer, _head(200, length=10**12))
        await asyncio.sleep(NEVER)

    async def _short(self, writer: asyncio.StreamWriter) -> None:
        await _send(writer, _head(200, length=1000), b"\x89PNG")

    async def _hang_up(self, writer: asyncio.StreamWriter) -> None:
        await _send(writer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab")

    async def _bad_chunk(self, writer: asyncio.StreamWriter) -> None:
        await _send(writer, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")

    async def _no_http(self, writer: asyncio.StreamWriter) -> None:
        await _send(writer, b"SSH-2.0-OpenSSH_9.9\r\n")

    async def _nothing(self, writer: asyncio.StreamWriter) -> None:
        pass

    async def _gzip(self, writer: asyncio.StreamWriter) -> None:
        body = gzip.compress(bytes(2**24))
        await _send(writer, b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\n", body)


async def _send(writer: asyncio.StreamWriter, *blocks: bytes) -> None:
    for block in blocks:
        writer.write(block)
    await writer.drain()


def _head(status: int, *, length: int, location: str | None = None) -> bytes:
    lines = [f"HTTP/1.1 {status} Said", f"Content-Length: {length}", "Content-Type: text/html", "Set-Cookie: a=b"]
    if location is not None:
        lines.append(f"Location: {location}")
    return "\r\n".join([*lines, "", ""]).encode()


@asynccontextmanager
async def web_server(
    files: dict[str, bytes] | None = None, redirects: dict[str, str] | None = None
) -> AsyncIterator[WebServer]:
    """At its end no client may be connected any more."""
    web = WebServer(files or {}, redirects or {})
    server = await asyncio.start_server(web.handle, "127.0.0.1", 0)
    web.port = server.sockets[0].getsockname()[1]
    async with server:
        yield web
        async with asyncio.timeout(5):
            while web.open:
                await asyncio.sleep(0.005)


class Names:
    """A name server that answers a host's addresses, one list after the other, the last for ever."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        name = host.removesuffix(".test")
        if name not in self.answers:
            raise OSError("no such host")
        answers = self.answers[name]
        return answers.pop(0) if len(answers) > 1 else answers[0]


class ToLoopback(httpcore2.AsyncNetworkBackend):
    """Takes connections to PUBLIC to a server on loopback; to other addresses as they are. Keeps which were asked."""

    def __init__(self) -> None:
        self.connected: list[str] = []
        self._inner = httpcore2.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *args: object) -> httpcore2.AsyncNetworkStream:
        self.connected.append(host)
        return await self._inner.connect_tcp("127.0.0.1" if host == PUBLIC else host, port)


def public_backend(names: Names) -> tuple[CheckedBackend, ToLoopback]:
    """What connects as on the internet, where the names have the addresses of ``names``."""
    wires = ToLoopback()
    return CheckedBackend(allow_private=False, lookup=names, inner=wires), wires
