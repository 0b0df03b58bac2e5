"""The server's port, and the hub."""

from __future__ import annotations

import email.utils
import socket

import httpx2

from quince import environment
from quince.chat.client import ChatClient
from quince.doctor.finding import Finding, ok, problem, warning
from quince.server import registration

HUB_TIMEOUT = 10.0
SKEW = 300.0  # seconds that two clocks may differ; certificates and tokens bear a little
_HERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def port(host: str, number: int) -> Finding:
    """Whether a server could listen there, and if not, who does."""
    name = f"port {number}"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
            probe.listen(1)
        except PermissionError:
            return problem(name, "this user may not listen there", "choose a --port above 1023")
        except socket.gaierror:
            return problem(name, f"{host} is no address of this machine", "correct --host")
        except OSError:
            return _taken(host, number)
    return ok(name, "free")


def _taken(host: str, number: int) -> Finding:
    address = _HERE.get(host, host)
    with ChatClient(f"http://{f'[{address}]' if ':' in address else address}:{number}") as client:
        health = client.health()
    if health is None:
        return problem(
            f"port {number}",
            f"{registration.holder(environment.home(), number)} listens there",
            "stop it, or choose another --port",
        )
    if health["status"] != "ok":
        return warning(f"port {number}", f"Quince listens there, and says: {health['reason']}", "read its log")
    return ok(f"port {number}", "Quince listens there, and is well")


def hub(url: str, now: float) -> Finding:
    """Whether the hub answers, and whether its clock and this one (seconds since 1970) agree."""
    try:
        answer = httpx2.head(url, timeout=HUB_TIMEOUT, follow_redirects=True)
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
        return problem("hub", f"{url} cannot be reached: {error}", "check the connection, HF_ENDPOINT and the proxy")
    if answer.is_server_error:
        return warning("hub", f"{url} answers {answer.status_code}", "try later")
    date = email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp() if "date" in answer.headers else now
    if abs(date - now) > SKEW:
        return warning("hub", f"the clock here differs from the hub's by {abs(date - now):.0f} s", "set the clock")
    return ok("hub", f"{url} answers")
