"""Chat with a running server (`make serve`) through the official OpenAI client, at once and streamed."""

from __future__ import annotations

import os

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("QUINCE_URL", "http://127.0.0.1:8000") + "/v1", api_key="unused")
question = "What is the capital of France?"

answer = client.chat.completions.create(
    model="quince-demo", messages=[{"role": "user", "content": question}], temperature=0
)
print(answer.choices[0].message.content)

stream = client.chat.completions.create(
    model="quince-demo", messages=[{"role": "user", "content": question}], temperature=0, stream=True
)
for chunk in stream:
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
