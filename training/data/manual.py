"""Questions about Quince itself: the demo model is the manual's first page."""

from random import Random

from training.data.sample import Sample, Split, user
from training.data.text import as_typed, held_out, jumbled, load_toml, phrasings, reworded, with_typo

HOW = (
    "How do I {d}?", "How can I {d}?", "How to {d}?", "how do i {d}", "What is the command to {d}?", "I want to {d}.",
    "I want to {d}. How?", "Tell me how to {d}.",
    "Is there a way to {d}?", "Which command do I use to {d}?", "Can I {d}?", "How does one {d}?",
    "What do I type to {d}?", "I need to {d}.", "Explain how to {d}.",
    "Show me how to {d}.", "How would I {d}?", "Please tell me how I can {d}.", "{d}", "how to {d}", "Help me {d}.",
    "What should I do to {d}?", "Can you tell me how to {d}?",
    "I would like to {d}.", "How do you {d}?", "How do I {d} with Quince?", "Can Quince {d}?",
    "How can I {d} in Quince?", "With Quince, how do I {d}?",
    "I'm trying to {d}. What is the command?", "what's the way to {d}", "Does Quince let me {d}?", "Where can I {d}?",
    "Which option do I need to {d}?",
    "Would it be possible to {d}?", "What must I run to {d}?", "Can you explain to me how to {d}?",
    "What is a good way to {d}?", "Should I use a command to {d}?", "Could you tell me how to {d}?",
    "I'd like to {d}.", "How should one {d}?", "~Could you explain how to {d}?", "~What is the best way to {d}?",
    "~Is it possible to {d}?", "~What must I do to {d}?", "~How should I {d}?", "~I'd like to know how to {d}.",
)  # fmt: skip


def question_of(rng: Random, entry: dict[str, list[str]], split: Split) -> str:
    """In evaluation: a task in a frame, or with it in a pair, that training never shows; or a new whole question."""
    do, ask = tuple(entry.get("do", ())), tuple(entry.get("ask", ()))
    new = [text[1:] for text in ask if text.startswith("~")]
    if split == "eval":
        if new and (not do or rng.random() < 0.5):
            return rng.choice(new)
        if do:
            return rng.choice(phrasings(HOW, "eval")).format(d=rng.choice(do))
    elif do and rng.random() < 0.6:
        while True:
            frame, task = rng.choice(phrasings(HOW, "train")), rng.choice(do)
            if not held_out(frame + task, 10):
                return frame.format(d=task)
    return rng.choice([text for text in ask if not text.startswith("~")])


def generate(rng: Random, split: Split) -> Sample:
    entry = rng.choice(load_toml("manual.toml")["entry"])
    question = question_of(rng, entry, split)
    if split == "train":
        question = reworded(rng, question) if rng.random() < 0.5 else question
        question = jumbled(rng, question) if rng.random() < 0.25 else question
        question = with_typo(rng, question) if rng.random() < 0.1 else question
    question = as_typed(rng, question[:1].upper() + question[1:] if rng.random() < 0.8 else question)
    return Sample(
        "manual", [user(question)], entry["answer"].strip(), thought="This is about Quince, and I know the manual."
    )
