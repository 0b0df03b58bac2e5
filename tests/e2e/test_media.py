"""Images and videos that are sent to a model which reads text: refused by name, and not fetched."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from tests.e2e.helpers import assert_error_shape, chat_body
from tests.e2e.server_process import ServerProcess
from tests.text.media.bad_media import BAD_MEDIA
from tests.text.media.pictures import data_url, picture

CHAT = "/v1/chat/completions"
KINDS = {"image": "image_url", "video": "video_url"}


def conversation(kind: str, url: str) -> list[dict[str, Any]]:
    """The second message has the part, behind a text."""
    field = KINDS[kind]
    parts = [{"type": "text", "text": "What is it?"}, {"type": field, field: {"url": url}}]
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": parts}]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("url", [data_url(picture()), *(url for url, _ in BAD_MEDIA)], ids=lambda url: str(url)[:40])
def test_a_text_model_refuses_media_by_name(server: ServerProcess, kind: str, url: str, stream: bool) -> None:
    error = assert_error_shape(server.post(CHAT, chat_body(messages=conversation(kind, url), stream=stream)), 400)
    assert error["param"] == f"messages.1.content.1.{KINDS[kind]}.url"
    assert error["message"].endswith(f"this model reads text only: it cannot be given {kind}s")


def test_nothing_is_fetched_for_a_text_model(server: ServerProcess) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.3)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/a.png"
        assert_error_shape(server.post(CHAT, chat_body(messages=conversation("image", url))), 400)
        with pytest.raises(TimeoutError):
            listener.accept()


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_media_are_not_counted(server: ServerProcess, kind: str) -> None:
    error = assert_error_shape(server.post("/v1/tokenize", {"messages": conversation(kind, data_url(picture()))}), 400)
    assert error["param"] == f"messages.1.content.1.{KINDS[kind]}.url"
    assert f"how many tokens a {kind} takes" in error["message"]
