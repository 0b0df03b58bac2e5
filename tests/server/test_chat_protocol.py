from __future__ import annotations

from typing import Any

from quince.server.protocol.openai_chat import ChatCompletionRequest
from quince.text.media import MediaReference


def request(*messages: dict[str, Any]) -> ChatCompletionRequest:
    return ChatCompletionRequest.model_validate({"messages": list(messages)})


def test_text_is_as_it_was() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "tool_calls": [call]}]
    assert request(*messages).template_messages() == (messages, [])


def test_references_leave_placeholders() -> None:
    first = {
        "role": "user",
        "name": "ada",
        "content": [
            {"type": "text", "text": "These two:"},
            {"type": "image_url", "image_url": {"url": "data:,1", "detail": "low"}},
            {"type": "image_url", "image_url": "data:,2"},
        ],
    }
    second = {
        "role": "user",
        "content": [
            {"type": "video_url", "video_url": {"url": "data:,3"}},
            {"type": "image_url", "image_url": {"url": "data:,4", "detail": None}},
            {"type": "video_url", "video_url": "data:,5"},
            {"type": "text", "text": "?"},
        ],
    }
    messages, references = request(first, {"role": "assistant", "content": "Quinces."}, second).template_messages()
    assert messages == [
        {
            "role": "user",
            "name": "ada",
            "content": [{"type": "text", "text": "These two:"}, {"type": "image"}, {"type": "image"}],
        },
        {"role": "assistant", "content": "Quinces."},
        {
            "role": "user",
            "content": [{"type": "video"}, {"type": "image"}, {"type": "video"}, {"type": "text", "text": "?"}],
        },
    ]
    assert references == [
        MediaReference("image", "data:,1", "messages.0.content.1.image_url.url", "low"),
        MediaReference("image", "data:,2", "messages.0.content.2.image_url"),
        MediaReference("video", "data:,3", "messages.2.content.0.video_url.url"),
        MediaReference("image", "data:,4", "messages.2.content.1.image_url.url"),
        MediaReference("video", "data:,5", "messages.2.content.2.video_url"),
    ]
