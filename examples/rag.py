"""Answer questions from notes, with the three demo models of a running server (`make serve`) and nothing else.

The embedding model finds a few notes, the reranker picks one of them, and the chat model answers with it.
"""

from __future__ import annotations

import os
from typing import Any

from openai import OpenAI

NOTES = [
    "My dog is called Biscuit.",
    "I live in Lyon.",
    "My lucky number is 417.",
    "My favourite colour is green.",
    "The dentist is open on Tuesday from 9 to 12.",
    "The bus to the airport leaves every 20 minutes.",
    "Tom repaired the kitchen lamp in March.",
    "The key of the cellar lies under the blue flower pot.",
    "Water the tomatoes twice a week.",
]
QUESTIONS = ["What is my pet called?", "In which town do I live?", "Which number brings me luck?"]
FOUND = 4  # notes that the reranker looks at

client = OpenAI(base_url=os.environ.get("QUINCE_URL", "http://127.0.0.1:8000") + "/v1", api_key="unused")


def embed(texts: list[str]) -> list[list[float]]:
    return [one.embedding for one in client.embeddings.create(model="quince-demo-embedding", input=texts).data]


def cosine(one: list[float], other: list[float]) -> float:
    """The vectors have length 1."""
    return sum(a * b for a, b in zip(one, other, strict=True))


def best(query: str, documents: list[str]) -> str:
    """/v1/rerank is no part of OpenAI's API, so their client has no method of its own for it."""
    body = {"model": "quince-demo-reranker", "query": query, "documents": documents, "top_n": 1}
    answer: Any = client.post("/rerank", body=body, cast_to=object)
    return documents[answer["results"][0]["index"]]


def ask(prompt: str) -> str | None:
    messages: list[Any] = [{"role": "user", "content": prompt}]
    answer = client.chat.completions.create(model="quince-demo", messages=messages, temperature=0)
    return answer.choices[0].message.content


vectors = embed(NOTES)
for question in QUESTIONS:
    (wanted,) = embed([question])
    scores = {note: cosine(wanted, vector) for note, vector in zip(NOTES, vectors, strict=True)}
    near = sorted(NOTES, key=scores.__getitem__, reverse=True)[:FOUND]
    note = best(question, near)
    print(f"{question}\n  without notes: {ask(question)}\n  with {note!r}: {ask(f'{note} {question}')}")
