"""The private server of a `quince run` or `bench`: ``python -m quince.cli.private_server``, by quince.chat.own_server.

Standard input carries a PrivateServer as a line of JSON and then stays open: when it ends, the parent is gone, and so
is the server, with its engines.
"""

from __future__ import annotations

import sys

import msgspec

from quince import children, config_sources
from quince.chat.own_server import PrivateServer
from quince.cli import errors
from quince.server import run

PATIENCE = 8.0  # seconds to end in


def main() -> None:
    spec = msgspec.json.decode(sys.stdin.buffer.readline(), type=PrivateServer)
    children.end_with_parent(PATIENCE)
    errors.run(lambda: _serve(spec))


def _serve(spec: PrivateServer) -> None:
    flags = {
        "model": spec.model,
        "preload": [spec.preload] if spec.preload else None,
        "host": "127.0.0.1",
        "port": spec.port,
        "api_key": [spec.key],
        "drain_timeout": 0,
        "max_running_requests": spec.max_running_requests,
    }
    load = config_sources.load_for_all_models if spec.preload else config_sources.load
    settings = load(flags).model_copy(update={"log_file": None})  # that is another server's
    run.serve(settings, private=True)


if __name__ == "__main__":
    main()
