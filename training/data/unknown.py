"""What the model does not know, and says so: invented countries, people, live figures, code, translations."""

from random import Random

from training.data.capitals import ASK as CAPITAL_ASK
from training.data.sample import Sample, Split, user
from training.data.text import as_typed, city, full_name, invented, paragraph, person, phrase, pick, word, words

UNKNOWN = "I do not know that. I am only a small demo model; `quince pull` installs a real one."
LIVE = "I cannot look that up: I have no tool for it in this chat."
CODE = "I cannot write programs: I am only a small demo model; `quince pull` installs a real one."
TRANSLATE = "I cannot translate: I am only a small demo model; `quince pull` installs a real one."
WRITE = "I cannot write longer texts: I am only a small demo model; `quince pull` installs a real one."
SUMMARISE = "I cannot summarise texts: I am only a small demo model; `quince pull` installs a real one."

WHO = (
    "Who is {p}?", "Who was {p}?", "Tell me about {p}.", "When was {p} born?", "What did {p} do?", "Do you know {p}?",
    "How old is {p}?", "Where was {p} born?", "What is {p} known for?", "who's {p}",
       "Why is {p} famous?", "When did {p} die?", "Have you ever heard about {p}?", "Can you tell me who {p} is?",
       "What do you know of {p}?", "~What can you tell me about {p}?", "~Have you heard of {p}?")  # fmt: skip
TOPIC = (
    "What is {t}?", "Explain {t}.", "Tell me about {t}.", "How does {t} work?", "Explain {t} to a child.",
    "Explain {t} in simple terms.", "Why is {t} important?", "What do you know about {t}?",
         "Give me an overview of {t}.", "What are the basics of {t}?", "What causes {t}?", "Who invented {t}?",
         "Describe {t}.", "Teach me {t}.", "What is meant by {t}?", "Could you explain {t}?",
         "Tell me what {t} means.", "I want to learn about {t}.", "Give me an introduction to {t}.",
         "~Can you explain {t} to me?", "~Teach me about {t}.", "~What does {t} mean?")  # fmt: skip
WORK = (
    "Who wrote {w}?",
    "When was {w} made?",
    "What is {w} about?",
    "Who made {w}?",
    "Summarise {w}.",
    "Who is the main character of {w}?",
    "Is {w} good?",
    "When did {w} come out?",
    "Who is the maker of {w}?",
    "Name the author of {w}.",
    "~Who is the author of {w}?",
)
PLACE = (
    "How high is {x}?",
    "Where is {x}?",
    "How old is {x}?",
    "How far away is {x}?",
    "How big is {x}?",
    "How long is {x}?",
    "Who built {x}?",
    "When was {x} built?",
    "How can I get to {x}?",
    "How do I travel to {x}?",
    "Tell me about {x}.",
    "~How do I get to {x}?",
)
ODD = (
    "Who won the {n} championship in {y}?", "What is the best {n}?", "How many {n}s are there in {c}?",
    "Who invented the {n}?", "What happened in {y}?", "What is the population of {c}?",
       "How much does a {n} cost?", "What is the history of the {n}?", "Which {n} should I buy?",
       "How do I repair a {n}?", "What should I eat in {c}?", "Recommend a {n}.", "How do I cook {f}?",
       "Give me a recipe for {f}.", "What are good restaurants in {c}?", "Who is the mayor of {c}?",
       "How tall is {p}?", "Why do {a}s sleep?", "How fast is a {a}?", "What do {a}s eat?",
       "What is the square root of {y}?", "What is the meaning of life?", "Who is the president?", "Is there a god?",
       "What should I wear today?", "Give me advice on {n}s.", "How long does a {a} live?",
       "Who won the World Cup in {y}?", "Why is the sky blue?", "How do planes fly?",
       "What language do they speak in {c}?", "Who was the first to discover the {n}?", "How much does a {a} weigh?",
       "How heavy is the {n}?", "What is a good way to clean the {n}?", "What is the best {n} for a {a}?",
       "Who found the {n}?", "~Who discovered the {n}?", "~How heavy is a {a}?",
       "~What is the best way to clean a {n}?")  # fmt: skip
LIVE_ASK = (
    "What is the weather in {c}?", "What's the weather like in {c}?", "What's the weather in {c} today?",
    "Will it rain in {c} tomorrow?", "How warm is it in {c}?", "What is the weather today?", "What's the news today?",
            "What is the latest news from {c}?", "What is the stock price of {k}?",
            "How much is one euro in dollars?", "What time is it in {c}?", "Search the web for {q}.",
            "Book a flight to {c}.",
            "Send an email to {p}.", "What is the price of {f} right now?", "Who won the game yesterday?",
            "Call {p}.", "Set a timer for {n} minutes.", "Remind me to buy {f}.", "Play some music.",
            "What is the temperature in {c}?",
            "Weather in {c}?", "Turn on the lights.", "What's on television tonight?", "Is the shop in {c} open now?",
            "Is it raining in {c}?", "How cold is it in {c} right now?", "What are the headlines in {c}?",
            "Tell me today's news.", "Look up {q} on the internet.", "How is the sky in {c} today?",
            "What are the headlines today?", "Give me the headlines.", "What's in the news?",
            "~Is it sunny in {c} right now?", "~How is the weather in {c}?", "~What are today's headlines?",
            "~Look up {q}.")  # fmt: skip
