"""What LoRA adapters cost: one for each request, in one pass or in a pass for each, beside the model without any.

python -m benchmarks.adapters --model tiny --rows 8 --adapters 2 4 8
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.tuner.utils import linear_to_lora_layers
from mlx_lm.utils import load_model

from benchmarks.models import SHAPES, ensure
from quince.engine.adapters import AdapterForward
from quince.engine.core import CoreConfig, EngineCore, make_core
from quince.engine.forward import Forward, TextForward
from quince.engine.messages import AddRequest
from quince.engine.structured import GrammarCompiler
from quince.sampling import SamplingParams

PLAIN, NOBODY, ONE, MIXED, APART = "no adapters", "nobody asks", "all ask for one", "one pass", "a pass for each"


class Apart(AdapterForward):
    """As for kinds of adapters that cannot share a pass."""

    def __init__(self, model: Module, directories: dict[str, Path]) -> None:
        super().__init__(model, directories)
        self.mixes_adapters = False


def write_adapter(model: Path, path: Path, rank: int) -> Path:
    """Random weights over every linear layer."""
    path.mkdir()
    loaded, _ = load_model(model, lazy=True)
    parameters = {"rank": rank, "scale": 2.0, "dropout": 0.0}
    loaded.freeze()
    linear_to_lora_layers(loaded, len(loaded.layers), parameters)
    weights = {name: 0.01 * mx.random.normal(w.shape) for name, w in tree_flatten(loaded.trainable_parameters())}
    mx.save_safetensors(str(path / "adapters.safetensors"), weights)
    config = {"num_layers": len(loaded.layers), "lora_parameters": parameters}
    (path / "adapter_config.json").write_text(json.dumps(config))
    return path


def engine(forward: Forward, path: Path, vocab: int, rows: int) -> EngineCore:
    config = CoreConfig(max_running_requests=rows, prefill_chunk_size=2048, prefix_cache_bytes=0)
    return make_core(forward, vocab, GrammarCompiler(path / "tokenizer.json", vocab), config)


def measure(core: EngineCore, names: Sequence[str | None], vocab: int, prompt: int, tokens: int) -> tuple[float, float]:
    """Seconds until every row has said something, and seconds per step of decoding after that."""
    for row, name in enumerate(names):
        token_ids = [(7919 * row + 31 * index) % vocab for index in range(prompt)]
        core.add(AddRequest(f"r{row}", token_ids, SamplingParams(max_tokens=tokens), adapter=name))
    started = time.perf_counter()
    said: set[str] = set()
    while len(said) < len(names):
        said |= {output.request_id for output in core.step() if output.token_ids}
    prefilled, first = time.perf_counter(), core.stats().steps
    while core.has_work():
        core.step()
    return prefilled - started, (time.perf_counter() - prefilled) / (core.stats().steps - first)


def compare(model: Path, vocab: int, count: int, options: argparse.Namespace) -> None:
    """A, B, C, A, B, C ...; the fastest of each, since other work on the machine only adds."""
    with tempfile.TemporaryDirectory() as directory:
        paths = {f"a{i}": write_adapter(model, Path(directory) / f"a{i}", options.rank) for i in range(count)}
        forwards = [TextForward(load_model(model)[0])]
        forwards += [kind(load_model(model)[0], paths) for kind in (AdapterForward, Apart)]
        plain, together, apart = (engine(forward, model, vocab, options.rows) for forward in forwards)
    nobody: list[str | None] = [None] * options.rows
    several = [f"a{row % count}" for row in range(options.rows)]
    runs = [
        (PLAIN, plain, nobody),
        (NOBODY, together, nobody),
        (ONE, together, ["a0"] * options.rows),
        (MIXED, together, several),
        (APART, apart, several),
    ]
    times: dict[str, list[tuple[float, float]]] = {name: [] for name, _, _ in runs}
    for repeat in range(options.repeats + 1):
        for name, core, names in runs:
            taken = measure(core, names, vocab, options.prompt_tokens, options.max_tokens)
            if repeat:
                times[name].append(taken)
    base = [min(part) for part in zip(*times[PLAIN], strict=True)]
    for name, _, _ in runs:
        prefill, step = (min(part) for part in zip(*times[name], strict=True))
        print(
            f"{count:3} adapters, {options.rows} rows, {name:16}"
            f" prompts {1000 * prefill:8.1f} ms ({prefill / base[0]:.2f}x)"
            f" step {1000 * step:7.2f} ms ({step / base[1]:.2f}x)"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=SHAPES, default="tiny")
    parser.add_argument("--models-dir", type=Path, default=Path(tempfile.gettempdir()) / "quince-benchmark-models")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--adapters", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--prompt-tokens", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    model = ensure(options.model, options.models_dir)
    for count in options.adapters:
        compare(model, SHAPES[options.model].vocab, count, options)


if __name__ == "__main__":
    main()
