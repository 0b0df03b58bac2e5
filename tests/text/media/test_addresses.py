from __future__ import annotations

import ipaddress

import httpcore2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quince.text.media.addresses import CheckedBackend, is_public, plain_host, resolve
from quince.text.media.references import Refusal
from tests.text.media.web_server import PUBLIC, Names, ToLoopback

INSIDE = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254",
    "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.168.1.1",
    "198.18.0.1", "198.51.100.7", "203.0.113.9", "224.0.0.251", "239.1.2.3", "240.0.0.1", "255.255.255.255",
    "168.63.129.16",
    "::", "::1", "::7f00:1", "fe80::1", "fec0::1", "fc00::1", "fd00:ec2::254", "ff02::1", "100::1", "2001:db8::1",
    "3fff::1", "2001::1", "2001:10::1", "2002:7f00:1::", "2002:808:808::1", "64:ff9b:1::808:808", "5f00::1",
    "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe",
    "fe80::1%eth0",
]  # fmt: skip
OUTSIDE = [
    "1.1.1.1", "8.8.8.8", "100.63.255.255", "100.128.0.1", "172.15.0.1", "172.32.0.1", "192.167.1.1", "223.255.255.1",
    "2606:4700::1111", "2001:4860:4860::8888", "2a00:1450::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", PUBLIC,
]  # fmt: skip


@pytest.mark.parametrize("address", INSIDE)
def test_addresses_of_the_inside(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", OUTSIDE)
def test_addresses_of_the_internet(address: str) -> None:
    assert is_public(address)


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_in_every_spelling(address: ipaddress.IPv4Address) -> None:
    public = is_public(str(address))
    assert is_public(f"::ffff:{address}") == public
    assert is_public(f"64:ff9b::{address}") == public
    assert not is_public(str(ipaddress.IPv6Address((0x2002 << 112) | (int(address) << 80) | 1)))
    assert not is_public(f"::{address}")


@given(st.ip_addresses())
def test_nothing_is_public_that_python_calls_special(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """But for translated IPv4 addresses, which are judged like the addresses that they stand for."""
    if is_public(str(address)) and address not in ipaddress.ip_network("64:ff9b::/96"):
        plain = getattr(address, "ipv4_mapped", None) or address
        assert not (plain.is_private or plain.is_loopback or plain.is_link_local or plain.is_multicast)
        assert not (plain.is_unspecified or plain.is_reserved)


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("a_b.example", "a_b.example"),
        ("127.0.0.1", "127.0.0.1"),
        ("１２７.0.0.1", "127.0.0.1"),  # full-width digits, which IDNA makes ordinary
        ("127。0。0。1", "127.0.0.1"),
        ("::FFFF:1.2.3.4", "::ffff:102:304"),
        ("::1", "::1"),
        ("1.2.3.4.example", "1.2.3.4.example"),
    ],
)
def test_hosts_have_one_spelling(host: str, plain: str) -> None:
    assert plain_host(host) == plain


@pytest.mark.parametrize(
    "host",
    [
        "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "127.1", "127.0.0.01", "0", "1.2.3.4.5", "256.1.1.1",
        "1.2.3.0x4", "", ".", "a..b", "a" * 64, ".".join(["a" * 60] * 6), "a b", "a/b", "a%00b", "fe80::1%eth0", ":::",
        "::1::", "host\r\nx",
    ],
)  # fmt: skip
def test_odd_hosts_are_refused(host: str) -> None:
    with pytest.raises(Refusal):
        plain_host(host)


async def test_every_address_of_a_host_is_checked() -> None:
    """Also where only one of them is of the inside: the others are there to look harmless."""
    wires = ToLoopback()
    names = Names(mixed=[[PUBLIC, "10.0.0.1"]], inside=[["127.0.0.1"]], empty=[[]])
    backend = CheckedBackend(allow_private=False, lookup=names, inner=wires)
    sayings = set()
    for host in ("mixed.test", "inside.test", "empty.test", "missing.test"):
        with pytest.raises(Refusal) as refused:
            await backend.connect_tcp(host, 80)
        sayings.add(str(refused.value))
    assert wires.connected == []
    assert len(sayings) == 1, "whether a name of the inside exists is not told"


async def test_the_next_address_is_tried_where_one_is_dead() -> None:
    class Dead(ToLoopback):
        async def connect_tcp(self, host: str, port: int, *args: object) -> httpcore2.AsyncNetworkStream:
            self.connected.append(host)
            raise httpcore2.ConnectError

    wires = Dead()
    backend = CheckedBackend(allow_private=False, lookup=Names(many=[OUTSIDE[:3]]), inner=wires)
    with pytest.raises(httpcore2.ConnectError):
        await backend.connect_tcp("many.test", 80)
    assert wires.connected == OUTSIDE[:3]


async def test_the_systems_resolver_gives_addresses() -> None:
    assert await resolve("127.0.0.1", 80) == ["127.0.0.1"]
    assert set(await resolve("localhost", 80)) <= {"127.0.0.1", "::1"}
