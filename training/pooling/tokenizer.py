"""Train the tokeniser of the embedding model and the reranker: byte-level BPE in lower case, over words and signs."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from training.pooling.data.mix import draw

PAD, CLS, SEP = SPECIAL = ("[PAD]", "[CLS]", "[SEP]")
FILE = "tokenizer.json"
# A word is the same word after a space, a bracket or a line's end: spaces are dropped here and put before each part.
PARTS = r"\p{L}+|\p{N}+|[^\s\p{L}\p{N}]"
LENGTH = 512


def corpus(samples: int, seed: int) -> Iterator[str]:
    rng = Random(seed)
    for _ in range(samples):
        _, group = draw(rng, "train")
        yield " ".join((group.query, group.positive[:1500], *group.negatives[:1]))[:3000]


def build(vocab_size: int, samples: int, seed: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PARTS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=3,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[AddedToken(mark, special=True, normalized=False) for mark in SPECIAL],
        show_progress=False,
        max_token_length=24,
    )
    tokenizer.train_from_iterator(corpus(samples, seed), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CLS} $A {SEP}",
        pair=f"{CLS} $A {SEP} $B:1 {SEP}:1",
        special_tokens=[(mark, tokenizer.token_to_id(mark)) for mark in (CLS, SEP)],
    )
    return tokenizer


def settings() -> dict[str, object]:
    """tokenizer_config.json, as transformers reads it."""
    return {
        "clean_up_tokenization_spaces": False,
        "cls_token": CLS,
        "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
        "model_max_length": LENGTH,
        "pad_token": PAD,
        "sep_token": SEP,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, nargs="+", required=True, help="the models' directories")
    parser.add_argument("--vocab-size", type=int, default=6144)
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    tokenizer = build(args.vocab_size, args.samples, args.seed)
    for out in args.out:
        out.mkdir(parents=True, exist_ok=True)
        tokenizer.save(str(out / FILE), pretty=False)
        (out / "tokenizer_config.json").write_text(json.dumps(settings(), indent=2) + "\n", encoding="utf-8")
    print(f"{tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
