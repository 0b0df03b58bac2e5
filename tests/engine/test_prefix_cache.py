"""Scenarios of the prefix cache, with a fake store that keeps tokens in place of arrays: what a request resumes from
must be its own tokens, byte for byte, whatever was split, shared and evicted meanwhile."""

from __future__ import annotations

import random

import pytest

from quince.engine.batch import Drop, Restore, SaveSegment, SaveSnapshot, SplitSegment
from quince.engine.kv_layout import KVLayout
from quince.engine.prefix_cache import PrefixCache, common_prefix

FULL = KVLayout(token_bytes=10)
WINDOW = KVLayout(token_bytes=10, windows=((8, 20),))
HYBRID = KVLayout(token_bytes=10, state_bytes=300)
RECURRENT = KVLayout(state_bytes=300)
LAYOUTS = {"full": FULL, "window": WINDOW, "hybrid": HYBRID, "recurrent": RECURRENT}


class FakeStore:
    """Does what the runner would do; ``rows`` are the tokens that each request's row holds."""

    def __init__(self, layout: KVLayout, max_bytes: int) -> None:
        self.layout = layout
        self.cache = PrefixCache(layout, max_bytes=max_bytes, is_stored=lambda handle: handle in self.held)
        self.held: dict[int, tuple[int, ...]] = {}  # a segment's tokens, or all tokens before a snapshot
        self.snapshots: set[int] = set()
        self.rows: dict[str, list[int]] = {}
        self.saved_tokens = 0

    def apply(self) -> None:
        for operation in self.cache.take_operations():
            match operation:
                case SaveSegment(handle, request_id, start, stop):
                    assert start < stop <= len(self.rows[request_id])
                    self.held[handle] = tuple(self.rows[request_id][start:stop])
                    self.saved_tokens += stop - start
                case SaveSnapshot(handle, request_id):
                    self.held[handle] = tuple(self.rows[request_id])
                    self.snapshots.add(handle)
                case SplitSegment(handle, at, head):
                    tokens = self.held[handle]
                    assert 0 < at < len(tokens)
                    self.held[head], self.held[handle] = tokens[:at], tokens[at:]
                case Drop(handle):
                    del self.held[handle]
                    self.snapshots.discard(handle)
                case Restore(request_id, length, segments, snapshot):
                    tokens = [token for handle, count in segments for token in self.held[handle][:count]]
                    assert len(tokens) == length
                    if self.layout.needs_snapshots:
                        assert snapshot is not None and self.held[snapshot] == tuple(tokens)
                    self.rows[request_id] = tokens
        self.check()

    def check(self) -> None:
        size = sum(
            self.layout.snapshot_bytes(len(tokens))
            if handle in self.snapshots
            else self.layout.segment_bytes(len(tokens))
            for handle, tokens in self.held.items()
        )
        assert size == self.cache.nbytes <= self.cache.max_bytes

    def resume(self, name: str, prompt: list[int], *, limit: int | None = None) -> int:
        """A request begins. Returns how many tokens it found."""
        limit = len(prompt) - 1 if limit is None else limit
        match = self.cache.match(prompt, limit)
        self.rows[name] = []
        if match.length:
            self.cache.restore(match, name)
        self.apply()
        assert self.rows[name] == prompt[: match.length]
        assert match.length <= limit
        return match.length

    def compute(self, name: str, tokens: list[int]) -> int:
        """The request's row holds these tokens now, and is inserted."""
        self.rows[name] = list(tokens)
        kept = self.cache.insert(list(tokens), name)
        self.apply()
        return kept

    def hit(self, prompt: list[int]) -> int:
        return self.cache.match(prompt, len(prompt)).length


def words(seed: int, count: int) -> list[int]:
    rng = random.Random(seed)
    return [rng.randrange(1000) for _ in range(count)]


def test_common_prefix() -> None:
    for length in range(40):
        for at in range(length + 1):
            a = list(range(length))
            b = [*a[:at], -1, *a[at + 1 :]][:length]
            assert common_prefix(a, b) == min(at, length)


def test_an_empty_cache_and_one_that_is_off_match_nothing() -> None:
    store = FakeStore(FULL, 0)
    assert not store.cache.enabled
    assert store.compute("a", words(1, 50)) == 0
    assert store.hit(words(1, 50)) == 0
    assert store.held == {}


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_next_turn_resumes_behind_the_answer(name: str) -> None:
    store = FakeStore(LAYOUTS[name], 100_000)
    turn = words(1, 100)
    store.compute("a", turn)
    assert store.resume("b", turn + words(2, 20)) == 100


