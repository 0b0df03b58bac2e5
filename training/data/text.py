"""Word lists, held-out words and phrasings, and small changes that people make when they type."""

import json
import tomllib
import zlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from training.data.sample import Split

HERE = Path(__file__).parent
TOKENIZER = HERE.parent.parent / "quince" / "models" / "demo" / "quince-demo" / "tokenizer.json"
T = TypeVar("T")


def held_out(key: str, one_in: int = 8) -> bool:
    """A stable coin per key: true for the share that training never sees."""
    return zlib.crc32(key.encode()) % one_in == 0


@cache
def load_toml(name: str) -> dict[str, Any]:
    return tomllib.loads((HERE / name).read_text(encoding="utf-8"))


@cache
def word_list(name: str) -> tuple[str, ...]:
    section: Any = load_toml("words.toml")
    for part in name.split("."):
        section = section[part]
    text = str(section).strip()
    if "|" in text:
        return tuple(word.strip() for line in text.splitlines() for word in line.split("|") if word.strip())
    return tuple(text.split())


@cache
def words(name: str, split: Split) -> tuple[str, ...]:
    """A list's words for a split; the evaluation sees only those that training does not."""
    return tuple(word for word in word_list(name) if held_out(word) == (split == "eval"))


@cache
def phrasings(phrases: tuple[str, ...], split: Split) -> tuple[str, ...]:
    """Entries marked "~" are asked in evaluation only, the others in training only."""
    wanted = tuple(p.removeprefix("~") for p in phrases if p.startswith("~") == (split == "eval"))
    return wanted or tuple(p.removeprefix("~") for p in phrases)


def pick(rng: Random, phrases: tuple[str, ...], split: Split, noise: float = 0.25) -> str:
    """A phrasing; in training some are disturbed, so that a word never seen before does not throw the model off."""
    text = rng.choice(phrasings(phrases, split))
    return jumbled(rng, text) if split == "train" and rng.random() < noise else text


@cache
def all_words() -> tuple[str, ...]:
    names = ("first_names", "last_names", "verbs", "nouns", "adjectives", "foods", "animals", "pet_names", "colours")
    return tuple(w for name in names for w in words(name, "train"))


@cache
def pieces() -> tuple[str, ...]:
    """The tokeniser's own tokens that are letters; none while the tokeniser is still to be trained."""
    path = TOKENIZER
    if not path.exists():
        return ()
    vocabulary = json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"]
    letters = {token.lstrip("Ġ_\"./-('`") for token in vocabulary}
    return tuple(sorted(token for token in letters if token.isascii() and token.isalpha() and len(token) > 1))


def foreign(rng: Random) -> str:
    """Letters far from ASCII, so that every byte is copied now and then."""
    low, high = rng.choice(
        ((0xC0, 0x17F), (0xC0, 0x17F), (0x3B1, 0x3C9), (0x430, 0x44F), (0x3042, 0x3093), (0x4E00, 0x9FA5), (0x1F600,
        0x1F64F), (0x5D0, 0x5EA), (0x627, 0x64A), (0xAC00, 0xD7A3)))  # fmt: skip
    text = "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(1, 4)))
    return f"{text}{rng.choice(all_words())[-3:]}" if low < 0x200 and rng.random() < 0.7 else text


def made_up(rng: Random) -> str:
    """A word of no list, in lower case: training on them makes copying a skill instead of a vocabulary.

    Many are tokens of the tokeniser, so that each of them, however rare, is copied often enough."""
    form = rng.random()
    if form < 0.5 and pieces():
        front = rng.choice(("", "", rng.choice("abcdefghijklmnoprstuvwz"), rng.choice(pieces())))
        return front + rng.choice(pieces())
    form = rng.random()
    if form < 0.40:
        front, back = rng.choice(all_words()), rng.choice(all_words())
        text = front[: rng.randint(2, 5)] + back[-rng.randint(2, 5) :]
    elif form < 0.65:
        text = invented(rng)
    elif form < 0.85:
        text = "".join(rng.choice("bcdfghjklmnpqrstvwxyz" if i % 2 else "aeiou") for i in range(rng.randint(3, 8)))
    elif form < 0.92:
        text = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(2, 7)))
    else:
        text = foreign(rng)
    return text.lower()


