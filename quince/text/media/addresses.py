"""Which hosts may be connected to, and connecting to exactly the address that was looked at.

A host's name is looked up once, here; every address of it is checked, and the connection is made to a checked address
rather than to the name: a name server that gives another answer the second time is never asked a second time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import httpcore2

from quince.text.media.references import Refusal

# A host and a port to the host's addresses.
Resolve = Callable[[str, int], Awaitable[list[str]]]

# IANA's registries of special-purpose addresses, multicast, and one cloud's metadata service that has a public address.
_NOT_PUBLIC_V4 = [
    IPv4Network(network)
    for network in (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
    )
]  # fmt: skip
# Of IPv6 only this is in use, but for: Teredo and other protocols, documentation (two), 6to4.
_UNICAST_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = [IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "3fff::/20", "2002::/16")]
# IPv4 addresses in IPv6 spelling: mapped, and as a network without IPv4 translates them.
_EMBEDDING = [IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96")]

_MAX_ADDRESSES = 4  # tried one after the other
# The URL standard reads a host that ends like this as an IPv4 address, in octal and hexadecimal digits too.
_NUMERIC_HOST = re.compile(r"(.*\.)?([0-9]+|0[xX][0-9a-f]*)")
_NAME = re.compile(r"[a-z0-9_.-]{1,253}")


def is_public(address: str) -> bool:
    """Whether an address is one of the internet's, rather than of this machine, its network or nobody."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, IPv6Address):
        if any(parsed in network for network in _EMBEDDING):
            return is_public(str(IPv4Address(int(parsed) & 0xFFFFFFFF)))
        return parsed in _UNICAST_V6 and not any(parsed in network for network in _NOT_PUBLIC_V6)
    return not any(parsed in network for network in _NOT_PUBLIC_V4)


def plain_host(host: str) -> str:
    """A host as it is looked up: ASCII, lower case. Raises Refusal for what is none, or an address in odd digits."""
    name = ""
    with contextlib.suppress(ValueError):  # UnicodeError is of this kind
        name = host.encode("idna").decode("ascii").lower().removesuffix(".")
        if ":" in name and "%" not in name:
            return IPv6Address(name).compressed
    if _NUMERIC_HOST.fullmatch(name):
        try:
            return str(IPv4Address(name))
        except ValueError:
            raise Refusal("an IPv4 address is written as four decimal numbers") from None
    if not _NAME.fullmatch(name):
        raise Refusal("its address has no host that can be looked up")
    return name


async def resolve(host: str, port: int) -> list[str]:
    """By the system's resolver. Raises OSError."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to hosts all of whose addresses are public; to any with ``allow_private``. Raises Refusal."""

    def __init__(
        self, *, allow_private: bool, lookup: Resolve = resolve, inner: httpcore2.AsyncNetworkBackend | None = None
    ) -> None:
        self._allow_private = allow_private
        self._lookup = lookup
        self._inner = inner or httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        *others, last = (await self._addresses(host, port))[:_MAX_ADDRESSES]
        for address in others:
            with contextlib.suppress(httpcore2.ConnectError, httpcore2.ConnectTimeout):
                return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)
        return await self._inner.connect_tcp(last, port, timeout, local_address, socket_options)

    async def _addresses(self, host: str, port: int) -> list[str]:
        """One answer for names that do not exist and names of the inside: which there are is nobody's business."""
        try:
            addresses = await self._lookup(host, port)
        except (OSError, UnicodeError):
            addresses = []
        if not addresses or not (self._allow_private or all(map(is_public, addresses))):
            which = "address" if self._allow_private else "public address (allow_private_media is off)"
            raise Refusal(f"its host has no {which}")
        return addresses