def test_a_cut_anywhere_where_layers_can_be_cut() -> None:
    store = FakeStore(FULL, 100_000)
    store.compute("a", words(1, 100))
    for length in (16, 17, 63, 99):
        assert store.resume("b", [*words(1, 100)[:length], -5, -6]) == length
    assert store.resume("b", words(1, 100)) == 99, "the last token is the first decode step's"


def test_a_few_tokens_in_common_are_not_worth_it() -> None:
    store = FakeStore(FULL, 100_000)
    store.compute("a", words(1, 100))
    assert store.resume("b", [*words(1, 100)[:15], -5]) == 0


@pytest.mark.parametrize("layout", [WINDOW, HYBRID, RECURRENT])
def test_other_layers_resume_from_the_last_snapshot_before_the_divergence(layout: KVLayout) -> None:
    store = FakeStore(layout, 100_000)
    tokens = words(1, 100)
    for stop in (30, 60, 100):
        store.compute("a", tokens[:stop])
    assert store.resume("b", tokens[:75] + words(2, 40)) == 60
    assert store.resume("c", tokens[:60] + words(3, 40)) == 60
    assert store.resume("d", tokens[:59] + words(3, 40)) == 30
    assert store.resume("e", tokens[:29] + words(3, 40)) == 0


def test_shared_prefixes_are_kept_once() -> None:
    store = FakeStore(FULL, 1_000_000)
    system = words(1, 400)
    for user in range(10):
        store.compute(f"u{user}", system + words(10 + user, 50))
    assert store.saved_tokens == 400 + 10 * 50
    assert store.cache.nbytes == 10 * (400 + 10 * 50)
    assert all(store.hit(system + words(10 + user, 50)) == 450 for user in range(10))


def test_keys_do_not_share() -> None:
    cache = PrefixCache(FULL, max_bytes=10_000)
    cache.insert(words(1, 50), "a", key="adapter")
    assert cache.match(words(1, 50), 50).length == 0
    assert cache.match(words(1, 50), 50, key="adapter").length == 50


def test_who_was_used_last_is_evicted_last() -> None:
    store = FakeStore(FULL, 3_000)
    for seed in (1, 2, 3):
        store.compute(f"{seed}", words(seed, 100))
    store.resume("again", words(1, 100))
    store.compute("4", words(4, 100))
    assert [store.hit(words(seed, 100)) for seed in (1, 2, 3, 4)] == [100, 0, 100, 100]


def test_side_requests_do_not_evict_the_session() -> None:
    store = FakeStore(FULL, 10_000)
    session = words(1, 500)
    store.compute("s", session)
    for turn in range(20):
        for side in range(3):
            store.compute("side", words(100 + 3 * turn + side, 100))
        assert store.resume("s", [*session, 1]) == len(session)
        session = session + words(1000 + turn, 10)
        store.compute("s", session)


def test_leaves_go_before_what_they_share() -> None:
    store = FakeStore(FULL, 2_000)
    system = words(1, 100)
    store.compute("a", system + words(2, 50))
    store.compute("b", system + words(3, 50))
    store.compute("c", words(4, 50))
    assert store.hit(system + words(2, 50)) == 100
    assert store.hit(system + words(3, 50)) == 150


def test_inner_snapshots_go_before_another_conversation() -> None:
    layout = KVLayout(token_bytes=1, state_bytes=1000)
    store = FakeStore(layout, 6_000)
    other, session = words(1, 50), words(2, 50)
    store.compute("other", other)
    store.resume("other", [*other, 1])
    for turn in range(8):
        session = session + words(10 + turn, 20)
        store.resume("s", session)
        store.compute("s", session)
        if turn % 2:
            store.resume("other", [*other, 1])
    assert store.hit(other) == 50
    assert store.hit(session) == len(session)


def test_what_is_pinned_stays() -> None:
    for layout in LAYOUTS.values():
        store = FakeStore(layout, 2_000)
        store.compute("a", words(1, 100))
        match = store.cache.match([*words(1, 100), 7], 100)
        store.cache.pin(match)
        for seed in range(2, 30):
            store.compute("other", words(seed, 60))
        assert store.cache.evict(10_000) >= 0
        store.apply()
        store.cache.restore(match, "b")
        store.apply()
        assert store.rows["b"] == words(1, 100)
        store.cache.unpin(match)
        store.cache.evict(10_000)
        store.apply()
        assert store.held == {}


