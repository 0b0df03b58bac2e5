"""Arrays of the prefix cache in host memory, for threads and files that know no MLX. No MLX in here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Where the numbers of each array stand in a nested list of layers: see batch_cache.Part.
Tree = int | list["Tree"] | None


@dataclass(frozen=True)
class HostArrays:
    """``tree`` has the shape of what was saved, with places in ``arrays`` for its arrays.

    ``dtypes`` are MLX's names; what NumPy does not have (bfloat16) is held as unsigned numbers of the same size.
    """

    tree: Tree
    arrays: list[Array]
    dtypes: list[str]

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.arrays)

    def cut(self, start: int, stop: int) -> HostArrays:
        """Tokens ``start`` to ``stop`` of a segment, as views."""
        return HostArrays(self.tree, [array[:, :, start:stop] for array in self.arrays], self.dtypes)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """What an array of this MLX type is held as. Raises TypeError for a name that is none."""
    return np.dtype("uint16" if name == "bfloat16" else name)


@dataclass(frozen=True)
class LoadedPart:
    """Read from disk and verified: the segment of tokens ``start`` to ``stop`` of a sequence, or, with ``start`` and
    ``stop`` equal, the snapshot there."""

    start: int
    stop: int
    host: HostArrays

    @property
    def snapshot(self) -> bool:
        return self.start == self.stop
