"""Requests that are not in the queue yet: what is done for them is bounded as well."""

from __future__ import annotations

import asyncio

from tests.e2e.conftest import StartServer
from tests.e2e.helpers import assert_error_shape, chat_body, http_client

HI = [{"role": "user", "content": "hi"}]


async def test_prompts_are_not_tokenized_without_a_place(start_server: StartServer) -> None:
    """Each of these prompts takes a while to tokenize and is then too long: one is, and who comes meanwhile is told at
    once. (On a busy machine, some come only when it is done, and are the next.)"""
    server = start_server("--max-running-requests", "1", "--queue-size", "0", "--ctx-size", "64")
    text = "quince and pear " * 100_000
    for path, body in (("/v1/completions", {"prompt": text}), ("/v1/chat/completions", chat_body(text))):
        async with http_client(server.base_url) as http:
            answers = await asyncio.gather(*(http.post(path, json=body) for _ in range(6)))
            answers.sort(key=lambda answer: answer.status_code)
            assert assert_error_shape(answers[0], 400)["code"] == "context_length_exceeded"
            refused = [answer for answer in answers if answer.status_code != 400]
            assert refused
            for answer in refused:
                assert assert_error_shape(answer, 429)["code"] == "queue_full"
                assert int(answer.headers["retry-after"]) > 0
            assert (await http.post(path, json={**body, "prompt": "a", "messages": HI})).status_code == 200