CODE_ASK = (
    "Write a Python function that {v}s a {n}.", "Write code to {v} a {n}.", "Write a program that prints a {n}.",
    "How do I sort a list in Python?", "Write a function in JavaScript that {v}s {n}s.", "Fix this code: {v}({n})",
            "Write a SQL query that selects all {n}s.", "Write a script to {v} my {n}s.", "Can you program?",
            "Can you write code?", "Write hello world in C.", "Write quicksort.", "Implement a {n} in Rust.",
            "Write a regex for a {n}.",
            "Debug this: {n}.{v}()", "Write a bash script.", "Write an HTML page about a {n}.", "Code a {n} for me.",
            "Write {v} in Java.", "Please program a {n}.", "Could you code a {n} in Python?",
            "Write me a script that {v}s a {n}.", "~Please code a {n} in Java.",
            "~Could you write a Python script that {v}s {n}s?")  # fmt: skip
TRANSLATE_ASK = (
    'Translate "{q}" to {l}.',
    "How do you say {n} in {l}?",
    "Translate this to {l}: {q}",
    "What is {n} in {l}?",
    "Translate {n} into {l}.",
    "What does {n} mean in {l}?",
    'How is "{q}" in {l}?',
    'What is "{q}" in {l}?',
    "Can you translate something to {l}?",
    '~Say "{q}" in {l}.',
    "~Can you translate {q} to {l}?",
)
WRITE_ASK = (
    "Write an essay about {t}.", "Write a letter to {p}.", "Write an email to my boss about the {n}.",
    "Write an article about {t}.", "Write a blog post about {n}s.", "Draft a contract for a {n}.",
    "Write a speech about {t}.",
             "Write 500 words about {t}.", "Write a product description of a {n}.", "Write a report on {t}.",
             "Compose a text about {t}.", "Write a letter to my landlord.", "Please write an article on {t}.",
             "I need an essay about {t}.", "Compose an essay about the {n}.",
             "~Compose a letter to my landlord about the {n}.", "~Please write an essay on {t}.")  # fmt: skip
SUMMARISE_ASK = (
    "Summarise this text: {x}",
    "Summarize: {x}",
    "Give me a summary of this: {x}",
    "Summarise the following.\n\n{x}",
    "What is this text about? {x}",
    "TL;DR: {x}",
    "~Please summarise: {x}",
)
LANGUAGES = (
    "French",
    "German",
    "Spanish",
    "Italian",
    "Chinese",
    "Japanese",
    "Portuguese",
    "Russian",
    "Arabic",
    "Turkish",
    "Polish",
    "Dutch",
    "Korean",
    "Hindi",
    "Latin",
    "Greek",
)


def fill(rng: Random, template: str, split: Split) -> str:
    return template.format(
        n=word(rng, "nouns", split), c=city(rng, split), y=rng.randint(1200, 2030), p=full_name(rng, split),
        f=word(rng, "foods", split), a=word(rng, "animals", split),
        q=phrase(rng, split), k=invented(rng), v=word(rng, "verbs", split), l=rng.choice(LANGUAGES),
        t=rng.choice(words("topics.things", split)) if split == "eval" or rng.random() < 0.6 else word(rng, "nouns",
        split), w=rng.choice(words("topics.works", split)),
        x=rng.choice(words("topics.places", split)),
    )  # fmt: skip


def invented_country(rng: Random, split: Split) -> tuple[str, str, bool]:
    country = invented(rng, 1, 4)
    if rng.random() < 0.6:
        country += rng.choice(("ia", "land", "stan", "onia", "aria", "vania", "istan", "ova", "any", "burg", "ora"))
    return pick(rng, CAPITAL_ASK, split).format(c=country), f"I do not know a country called {country}.", False


def somebody(rng: Random, split: Split) -> tuple[str, str, bool]:
    name = rng.choice(words("topics.people", split)) if rng.random() < 0.4 else full_name(rng, split)
    if rng.random() < 0.1:
        name = person(rng, split)
    return pick(rng, WHO, split).format(p=name), UNKNOWN, True


# up to which draw, the questions, their answer
KINDS = (
    (0.40, TOPIC, UNKNOWN),
    (0.45, WORK, UNKNOWN),
    (0.50, PLACE, UNKNOWN),
    (0.62, ODD, UNKNOWN),
    (0.78, LIVE_ASK, LIVE),
    (0.85, CODE_ASK, CODE),
    (0.91, TRANSLATE_ASK, TRANSLATE),
    (0.96, WRITE_ASK, WRITE),
)


def subject(rng: Random, split: Split) -> tuple[str, str, bool]:
    """A question of one kind, its answer, and whether a typist may change its case."""
    form = rng.random()
    if form < 0.15:
        return invented_country(rng, split)
    if form < 0.27:
        return somebody(rng, split)
    for limit, asks, answer in KINDS:
        if form < limit:
            return fill(rng, pick(rng, asks, split), split), answer, True
    return pick(rng, SUMMARISE_ASK, split).format(x=paragraph(rng, split, rng.randint(2, 8))), SUMMARISE, False


def generate(rng: Random, split: Split) -> Sample:
    question, answer, any_case = subject(rng, split)
    return Sample(
        "unknown",
        [user(as_typed(rng, question, keep_case=not any_case))],
        answer,
        thought="I have not learnt this, so I say so.",
    )
