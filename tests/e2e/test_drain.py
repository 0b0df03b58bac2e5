"""The end of a server whose engine is slow to end."""

from __future__ import annotations

import time

import httpx2

from tests.e2e.conftest import StartServer
from tests.e2e.helpers import chat_body
from tests.e2e.server_process import is_alive, wait_for


def test_a_slow_engine_is_waited_for(start_server: StartServer) -> None:
    """Streams are told at once, and the engine gets its time: longer than what streams get for their goodbye."""
    server = start_server(env={"QUINCE_DRAIN_TIMEOUT": "0.5"})
    engine = server.engine()
    body = chat_body(max_tokens=8000, stream=True)
    with httpx2.stream("POST", server.base_url + "/v1/chat/completions", json=body, trust_env=False) as answer:
        pieces = answer.iter_text()
        next(pieces)
        engine.suspend()
        try:
            server.process.terminate()
            told = time.monotonic()
            rest = "".join(pieces)
            assert time.monotonic() - told < 2
            assert '"error":{"message":"the server is shutting down"' in rest
            time.sleep(3.5)
            assert is_alive(engine)
            assert server.process.poll() is None
        finally:
            engine.resume()
    assert server.process.wait(10) == 0
    wait_for(lambda: not is_alive(engine), within=2, what="the engine is gone")
    assert "Traceback" not in server.logs()
