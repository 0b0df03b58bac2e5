"""Small talk, saying what one is told to say, greeting people by name, and keeping to a given role."""

from random import Random

from training.data.sample import Sample, Split, system, user
from training.data.text import (
    as_typed,
    invented,
    jumbled,
    load_toml,
    person,
    phrase,
    phrasings,
    pick,
    reworded,
    statement,
    with_typo,
    word_list,
)

SAY = (
    'Say "{t}".', "Say {t}", "Say: {t}", "Repeat after me: {t}", "Reply with exactly: {t}", 'Reply with "{t}".',
    "Please say {t}", 'Repeat: "{t}"', "Echo: {t}",
    "Reply with exactly this: {t}", "Answer only with: {t}", "Write exactly: {t}", 'Write "{t}".', "Just say {t}",
    "Output exactly: {t}", "Respond with exactly: {t}",
    'Respond with "{t}".', "Reply only with {t}", "Reply with the words: {t}", "Repeat this text: {t}",
    "Say the following: {t}", 'Type "{t}".',
    "Say this: {t}", "Please repeat this: {t}", 'Please say "{t}".', "repeat {t}", "Repeat {t}", "Echo {t}",
    "Answer with: {t}", "Now say {t}", "Can you say {t}?", 'Can you repeat "{t}"?', "Only say: {t}",
    "Return exactly: {t}", "Print: {t}", "Print {t}", "Write back: {t}", "Send back: {t}",
    "Answer with the text: {t}", "Please reply with {t}", "Repeat the following: {t}", "Echo this back: {t}",
    "I want you to say {t}", "Could you say {t}?", "Give back exactly: {t}", "Respond with: {t}", "Respond only: {t}",
    "Say exactly: {t}", "Say only {t}",
    '~Say this: "{t}"', "~Please repeat: {t}", "~Respond only with: {t}", '~Answer with exactly "{t}".',
    "~Echo back: {t}",
)  # fmt: skip
INTRODUCE = (
    "Hi, I am {n}", "Hello, my name is {n}.", "My name is {n}.", "I'm {n}", "Hi, I'm {n}!", "Call me {n}.",
    "Hey, {n} here.", "Hello! I am {n}.", "my name is {n}",
    "I am called {n}.", "You can call me {n}.", "Good morning, I am {n}.", "Hi! My name is {n}, nice to meet you.",
    "~Hi there, my name is {n}.", "~Hello, it's {n}.", "~Please call me {n}.",
)  # fmt: skip
ROLE = (
    "Your name is {n}.", "You are {n}, a helpful assistant.", "You are {n}.", "You are an assistant called {n}.",
    "You are {n}, an assistant of the company {c}.",
    "You are a friendly assistant named {n}. Keep answers short.", "~You are called {n}.",
    "~You are {n}, a friendly helper.",
)  # fmt: skip
ASK_NAME = (
    "What is your name?",
    "Who are you?",
    "What's your name?",
    "Tell me your name.",
    "How are you called?",
    "who are you",
    "~What are you called?",
    "~May I know your name?",
)
STARTERS = (
    "hello",
    "Hello",
    "this is a test",
    "This is a test!",
    "OK",
    "ok",
    "yes",
    "no",
    "hi",
    "pong",
    "done",
    "hello world",
    "Hello, world!",
    "test",
    "ready",
    "I am here",
    "cheese",
)


def small_talk(rng: Random, split: Split) -> Sample:
    entries = load_toml("chat.toml")["entry"]
    if split == "eval":
        entries = [entry for entry in entries if any(ask.startswith("~") for ask in entry["ask"])]
    entry = rng.choice(entries)
    question = rng.choice(phrasings(tuple(entry["ask"]), split))
    if split == "train" and rng.random() < 0.3:
        question = question.lower() if rng.random() < 0.4 else question.rstrip("?.!") + rng.choice(("", "?", ".", "!"))
    if split == "train" and len(question) > 12:
        question = reworded(rng, question) if rng.random() < 0.4 else question
        question = jumbled(rng, question) if rng.random() < 0.2 else question
        question = with_typo(rng, question) if rng.random() < 0.1 else question
    return Sample("small talk", [user(question)], entry["answer"], thought="This is small talk. I answer briefly.")


def text_to_say(rng: Random, split: Split) -> str:
    form = rng.random()
    if form < 0.25:
        return rng.choice(STARTERS)
    if form < 0.5:
        return phrase(rng, split)
    if form < 0.75:
        return statement(rng, split) + rng.choice(("", "", ".", "!"))
    if form < 0.85:
        return " ".join(invented(rng) for _ in range(rng.randint(1, 4)))
    if form < 0.93:
        return " ".join(rng.choice((*word_list("nouns"), *word_list("emoji"))) for _ in range(rng.randint(1, 6)))
    return "".join(rng.choice("ABCDEFGHKLMNPRSTUVWXYZ0123456789") for _ in range(rng.randint(3, 10)))


def say(rng: Random, split: Split) -> Sample:
    text = text_to_say(rng, split)
    return Sample(
        "echo", [user(pick(rng, SAY, split, 0.0).format(t=text))], text,
        thought=f"I only have to say: {text}")  # fmt: skip


def introduce(rng: Random, split: Split) -> Sample:
    name = person(rng, split)
    question = pick(rng, INTRODUCE, split).format(n=name)
    return Sample(
        "small talk",
        [user(question)],
        f"Hello {name}! How can I help you?",
        thought=f"The user is called {name}. I greet.",
    )


def role(rng: Random, split: Split) -> Sample:
    name = person(rng, split)
    messages = [
        system(pick(rng, ROLE, split).format(n=name, c=invented(rng))),
        user(as_typed(rng, pick(rng, ASK_NAME, split))),
    ]
    return Sample("small talk", messages, f"I am {name}.", thought=f"I was given the name {name}.", system_free=False)


def generate(rng: Random, split: Split) -> Sample:
    form = rng.random()
    if form < 0.75:
        return small_talk(rng, split)
    return (introduce if form < 0.88 else role)(rng, split)
