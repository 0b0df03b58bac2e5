"""Argument values: what a parameter may be called, its schema, and how its value is drawn and said."""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from training.data import extract
from training.data.capitals import countries
from training.data.sample import Split
from training.data.text import city, full_name, held_out, invented, joined, person, phrase, statement, word

Draw = Callable[[Random, Split], Any]


@dataclass(frozen=True)
class Kind:
    """One sort of argument. `names` are what people call such a parameter; "~" as everywhere: evaluation only."""

    names: tuple[str, ...]
    describe: tuple[str, ...]
    draw: Draw
    type: str = "string"
    extra: dict[str, Any] = field(default_factory=dict)  # further schema, an enum for instance


def said(value: Any) -> str:
    """A value as a person writes it in a sentence."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return joined([str(item) for item in value])
    return str(value)


def symbol(rng: Random, split: Split) -> str:
    del split
    return (
        rng.choice(("AAPL", "MSFT", "GOOG", "TSLA", "AMZN", "NVDA", "META"))
        if rng.random() < 0.3
        else "".join(rng.choice("ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(rng.randint(2, 5)))
    )


def path(rng: Random, split: Split) -> str:
    folder = rng.choice(("", "/tmp/", "/home/", "docs/", "src/", "./", "/var/log/", "data/"))
    name, more = word(rng, "nouns", split), rng.choice(("", "_" + word(rng, "adjectives", split)))
    return f"{folder}{name}{more}.{rng.choice(('txt', 'md', 'py', 'json', 'csv', 'log'))}"


def url(rng: Random, split: Split) -> str:
    host = f"{rng.choice(('www.', ''))}{word(rng, 'nouns', split)}{rng.choice(('.com', '.org', '.net', '.example'))}"
    return f"https://{host}{rng.choice(('', '/' + word(rng, 'nouns', split)))}"


def small(rng: Random, split: Split) -> int:
    del split
    return rng.choice((rng.randint(1, 20), rng.randint(1, 100), rng.randint(100, 9999)))


def decimal(rng: Random, split: Split) -> float:
    del split
    return round(rng.uniform(0.1, 999), rng.choice((1, 2)))


def place(rng: Random, split: Split) -> str:
    name = city(rng, split)
    return f"{name}, {rng.choice(countries()).name}" if rng.random() < 0.08 else name


def expression(rng: Random, split: Split) -> str:
    a, b, c = (small(rng, split) for _ in range(3))
    form = rng.randrange(4)
    if form == 0:
        return f"({a} {rng.choice('+-')} {b}) {rng.choice('*/')} {c}"
    if form == 1:
        return f"{a} {rng.choice('+-*/')} {b} {rng.choice('+-*/')} {c}"
    return f"{a}{rng.choice((' + ', ' - ', ' * ', ' / ', '*', '+', '-', '/', '**', ' % '))}{b}"


def command(rng: Random, split: Split) -> str:
    program = rng.choice(
        (
            "ls",
            "ls -la",
            "cat",
            "rm",
            "git status",
            "git log",
            "python",
            "make",
            "head -n 5",
            "grep -r",
            "mkdir",
            "touch",
            "echo",
            "npm install",
            "df -h",
            "uname -a",
            "pwd",
        )
    )
    return program if rng.random() < 0.4 else f"{program} {path(rng, split)}"


def day_text(rng: Random, split: Split) -> str:
    return rng.choice(
        (
            "today",
            "tomorrow",
            "Monday",
            "Tuesday",
            "Wednesday",
            "Thursday",
            "Friday",
            "Saturday",
            "Sunday",
            extract.date(rng, split),
        )
    )


def date_time(rng: Random, split: Split) -> str:
    return (
        f"{extract.date(rng, split)} {extract.clock(rng, split)}" if rng.random() < 0.5 else extract.clock(rng, split)
    )


ZONES = (
    "Europe/Berlin",
    "Europe/Paris",
    "Asia/Tokyo",
    "America/New_York",
    "UTC",
    "America/Los_Angeles",
    "Asia/Kolkata",
    "Europe/London",
    "Australia/Sydney",
    "Africa/Cairo",
    "Asia/Shanghai",
    "America/Chicago",
    "CET",
    "EST",
    "GMT",
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
    "Greek",
)
ROOMS = (
    "kitchen",
    "bedroom",
    "living room",
    "bathroom",
    "garage",
    "hall",
    "office",
    "cellar",
    "garden",
    "attic",
    "dining room",
    "balcony",
)
CUISINES = (
    "Italian",
    "Indian",
    "Thai",
    "Mexican",
    "Greek",
    "vegan",
    "Chinese",
    "French",
    "Japanese",
    "Turkish",
    "vegetarian",
    "Korean",
)
CURRENCIES = ("USD", "EUR", "GBP", "JPY", "CHF", "SEK", "INR", "CAD", "AUD", "CNY", "BRL", "PLN")

KINDS: dict[str, Kind] = {
    "city": Kind(("city", "location", "place", "town", "city_name", "destination", "where", "~region", "~area"),
    ("The city", "The city, e.g. Berlin", "The city name", "The location", "Name of the place",
    "The city and country, e.g. Paris, France"), place),
    "person": Kind(("person", "name", "contact", "user", "recipient", "customer", "~member", "~employee"),
    ("The person", "Name of the person", "Who it is for"), person),
    "full_name": Kind(("name", "full_name", "customer_name", "~display_name"), ("The full name",), full_name),
    "email": Kind(("to", "recipient", "email", "address", "~receiver"), ("The email address",
    "Recipient's email address", "Where to send it"), extract.email),
    "subject": Kind(("subject", "title", "headline", "~heading"), ("The subject", "The subject line",
    "A short title"), lambda r, s: phrase(r, s).capitalize() if r.random() < 0.6 else phrase(r, s)),
    "text": Kind(("text", "message", "body", "content", "note", "~words"), ("The text", "The message text",
    "What to say"), statement),
    "query": Kind(("query", "q", "term", "keywords", "search_query", "~phrase"), ("The search query",
    "What to search for", "Search terms"), phrase),
    "date": Kind(("date", "day", "when", "~on_date"), ("The date", "The day", "The date as YYYY-MM-DD"), day_text),
    "time": Kind(("time", "at", "start_time", "~clock_time"), ("The time", "The time of day, e.g. 14:30"),
    extract.clock),
    "minutes": Kind(("minutes", "duration", "duration_minutes", "~length_minutes"), ("Minutes",
    "The duration in minutes"), lambda r, s: r.choice((5, 10, 15, 20, 30, 45, 60, r.randint(1, 180))), "integer"),
    "number": Kind(("number", "value", "n", "amount", "~figure"), ("The number", "A number"), small, "integer"),
    "count": Kind(("count", "limit", "quantity", "max_results", "num_items", "~how_many"), ("How many",
    "Maximum number of results"), lambda r, s: r.randint(1, 50), "integer"),
    "decimal": Kind(("amount", "price", "value", "weight", "~level"), ("The amount", "The value"), decimal, "number"),
    "unit": Kind(("unit", "units", "temperature_unit", "~scale"), ("The unit", "The temperature unit"), lambda r,
    s: r.choice(("celsius", "fahrenheit")), "string", {"enum": ["celsius", "fahrenheit"]}),
    "zone": Kind(("timezone", "time_zone", "tz", "zone"), ("The time zone, e.g. Europe/Berlin", "IANA time zone"),
    lambda r, s: r.choice(ZONES)),
    "language": Kind(("language", "target_language", "target", "to_language", "~into"), ("The language",
    "Target language"), lambda r, s: r.choice(LANGUAGES)),
    "currency": Kind(("currency", "currency_code"), ("The currency code",), lambda r, s: r.choice(CURRENCIES)),
    "symbol": Kind(("symbol", "ticker", "stock", "~share"), ("The ticker symbol", "Stock symbol, e.g. AAPL"), symbol),
    "path": Kind(("path", "file_path", "filename", "file", "~target_path"), ("The path of the file", "File name"),
    path),
    "url": Kind(("url", "link", "page", "~web_address"), ("The URL", "Address of the page"), url),
    "code": Kind(("id", "order_id", "ticket_id", "reference", "code", "~tracking_number"), ("The identifier",
    "The id, e.g. AB-123"), extract.code),
    "item": Kind(("item", "product", "food", "article", "~goods"), ("The item", "What to order"), lambda r, s: word(r,
    "foods", s)),
    "thing": Kind(("thing", "object", "device", "topic", "category", "~target_object"), ("The thing",), lambda r,
    s: word(r, "nouns", s)),
    "colour": Kind(("color", "colour", "~paint"), ("The colour",), lambda r, s: word(r, "colours", s)),
    "tags": Kind(("tags", "labels", "items", "keywords", "names", "~markers"), ("A list of tags", "Several values"),
    lambda r, s: [word(r, "nouns", s) for _ in range(r.randint(1, 4))], "array", {"items": {"type": "string"}}),
    "people": Kind(("attendees", "guests", "people", "participants", "~invitees"), ("The people",
    "Names of the participants"), lambda r, s: [person(r, s) for _ in range(r.randint(1, 4))], "array",
    {"items": {"type": "string"}}),
    "flag": Kind(("urgent", "enabled", "public", "verbose", "recursive", "dry_run", "notify", "~pinned"),
    ("Whether it is so", "A switch"), lambda r, s: r.random() < 0.5, "boolean"),
    "priority": Kind(("priority", "level", "~severity"), ("The priority",), lambda r, s: r.choice(("low", "medium",
    "high")), "string", {"enum": ["low", "medium", "high"]}),
    "sku": Kind(("sku", "token", "key", "serial", "~batch"), ("The code",), lambda r,
    s: invented(r).lower() + str(r.randint(0, 99))),
    "expression": Kind(("expression",), ("The expression", "What to calculate"), expression),
    "task": Kind(("text", "task", "what", "message", "title", "~about"), ("What to do", "The text"), lambda r,
    s: f"{word(r, 'verbs', s)} the {word(r, 'nouns', s)}" if r.random() < 0.7 else f"buy {word(r, 'foods', s)}"),
    "room": Kind(("room",), ("The room",), lambda r, s: r.choice(ROOMS)),
    "state": Kind(("state",), ("on or off",), lambda r, s: r.choice(("on", "off")), "string", {"enum": ["on", "off"]}),
    "cuisine": Kind(("cuisine",), ("The cuisine", "Kind of food"), lambda r, s: r.choice(CUISINES)),
    "command": Kind(("command",), ("The command", "The command to run"), command),
    "age": Kind(("age",), ("The age", "Age in years"), lambda r, s: r.randint(1, 99), "integer"),
    "degrees": Kind(("degrees",), ("The temperature", "Degrees"), lambda r, s: r.randint(10, 30), "number"),
}  # fmt: skip

PREFIXES = ("", "", "", "", "source", "main", "new", "old", "first", "next", "target", "default")


def invented_kind(rng: Random, split: Split) -> Kind:
    """A parameter named after any noun, or an enum over any words: nothing about it can be known beforehand."""
    name = word(rng, "nouns", split)
    if rng.random() < 0.5:
        name = f"{word(rng, 'adjectives', split)}_{name}"
    form = rng.random()
    if form < 0.25:
        options = list({word(rng, "adjectives", split): 0 for _ in range(rng.randint(2, 4))})
        return Kind(
            (name,), (f"The {name.replace('_', ' ')}",), lambda r, s: r.choice(options), "string", {"enum": options}
        )
    draws: tuple[tuple[Draw, str], ...] = (
        (phrase, "string"), (small, "integer"), (decimal, "number"), (lambda r, s: invented(r), "string"), (lambda r,
        s: r.random() < 0.5, "boolean"),
        (lambda r, s: word(r, "adjectives", s), "string"),
    )  # fmt: skip
    draw, kind = rng.choice(draws)
    return Kind((name,), (f"The {name.replace('_', ' ')}", f"{name.replace('_', ' ').capitalize()} to use"), draw, kind)


def param_name(rng: Random, kind: Kind, split: Split) -> str:
    """Half of evaluation's names are new words, half known words; training sees no new ones."""
    known = [name for name in kind.names if not name.startswith("~")]
    new = [name[1:] for name in kind.names if name.startswith("~")]
    name = rng.choice(new) if split == "eval" and new and rng.random() < 0.5 else rng.choice(known)
    if split == "train" and rng.random() < 0.12:
        name = word(rng, "nouns", split) if rng.random() < 0.5 else f"{name}_{word(rng, 'nouns', split)}"
    if rng.random() < 0.08:
        name = camel(f"{rng.choice(PREFIXES)}_{name}".strip("_"))
    return name


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(part.capitalize() for part in rest)


def new_tool_name(rng: Random, split: Split) -> tuple[str, str, str]:
    """verb_noun, the verb and the noun; a held-out pair is for evaluation."""
    while True:
        known = split == "train" or rng.random() < 0.5
        verb, noun = word(rng, "verbs", "train" if known else split), word(rng, "nouns", "train" if known else split)
        if split == "eval" or not held_out(verb + noun, 10):
            return f"{verb}_{noun}", verb, noun
