"""Ask about pictures: what is in one, a second question about it, and what differs in another (`quince[vision]`)."""

from __future__ import annotations

import base64
import os
import struct
import zlib
from typing import Any

from openai import OpenAI

Colour = tuple[int, int, int]
SIDE = 192
WHITE, RED, BLUE, GREEN = (255, 255, 255), (220, 30, 30), (30, 70, 220), (30, 160, 50)


def png(circle: Colour, square: Colour) -> str:
    """A data: URL of a circle on the left and a square on the right."""

    def pixel(x: int, y: int) -> Colour:
        if (x - 45) ** 2 + (y - 96) ** 2 < 32**2:
            return circle
        return square if abs(x - 147) < 28 and abs(y - 96) < 28 else WHITE

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + b"".join(bytes(pixel(x, y)) for x in range(SIDE)) for y in range(SIDE))
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    data = part(b"IHDR", header) + part(b"IDAT", zlib.compress(b"".join(rows))) + part(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + data).decode()


def user(text: str, *urls: str) -> dict[str, Any]:
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return {"role": "user", "content": [*images, {"type": "text", "text": text}]}


client = OpenAI(base_url=os.environ.get("QUINCE_URL", "http://127.0.0.1:8000") + "/v1", api_key="unused")
first, second = png(RED, BLUE), png(RED, GREEN)
messages: list[Any] = [user("What is in this image?", first)]
answer = client.chat.completions.create(model="quince-demo-vision", messages=messages, temperature=0)
print(answer.choices[0].message.content)

messages += [answer.choices[0].message, user("Where is the red circle?")]
stream = client.chat.completions.create(model="quince-demo-vision", messages=messages, temperature=0, stream=True)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()

compare: list[Any] = [user("What is the difference?", first, second)]
answer = client.chat.completions.create(model="quince-demo-vision", messages=compare, temperature=0)
print(answer.choices[0].message.content)
