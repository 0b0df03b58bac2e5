"""Get answers as objects from a running server (`make serve`): the model can write nothing but what fits them."""

from __future__ import annotations

import os

from openai import OpenAI
from pydantic import BaseModel


class Person(BaseModel):
    name: str
    age: int
    city: str
    languages: list[str]


client = OpenAI(base_url=os.environ.get("QUINCE_URL", "http://127.0.0.1:8000") + "/v1", api_key="unused")
text = "Tom is 34 years old, lives in Lyon and speaks French and German."

answer = client.chat.completions.parse(
    model="quince-demo",
    messages=[{"role": "user", "content": f"Give me JSON with name, age, city and languages: {text}"}],
    response_format=Person,
    temperature=0,
)
print(answer.choices[0].message.parsed)