def test_more_than_the_budget_is_cut_where_layers_can_be_cut() -> None:
    store = FakeStore(FULL, 1_000)
    assert store.compute("a", words(1, 300)) == 100
    assert store.hit(words(1, 300)) == 100


def test_more_than_the_budget_evicts_nothing_where_it_cannot_be_kept() -> None:
    store = FakeStore(HYBRID, 1_500)
    store.compute("a", words(1, 50))
    assert store.compute("b", words(2, 300)) == 0
    assert store.hit(words(1, 50)) == 50


def test_a_snapshot_that_is_gone_falls_back_to_an_older_one() -> None:
    store = FakeStore(HYBRID, 100_000)
    tokens = words(1, 100)
    store.compute("a", tokens[:40])
    store.compute("a", tokens)
    last = max(store.snapshots)
    del store.held[last]
    store.snapshots.discard(last)
    store.held[last] = ()  # what Drop will take away
    store.cache._is_stored = lambda handle: handle != last  # type: ignore[method-assign]
    match = store.cache.match([*tokens, 1], 100)
    assert match.length == 40
    store.cache.restore(match, "b")
    operations = store.cache.take_operations()
    assert Drop(last) in operations
    assert isinstance(operations[-1], Restore)


def test_a_segment_that_is_gone_takes_what_is_behind_it() -> None:
    store = FakeStore(FULL, 100_000)
    tokens = words(1, 100)
    store.compute("a", tokens[:40])
    store.compute("a", tokens)
    lost = max(store.held)
    store.cache._is_stored = lambda handle: handle != lost  # type: ignore[method-assign]
    assert store.hit(tokens) == 40
    store.apply()
    store.cache._is_stored = lambda handle: True  # type: ignore[method-assign]
    assert store.compute("a", tokens) == 100
    assert store.hit(tokens) == 100


def test_clear_forgets_everything() -> None:
    store = FakeStore(FULL, 10_000)
    store.compute("a", words(1, 100))
    store.cache.clear()
    store.held.clear()
    store.check()
    assert store.hit(words(1, 100)) == 0
    store.compute("a", words(1, 100))
    assert store.hit(words(1, 100)) == 100


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("seed", range(8))
def test_random_timelines_keep_the_invariants(name: str, seed: int) -> None:
    """Conversations that go on, branch and are edited, against a budget that holds a few of them."""
    rng = random.Random(seed)
    store = FakeStore(LAYOUTS[name], rng.choice([3_000, 10_000, 50_000]))
    conversations = [words(index, 40) for index in range(6)]
    pinned: list[tuple[object, list[int]]] = []
    hits = 0
    for step in range(400):
        index = rng.randrange(len(conversations))
        prompt = conversations[index] + words(1000 + step, rng.randrange(1, 30))
        found = store.resume("r", prompt)
        hits += found > 0
        for stop in sorted(rng.sample(range(found + 1, len(prompt) + 1), k=min(2, len(prompt) - found))):
            store.compute("r", prompt[:stop])
        if rng.random() < 0.2:
            conversations[index] = prompt[: rng.randrange(1, len(prompt))]  # edited
        elif len(prompt) < 300:
            conversations[index] = prompt
        else:
            conversations[index] = words(5000 + step, 40)
        if rng.random() < 0.1 and (match := store.cache.match(prompt, len(prompt))).length:
            store.cache.pin(match)
            pinned.append((match, prompt[: match.length]))
        if pinned and rng.random() < 0.2:
            match, tokens = pinned.pop(rng.randrange(len(pinned)))
            store.cache.restore(match, "p")  # type: ignore[arg-type]
            store.apply()
            assert store.rows["p"] == tokens
            store.cache.unpin(match)  # type: ignore[arg-type]
    assert hits > 20
    for match, _ in pinned:
        store.cache.unpin(match)  # type: ignore[arg-type]
    store.cache.evict_to(0)
    store.apply()
    assert store.held == {} and store.cache.nbytes == 0


def test_the_bookkeeping_of_evictions_stays_small() -> None:
    store = FakeStore(FULL, 100_000)
    store.compute("a", words(1, 100))
    for _ in range(5000):
        store.resume("b", words(1, 100))
    assert len(store.cache._oldest) < 200
