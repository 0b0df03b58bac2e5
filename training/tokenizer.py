"""Train the byte-level BPE tokeniser on text of the generators and write it into the model's directory."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training import render
from training.data.mix import draw
from training.render import MODEL_DIR

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKUP = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
# Contractions, words with one leading sign or space, single digits, signs with their line ends, line ends, spaces.
SPLIT = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def corpus(samples: int, seed: int) -> Iterator[str]:
    rng = Random(seed)
    for _ in range(samples):
        sample = draw(rng, "train")
        if len(sample.messages) > 40:
            continue
        yield render.prompt(sample)[:6000] + render.completion(sample)[:2000]


def build(vocab_size: int, samples: int, seed: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    marks = [AddedToken(mark, special=True, normalized=False) for mark in SPECIAL]
    marks += [AddedToken(mark, special=False, normalized=False) for mark in MARKUP]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(marks),
        min_frequency=3,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        max_token_length=24,
    )
    tokenizer.train_from_iterator(corpus(samples, seed), trainer)
    tokenizer.add_tokens(marks)
    return tokenizer


def settings(tokenizer: Tokenizer, context: int) -> dict[str, object]:
    """tokenizer_config.json, as transformers reads it."""
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    added = {
        str(tokenizer.token_to_id(mark)): {"content": mark, **plain, "special": mark in SPECIAL}
        for mark in SPECIAL + MARKUP
    }
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "model_max_length": context,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL_DIR)
    parser.add_argument("--vocab-size", type=int, default=4096)
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    (MODEL_DIR / "tokenizer.json").unlink(missing_ok=True)  # the data must not depend on an earlier one
    tokenizer = build(args.vocab_size, args.samples, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out / "tokenizer.json"), pretty=False)
    text = json.dumps(settings(tokenizer, args.context), indent=2, ensure_ascii=False)
    (args.out / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
    print(f"{tokenizer.get_vocab_size()} tokens -> {args.out / 'tokenizer.json'}")


if __name__ == "__main__":
    main()
