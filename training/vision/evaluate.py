"""Score a model on held-out phrasings, pairs of colour and shape, words and numbers, per skill."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from training.vision import files
from training.vision.conversations import Conversation, wanted
from training.vision.draw import pixels
from training.vision.questions import SKILLS

LIMIT = 64  # tokens of an answer
Pixels = np.ndarray[Any, np.dtype[np.uint8]]
# Prompts with their pictures to answers.
Generate = Callable[[list[Conversation], list[list[Pixels]]], list[str]]
Scores = dict[str, list[dict[str, Any]]]


def held_out(skill: str, count: int) -> tuple[list[Conversation], list[list[Pixels]]]:
    rng = Random(f"evaluation/{skill}")
    conversations = [wanted(rng, "eval", skill) for _ in range(count)]
    return conversations, [[pixels(scene, rng) for scene in c.images] for c in conversations]


def score(generate: Generate, skill: str, count: int) -> list[dict[str, Any]]:
    """An answer is right if it is exactly the wanted text; a description also in any order."""
    conversations, pictures = held_out(skill, count)
    outcomes = []
    for conversation, got in zip(conversations, generate(conversations, pictures), strict=True):
        exchange = conversation.turns[-1].exchange
        right = bag(got) == bag(exchange.answer) if skill == "describe" else got == exchange.answer
        outcomes.append({"question": exchange.question, "wanted": exchange.answer, "got": got, "right": right})
    return outcomes


def scores(generate: Generate, count: int) -> Scores:
    return {skill: score(generate, skill, count) for skill in SKILLS}


def bag(text: str) -> list[str]:
    return sorted(
        text.replace(" and ", ", ").rstrip(".").replace(" on a", ", on a").removeprefix("The image shows ").split(", ")
    )


def table(found: Scores) -> str:
    lines = ["| skill | held-out samples | right |", "| --- | --- | --- |"]
    for skill, outcomes in found.items():
        share = sum(o["right"] for o in outcomes) / len(outcomes)
        lines.append(f"| {skill} | {len(outcomes)} | {share:.1%} |")
    return "\n".join(lines)


def twin_backend(model: Any) -> Generate:
    """Greedy decoding by the model of training, without a cache: every step reads all rows again."""
    import torch
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(files.MODEL_DIR / "tokenizer.json"))
    image, end, stop = (tokenizer.token_to_id(mark) for mark in (files.IMAGE, files.END, files.STOP))
    device = next(model.parameters()).device

    def generate(conversations: list[Conversation], pictures: list[list[Pixels]]) -> list[str]:
        prompts = [
            tokenizer.encode(files.prompt(c.turns, c.system), add_special_tokens=False).ids for c in conversations
        ]
        lengths = torch.tensor([len(p) for p in prompts], device=device)
        tokens = torch.full((len(prompts), int(lengths.max()) + LIMIT), stop, device=device)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = torch.tensor(prompt, device=device)
        mask = tokens == image
        places = torch.where(mask, mask.flatten().cumsum(0).view_as(tokens) - 1, -1)
        blank = np.zeros((files.SIDE, files.SIDE, 3), np.uint8)
        images = torch.from_numpy(np.stack([p for each in pictures for p in each] or [blank])).to(device)
        rows = torch.arange(len(prompts), device=device)
        open_ = torch.ones_like(rows, dtype=torch.bool)
        at = lengths.clone()
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            for _ in range(LIMIT):
                logits, _ = model(images, tokens, places)
                chosen = logits[rows, at - 1].argmax(-1)
                tokens[rows, at] = torch.where(open_, chosen, stop)
                open_ &= (chosen != end) & (chosen != stop)
                at = torch.where(open_, at + 1, at)
                if not open_.any():
                    break
        answers = [tokens[row, lengths[row] : at[row]].tolist() for row in range(len(prompts))]
        return [tokenizer.decode(ids) for ids in answers]

    return generate


def mlx_backend(directory: Path) -> Generate:
    from mlx_vlm import generate as answer
    from mlx_vlm import load

    model, processor = load(str(directory))

    def generate(conversations: list[Conversation], pictures: list[list[Pixels]]) -> list[str]:
        answers = []
        for conversation, shown in zip(conversations, pictures, strict=True):
            text = processor.tokenizer.apply_chat_template(
                files.messages(conversation.turns, conversation.system), add_generation_prompt=True, tokenize=False
            )
            images = [Image.fromarray(p) for p in shown]
            result = answer(model, processor, text, image=images or None, max_tokens=LIMIT, temperature=0.0)
            answers.append(result.text)
        return answers

    return generate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=files.MODEL_DIR)
    parser.add_argument("--count", type=int, default=20, help="samples a skill")
    parser.add_argument("--json", type=Path, help="keep every answer here")
    args = parser.parse_args()
    found = scores(mlx_backend(args.directory), args.count)
    if args.json:
        args.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(table(found))


if __name__ == "__main__":
    main()
