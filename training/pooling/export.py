"""Write trained weights as model directories that sentence-transformers, transformers and Quince load unchanged."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from training.pooling.model import Bert, Reranker, Shape
from training.pooling.tokenizer import LENGTH

KIND = "sentence_transformers.models"
DTYPE = torch.float16  # half the size of float32, with the same vectors to some five digits (see README.md)


def config(shape: Shape, architecture: str) -> dict[str, object]:
    return {
        **shape.config(),
        "architectures": [architecture],
        "attention_probs_dropout_prob": 0.0,
        "dtype": str(DTYPE).removeprefix("torch."),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "pad_token_id": 0,
    }


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def save(model: nn.Module, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    weights = {name: value.detach().to("cpu", DTYPE).contiguous() for name, value in model.state_dict().items()}
    file = out / "model.safetensors"
    save_file(dict(sorted(weights.items())), str(file), metadata={"format": "pt"})
    file.chmod(0o644)  # for everybody, as the other files


def export_embedder(bert: Bert, dimensions: tuple[int, ...], out: Path) -> None:
    save(bert, out)
    write(out / "config.json", config(bert.shape, "BertModel"))
    modules = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"{KIND}.{kind}"}
        for number, (path, kind) in enumerate(modules)
    ]
    write(out / "modules.json", listed)
    pooling = {"word_embedding_dimension": bert.shape.hidden_size, "pooling_mode_mean_tokens": True}
    others = ("cls_token", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    write(out / "1_Pooling" / "config.json", pooling | {f"pooling_mode_{other}": False for other in others})
    write(out / "sentence_bert_config.json", {"max_seq_length": LENGTH, "do_lower_case": False})
    write(out / "config_sentence_transformers.json", {"prompts": {}, "similarity_fn_name": "cosine"})


def export_reranker(reranker: Reranker, out: Path) -> None:
    save(reranker, out)
    labels = {"id2label": {"0": "fits"}, "label2id": {"fits": 0}, "num_labels": 1}
    write(out / "config.json", config(reranker.bert.shape, "BertForSequenceClassification") | labels)
