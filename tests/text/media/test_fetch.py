"""Downloads from servers that mean no good."""

from __future__ import annotations

import asyncio
import ssl
import time

import httpcore2
import pytest

from quince.text.media.addresses import CheckedBackend
from quince.text.media.fetch import MAX_REDIRECTS, Fetcher
from quince.text.media.references import Budget, Refusal
from tests.text.media.web_server import NEVER, PUBLIC, Names, public_backend, web_server

LIMIT = 10_000
DATA = bytes(range(256)) * 10


async def fetch(url: str, *, timeout: float = NEVER, backend: httpcore2.AsyncNetworkBackend | None = None) -> bytes:
    fetcher = Fetcher(backend or CheckedBackend(allow_private=True), timeout)
    return await fetcher.fetch(url, LIMIT, Budget(10 * LIMIT))


async def refusal(url: str, *, timeout: float = NEVER, backend: httpcore2.AsyncNetworkBackend | None = None) -> str:
    with pytest.raises(Refusal) as refused:
        await fetch(url, timeout=timeout, backend=backend)
    return str(refused.value)


async def test_a_file_comes_whole() -> None:
    async with web_server({"a b.png?c=d é": DATA, "a%20b.png?c=%C3%A9": DATA}) as web:
        assert await fetch(f"{web.url}/a%20b.png?c=é#part") == DATA
        head = web.requests[0]
        assert f"\r\nHost: 127.0.0.1:{web.port}\r\n" in head
        assert "\r\nUser-Agent: quince/" in head
        assert "\r\nAccept-Encoding: identity\r\n" in head


async def test_nothing_is_kept_for_the_next_download() -> None:
    """No cookies, no connections."""
    async with web_server({"a": DATA, "b": DATA}, {"to-a": "a"}) as web:
        fetcher = Fetcher(CheckedBackend(allow_private=True), NEVER)
        for name in ("a", "b", "to-a"):
            assert await fetcher.fetch(f"{web.url}/{name}", LIMIT, Budget(LIMIT)) == DATA
        assert len(web.requests) == 4
        assert not any("cookie" in head.lower() for head in web.requests)


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with web_server({"a": DATA}) as web:
        assert await fetch(f"{web.url}/a") == DATA


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("endless", "larger than 10000 bytes"),
        ("announced", "larger than 10000 bytes"),
        ("short", "broke off"),
        ("hang_up", "broke off"),
        ("bad_chunk", "broke off"),
        ("no_http", "broke off"),
        ("nothing", "broke off"),
        ("gzip", "compressed"),
        ("404", "404"),
        ("500", "500"),
        ("206", "206"),
        ("204", "204"),
        ("304", "304"),
        ("no-location", "302"),
        ("loop", "more than 5 times"),
        ("to-file", "not http"),
        ("to-data", "not http"),
        ("to-user", "user name"),
        ("to-broken", "no valid web address"),
        ("to-port", "not a valid web address"),
        ("to-control", "host"),
    ],
)
async def test_bad_answers(path: str, named: str) -> None:
    redirects = {
        "loop": "/loop",
        "to-file": "file:///etc/passwd",
        "to-data": "data:image/png;base64,AAAA",
        "to-broken": "http://[::1/",
        "to-port": "http://127.0.0.1:port/",
        "to-user": "http://user:password@127.0.0.1/",
        "to-control": "http://a\\b/",
    }
    async with web_server({}, redirects) as web:
        started = time.monotonic()
        assert named in await refusal(f"{web.url}/{path}")
        assert time.monotonic() - started < 5
        assert len(web.requests) == (MAX_REDIRECTS + 1 if path == "loop" else 1)


@pytest.mark.parametrize("path", ["drip", "header_drip", "silent"])
async def test_a_slow_server_gets_the_time_that_is_set(path: str) -> None:
    async with web_server() as web:
        started = time.monotonic()
        assert "within 0.3 seconds" in await refusal(f"{web.url}/{path}", timeout=0.3)
        assert 0.25 < time.monotonic() - started < 3
        await left(web.left, f"/{path}")


async def left(seen: list[str], path: str) -> None:
    async with asyncio.timeout(2):
        while path not in seen:
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("path", ["drip", "silent"])
async def test_a_cancelled_download_closes_its_connection(path: str) -> None:
    async with web_server() as web:
        download = asyncio.create_task(fetch(f"{web.url}/{path}"))
        await web.begun.wait()
        download.cancel()
        with pytest.raises(asyncio.CancelledError):
            await download
        await left(web.left, f"/{path}")


async def test_the_time_covers_redirects_and_names() -> None:
    class SlowNames(Names):
        async def __call__(self, host: str, port: int) -> list[str]:
            await asyncio.sleep(NEVER)
            return []

    backend = CheckedBackend(allow_private=True, lookup=SlowNames())
    assert "within" in await refusal("http://slow.test/", timeout=0.1, backend=backend)


async def test_nobody_listens() -> None:
    async with web_server() as web:
        url = web.url
    assert "connected" in await refusal(f"{url}/a")


