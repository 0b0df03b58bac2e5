"""Train the byte-level BPE tokeniser on conversations of the generators and write it into the model's directory."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from training.tokenizer import SPLIT
from training.vision.conversations import draw
from training.vision.files import CONTEXT, END, MODEL_DIR, SPECIAL, STOP, write_json

VOCABULARY = 1024


def corpus(conversations: int, seed: int) -> Iterator[str]:
    """Without the words that pictures show: these stay letters, so that reading a new one is spelling it."""
    rng = Random(seed)
    for _ in range(conversations):
        conversation = draw(rng, "train")
        for turn in conversation.turns:
            yield f"user\n{turn.exchange.question}"
            yield "assistant\n" + re.sub(r'"\w+"', '""', turn.exchange.answer)
        if conversation.system:
            yield f"system\n{conversation.system}"


def build(conversations: int, seed: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(SPLIT), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        min_frequency=40,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
        max_token_length=16,
    )
    tokenizer.train_from_iterator(corpus(conversations, seed), trainer)
    tokenizer.add_tokens([AddedToken(mark, special=True, normalized=False) for mark in SPECIAL])
    return tokenizer


def settings(tokenizer: Tokenizer) -> dict[str, Any]:
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "add_bos_token": False,
        "add_prefix_space": False,
        "added_tokens_decoder": {str(tokenizer.token_to_id(mark)): {"content": mark, **plain} for mark in SPECIAL},
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": END,
        "model_max_length": CONTEXT,
        "pad_token": STOP,
        "processor_class": "Idefics3Processor",
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=MODEL_DIR)
    parser.add_argument("--conversations", type=int, default=8_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    tokenizer = build(args.conversations, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(args.out / "tokenizer.json"), pretty=False)
    write_json(args.out / "tokenizer_config.json", settings(tokenizer))
    print(f"{tokenizer.get_vocab_size()} tokens -> {args.out / 'tokenizer.json'}")


if __name__ == "__main__":
    main()
