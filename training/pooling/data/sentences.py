"""Sentences that mean the same in other words, sentences that mean something else in the same words, and topics."""

from random import Random

from training.data.sample import Split
from training.data.text import all_words, as_typed, made_up, person, pick, sentence, word
from training.pooling.data.concepts import (
    Topic,
    Words,
    another,
    every_group,
    has_kept_pairs,
    pair,
    qualities,
    topics,
    verbs,
)  # fmt: skip
from training.pooling.data.group import Group

FRAMES = (
    "{p} will {a} {t}", "{p} wants to {a} {t}", "{p} is going to {a} {t}", "it is time for {p} to {a} {t}",
    "{p} likes to {a} {t}", "{p} has to {a} {t}", "what {p} does is {a} {t}", "{p} decided to {a} {t}",
    "they asked {p} to {a} {t}", "{p} can {a} {t}", "{p} tries to {a} {t}", "to {a} {t} is what {p} does",
    "{p}, who can {a} {t}", "we saw {p} {a} {t}", "let {p} {a} {t}", "{p} must {a} {t}", "how {p} came to {a} {t}",
    "I think that {p} should {a} {t}", "the plan is that {p} will {a} {t}", "{p}'s job is to {a} {t}",
    "~everyone hopes that {p} may {a} {t}", "~{p} was told to {a} {t}", "~{p} would rather {a} {t}",
    "~it is up to {p} to {a} {t}",
)  # fmt: skip
TIMES: tuple[Words, ...] = (
    ("in the morning", "before noon", "early in the day"), ("in the evening", "after sunset", "late in the day"),
    ("today", "this very day"), ("tomorrow", "on the next day"), ("last week", "seven days ago"),
    ("every day", "daily"), ("soon", "in a little while", "shortly"), ("often", "many times", "again and again"),
    ("alone", "without help", "on one's own"), ("with a friend", "together with a companion"),
)  # fmt: skip
THERE = (
    "{t} and {u}", "there is {t} beside {u}", "{p} with {t}", "{p} knows all about {b}", "{p} looked at {t} and {u}",
    "to {a} {t} one needs {u}", "{t}, {u} and {b}", "we talked about {b} and {t}", "first {a} {t}, then {c} {u}",
    "the story of {p} and {t}", "{p} and {q} talked about {b}", "where is {t}? Next to {u}", "how to {a} {t}",
    "{p} told {q} about {t}", "nothing but {t} and {b} all day", "why did {p} {a} {t}?",
    "~{p} cannot stop thinking of {b}",
    "~my neighbour is {p}, so I hear a lot about {t}", "~a few words on {b}, {t} and {u}",
)  # fmt: skip
ABOUT = (
    "{n}", "{n}", "{n}", "texts about {n}", "something on {n}", "what is there about {n}?", "topic: {n}", "{n} news",
    "I am interested in {n}", "tell me about {n}", "everything on {n}", "~anything that has to do with {n}",
    "~looking for {n}", "~a note on {n}",
)  # fmt: skip
IS = (
    "the {n} is {q}", "a {q} {n}", "{q} {n}", "this {n} looks {q}", "a {n} that is {q}", "what a {q} {n}",
    "how {q} the {n} is", "I saw a {q} {n}", "nobody has a {n} so {q}", "the {n} was {q} all along",
    "~they say that the {n} is {q}", "~such a {q} {n}", "~there stood a {n}, rather {q}",
)  # fmt: skip
DOES = (
    "we {v} the {n}", "{p} will {v} the {n}", "please {v} the {n}", "how to {v} a {n}", "{p} had to {v} the {n}",
    "to {v} the {n} is not easy", "who wants to {v} the {n}?", "{p} may {v} the {n} with {q}", "let us {v} the {n}",
    "~can you {v} the {n}?", "~{p} was about to {v} a {n}", "~it took a day to {v} the {n}",
)  # fmt: skip
MEANS = (
    "{w}", "{w}", "{w}", "the word {w}", "{w}, that is", "another word for {w}", "meaning of {w}",
    "what does {w} mean?",
    "something like {w}", "~a synonym of {w}", "~{w}, in other words",
)  # fmt: skip


def noun(rng: Random, split: Split) -> str:
    return made_up(rng) if rng.random() < 0.3 else word(rng, "nouns", split)


def said(rng: Random, text: str) -> str:
    ending = "" if text.endswith(("?", ".")) else rng.choice((".", ".", ""))
    return as_typed(rng, sentence(text) + ending)


def put(rng: Random, split: Split, frames: tuple[str, ...], **slots: str) -> str:
    return said(rng, pick(rng, frames, split, noise=0.1).format(**slots))


