"""What a model directory holds, read from its files without loading it, and whether it is whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from quince.errors import InvalidModel
from quince.models import safetensors_header
from quince.models.model_type import ModelType
from quince.models.safetensors_header import Header
from quince.text.tokenizer import TOKENIZER_FILES, processor_template, read_json

WEIGHTS = "model*.safetensors"
INDEX = "model.safetensors.index.json"
# Weights that MLX does not read, for the error message.
OTHER_WEIGHTS = ("*.bin", "*.pt", "*.pth", "*.gguf", "*.safetensors", "*.h5", "*.onnx")
_LICENCE = re.compile(r"^license:\s*[\"']?([^\s\"'#]+)", re.MULTILINE)
_MLX_LAYERS = ("scales", "biases")


class Description(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Sizes are in bytes, ``context`` in tokens; ``format`` is "mlx" or "safetensors"; ``dtype`` is of most weights."""

    type: ModelType
    architecture: str
    parameters: int
    size: int
    format: str
    dtype: str
    bits: int | None = None
    group_size: int | None = None
    context: int | None = None
    license: str | None = None
    has_template: bool = False

    @property
    def quantization(self) -> str:
        """In words: ``4-bit``, or the type of the weights."""
        return f"{self.bits}-bit" if self.bits else self.dtype


def check(path: Path) -> None:
    """Raises InvalidModel, naming what is missing or broken, unless config, weights and tokenizer are all there."""
    missing = [] if (path / "config.json").is_file() else ["config.json"]
    missing += _missing_weights(path)
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        missing.append("a tokenizer (" + ", ".join(TOKENIZER_FILES) + ")")
    if missing:
        raise InvalidModel(f"this is not a whole model: missing {', '.join(missing)}")
    if not isinstance(_config(path).get("model_type"), str):
        raise InvalidModel("config.json is not valid: it names no model_type")
    for file in path.glob(WEIGHTS):
        safetensors_header.read(file)


def missing_files(names: set[str]) -> list[str]:
    """What a list of file names lacks to be a model, without the shards that only the index knows."""
    missing = [] if "config.json" in names else ["config.json"]
    if not any(Path(name).match(WEIGHTS) and "/" not in name for name in names):
        missing.append(WEIGHTS + _other_weights(names))
    if not names.intersection(TOKENIZER_FILES):
        missing.append("a tokenizer (" + ", ".join(TOKENIZER_FILES) + ")")
    return missing


def describe(path: Path, type: ModelType | None = None) -> Description:
    """Read the description; ``type`` overrides what is detected. Raises InvalidModel for broken files."""
    config = _config(path)
    headers = [safetensors_header.read(file) for file in sorted(path.glob(WEIGHTS))]
    text = {**config, **_dict(config.get("text_config"))}
    quantization = _dict(config.get("quantization"))
    return Description(
        type=type or detect_type(config, {file.name for file in path.iterdir()}, path.name),
        architecture=str(config.get("model_type", "unknown")),
        parameters=sum(_parameters(header, quantization) for header in headers),
        size=sum(file.stat().st_size for file in path.rglob("*") if file.is_file()),
        format="mlx" if any(header.metadata.get("format") == "mlx" for header in headers) else "safetensors",
        dtype=_dtype(headers),
        bits=_int(quantization.get("bits")),
        group_size=_int(quantization.get("group_size")),
        context=_int(text.get("max_position_embeddings")),
        license=_licence(path),
        has_template=chat_template(path) is not None,
    )


def detect_type(config: dict[str, Any], names: set[str], name: str) -> ModelType:
    """From the configuration and the other files; the name decides only where these say nothing (Qwen3-Reranker)."""
    architectures = " ".join(str(one) for one in config.get("architectures") or [])
    if "ForSequenceClassification" in architectures or "rerank" in name.lower():
        return ModelType.RERANKER
    if names & {"modules.json", "config_sentence_transformers.json", "1_Pooling"} or "embed" in name.lower():
        return ModelType.EMBEDDING
    if re.search(r"(Bert|Roberta)\w*(Model|MaskedLM)\b", architectures, re.IGNORECASE):
        return ModelType.EMBEDDING
    if any(key in config for key in ("vision_config", "vision_tower", "image_token_id", "image_token_index")):
        return ModelType.VLM
    return ModelType.LLM


def chat_template(path: Path) -> str | None:
    """The template's text, from its own file or the tokenizer's configuration."""
    try:
        return (path / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, ValueError):
        template = read_json(path / "tokenizer_config.json").get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {_dict(one).get("name"): _dict(one).get("template") for one in template}
        template = named.get("default")
    return template if isinstance(template, str) else processor_template(path)


def license_text(path: Path) -> str | None:
    """The text of the licence file, if there is one."""
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md"):
        if (path / name).is_file():
            return (path / name).read_text(encoding="utf-8", errors="replace")
    return None


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidModel("config.json is missing") from None
    except (OSError, ValueError) as error:
        raise InvalidModel(f"config.json cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise InvalidModel("config.json is not valid: it holds no object")
    return config


def _missing_weights(path: Path) -> list[str]:
    index = read_json(path / INDEX)
    shards = {str(name) for name in _dict(index.get("weight_map")).values()}
    if shards:
        return sorted(name for name in shards if not (path / name).is_file())
    if any(path.glob(WEIGHTS)):
        return []
    names = {file.name for file in path.iterdir()} if path.is_dir() else set()
    return [WEIGHTS + _other_weights(names)]


def _other_weights(names: set[str]) -> str:
    """What there is instead, for the reader of the error."""
    found = sorted(name for name in names if any(Path(name).match(pattern) for pattern in OTHER_WEIGHTS))
    return f" (it has {found[0]}, which MLX does not read)" if found else ""


def _parameters(header: Header, quantization: dict[str, Any]) -> int:
    """Quantised weights are packed into 32-bit words beside their scales and biases."""
    count = 0
    for name, tensor in header.tensors.items():
        layer, _, kind = name.rpartition(".")
        quantized = f"{layer}.scales" in header.tensors
        if quantized and kind in _MLX_LAYERS:
            continue
        packed = quantized and kind == "weight" and tensor.dtype == "U32"
        bits = _int(_dict(quantization.get(layer)).get("bits")) or _int(quantization.get("bits"))
        count += tensor.elements * 32 // bits if packed and bits else tensor.elements
    return count


def _dtype(headers: list[Header]) -> str:
    sizes: dict[str, int] = {}
    for header in headers:
        for tensor in header.tensors.values():
            sizes[tensor.dtype] = sizes.get(tensor.dtype, 0) + tensor.elements
    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
    most = max(sizes, key=lambda one: sizes[one], default="unknown")
    return names.get(most, most.lower())


def _licence(path: Path) -> str | None:
    """From the front matter of the model card."""
    try:
        card = (path / "README.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    parts = card.split("---", 2)
    found = _LICENCE.search(parts[1]) if len(parts) == 3 and not parts[0].strip() else None
    return found[1] if found else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