def word(rng: Random, name: str, split: Split) -> str:
    """A word of a list, or in training often one that is made up (with a capital where the list has them)."""
    if split == "train" and rng.random() < 0.35:
        text = made_up(rng)
        return text.capitalize() if words(name, split)[0][0].isupper() else text
    return rng.choice(words(name, split))


OPEN_LISTS = ("nouns", "verbs", "adjectives", "foods", "animals", "first_names", "cities", "colours")
LIGHT = frozenset(
    ["what", "what's", "is", "the", "a", "an", "of", "me", "tell", "can", "you", "please", "do", "know", "which",
    "it", "i", "for", "could", "would", "give", "that", "are", "there", "how", "does", "name", "my", "need", "say",
    "so", "now", "and", "at"]
)  # fmt: skip


def jumbled(rng: Random, text: str) -> str:
    """Put in a word, or drop or replace a light one. Slots and words that carry the meaning stay."""
    parts = text.split(" ")
    for _ in range(rng.choice((1, 1, 2))):
        at = rng.randrange(len(parts))
        light = parts[at].lower().strip("?.,") in LIGHT and "{" not in parts[at]
        form = rng.random()
        if light and form < 0.3 and len(parts) > 3:
            del parts[at]
        elif light and form < 0.75:
            parts[at] = made_up(rng) if rng.random() < 0.6 else rng.choice(sorted(LIGHT))
        elif form < 0.9 and "\n" not in text:
            parts.insert(at, made_up(rng) if rng.random() < 0.6 else rng.choice(sorted(LIGHT)))
    return " ".join(parts)


@cache
def synonym_groups() -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(group) for group in load_toml("synonyms.toml")["groups"])


def reworded(rng: Random, text: str) -> str:
    """Some words exchanged for others of like meaning."""
    for group in rng.sample(synonym_groups(), len(synonym_groups())):
        for old in group:
            padded = f" {text} "
            if f" {old} " in padded and rng.random() < 0.4:
                text = padded.replace(f" {old} ", f" {rng.choice(group)} ", 1)[1:-1]
                break
    return text


def some(rng: Random, items: Sequence[T], low: int, high: int) -> list[T]:
    return rng.sample(items, rng.randint(low, high))


def invented(rng: Random, low: int = 2, high: int = 4) -> str:
    """A word that does not exist: copying it cannot be learnt by heart."""
    return "".join(rng.choice(word_list("syllables")) for _ in range(rng.randint(low, high))).capitalize()


def person(rng: Random, split: Split) -> str:
    if rng.random() < 0.15:
        return invented(rng)
    return word(rng, "first_names", split)


def full_name(rng: Random, split: Split) -> str:
    return f"{person(rng, split)} {word(rng, 'last_names', split)}"


def city(rng: Random, split: Split) -> str:
    if rng.random() < 0.15:
        return invented(rng)
    if split == "train" and rng.random() < 0.08:
        return rng.choice(
            ("San {w}", "New {w}", "{w} City", "Port {w}", "Los {w}", "{w} am {w}",
            "Saint {w}")).format(w=made_up(rng).capitalize())  # fmt: skip
    return word(rng, "cities", split)


def joined(items: Sequence[str], last: str = "and") -> str:
    """a, b and c"""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def loose_words(rng: Random, split: Split) -> str:
    """Words in a row, as people type searches and notes: to be copied, whatever they are."""
    light = sorted(LIGHT)
    row = [
        rng.choice(light) if rng.random() < 0.4 else word(rng, rng.choice(OPEN_LISTS),
        split) for _ in range(rng.randint(1, 7))]  # fmt: skip
    return " ".join(row) + rng.choice(("", "", "", f" in {city(rng, split)}", f" {rng.randint(1, 2030)}", "?", "!"))


