"""Models that other programs (mlx-lm, say) have put in the Hugging Face cache. Read only: the cache is not ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from quince.errors import InvalidModel
from quince.models import description
from quince.text.tokenizer import TOKENIZER_FILES

_PREFIX = "models--"


@dataclass(frozen=True)
class CachedModel:
    """``path`` is the snapshot that the repository's ``main`` stands at; its files are links."""

    repo_id: str
    revision: str
    path: Path


def default_directory() -> Path:
    """Where huggingface_hub keeps its cache, by its own variables (HF_HUB_CACHE, HF_HOME)."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def find(cache: Path) -> Iterator[CachedModel]:
    """Every whole model in the cache, by repository id. Half-downloaded ones and other repositories are passed over."""
    for folder in sorted(cache.glob(f"{_PREFIX}*--*")):
        model = _model(folder)
        if model is not None:
            yield model


def get(cache: Path, repo_id: str) -> CachedModel | None:
    """One model by its repository id, None if it is not there or not whole."""
    owner, _, name = repo_id.partition("/")
    safe = all(part and part not in (".", "..") and "/" not in part for part in (owner, name))
    return _model(cache / f"{_PREFIX}{owner}--{name}") if safe else None


def _model(folder: Path) -> CachedModel | None:
    try:
        revision = (folder / "refs" / "main").read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    snapshot = folder / "snapshots" / revision
    # Cheap questions first: most repositories in a cache are no models that could be served.
    if not (snapshot / "config.json").is_file() or not any((snapshot / name).is_file() for name in TOKENIZER_FILES):
        return None
    try:
        description.check(snapshot)
    except InvalidModel:
        return None
    return CachedModel(folder.name.removeprefix(_PREFIX).replace("--", "/", 1), revision, snapshot)
