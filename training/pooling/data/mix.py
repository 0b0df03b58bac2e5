"""The skills and how often each is taught."""

from dataclasses import replace
from random import Random

from training.data.sample import Split
from training.data.text import paragraph
from training.pooling.data import entities, known, lexical, manuals, sentences
from training.pooling.data.group import Group, Skill


def surrounded(rng: Random, text: str, split: Split) -> str:
    """The text somewhere in a long one of other things."""
    before = rng.randint(0, 20)
    return f"{paragraph(rng, split, before)} {text} {paragraph(rng, split, rng.randint(5, 25 - before))}".strip()


def long_passage(rng: Random, split: Split) -> Group:
    made = SKILLS[rng.choice(("entity", "device", "handbook", "mention"))][1](rng, split)
    positive, *negatives = (surrounded(rng, text, split) for text in (made.positive, *made.negatives))
    return replace(made, positive=positive, negatives=tuple(negatives))


SKILLS: dict[str, tuple[float, Skill]] = {
    "paraphrase": (14, sentences.paraphrase),
    "synonym": (9, sentences.synonym),
    "quality": (7, sentences.quality),
    "deed": (7, sentences.deed),
    "subject": (9, sentences.subject),
    "entity": (18, entities.entity),
    "device": (12, manuals.device),
    "unseen section": (0, manuals.unseen),
    "dish": (6, manuals.dish),
    "handbook": (5, known.handbook),
    "fact": (1, known.fact),
    "capital": (3, known.capital),
    "page": (2, known.page),
    "keywords": (6, lexical.keywords),
    "mention": (6, lexical.mention),
    "part": (5, lexical.part),
    "long passage": (2, long_passage),
}
NAMES = tuple(SKILLS)


def draw(rng: Random, split: Split, skill: str | None = None) -> tuple[str, Group]:
    """The skill's name and what it made; by weight if no skill is named."""
    if skill is None:
        skill = rng.choices(NAMES, [weight for weight, _ in SKILLS.values()])[0]
    return skill, SKILLS[skill][1](rng, split)
