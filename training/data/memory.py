"""Remembering: something told earlier is asked for after other turns, sometimes thousands of tokens later."""

from collections.abc import Callable
from random import Random

from training.data import arithmetic, capitals, everyday, manual, talk
from training.data.sample import Message, Sample, Split, assistant, user
from training.data.text import city, invented, paragraph, person, pick, sentence, word

Draw = Callable[[Random, Split], str]

# what: how it is drawn, how it is told, the reply when it is told, how it is asked, the answer
TOPICS: dict[str, tuple[Draw, tuple[str, ...], str, tuple[str, ...], str]] = {
    "name": (person, talk.INTRODUCE, "Hello {v}! How can I help you?",
             ("What is my name?", "Do you remember my name?", "What's my name?", "Who am I?", "Tell me my name.",
             "Do you know my name?", "what am I called?", "Can you tell me my name?", "Say my name.",
             "Do you still know my name?", "Can you recall my name?", "What name did I tell you?",
             "What did I say I am called?", "~What did I say my name was?", "~Do you recall my name?",
             "~How am I called?"),
             "Your name is {v}."),
    "colour": (lambda r, s: word(r, "colours", s), ("My favourite colour is {v}.", "My favorite color is {v}.",
    "I like {v} best of all colours.", "The colour I like best is {v}.", "I love the colour {v}.",
    "{v} is the colour that I like best.", "My most loved colour is {v}.", "~{v} is my favourite colour."),
    "I will remember: {v}.",
               ("What is my favourite colour?", "Which colour do I like best?", "What's my favorite color?",
               "Do you remember my favourite colour?", "Which colour do I like?",
               "Do you recall which colour I like?", "My favourite colour is what?", "Name my favourite colour.",
               "What colour do I like the best?", "~Tell me my favourite colour.", "~What color do I like the most?"),
               "Your favourite colour is {v}."),
    "pet": (lambda r, s: word(r, "pet_names", s), ("My dog is called {v}.", "My cat is called {v}.",
    "I have a dog named {v}.", "I have a cat named {v}.", "My pet's name is {v}.", "My dog's name is {v}.",
    "The name of my cat is {v}.", "My pet is called {v}.", "I own a cat with the name {v}.", "We call our dog {v}.",
    "~I have a pet called {v}."), "I will remember: {v}.",
            ("What is my pet called?", "What is my pet's name?", "What's the name of my pet?",
            "Do you remember my pet's name?", "How is my pet called?", "What did I say my pet is called?",
            "Say the name of my pet.", "My pet has which name?", "What name has my cat?", "What is my dog called?",
            "What is my cat's name?", "~Tell me the name of my pet.", "~What did I call my pet?"),
            "Your pet is called {v}."),
    "city": (city, ("I live in {v}.", "I am from {v}.", "I come from {v}.", "My home is {v}.", "I'm living in {v}.",
    "I moved to {v}.", "My town is {v}.", "My home is in {v}.", "{v} is my home.", "I'm from {v}.",
    "~My home town is {v}."), "I will remember: {v}.",
             ("Where do I live?", "Which city do I live in?", "Where am I from?", "Do you remember where I live?",
             "What city am I from?", "Say where I live.", "In which town do I live?", "Where is my home?",
             "Which city am I from?", "~Tell me where I live.", "~In which city do I live?"),
             "You live in {v}."),
    "job": (lambda r, s: word(r, "jobs", s), ("I work as a {v}.", "I am a {v}.", "My job is {v}.",
    "I'm a {v} by profession.", "I make my living as a {v}.", "My profession is {v}.", "I earn money as a {v}.",
    "~I earn my living as a {v}."), "I will remember: {v}.",
            ("What is my job?", "What do I do for a living?", "What do I work as?", "Do you remember my job?",
            "What's my profession?", "Name my job.", "What is my profession?", "Say what my job is.",
            "~Tell me my job."),
            "You work as a {v}."),
    "food": (lambda r, s: word(r, "foods", s), ("My favourite food is {v}.", "My favorite food is {v}.",
    "I like {v} more than any other food.", "The food I like best is {v}.", "I like to eat {v} most of all.",
    "Most of all I like {v} for dinner.", "What I eat most gladly is {v}.", "I love to eat {v}.",
    "~What I like to eat most is {v}."), "I will remember: {v}.",
             ("What is my favourite food?", "Which food do I like best?", "What's my favorite food?",
             "Do you remember my favourite food?", "Name my favourite food.", "What do I like to eat?",
             "Say my favourite food.", "Which food do I like?", "~Tell me my favourite food."),
             "Your favourite food is {v}."),
    "code": (lambda r, s: r.choice((invented(r), str(r.randint(10, 99999)), f"{invented(r)}-{r.randint(10, 999)}")),
    ("The code word is {v}.", "Remember the code word {v}.", "The secret word is {v}.",
    "The code is {v}. Remember it.", "Please remember this code: {v}.", "Keep this code word in mind: {v}.",
    "Keep in mind that the code is {v}.", "Bear in mind the code {v}.", "Note the code word {v}.",
    "~Keep the code word {v} in mind."), "I will remember: {v}.",
             ("What is the code word?", "What was the code?", "Tell me the code word.",
             "Do you remember the code word?", "What is the secret word?", "Which code did I give you?",
             "Repeat the code word.", "What did I say the code word was?", "Which code word did you keep?",
             "~Can you repeat the code word?", "~What code word did I tell you?"),
             "The code word is {v}."),
    "number": (lambda r, s: str(r.randint(2, 999)), ("My lucky number is {v}.", "Remember the number {v}.",
    "The number is {v}.", "Please remember the number {v}.", "Keep this number in mind: {v}.", "Note the number {v}.",
    "Keep in mind that the number is {v}.", "~Keep the number {v} in mind."), "I will remember: {v}.",
               ("What is my number?", "What number did I tell you?", "Which number did I give you?",
               "What was the number?", "What is my lucky number?", "Can you recall my number?", "Repeat the number.",
               "Do you remember the number?", "Say the number.", "~Do you recall the number?"),
               "The number is {v}."),
}  # fmt: skip
NOT_TOLD = {
    "name": "You have not told me your name.", "colour": "You have not told me your favourite colour.",
    "pet": "You have not told me about a pet.", "city": "You have not told me where you live.",
    "job": "You have not told me your job.", "food": "You have not told me your favourite food.",
    "code": "You have not told me a code word.", "number": "You have not told me a number.",
}  # fmt: skip
FILLERS = (
    capitals.generate,
    arithmetic.generate,
    everyday.colours,
    everyday.days,
    everyday.facts,
    manual.generate,
    talk.small_talk,
    talk.say,
)
NOTES = ("Read this text: {x}", "Here is a note. {x}", "{x}", "Keep this in mind: {x}", "Please read: {x}")


