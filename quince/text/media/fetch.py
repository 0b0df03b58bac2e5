"""Downloads from web addresses that strangers name: bounded in bytes, time, redirects and in what is connected to."""

from __future__ import annotations

import asyncio
import re
import ssl
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

import httpcore2

from quince import __version__
from quince.text.media.addresses import plain_host
from quince.text.media.references import Budget, Refusal

MAX_REDIRECTS = 5
CONNECT_TIMEOUT = 10.0  # seconds, for each address of a host
_MAX_URL = 8192
_PORTS = {"http": 80, "https": 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_CONTROL = re.compile(r"[\x00-\x20\x7f]")
_PATH = "/%:@!$&'()*+,;=~"  # kept as they are in paths and, with ?, in queries
_HEADERS: list[tuple[bytes | str, bytes | str]] = [
    ("User-Agent", f"quince/{__version__}"),
    ("Accept", "image/jpeg, image/png, image/webp, image/gif, video/*, */*;q=0.1"),
    ("Accept-Encoding", "identity"),  # what is compressed all the same is refused: it could unpack to anything
    ("Connection", "close"),
]


@dataclass(frozen=True)
class _Target:
    """A web address taken apart, and what is said when it is asked for."""

    url: httpcore2.URL
    headers: list[tuple[bytes | str, bytes | str]]


class Fetcher:
    """``backend`` decides what may be connected to. ``timeout`` is in seconds and ends a download however busy its
    server keeps it."""

    def __init__(self, backend: httpcore2.AsyncNetworkBackend, timeout: float) -> None:
        self._backend = backend
        self._timeout = timeout
        self._tls: ssl.SSLContext | None = None

    async def fetch(self, url: str, max_bytes: int, budget: Budget) -> bytes:
        """The body that a GET of ``url`` leads to. Raises Refusal. Cancelled, it closes its connection at once."""
        try:
            async with asyncio.timeout(self._timeout):
                for _ in range(MAX_REDIRECTS + 1):
                    found = await self._get(url, max_bytes, budget)
                    if isinstance(found, bytes):
                        return found
                    url = found
        except TimeoutError:
            raise Refusal(f"it did not come within {self._timeout:g} seconds") from None
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout):
            raise Refusal("its server cannot be connected to") from None
        except (httpcore2.NetworkError, httpcore2.ProtocolError, OSError):
            raise Refusal("its server broke off before all of it had come") from None
        raise Refusal(f"it is redirected more than {MAX_REDIRECTS} times")

    async def _get(self, url: str, max_bytes: int, budget: Budget) -> bytes | str:
        """The body, or where it is instead."""
        target = _parse(url)
        context = await self._context() if target.url.scheme == b"https" else None
        timeouts = {"timeout": {"connect": CONNECT_TIMEOUT}}
        async with (
            httpcore2.AsyncHTTPConnection(
                target.url.origin, ssl_context=context, network_backend=self._backend
            ) as connection,
            connection.stream("GET", target.url, headers=target.headers, extensions=timeouts) as response,
        ):
            headers = {name.lower(): value for name, value in response.headers}
            if response.status in _REDIRECTS and b"location" in headers:
                return _moved(url, headers[b"location"].decode("latin-1"))
            if response.status != 200:
                raise Refusal(f"its server answered {response.status}")
            if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
                raise Refusal("its server sent it compressed, which was not asked for")
            announced = headers.get(b"content-length", b"")
            return await _body(response, int(announced) if announced.isdigit() else 0, max_bytes, budget)

    async def _context(self) -> ssl.SSLContext:
        if self._tls is None:  # reads all certificates that the machine trusts
            self._tls = await asyncio.to_thread(httpcore2.default_ssl_context)
        return self._tls


async def _body(response: httpcore2.Response, announced: int, max_bytes: int, budget: Budget) -> bytes:
    blocks: list[bytes] = []
    size = announced
    if announced <= max_bytes:
        size = 0
        async for block in response.aiter_stream():
            size += len(block)
            if size > max_bytes:
                break
            budget.take(len(block))
            blocks.append(block)
    if size > max_bytes:
        raise Refusal(f"it is larger than {max_bytes} bytes")
    return b"".join(blocks)


def _moved(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise Refusal("it is redirected to what is no valid web address") from None


def _parse(url: str) -> _Target:
    """An address of the web, taken apart once: what is connected to is what was checked. Raises Refusal."""
    if len(url) > _MAX_URL or _CONTROL.search(url):
        raise Refusal(f"a web address has at most {_MAX_URL} characters and no spaces")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Refusal("it is not a valid web address") from None
    if parts.scheme not in _PORTS:
        raise Refusal("it is redirected to what is not http:// or https://")
    if parts.username is not None or parts.password is not None:
        raise Refusal("a web address with a user name or a password is not taken")
    host, default = plain_host(parts.hostname or ""), _PORTS[parts.scheme]
    target = quote(parts.path or "/", safe=_PATH)
    if parts.query:
        target += "?" + quote(parts.query, safe=_PATH + "?")
    shown = f"[{host}]" if ":" in host else host
    if port not in (None, default):
        shown = f"{shown}:{port}"
    url_parts = httpcore2.URL(scheme=parts.scheme, host=host, port=port or default, target=target)
    return _Target(url_parts, [("Host", shown), *_HEADERS])
