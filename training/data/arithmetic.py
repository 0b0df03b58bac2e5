"""Small sums: operands that a check value holds out are seen in evaluation only."""

from random import Random

from training.data.sample import Sample, Split, user
from training.data.text import as_typed, held_out, person, pick, words

NAMES = {"+": "plus", "-": "minus", "*": "times", "/": "divided by"}
ASK = (
    "What is {e}?", "What's {e}?", "{e}", "{e} =", "{e} = ?", "{e}?", "Calculate {e}.", "Compute {e}.",
    "How much is {e}?", "Tell me {e}.",
    "Work out {e}.", "Can you calculate {e}?", "What does {e} make?", "Solve {e}.", "What do you get for {e}?",
    "Please compute {e}",
    "what is the result of {e}?", "How much does {e} make?", "Do the sum {e}.", "Evaluate {e}", "and {e}?",
    "Answer this: {e}", "Give me {e}.", "I need the result of {e}.", "Could you tell me {e}?",
    "Find the result of {e}.", "What is the value of {e}?", "Find out {e}.", "Can you do {e}?",
    "Could you calculate {e} for me?", "~What is the answer to {e}?", "~Could you work out {e} for me?",
    "~Give me the result of {e}.", "~I need {e}.", "~Find {e}.",
)  # fmt: skip
ASK_SHORT = (
    "What is {e}? Answer with the number only.", "{e}? Just the number.", "What is {e}? Reply with only the number.",
    "What's {e}? Number only, please.",
    "Compute {e}. Only the result.", "Answer with a single number: {e}", "What is {e}? Give me only the number.",
    "{e}? Give just the result.", "{e} (only the number)", "~What is {e}? Give only the number.",
)  # fmt: skip
PAIRED = {
    "+": ("Add {a} and {b}.", "What is the sum of {a} and {b}?", "Sum of {a} and {b}?", "Add {b} to {a}.",
    "What do you get when you add {a} and {b}?", "{a} and {b} add up to what?", "Add up {a} and {b}.",
    "~What do {a} and {b} add up to?"),
    "-": ("Subtract {b} from {a}.", "Take {b} away from {a}.", "What is the difference of {a} and {b}?",
    "What is left of {a} when you take away {b}?", "Take {b} from {a}.",
    "What do you get when you subtract {b} from {a}?", "~What is left when you take {b} from {a}?"),
    "*": ("Multiply {a} by {b}.", "What is the product of {a} and {b}?", "Multiply {a} and {b}.",
    "What do I get when I multiply {a} by {b}?", "{a} multiplied by {b}?",
    "~What do you get when you multiply {a} by {b}?"),
    "/": ("Divide {a} by {b}.", "What is {a} over {b}?", "How often does {b} go into {a}?",
    "What do I get when I divide {a} by {b}?", "{a} divided by {b} makes what?",
    "~What do you get when you divide {a} by {b}?"),
}  # fmt: skip
STORIES = {
    "+": (
        ("I have {a} {n} and buy {b} more. How many do I have?", "You have {r} {n}."),
        ("{p} has {a} {n} and gets {b} more. How many {n} does {p} have now?", "{p} has {r} {n}."),
        ("There are {a} {n} in one box and {b} {n} in another. How many are there in all?", "There are {r} {n}."),
    ),
    "-": (
        ("I have {a} {n} and eat {b}. How many are left?", "{r} {n} are left."),
        ("{p} has {a} {n} and gives away {b}. How many {n} does {p} have now?", "{p} has {r} {n}."),
    ),
    "*": (
        ("There are {a} boxes with {b} {n} each. How many {n} are there?", "There are {r} {n}."),
        ("I buy {a} bags of {b} {n}. How many {n} do I have?", "You have {r} {n}."),
    ),
}
UNITS = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]  # fmt: skip
TENS = ["_", "_", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def spelled(number: int) -> str:
    if number < 20:
        return UNITS[number]
    tens, unit = divmod(number, 10)
    return TENS[tens] + (f"-{UNITS[unit]}" if unit else "")


def operands(rng: Random, sign: str) -> tuple[int, int]:
    large = rng.random() < 0.25
    if sign == "*":
        return (rng.randint(0, 99), rng.randint(2, 9)) if large else (rng.randint(0, 12), rng.randint(0, 12))
    if sign == "/":
        b = rng.randint(1, 12)
        return b * rng.randint(0, 12), b
    top = 999 if large else rng.choice((12, 20, 99, 99))
    a, b = rng.randint(0, top), rng.randint(0, top)
    if sign == "-" and a < b and rng.random() < 0.6:
        a, b = b, a
    return a, b


def problem(rng: Random, split: Split, signs: str = "+-*/") -> tuple[int, str, int]:
    """Times tables are facts and are all trained; the other pairs are held out by their check value."""
    while True:
        sign = rng.choice(signs)
        a, b = operands(rng, sign)
        fact = sign in "*/" and max(a, b) <= 144 and (sign == "/" or max(a, b) <= 12)
        if fact or held_out(f"{a}{sign}{b}", 10) == (split == "eval"):
            return a, sign, b


def result(a: int, sign: str, b: int) -> int:
    return {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[sign]


def expression(rng: Random, a: int, sign: str, b: int) -> str:
    roll = rng.random()
    if roll < 0.5:
        return f"{a} {sign} {b}"
    if roll < 0.65:
        return f"{a}{sign}{b}"
    if roll < 0.73 and sign in "*/":
        return (
            f"{a} {'×' if sign == '*' else '÷'} {b}"
            if rng.random() < 0.7
            else f"{a} x {b}"
            if sign == "*"
            else f"{a}:{b}"
        )
    if roll < 0.80 and max(a, b) < 100:
        return f"{spelled(a)} {NAMES[sign]} {spelled(b)}"
    return f"{a} {NAMES[sign]} {b}"


def story(rng: Random, split: Split) -> Sample:
    a, sign, b = problem(rng, split, "+-*")
    if sign == "-" and a < b:
        a, b = b, a
    question, answer = rng.choice(STORIES[sign])
    values = {
        "a": a, "b": b, "n": rng.choice([food for food in words("foods", split) if food.endswith("s")]),
        "p": person(rng, split), "r": result(a, sign, b)}  # fmt: skip
    thought = f"{a} {sign} {b} = {values['r']}"
    return Sample("arithmetic", [user(question.format(**values))], answer.format(**values), thought=thought)


def generate(rng: Random, split: Split) -> Sample:
    form = rng.random()
    if form < 0.12:
        return story(rng, split)
    if form < 0.15:
        a, b = rng.randint(1000, 10**7), rng.randint(1000, 10**7)
        question = pick(rng, ASK, split).format(e=expression(rng, a, rng.choice("+-*/"), b))
        return Sample("arithmetic", [user(question)], "Those numbers are too large for me: I only do small arithmetic.",
                      thought="The numbers have more than three digits.")  # fmt: skip
    if form < 0.21:
        a, b = rng.sample(range(100), 2)
        larger = rng.random() < 0.5
        ask = rng.choice(("Which is {w}, {a} or {b}?", "Which number is {w}: {a} or {b}?", "What is {w}, {a} or {b}?"))
        kind = rng.choice(("larger", "bigger", "greater")) if larger else rng.choice(("smaller", "less"))
        best = max(a, b) if larger else min(a, b)
        return Sample(
            "arithmetic", [user(ask.format(w=kind, a=a, b=b))], f"{best} is {kind}.", thought=f"I compare {a} and {b}."
        )
    a, sign, b = problem(rng, split)
    r = result(a, sign, b)
    thought, answer = f"{a} {sign} {b} = {r}", f"{a} {sign} {b} = {r}"
    if form < 0.29:
        question, answer = pick(rng, ASK_SHORT, split).format(e=expression(rng, a, sign, b)), str(r)
    elif form < 0.42:
        question = pick(rng, PAIRED[sign], split).format(a=a, b=b)
    else:
        question = pick(rng, ASK, split).format(e=expression(rng, a, sign, b))
    return Sample("arithmetic", [user(as_typed(rng, question))], answer, thought=thought)