def paraphrase(rng: Random, split: Split) -> Group:
    """Who does what to what, and when: in other words, and with one of the four exchanged."""
    topic = rng.choice(topics())
    who, action, thing, when = map(rng.choice, (topic.people, topic.actions, topic.things, TIMES))
    pairs = [list(pair(rng, group, split)) for group in (who, action, thing, when)]
    if rng.random() < 0.3:
        pairs[0] = [person(rng, split)] * 2
    else:
        pairs[0] = [f"the {one}" for one in pairs[0]]
    if rng.random() < 0.5:
        pairs[3] = ["", ""]
    query, positive = (
        put(rng, split, FRAMES, p=p, a=a, t=f"the {t} {w}".strip()) for p, a, t, w in zip(*pairs, strict=True)
    )
    p, a, t, w = (one[0] for one in pairs)
    wrong = (
        (p, rng.choice(another(rng, topic.actions, action)), t, w),
        (p, a, rng.choice(another(rng, topic.things, thing)), w),
        (f"the {rng.choice(another(rng, topic.people, who))}", a, t, w),
        (p, a, t, rng.choice(another(rng, TIMES, when))) if w else (person(rng, split), a, t, w),
    )
    negatives = [put(rng, split, FRAMES, p=p, a=a, t=f"the {t} {w}".strip()) for p, a, t, w in rng.sample(wrong, 3)]
    key = f"{who[0]}/{pairs[0][0]}/{action[0]}/{thing[0]}"
    return Group(key, query, positive, tuple(negatives), wider=topic.names[0])


def synonym(rng: Random, split: Split) -> Group:
    row = rng.choice(every_group())
    if split == "eval":
        row = rng.choice([row for row in every_group() if any(map(has_kept_pairs, row))])
    group = rng.choice([one for one in row if len(one) > 1 and (split == "train" or has_kept_pairs(one))])
    one, other = pair(rng, group, split)
    negatives = [rng.choice(another(rng, row, group)) for _ in range(3)]
    query = as_typed(rng, pick(rng, MEANS, split, noise=0.1).format(w=one))
    plain = rng.random() < 0.6
    texts = [text if plain else put(rng, split, MEANS, w=text) for text in (other, *negatives)]
    return Group(group[0], query, texts[0], tuple(texts[1:]))


def quality(rng: Random, split: Split) -> Group:
    """The negatives are the opposite of the same thing, the same of another, and another quality."""
    number = rng.randrange(len(qualities()))
    group, opposite = qualities()[number], qualities()[number ^ 1]
    one, other = pair(rng, group, split)
    what = noun(rng, split)
    texts = [
        (other, what), (rng.choice(opposite), what), (rng.choice(another(rng, qualities(), group)), what),
        (other, noun(rng, split)),
    ]  # fmt: skip
    query = put(rng, split, IS, q=one, n=what)
    positive, *negatives = (put(rng, split, IS, q=q, n=n) for q, n in texts)
    return Group(f"{group[0]}/{what}", query, positive, tuple(negatives))


def deed(rng: Random, split: Split) -> Group:
    group = rng.choice(verbs())
    one, other = pair(rng, group, split)
    what, who, tool = noun(rng, split), person(rng, split), f"a {rng.choice(all_words())}"
    texts = [
        (other, what, who), (rng.choice(another(rng, verbs(), group)), what, who), (other, noun(rng, split), who),
        (rng.choice(another(rng, verbs(), group)), what, who),
    ]  # fmt: skip
    query = put(rng, split, DOES, v=one, n=what, p=who, q=tool)
    positive, *negatives = (put(rng, split, DOES, v=v, n=n, p=p, q=tool) for v, n, p in texts)
    return Group(f"{group[0]}/{what}", query, positive, tuple(negatives))


def scene(rng: Random, topic: Topic, split: Split) -> str:
    """One to three sentences of a topic, without its name."""
    sentences = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        (p, q), (a, c), (t, u) = (rng.sample(row, 2) for row in (topic.people, topic.actions, topic.things))
        words = {name: rng.choice(group) for name, group in zip("pqactu", (p, q, a, c, t, u), strict=True)}
        slots = {name: text if name in "ac" else f"the {text}" for name, text in words.items()}
        frames = THERE if rng.random() < 0.7 else FRAMES
        slots["b"] = rng.choice(rng.choice(topic.about))
        sentences.append(sentence(pick(rng, frames, split, noise=0.1).format(**slots)))
    return ". ".join(sentences) + rng.choice((".", ""))


def subject(rng: Random, split: Split) -> Group:
    """What a text is about, or what else is about the same."""
    topic = rng.choice(topics())
    others = rng.sample([one for one in topics() if one != topic], 3)
    if rng.random() < 0.75:
        query = as_typed(rng, pick(rng, ABOUT, split, noise=0.1).format(n=rng.choice(topic.names)))
    else:
        query = scene(rng, topic, split)
    return Group(topic.names[0], query, scene(rng, topic, split), tuple(scene(rng, one, split) for one in others))
