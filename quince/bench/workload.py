"""What is asked of a server, and what comes back: plain values that travel between processes as JSON."""

from __future__ import annotations

import itertools
import random
import string
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

VOCABULARY_WORDS = 1700  # words that every model of benchmarks/ has as single tokens
SCHEMAS = 4
RUNNING, ARRIVING = "running", "arriving"


class RequestSpec(msgspec.Struct, frozen=True):
    """One request. ``temperature`` 0 is greedy; ``schema`` is what the answer is held to, if anything.

    ``image``: an image's URL, which comes before the prompt.
    """

    prompt: str
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    schema: dict[str, Any] | None = None
    image: str | None = None


class ClientSpec(msgspec.Struct, frozen=True):
    """A client sends its requests one after the other, the first ``offset`` seconds after the start."""

    requests: list[RequestSpec]
    offset: float = 0.0
    tag: str = RUNNING


class Job(msgspec.Struct, frozen=True):
    """``start_at`` is a time.monotonic() that all processes of the machine share; ``url`` means nothing in process.

    ``count_words``: every word is one token, as in the models of benchmarks/, so that a piece of text tells how many
    tokens it holds. Otherwise a piece counts as one.
    """

    clients: list[ClientSpec]
    start_at: float
    url: str = ""
    model: str | None = None
    key: str | None = None
    timeout: float = 600.0
    count_words: bool = True


class RequestResult(msgspec.Struct):
    """Times are time.monotonic(). ``times[i]`` is when the i-th piece of text came, with ``counts[i]`` tokens in it.

    The token counts at the end are the server's own, from ``usage``.
    """

    tag: str
    sent: float
    times: list[float] = []
    counts: list[int] = []
    ended: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: str | None = None
    error: str | None = None


class JobResult(msgspec.Struct):
    """``cpu_seconds`` is what the process that ran the job used for it."""

    requests: list[RequestResult]
    cpu_seconds: float


@dataclass(frozen=True)
class Load:
    """``clients`` clients, each with ``requests`` requests of ``prompt_tokens`` words and ``max_tokens`` out.

    ``structured``: every answer is the beginning of a long JSON array, of one of a few schemas. ``prompt_spread``: by
    how many words a prompt may be longer or shorter.
    """

    clients: int
    requests: int
    prompt_tokens: int
    max_tokens: int
    sampled: bool
    seed: int
    structured: bool = False
    prompt_spread: int = 0

    def specs(self, *, tag: str = RUNNING, offset: float = 0.0, interval: float = 0.0) -> list[ClientSpec]:
        """Client ``i`` starts ``interval`` seconds after client ``i - 1``."""
        source = random.Random(f"{self.seed} {tag}")
        numbers = itertools.count()
        return [
            ClientSpec([self._request(source, next(numbers)) for _ in range(self.requests)], offset + i * interval, tag)
            for i in range(self.clients)
        ]

    def _request(self, source: random.Random, number: int) -> RequestSpec:
        words = self.prompt_tokens
        if self.prompt_spread:
            words += source.randint(-self.prompt_spread, self.prompt_spread)
        prompt = random_prompt(source, max(1, words))
        if self.structured:
            return RequestSpec(prompt, self.max_tokens, schema=_schema(number % SCHEMAS))
        if not self.sampled:
            return RequestSpec(prompt, self.max_tokens)
        # Around 0.7 and 0.9, different for every row of a batch.
        temperature = round(0.7 + 0.01 * (number % 21 - 10), 3)
        top_p = round(0.9 + 0.004 * (number * 8 % 21 - 10), 3)
        return RequestSpec(prompt, self.max_tokens, temperature, top_p)


def _schema(number: int) -> dict[str, Any]:
    """An array of so many objects that no answer comes to its end."""
    properties = {
        "name": {"type": "string", "maxLength": 30 + number},
        "kind": {"enum": ["fruit", "tree", "leaf"]},
        "size": {"type": "integer", "minimum": 0, "maximum": 1000},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 10}, "maxItems": 3},
    }
    item = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"type": "array", "minItems": 100, "items": item}


def words() -> Iterator[str]:
    """Four-letter words in a fixed order."""
    return ("".join(letters) for letters in itertools.product(string.ascii_lowercase, repeat=4))


_WORDS = list(itertools.islice(words(), VOCABULARY_WORDS))


def random_prompt(source: random.Random, count: int) -> str:
    """Random words, one token each: no two prompts share a beginning, so no prefix cache can help."""
    return " " + " ".join(source.choices(_WORDS, k=count))


def with_images(clients: list[ClientSpec], images: Iterator[str]) -> list[ClientSpec]:
    """The same clients; each of their requests shows an image of its own."""
    replace = msgspec.structs.replace
    return [
        replace(client, requests=[replace(request, image=next(images)) for request in client.requests])
        for client in clients
    ]


def split(clients: list[ClientSpec], parts: int) -> list[list[ClientSpec]]:
    """Deal the clients out to ``parts`` processes."""
    return [clients[i::parts] for i in range(min(parts, len(clients)))]


def soon() -> float:
    """A start time that every process will have heard of by then."""
    return time.monotonic() + 0.3
