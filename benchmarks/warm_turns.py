"""The engine alone: the first token of a long new prompt, and of the turns that follow it.

python -m benchmarks.warm_turns --model 8b --prompt-tokens 32000

Without tokenizing, HTTP and messages between processes. The weights are random and stay in memory, so a large shape
needs no disk.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.models import BYTES, SHAPES, write_tokenizer

WORDS = 1700
ANSWER_TOKENS = 24
TURN_TOKENS = 60
CACHE_SHARE = 3  # prompts that the prefix cache has room for


@dataclass(frozen=True)
class Answer:
    """``seconds`` to the first token; what was in the prefix cache."""

    seconds: float
    cached_tokens: int
    token_ids: list[int]


def load(name: str) -> Any:
    import mlx.core as mx
    from mlx_lm.models.qwen3 import Model, ModelArgs

    shape = SHAPES[name]
    model = Model(ModelArgs.from_dict({**shape.config, "rope_scaling": None}))
    model.set_dtype(getattr(mx, shape.dtype))
    mx.eval(model.parameters())
    return model


def make_engine(name: str, prompt_tokens: int, tokenizer: Path) -> Any:
    from quince.engine.core import CoreConfig, make_core
    from quince.engine.forward import TextForward
    from quince.engine.structured import GrammarCompiler

    shape = SHAPES[name]
    write_tokenizer(SHAPES["tiny"], tokenizer)
    token_bytes = 2 * shape.layers * shape.kv_heads * shape.head_dim * (4 if shape.dtype == "float32" else 2)
    config = CoreConfig(8, 4096, prefix_cache_bytes=CACHE_SHARE * prompt_tokens * token_bytes)
    grammars = GrammarCompiler(tokenizer / "tokenizer.json", shape.vocab)
    return make_core(TextForward(load(name)), shape.vocab, grammars, config)


def ask(core: Any, name: str, prompt: list[int]) -> Answer:
    from quince.engine.messages import AddRequest
    from quince.sampling import SamplingParams

    core.add(AddRequest(name, prompt, SamplingParams(max_tokens=ANSWER_TOKENS)))
    started, first, cached, token_ids = time.perf_counter(), 0.0, 0, []
    while core.has_work():
        for output in core.step():
            cached = max(cached, output.cached_tokens)
            if output.token_ids and not token_ids:
                first = time.perf_counter() - started
            token_ids += output.token_ids
    return Answer(first, cached, token_ids)


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.warm_turns", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=SHAPES, default="tiny")
    parser.add_argument("--prompt-tokens", type=int, default=4000)
    parser.add_argument("--turns", type=int, default=6)
    options = parser.parse_args()
    source = random.Random(1)

    def words(count: int) -> list[int]:
        return [source.randrange(BYTES, BYTES + WORDS) for _ in range(count)]

    with tempfile.TemporaryDirectory() as folder:
        core = make_engine(options.model, options.prompt_tokens, Path(folder))
        ask(core, "warm-up", words(TURN_TOKENS))
        prompt = words(options.prompt_tokens + TURN_TOKENS)
        answer = cold = ask(core, "cold", prompt)
        print(f"new: {1e3 * cold.seconds:.1f} ms")
        seconds = []
        for turn in range(2, options.turns + 2):
            prompt = [*prompt, *answer.token_ids, *words(TURN_TOKENS)]
            answer = ask(core, f"turn-{turn}", prompt)
            seconds.append(answer.seconds)
            print(f"turn {turn}: {1e3 * answer.seconds:.1f} ms, {answer.cached_tokens} of {len(prompt)} tokens cached")
    median = statistics.median(seconds)
    print(f"median of the turns: {1e3 * median:.1f} ms, 1/{cold.seconds / median:.1f} of the first")


if __name__ == "__main__":
    main()
