"""What a service manager hears, on a real socket."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quince import environment
from quince.environment import ServiceManager
from quince.server.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A bound socket, and its address as NOTIFY_SOCKET writes it."""
    if request.param == "abstract" and sys.platform != "linux":
        pytest.skip("Linux has abstract sockets")
    name = str(tmp_path / "notify") if request.param == "path" else f"@quince-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind("\0" + name[1:] if name.startswith("@") else name)
        bound.setblocking(False)
        yield bound, name


async def heard(bound: socket.socket) -> str:
    async with asyncio.timeout(10):
        return (await asyncio.get_running_loop().sock_recv(bound, 4096)).decode()


def silent(bound: socket.socket) -> bool:
    try:
        return not bound.recv(4096)
    except BlockingIOError:
        return True


async def test_from_loading_to_the_end(manager: tuple[socket.socket, str]) -> None:
    bound, address = manager
    states = iter([(False, "loading"), (False, "loading"), (False, "still\nloading"), (True, "ready"), (False, "lost")])
    last = (True, "well again")
    notifier = Notifier(ServiceManager(address, 0.15))
    notifier.start(lambda: next(states, last))
    assert await heard(bound) == "STATUS=loading"
    assert await heard(bound) == "STATUS=still loading"
    assert await heard(bound) == "READY=1\nSTATUS=ready"
    assert await heard(bound) == "WATCHDOG=1\nSTATUS=lost"
    assert await heard(bound) == "WATCHDOG=1\nSTATUS=well again"
    notifier.stopping()
    assert await heard(bound) == "STOPPING=1\nSTATUS=shutting down"
    await asyncio.sleep(0.2)
    assert silent(bound)


async def test_a_loop_that_hangs_is_not_heard(manager: tuple[socket.socket, str]) -> None:
    bound, address = manager
    notifier = Notifier(ServiceManager(address, 0.15))
    notifier.start(lambda: (True, "ready"))
    assert (await heard(bound)).startswith("READY=1")
    assert (await heard(bound)).startswith("WATCHDOG=1")
    time.sleep(0.5)
    assert silent(bound)
    assert (await heard(bound)).startswith("WATCHDOG=1")
    notifier.stopping()


async def test_without_a_manager_nothing_happens() -> None:
    notifier = Notifier(None)
    notifier.start(lambda: pytest.fail("nobody asks"))
    notifier.stopping()
    await asyncio.sleep(0)


async def test_a_manager_that_has_gone_does_no_harm(tmp_path: Path) -> None:
    asked = asyncio.Event()

    def health() -> tuple[bool, str]:
        asked.set()
        return True, "ready"

    notifier = Notifier(ServiceManager(str(tmp_path / "nobody"), None))
    notifier.start(health)
    await asked.wait()
    notifier.stopping()


@pytest.mark.parametrize(
    ("environ", "manager"),
    [
        ({}, None),
        ({"NOTIFY_SOCKET": ""}, None),
        ({"NOTIFY_SOCKET": "vsock:2:1"}, None),
        ({"NOTIFY_SOCKET": "/run/n"}, ServiceManager("/run/n", None)),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "30000000"}, ServiceManager("@n", 30.0)),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "0"}, ServiceManager("@n", None)),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "soon"}, ServiceManager("@n", None)),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}, ServiceManager("@n", None)),
    ],
)
def test_the_variables(environ: dict[str, str], manager: ServiceManager | None) -> None:
    assert environment.service_manager(environ) == manager
