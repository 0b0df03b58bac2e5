"""Score the exported model on held-out phrasings, words and tools, per skill, and print the table as Markdown."""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from training import render
from training.data.mix import NAMES, draw
from training.data.sample import Sample
from training.render import MODEL_DIR

LIMIT = 8192
Generate = Callable[[list[list[int]], list[int]], list[list[int]]]


@dataclass(frozen=True)
class Outcome:
    skill: str
    prompt: str
    wanted: str
    got: str
    right: bool


def parsed(text: str) -> Any:
    """Calls and JSON are compared as values, everything else as text."""
    if text.lstrip().startswith("<tool_call>") or '"arguments"' in text:
        blocks = text.replace("<tool_call>", "").split("</tool_call>")
        return [json.loads(block) for block in blocks if block.strip()]
    return json.loads(text) if text.startswith("{") else text.strip()


def same(sample: Sample, got: str) -> bool:
    if sample.thinking and not sample.prefix:
        thought, closed, got = got.partition("</think>")
        if not closed or not thought.startswith("<think>"):
            return False
    forced = sample.prefix if '"name"' in sample.prefix else ""
    try:
        return bool(parsed(sample.answer) == parsed(forced + got.strip()))
    except ValueError:
        return False


def held_out_samples(skill: str, count: int) -> list[Sample]:
    """The row "thinking" takes every skill in turn, with the switch on."""
    rng = Random(f"evaluation/{skill}")
    if skill != "thinking":
        return [draw(rng, "eval", skill) for _ in range(count)]
    chosen = [name for name in NAMES if name not in ("completion", "long context", "lists")]
    return [replace(draw(rng, "eval", chosen[i % len(chosen)]), thinking=True, prefix="") for i in range(count)]


def mlx_backend(directory: Path) -> tuple[Any, Generate]:
    from mlx_lm import batch_generate, load

    model, tokenizer = load(str(directory))[:2]

    def generate(prompts: list[list[int]], limits: list[int]) -> list[list[int]]:
        texts = batch_generate(model, tokenizer, prompts, max_tokens=limits).texts
        return [tokenizer.encode(text, add_special_tokens=False) for text in texts]

    return tokenizer, generate


def transformers_backend(directory: Path) -> tuple[Any, Generate]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(directory, local_files_only=True, dtype=torch.bfloat16).to(device)

    def generate(prompts: list[list[int]], limits: list[int]) -> list[list[int]]:
        batch = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt").to(device)
        out = model.generate(**batch, max_new_tokens=max(limits), do_sample=False, temperature=None, top_p=None)
        return [row[batch["input_ids"].shape[1] :].tolist() for row in out]

    return tokenizer, generate


def score(skill: str, count: int, batch: int, tokenizer: Any, generate: Generate) -> list[Outcome]:
    outcomes: list[Outcome] = []
    samples = held_out_samples(skill, count)
    encoded = [(s, tokenizer.encode(render.prompt(s), add_special_tokens=False)) for s in samples]
    sized = [(s, ids, len(tokenizer.encode(render.completion(s), add_special_tokens=False)) + 24) for s, ids in encoded]
    todo = sorted((item for item in sized if len(item[1]) + item[2] <= LIMIT), key=lambda item: len(item[1]))
    for at in range(0, len(todo), batch):
        part = todo[at : at + batch]
        answers = generate([ids for _, ids, _ in part], [limit for _, _, limit in part])
        for (sample, ids, _), answer in zip(part, answers, strict=True):
            text = tokenizer.decode(answer).split(render.END)[0].split(render.STOP)[0]
            outcomes.append(Outcome(skill, tokenizer.decode(ids), sample.answer, text, same(sample, text)))
    return outcomes


def table(results: dict[str, list[Outcome]]) -> str:
    lines = ["| skill | held-out samples | right |", "| --- | --- | --- |"]
    for skill, outcomes in results.items():
        right = sum(outcome.right for outcome in outcomes)
        lines.append(f"| {skill} | {len(outcomes)} | {100 * right / max(1, len(outcomes)):.1f} % |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL_DIR)
    parser.add_argument("--backend", choices=("mlx", "transformers"), default="mlx")
    parser.add_argument("--count", type=int, default=100, help="samples per skill")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--skills", nargs="*", default=[*NAMES, "thinking"])
    parser.add_argument("--json", type=Path, help="write the scores and every wrong answer here")
    args = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer, generate = (mlx_backend if args.backend == "mlx" else transformers_backend)(args.model)
    results: dict[str, list[Outcome]] = {}
    for skill in args.skills:
        results[skill] = score(skill, args.count, args.batch, tokenizer, generate)
        print(table({skill: results[skill]}).splitlines()[-1], flush=True)
    print(f"\n{table(results)}")
    if args.json:
        scores = {skill: sum(o.right for o in outcomes) / max(1, len(outcomes)) for skill, outcomes in results.items()}
        wrong = [asdict(o) for outcomes in results.values() for o in outcomes if not o.right]
        args.json.write_text(
            json.dumps({"scores": scores, "wrong": wrong}, indent=1, ensure_ascii=False), encoding="utf-8")  # fmt: skip


if __name__ == "__main__":
    main()