def told(rng: Random, split: Split, topic: str) -> tuple[list[Message], str]:
    draw, tell, reply, _, _ = TOPICS[topic]
    value = draw(rng, split)
    statement = sentence(pick(rng, tell, split).format(v=value, n=value))
    return [user(statement), assistant(reply.format(v=value))], value


def filler(rng: Random, split: Split) -> list[Message]:
    sample = rng.choice(FILLERS)(rng, split)
    return [*sample.messages, assistant(sample.answer)]


def long_note(rng: Random, split: Split, sentences: int) -> list[Message]:
    text = rng.choice(NOTES).format(x=paragraph(rng, split, sentences))
    return [user(text), assistant("I have read it.")]


def conversation(rng: Random, split: Split, turns: int, note: int = 0) -> Sample:
    """Some facts are told, `turns` other turns go by, then one fact, or one that was never told, is asked for."""
    topics = rng.sample(sorted(TOPICS), rng.choice((1, 1, 2, 3)))
    values: dict[str, str] = {}
    parts: list[list[Message]] = []
    for topic in topics:
        messages, values[topic] = told(rng, split, topic)
        parts.append(messages)
    for _ in range(turns):
        parts.insert(rng.randint(1, len(parts)), filler(rng, split))
    if note:
        parts.insert(rng.randint(0, len(parts)), long_note(rng, split, note))
    topic = rng.choice(topics) if rng.random() < 0.9 else rng.choice(sorted(TOPICS))
    _, _, _, ask, reply = TOPICS[topic]
    known = topic in values
    answer = reply.format(v=values[topic]) if known else NOT_TOLD[topic]
    messages = [message for part in parts for message in part] + [user(pick(rng, ask, split))]
    if rng.random() < 0.08 and known and not turns:
        value = values[topic]
        statement = pick(rng, TOPICS[topic][1], split).format(v=value, n=value)
        messages = [user(f"{statement} {pick(rng, ask, split)}")]
    return Sample(
        "memory", messages, answer, thought="The user told me earlier." if known else "The user did not tell me."
    )


def generate(rng: Random, split: Split) -> Sample:
    if rng.random() < 0.12:
        (statement, reply), _ = told(rng, split, rng.choice(sorted(TOPICS)))
        return Sample("memory", [statement], str(reply["content"]), thought="The user tells me something to remember.")
    return conversation(rng, split, rng.choice((0, 1, 1, 2, 2, 3, 4, 5, 6)))


def long_context(rng: Random, split: Split) -> Sample:
    """The same over hundreds to thousands of tokens; the longest fill most of the context."""
    size = rng.choice((20, 40, 80, 160, 320, 450))
    form = rng.random()
    if form < 0.55:
        sample = conversation(rng, split, rng.randint(0, 4), note=rng.randint(size // 2, size))
    elif form < 0.8:
        sample = conversation(rng, split, rng.randint(6, max(8, size // 4)))
    else:
        question = rng.choice(FILLERS[:6])(rng, split)
        before = paragraph(rng, split, rng.randint(size // 2, size))
        sample = Sample(
            "long",
            [*long_note(rng, split, 3), user(before + "\n\n" + question.messages[0]["content"])],
            question.answer,
            thought=question.thought,
        )
    return Sample("long context", sample.messages, sample.answer, thought=sample.thought)
