"""What the chat model is taught, as questions with answers, and the pages that document Quince."""

import re
from functools import cache
from pathlib import Path
from random import Random

from training.data import manual
from training.data.capitals import ASK, countries
from training.data.sample import Split
from training.data.text import as_typed, held_out, jumbled, load_toml, pick, reworded, sentence, with_typo
from training.pooling.data.group import Group

PAGES = Path(__file__).parents[3] / "docs"
LONGEST = 1500  # characters


def typed(rng: Random, question: str, split: Split) -> str:
    if split == "train":
        question = reworded(rng, question) if rng.random() < 0.5 else question
        question = jumbled(rng, question) if rng.random() < 0.2 else question
        question = with_typo(rng, question) if rng.random() < 0.1 else question
    return as_typed(rng, sentence(question))


def handbook(rng: Random, split: Split) -> Group:
    entries = load_toml("manual.toml")["entry"]
    entry, *others = rng.sample(entries, 4)
    query = typed(rng, manual.question_of(rng, entry, split), split)
    negatives = tuple(other["answer"].strip() for other in others)
    return Group(entry["answer"], query, entry["answer"].strip(), negatives)


@cache
def _facts() -> tuple[tuple[tuple[str, ...], str], ...]:
    """Those whose answer says what it is about."""
    facts = [(tuple(one["ask"]), one["answer"]) for one in load_toml("facts.toml")["fact"]]
    return tuple((ask, answer) for ask, answer in facts if not answer.startswith(("It ", "They ", "Yes", "No")))


def fact(rng: Random, split: Split) -> Group:
    (ask, answer), *others = rng.sample(_facts(), 4)
    return Group(answer, typed(rng, pick(rng, ask, split), split), answer, tuple(text for _, text in others))


SAY = (
    "The capital of {c} is {v}.", "{v} is the capital of {c}.", "{c} is governed from {v}.", "{v} lies in {c}.",
    "The government of {c} has its seat in {v}.", "{c}'s capital city is {v}.", "~In {c} the capital is called {v}.",
)  # fmt: skip


def capital(rng: Random, split: Split) -> Group:
    """The texts name country and capital; or the capital alone, which then has to be known."""
    one, *others = rng.sample(countries(), 4)
    query = typed(rng, pick(rng, ASK, split).format(c=rng.choice(one.aliases)), split)
    alone = rng.random() < 0.3

    def text(name: str, capital: str) -> str:
        return capital if alone else sentence(pick(rng, SAY, split, noise=0.05).format(c=name, v=capital))

    negatives = tuple(text(other.name, other.capital) for other in others)
    return Group(one.name, query, text(one.name, one.capital), negatives)


@cache
def paragraphs(split: Split) -> tuple[tuple[str, str], ...]:
    """A page's headings with what stands under them, in pieces that are not too long."""
    found = []
    for page in sorted(PAGES.glob("*.md")):
        title = ""
        for block in re.split(r"\n\s*\n", page.read_text(encoding="utf-8")):
            if block.startswith("#"):
                title = block.splitlines()[0].lstrip("# ")
                block = "\n".join(block.splitlines()[1:])
            plain = re.sub(r"\s+", " ", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", block)).strip()
            if len(plain) > 80 and "```" not in block and held_out(plain[:60], 6) == (split == "eval"):
                found.append((title, plain[:LONGEST]))
    return tuple(found)


def page(rng: Random, split: Split) -> Group:
    """A few words, or the heading, find the paragraph."""
    (title, text), *others = rng.sample(paragraphs(split), 4)
    parts = text.split()
    if rng.random() < 0.3:
        kept = text
        query = f"{title} {' '.join(rng.sample(parts, 2))}"
    else:
        begin = rng.randrange(max(1, len(parts) - 6))
        query = " ".join(parts[begin : begin + rng.randint(3, 10)])
        kept = text.replace(query, "") if rng.random() < 0.2 else text
    return Group(text[:60], as_typed(rng, query), kept, tuple(other for _, other in others))
