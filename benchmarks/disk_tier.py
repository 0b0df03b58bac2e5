"""What a restart costs with the prefix cache's disk tier: the first token of a long prompt before it and after it.

python -m benchmarks.disk_tier                         four cache families, tiny, on a CPU
python -m benchmarks.disk_tier --model 8b --system-tokens 32000
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
from pathlib import Path

from benchmarks import report
from benchmarks.families import NAMES, ensure_family
from benchmarks.models import SHAPES, ensure
from benchmarks.prefix_cache import Session, started
from quince.bench.workload import random_prompt


def measure(name: str, options: argparse.Namespace) -> list[str]:
    """A row: milliseconds to the first token, computed, read from disk, and from memory, and what was cached."""
    path = ensure(name, options.models_dir) if name in SHAPES else ensure_family(name, options.models_dir)
    prompts = [random_prompt(random.Random(seed), options.system_tokens) for seed in range(options.prompts)]
    with tempfile.TemporaryDirectory() as root:
        os.environ |= {"QUINCE_PREFIX_CACHE_DISK_BYTES": str(2**36), "QUINCE_PREFIX_CACHE_DIR": root}
        sessions = []
        for passes in (1, 2):
            with started("quince", path, options) as url:
                warm_up = Session("quince", name, url, path, 4)
                for words in (10, 300, 3000):
                    warm_up.ask("warm-up", [{"role": "user", "content": random_prompt(random.Random(-words), words)}])
                for _ in range(passes):
                    sessions.append(Session("quince", name, url, path, 4))
                    for prompt in prompts:
                        sessions[-1].ask("prompt", [{"role": "user", "content": prompt}])
        size = sum(file.stat().st_size for file in Path(root).glob("*/*"))
    times = [statistics.median(turn.ttft for turn in session.turns) for session in sessions]
    cached = [f"{statistics.mean(turn.cached / turn.prompt_tokens for turn in one.turns):.2f}" for one in sessions]
    texts = [[turn.text for turn in session.turns] for session in sessions]
    if texts[1:] != texts[:-1]:
        raise SystemExit(f"{name}: the answers differ")
    rounded = [f"{time:.0f}" for time in times]
    return [
        name,
        str(sessions[0].turns[0].prompt_tokens),
        *rounded,
        f"{times[0] / times[1]:.1f}",
        cached[1],
        f"{size / 2**20:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.disk_tier", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", nargs="+", choices=[*NAMES, *SHAPES], default=list(NAMES), help="[the four families, tiny]")
    add("--models-dir", type=Path, default=Path(tempfile.gettempdir()) / "quince-benchmark-models")
    add("--system-tokens", type=int, default=4000, help="words of a prompt, one token each")
    add("--prompts", type=int, default=3, help="different prompts, of which the median counts")
    add("--quince-args", default="", help="more arguments for quince serve, in one string")
    options = parser.parse_args()
    header = ("model", "prompt tokens", "computed ms", "from disk ms", "from memory ms", "ratio", "cached", "disk MiB")
    print(report.table(header, [measure(name, options) for name in options.model]))


if __name__ == "__main__":
    main()
