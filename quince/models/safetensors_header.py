"""What a safetensors file says about itself before its data: names, types and shapes, read in microseconds."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quince.errors import InvalidModel

# The format's own limit on its header.
MAX_HEADER = 100 * 2**20


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """``metadata`` is what the writer noted; MLX's writers note ``format: mlx``."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read(path: Path) -> Header:
    """Raises InvalidModel, naming the file, if it is no safetensors file or shorter than it says."""
    try:
        with path.open("rb") as file:
            prefix = file.read(8)
            length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else MAX_HEADER + 1
            entries: Any = json.loads(file.read(length)) if length <= MAX_HEADER else None
        tensors = {name: entry for name, entry in entries.items() if name != "__metadata__"}
        end = max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        header = Header(
            {name: Tensor(str(entry["dtype"]), tuple(entry["shape"])) for name, entry in tensors.items()},
            dict(entries.get("__metadata__") or {}),
        )
    except OSError as error:
        raise InvalidModel(f"{path.name} cannot be read: {error.strerror or error}") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise InvalidModel(f"{path.name} is not a safetensors file, or it is cut short") from None
    size = path.stat().st_size
    if size < 8 + length + end:
        raise InvalidModel(f"{path.name} is cut short: it has {size} bytes and should have {8 + length + end}")
    return header