def phrase(rng: Random, split: Split) -> str:
    """A few words that mean little: the subject of a message, a title, a search."""
    if rng.random() < 0.4:
        return loose_words(rng, split)
    form = rng.randrange(5)
    noun = word(rng, "nouns", split)
    if form == 0:
        return f"{word(rng, 'adjectives', split)} {noun}"
    if form == 1:
        return f"{noun} {word(rng, 'nouns', split)}"
    if form == 2:
        return f"the {word(rng, 'adjectives', split)} {noun} of {city(rng, split)}"
    if form == 3:
        return f"{word(rng, 'verbs', split)} the {noun}"
    return f"{noun}s and {word(rng, 'foods', split)}"


def statement(rng: Random, split: Split) -> str:
    """A short sentence that states something harmless."""
    if rng.random() < 0.25:
        return sentence(loose_words(rng, split).rstrip("?!"))
    noun, other = word(rng, "nouns", split), word(rng, "nouns", split)
    adjective = word(rng, "adjectives", split)
    return rng.choice(
        (
            f"The {noun} is {adjective}",
            f"{person(rng, split)} has a {adjective} {noun}",
            f"The {adjective} {noun} stands next to the {other}",
            f"I will {word(rng, 'verbs', split)} the {noun} at {rng.randint(1, 12)}",
            f"{person(rng, split)} likes {word(rng, 'foods', split)} and {word(rng, 'foods', split)}",
            f"We meet {person(rng, split)} in {city(rng, split)}",
            f"Every {noun} in {city(rng, split)} is {adjective}",
            f"There are {rng.randint(2, 99)} {noun}s in the {other}",
        )
    )


def paragraph(rng: Random, split: Split, sentences: int) -> str:
    return " ".join(statement(rng, split) + "." for _ in range(sentences))


OPENINGS = (
    "Hi, ", "Hello, ", "Hey, ", "Please tell me: ", "Quick question: ", "ok, ", "So, ", "And ", "Thanks. ", "Well, ",
    "Now, ", "One more question: ", "My question is: ", "I have a question. ",
    "Hello! ", "Hi there! ", "Can you help me? ", "I wonder: ", "Say, ", "Also, ", "Good. ", "Right, ",
    "Could you help? ", "Excuse me, ", "Tell me, ", "Do you know: ",
)  # fmt: skip
ENDINGS = (
    " Thanks!", " thanks", " Please.", " 😊", " 🙏", " Thank you.", " please", " Tell me.", " I can't find it.",
    " I forgot.", " Do you know?", " Be brief.", " I am new here.")  # fmt: skip


def as_typed(rng: Random, text: str, *, keep_case: bool = False) -> str:
    """The question as a hurried person types it. Values that an answer copies need keep_case."""
    roll = rng.random()
    if roll < 0.10 and text.endswith(("?", ".")):
        text = text[:-1]
    elif roll < 0.14 and text.endswith("?"):
        text = text[:-1].rstrip() + rng.choice((" ?", "??", "?!"))
    if rng.random() < 0.15:
        text = text[:1].lower() + text[1:] if keep_case else text.lower()
    elif not keep_case and rng.random() < 0.01:
        text = text.upper()
    roll = rng.random()
    if roll < 0.04:
        greeting = rng.choice(
            ("Hi, ", "Hello, ", "Hey, ", "Please tell me: ", "Quick question: ", "ok, ", "So, ", "And ", "Thanks. ")
        )
        text = greeting + text
    elif roll < 0.07:
        text += rng.choice((" Thanks!", " thanks", " Please.", " 😊", " 🙏", " Thank you."))
    return text


def with_typo(rng: Random, text: str) -> str:
    """One slip of the finger in a longer word."""
    places = [
        i for i in range(1, len(text) - 2) if text[i].isalpha() and text[i + 1].isalpha() and text[i - 1].isalpha()
    ]
    if not places:
        return text
    at = rng.choice(places)
    form = rng.randrange(3)
    if form == 0:
        return text[:at] + text[at + 1 :]
    if form == 1:
        return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
    return text[:at] + text[at] + text[at:]
