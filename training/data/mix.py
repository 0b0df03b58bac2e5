"""Which skill comes how often, and what is put around it: system prompts, earlier turns, thinking."""

from dataclasses import replace
from random import Random

from training.data import arithmetic, capitals, everyday, extract, lists, manual, memory, raw, talk, tools, unknown
from training.data.sample import Sample, Skill, Split, assistant, system
from training.data.text import invented, statement, word, word_list

SKILLS: dict[str, tuple[Skill, float]] = {
    "manual": (manual.generate, 14.0),
    "capitals": (capitals.generate, 8.0),
    "arithmetic": (arithmetic.generate, 13.0),
    "colours": (everyday.colours, 3.0),
    "days": (everyday.days, 3.5),
    "facts": (everyday.facts, 2.0),
    "small talk": (talk.generate, 5.0),
    "echo": (talk.say, 4.0),
    "json": (extract.generate, 9.0),
    "memory": (memory.generate, 6.0),
    "long context": (memory.long_context, 1.0),
    "unknown": (unknown.generate, 7.0),
    "lists": (lists.generate, 2.5),
    "tool call": (tools.one_call, 10.0),
    "common tools": (tools.common_call, 12.0),
    "two calls": (tools.two_calls, 6.0),
    "two steps": (tools.in_sequence, 7.0),
    "tool result": (tools.answered, 7.0),
    "tool not needed": (tools.no_call, 6.0),
    "completion": (raw.generate, 1.0),
}
NAMES = tuple(SKILLS)
WEIGHTS = tuple(weight for _, weight in SKILLS.values())
CHATTY = ("manual", "capitals", "arithmetic", "colours", "days", "facts", "small talk", "unknown", "echo")

PROMPTS = (
    "You are a helpful assistant.", "You are a helpful assistant", "You are a friendly assistant.", "Be brief.",
    "Answer the user's questions.", "You are Quince's demo model.", "You are a helpful AI assistant. Answer concisely.",
    "You are an assistant.", "Keep your answers short.", "Answer in English.",
    "You are a concise assistant that answers truthfully.", "You help people with their questions.",
    "Be helpful, honest and harmless.",
    "You are a helpful assistant that can use tools.", "Use the tools when they help.", "You are a test assistant.",
    "Think before you answer.", "Answer politely.", "Do not make things up.", "You are an expert.",
)  # fmt: skip


def system_prompt(rng: Random) -> str:
    roll = rng.random()
    if roll < 0.7:
        return rng.choice(PROMPTS)
    if roll < 0.85:
        return f"{rng.choice(PROMPTS)} {rng.choice(PROMPTS)}"
    noun = word(rng, "nouns", "train")
    return rng.choice(
        (
            f"You are the assistant of the {noun} company {invented(rng)}.",
            f"You work in a {noun} shop. {statement(rng, 'train')}.",
            f"{rng.choice(PROMPTS)} Today is "
            f"{rng.randint(2024, 2030)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}.",
            f"You are a {rng.choice(word_list('adjectives'))} {rng.choice(word_list('jobs'))}.",
        )
    )


def draw(rng: Random, split: Split, skill: str = "") -> Sample:
    """One sample, dressed for the conversation that it stands in."""
    name = skill or rng.choices(NAMES, WEIGHTS)[0]
    sample = SKILLS[name][0](rng, split)
    if sample.raw:
        return sample
    messages = list(sample.messages)
    if name in CHATTY and rng.random() < 0.25:
        for _ in range(rng.choice((1, 1, 2, 3))):
            other = SKILLS[rng.choice(CHATTY)][0](rng, "train")
            if other.system_free:
                messages = [*other.messages, assistant(other.answer), *messages] if sample.system_free else messages
    if sample.system_free and rng.random() < 0.35:
        messages = [system(system_prompt(rng)), *messages]
    thinking = rng.random() < (0.5 if sample.prefix else 0.15)
    return replace(
        sample, skill=name, messages=messages, thinking=thinking, thought="" if sample.prefix else sample.thought
    )