async def test_the_budget_of_a_request_is_all_its_items_together() -> None:
    async with web_server({"a": DATA}) as web:
        fetcher = Fetcher(CheckedBackend(allow_private=True), NEVER)
        budget = Budget(2 * len(DATA) + 1)
        for _ in range(2):
            await fetcher.fetch(f"{web.url}/a", LIMIT, budget)
        with pytest.raises(Refusal, match="together"):
            await fetcher.fetch(f"{web.url}/a", LIMIT, budget)


# Where it may connect to


async def test_a_public_host_is_connected_to_by_its_checked_address() -> None:
    """The name is looked up once: another answer the second time changes nothing."""
    names = Names(pictures=[[PUBLIC], ["127.0.0.1"]])
    backend, wires = public_backend(names)
    async with web_server({"a": DATA}) as web:
        assert await fetch(f"http://pictures.test:{web.port}/a", backend=backend) == DATA
        assert f"\r\nHost: pictures.test:{web.port}\r\n" in web.requests[0]
        assert names.asked == ["pictures.test"]
        assert wires.connected == [PUBLIC]
        # A new download asks again, and is told the truth about it.
        assert "no public address" in await refusal(f"http://pictures.test:{web.port}/a", backend=backend)
        assert wires.connected == [PUBLIC]


@pytest.mark.parametrize(
    "location",
    [
        "http://127.0.0.1:{port}/a",
        "http://[::1]:{port}/a",
        "http://[::ffff:127.0.0.1]:{port}/a",
        "http://169.254.169.254/latest/meta-data",
        "http://inside.test:{port}/a",
        "//inside.test:{port}/a",
        "http://missing.test/",
        "http://2130706433:{port}/a",
        "http://0x7f.1:{port}/a",
        "file:///etc/passwd",
        "ftp://pictures.test/a",
    ],
)
async def test_redirects_are_checked_again(location: str) -> None:
    names = Names(pictures=[[PUBLIC]], inside=[["127.0.0.1"]])
    names.answers |= {"127.0.0.1": [["127.0.0.1"]], "::1": [["::1"]], "169.254.169.254": [["169.254.169.254"]]}
    names.answers["::ffff:7f00:1"] = [["::ffff:127.0.0.1"]]
    backend, wires = public_backend(names)
    async with web_server({"a": DATA}) as web:
        web.redirects["there"] = location.format(port=web.port)
        await refusal(f"http://pictures.test:{web.port}/there", backend=backend)
        assert wires.connected == [PUBLIC]
        assert len(web.requests) == 1


async def test_redirects_among_public_hosts_are_followed() -> None:
    backend, wires = public_backend(Names(pictures=[[PUBLIC]], mirror=[[PUBLIC]]))
    async with web_server({"a": DATA}, {"1": "no", "there": "../there2"}) as web:
        web.redirects["there2"] = f"//mirror.test:{web.port}/a"
        assert await fetch(f"http://pictures.test:{web.port}/there", backend=backend) == DATA
        assert wires.connected == [PUBLIC] * 3
        assert f"Host: mirror.test:{web.port}" in web.requests[2]


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///a",
        "http://127.0.0.1:99999/",
        "http://127.0.0.1:a/",
        "http://[::1/",
        "http://user@127.0.0.1/",
        "http://:password@127.0.0.1/",
        "http://127.0.0.1/a b",
        "http://127.0.0.1/\r\nX: y",
        "http://127.0.0.1/" + "a" * 9000,
        "http://127.0.0.1\\@example.com/",
    ],
)
async def test_odd_web_addresses(url: str) -> None:
    class Unreachable(httpcore2.AsyncNetworkBackend):
        async def connect_tcp(self, host: str, port: int, *args: object) -> httpcore2.AsyncNetworkStream:
            raise AssertionError(f"{host}:{port} was connected to")

    await refusal(url, backend=CheckedBackend(allow_private=True, inner=Unreachable()))


async def test_tls_is_spoken_with_the_name_not_the_address() -> None:
    class Wire(httpcore2.AsyncMockStream):
        async def start_tls(
            self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
        ) -> httpcore2.AsyncNetworkStream:
            spoken.append((server_hostname, ssl_context.verify_mode, ssl_context.check_hostname))
            return self

    class Wires(httpcore2.AsyncNetworkBackend):
        async def connect_tcp(self, host: str, port: int, *args: object) -> httpcore2.AsyncNetworkStream:
            connected.append((host, port))
            return Wire([b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"])

    spoken: list[tuple[str | None, ssl.VerifyMode, bool]] = []
    connected: list[tuple[str, int]] = []
    backend = CheckedBackend(allow_private=False, lookup=Names(pictures=[[PUBLIC]]), inner=Wires())
    assert await fetch("https://Pictures.test/a", backend=backend) == b"hi"
    assert connected == [(PUBLIC, 443)]
    assert spoken == [("pictures.test", ssl.CERT_REQUIRED, True)]
