"""Words that nobody has seen before: the text that has them is the one that is meant."""

from random import Random

from training.data.sample import Split
from training.data.text import (
    LIGHT,
    all_words,
    as_typed,
    loose_words,
    made_up,
    paragraph,
    phrase,
    sentence,
    statement,
    with_typo,
)  # fmt: skip
from training.pooling.data.group import Group


def name(rng: Random) -> str:
    return " ".join(made_up(rng).capitalize() for _ in range(rng.choice((1, 1, 1, 2))))


def code(rng: Random) -> str:
    letters = "".join(rng.choice("ABCDEFGHKLMNPRSTUVWXYZ") for _ in range(rng.randint(1, 3)))
    return f"{letters}{rng.choice('- _')}{rng.randint(10, 99999)}".replace("_", "")


def near(rng: Random, text: str) -> str:
    """Something that looks like it and is something else."""
    at = rng.randrange(len(text))
    if text[at].isdigit():
        return text[:at] + rng.choice([d for d in "0123456789" if d != text[at]]) + text[at + 1 :]
    return text[: max(1, at)] + made_up(rng)[:4]


def keywords(rng: Random, split: Split) -> Group:
    """Some words of a text, in any order, find it among texts that have some of them."""
    terms = [made_up(rng) if rng.random() < 0.6 else rng.choice(all_words()) for _ in range(rng.randint(2, 4))]
    light = sorted(LIGHT)

    def text(words: list[str]) -> str:
        parts = [*words, *(rng.choice(light if rng.random() < 0.5 else all_words()) for _ in range(rng.randint(1, 9)))]
        rng.shuffle(parts)
        return sentence(" ".join(parts)) + rng.choice((".", "", "!"))

    query = " ".join(rng.sample(terms, len(terms)))
    query = with_typo(rng, query) if rng.random() < 0.1 else query
    wrong = [rng.sample(terms, rng.randint(1, len(terms) - 1)) for _ in range(3)]
    texts = [text(terms), *(text([*words, made_up(rng)]) for words in wrong)]
    return Group(" ".join(sorted(terms)), query, texts[0], tuple(texts[1:]))


MENTION = (
    "{n} is on the list", "the number is {n}", "we spoke about {n} today", "see {n} for more", "{n}: open",
    "order {n} has been sent", "{n} was here", "the file is called {n}", "nobody knows {n}", "it says {n} on the box",
    "ticket {n} is closed", "a letter from {n}", "{n}",
)  # fmt: skip
ASK = (
    "{n}", "{n}", "where is {n}?", "what about {n}?", "find {n}", "status of {n}", "who is {n}?", "anything on {n}?",
    "do you have {n}", "search for {n}",
)  # fmt: skip


def mention(rng: Random, split: Split) -> Group:
    """A name or a number in a text; other texts have one that differs by a letter or a digit."""
    what = code(rng) if rng.random() < 0.5 else name(rng)
    others = [near(rng, what), near(rng, what), code(rng) if rng.random() < 0.5 else name(rng)]

    def text(thing: str) -> str:
        parts = [sentence(rng.choice(MENTION).format(n=thing)) + "."]
        parts += [statement(rng, split) + "." for _ in range(rng.choice((0, 0, 1, 2)))]
        rng.shuffle(parts)
        return " ".join(parts)

    query = as_typed(rng, rng.choice(ASK).format(n=what))
    return Group(what, query, text(what), tuple(text(one) for one in others if one.lower() != what.lower()))


def part(rng: Random, split: Split) -> Group:
    """A sentence out of a text, or a part of one, finds the text."""
    sentences = [statement(rng, split) if rng.random() < 0.7 else phrase(rng, split) for _ in range(rng.randint(2, 6))]
    chosen = rng.choice(sentences).split()
    begin = rng.randrange(max(1, len(chosen) - 3))
    query = " ".join(chosen[begin : begin + rng.randint(3, 9)])
    wrong = (
        f"{paragraph(rng, split, rng.randint(1, 4))} {sentence(loose_words(rng, split))}",
        paragraph(rng, split, len(sentences)),
    )
    return Group(" ".join(chosen), as_typed(rng, query), ". ".join(sentences) + ".", wrong)
