"""Agents' conversations against Quince and mlx_lm.server: what is computed again, and how long the first token takes.

python -m benchmarks.prefix_cache --out results.json --chart chart.svg            four cache families, tiny, on a CPU
python -m benchmarks.prefix_cache --model 8b --system-tokens 32000 --turns 4      one shape, on a GPU
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from tokenizers import Tokenizer

from benchmarks import chart, report
from benchmarks.ask import ask
from benchmarks.families import NAMES, ensure_family
from benchmarks.models import SHAPES, ensure
from quince.bench.server import Server, free_port
from quince.bench.workload import random_prompt

SERVERS = ("quince", "mlx-lm")
SCENARIOS = ("agent", "edited", "users", "sessions")
Message = dict[str, str]


class Turn(msgspec.Struct, kw_only=True):
    """One request. ``shared``: tokens that it has in common with an earlier prompt and answer. ``cached`` is what the
    server says that it took from its cache. Times are in milliseconds."""

    server: str
    model: str
    scenario: str
    number: int
    prompt_tokens: int
    shared: int
    cached: int
    ttft: float
    text: str


class Session:
    """A server, and all token sequences that it has seen."""

    def __init__(self, server: str, model: str, url: str, path: Path, answer_tokens: int) -> None:
        self._labels = (server, model)
        self._url = url
        self._path = path
        self._tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
        self._answer_tokens = answer_tokens
        self._seen: list[list[int]] = []
        self._lock = threading.Lock()
        self.turns: list[Turn] = []

    def ask(self, scenario: str, messages: list[Message], beside: list[list[Message]] | None = None) -> str:
        """Send the conversation, note what it cost and return the answer. ``beside``: others that come at once."""
        prompt = self._tokens(messages, generate=True)
        others = [self._tokens(other, generate=True) for other in beside or () if other is not messages]
        shared = max((_common(prompt, seen) for seen in [*self._seen, *others]), default=0)
        answer = ask(self._url, str(self._path), messages, self._answer_tokens)
        text = answer.text
        with self._lock:
            self._seen.append(self._tokens([*messages, {"role": "assistant", "content": text}], generate=False))
            server, model = self._labels
            number = sum(turn.scenario == scenario for turn in self.turns)
            self.turns.append(
                Turn(
                    server=server,
                    model=model,
                    scenario=scenario,
                    number=number,
                    prompt_tokens=answer.prompt_tokens,
                    shared=min(shared, answer.prompt_tokens),
                    cached=answer.cached_tokens,
                    ttft=answer.ttft,
                    text=text,
                )
            )
        return text

    def _tokens(self, messages: list[Message], *, generate: bool) -> list[int]:
        """As the models' chat template writes them (models.TEMPLATE)."""
        text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
        ids: list[int] = self._tokenizer.encode(text + "<|im_start|>assistant\n" * generate).ids
        return ids


