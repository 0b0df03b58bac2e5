"""Requests that wait for another one to compute what both begin with. No MLX in here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from quince.engine.prefix_cache import common_prefix
from quince.engine.request import Request

MIN_SHARED = 64  # tokens that make it worth to wait for a request that is computing them


class Followers:
    """Who waits for whom, and for how many tokens."""

    def __init__(self) -> None:
        self._waiting: dict[str, Request] = {}
        self._due: dict[str, list[tuple[int, Request]]] = {}  # by leader: (tokens to wait for, who)

    def __len__(self) -> int:
        return len(self._waiting)

    def get(self, request_id: str) -> Request | None:
        return self._waiting.get(request_id)

    def add(self, request: Request, leader: Request, tokens: int) -> None:
        self._waiting[request.request_id] = request
        self._due.setdefault(leader.request_id, []).append((tokens, request))

    def discard(self, request_id: str) -> None:
        self._waiting.pop(request_id, None)

    def are_due(self, leader: Request) -> bool:
        return any(tokens <= leader.num_prefilled for tokens, _ in self._due.get(leader.request_id, ()))

    def release(self, leader: Request, position: int | None) -> list[Request]:
        """Take out those that waited for tokens up to ``position`` (None: for any), the first to arrive first."""
        followers = self._due.pop(leader.request_id, [])
        left = [entry for entry in followers if position is not None and entry[0] > position]
        if left:
            self._due[leader.request_id] = left
        ready = [request for tokens, request in followers if position is None or tokens <= position]
        return [request for request in ready if self._waiting.pop(request.request_id, None) is not None]


def leaders(request: Request, prefilling: Iterable[Request]) -> Iterator[tuple[Request, int]]:
    """Who is computing a prompt that begins as this one does, and how many tokens they share."""
    own = request.input_token_ids
    for leader in prefilling:
        theirs = leader.input_token_ids
        if leader.adapter != request.adapter:
            continue
        if leader.num_to_prefill > 0 and theirs[:MIN_SHARED] == own[:MIN_SHARED]:
            yield leader, common_prefix(own[:-1], theirs[:-1])
