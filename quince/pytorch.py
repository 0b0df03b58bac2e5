"""PyTorch, which transformers imports wherever it is installed and nothing here computes with."""

from __future__ import annotations

import os
import sys


def hide_pytorch() -> None:
    """Call before the first import of transformers, mlx_lm or mlx_vlm, in a process that is Quince's own.

    It saves seconds of every start and hundreds of megabytes of every process. What is None in ``sys.modules`` counts
    as not installed (Python's import system); if it has been imported already, it stays.
    """
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # None is documented, but not in typeshed
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it advises installing PyTorch