class Replay:
    """The conversations. The same seed says the same to every server."""

    def __init__(self, session: Session, options: argparse.Namespace) -> None:
        self._session = session
        self._options = options
        self._random = random.Random(1)

    def run(self) -> None:
        for scenario in self._options.scenarios:
            getattr(self, scenario)()

    def agent(self) -> None:
        """Conversations one after the other, turn after turn, each with the result of a tool."""
        for _ in range(self._options.conversations):
            messages = [self._system(self._options.system_tokens)]
            for _ in range(self._options.turns):
                messages.append(self._say("user", self._options.turn_tokens))
                messages.append({"role": "assistant", "content": self._session.ask("agent", messages)})
            self._agent = messages

    def edited(self) -> None:
        """The last of them with something in its middle said otherwise."""
        for _ in range(3):
            messages = [dict(message) for message in self._agent]
            middle = len(messages) // 2 | 1
            messages[middle] = self._say("user", self._options.turn_tokens)
            self._session.ask("edited middle", messages[:-1] if messages[-1]["role"] == "assistant" else messages)

    def users(self) -> None:
        """Users of one new system prompt, all at once."""
        system = self._system(self._options.system_tokens)
        prompts = [[system, self._say("user", self._options.turn_tokens)] for _ in range(self._options.users)]
        threads = [threading.Thread(target=self._session.ask, args=("users", prompt, prompts)) for prompt in prompts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def sessions(self) -> None:
        """Two conversations in turn, each followed by a side request such as a title."""
        both = [[self._system(self._options.system_tokens // 2)] for _ in range(2)]
        for _ in range(4):
            for messages in both:
                messages.append(self._say("user", self._options.turn_tokens))
                messages.append({"role": "assistant", "content": self._session.ask("two sessions", messages)})
                self._session.ask("side requests", [self._say("user", 40)])

    def _system(self, words: int) -> Message:
        return self._say("system", words)

    def _say(self, role: str, words: int) -> Message:
        return {"role": role, "content": random_prompt(self._random, words)}


def _common(a: list[int], b: list[int]) -> int:
    limit = min(len(a), len(b))
    return next((index for index in range(limit) if a[index] != b[index]), limit)


@contextmanager
def started(server: str, model: Path, options: argparse.Namespace) -> Iterator[str]:
    port = free_port()
    if server == "quince":
        command = ["quince", "serve", str(model), "--any-model-name", *options.quince_args.split()]
    else:
        command = ["mlx_lm", "server", "--model", str(model), "--log-level", "WARNING", *options.mlx_lm_args.split()]
    with tempfile.TemporaryDirectory() as logs:
        process = Server([sys.executable, "-m", *command, "--port", str(port)], port, Path(logs) / "server.log")
        try:
            yield process.url
        finally:
            process.stop()


def measure(options: argparse.Namespace) -> list[Turn]:
    turns: list[Turn] = []
    names = options.model or list(NAMES)
    for name in names:
        path = ensure(name, options.models_dir) if name in SHAPES else ensure_family(name, options.models_dir)
        for server in options.servers:
            with started(server, path, options) as url:
                warm_up = Session(server, name, url, path, 4)
                for words in (10, 300, 3000):
                    warm_up.ask("warm-up", [{"role": "user", "content": random_prompt(random.Random(words), words)}])
                session = Session(server, name, url, path, options.answer_tokens)
                Replay(session, options).run()
                turns += session.turns
            print(table(turns[-len(session.turns) :]), file=sys.stderr, flush=True)
    return turns


def table(turns: list[Turn]) -> str:
    """Per server, model and scenario: the first request of a conversation is cold, the others are warm."""
    rows = []
    for key in dict.fromkeys((turn.model, turn.scenario, turn.server) for turn in turns):
        own = [turn for turn in turns if (turn.model, turn.scenario, turn.server) == key]
        later = [turn for turn in own if turn.shared > 16]
        if key[1] == "users":  # one of them has to compute what they share
            later.remove(min(later, key=lambda turn: turn.cached))
        shared, cached = sum(turn.shared for turn in later), sum(turn.cached for turn in later)
        reused = f"{min(cached / shared, 1):.2f}" if shared else "-"
        cold = [turn.ttft for turn in own if turn.shared <= 16] or [own[0].ttft]
        warm = [turn.ttft for turn in later[-max(1, len(own) - len(cold)) :]]
        rows.append(
            [
                *key,
                f"{statistics.mean(turn.prompt_tokens for turn in own):.0f}",
                reused,
                f"{statistics.median(cold):.0f}",
                f"{statistics.median(warm):.0f}" if warm else "-",
            ]
        )
    header = ("model", "scenario", "server", "prompt tokens", "reused of shared", "first TTFT ms", "later TTFT p50 ms")
    return report.table(header, rows)


def draw(turns: list[Turn]) -> str:
    """Time to the first token of an agent's turns."""
    agent = [turn for turn in turns if turn.scenario == "agent"]
    names = list(dict.fromkeys(turn.model for turn in agent))
    series: dict[str, list[float | None]] = {}
    for server in dict.fromkeys(turn.server for turn in agent):
        own = [[turn for turn in agent if (turn.server, turn.model) == (server, name)] for name in names]
        for label, cold in (("first turn", True), ("later turns", False)):
            chosen = [[turn.ttft for turn in turns if (turn.shared <= 16) is cold] for turns in own]
            series[f"{server}, {label}"] = [statistics.median(times) for times in chosen]
    return chart.bars("Milliseconds to the first token of an agent's turn", "model", names, series)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.prefix_cache", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", nargs="+", choices=[*NAMES, *SHAPES], help="[the four families, tiny]")
    add("--models-dir", type=Path, default=Path(tempfile.gettempdir()) / "quince-benchmark-models")
    add("--servers", nargs="+", choices=SERVERS, default=list(SERVERS))
    add("--scenarios", nargs="+", choices=SCENARIOS, default=list(SCENARIOS), help="'edited' needs 'agent' before it")
    add("--conversations", type=int, default=1, help="of 'agent'")
    add("--system-tokens", type=int, default=4000, help="words of the agent's system prompt, one token each")
    add("--turn-tokens", type=int, default=60, help="words of every message")
    add("--answer-tokens", type=int, default=24)
    add("--turns", type=int, default=10)
    add("--users", type=int, default=16, help="users of one system prompt that come at once")
    add("--quince-args", default="", help="more arguments for quince serve, in one string")
    add("--mlx-lm-args", default="", help="more arguments for mlx_lm.server, in one string")
    add("--out", type=Path, help="write all requests as JSON")
    add("--chart", type=Path, help="write the agent's times to the first token as SVG")
    return parser.parse_args()


def main() -> None:
    options = parse()
    turns = measure(options)
    print(table(turns))
    if options.out:
        options.out.write_bytes(msgspec.json.encode(turns))
    if options.chart:
        options.chart.write_text(draw(turns))


if __name__ == "__main__":
    main()
