"""Imports mlx-lm's loader without what mlx-lm tokenizes, generates and downloads with: an engine does none of it here.

That is transformers, huggingface_hub and what they import, half of an engine process's start otherwise. Nothing of
mlx-lm is changed (docs/architecture.md says why this is done).
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import sys
from types import ModuleType

logger = logging.getLogger("quince.engine")

PACKAGE = "mlx_lm"
LOADER = f"{PACKAGE}.utils"
# What the loader imports for functions that are not called here.
ABSENT = (f"{PACKAGE}.tokenizer_utils", "huggingface_hub")


def import_loader() -> None:
    """Call before anything imports mlx_lm, in a process that only loads and runs models; else nothing happens.

    ``mlx_lm`` stays a package without names of its own: its modules import as ever. What is absent is so only while the
    loader is imported, and imports as ever afterwards. If that does not do for some version of mlx-lm, all of it is
    imported, later.
    """
    spec = importlib.util.find_spec(PACKAGE) if PACKAGE not in sys.modules else None
    if spec is None:
        return
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
    stand_ins = {name: _Absent(name) for name in ABSENT if name not in sys.modules}
    sys.modules.update(stand_ins)
    with contextlib.suppress(Exception):  # what is wrong with all of it, its own import will tell
        importlib.import_module(LOADER)
    for name in stand_ins:
        sys.modules.pop(name, None)
    if LOADER not in sys.modules:
        logger.info("this version of mlx-lm is imported whole")
        for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
            del sys.modules[name]


class _Absent(ModuleType):
    """Has every name, each of them a class that cannot be made."""

    def __getattr__(self, name: str) -> type[_Unusable]:
        if name.startswith("__"):  # asked by the import system, which takes them for what they say
            raise AttributeError(name)
        return _Unusable


class _Unusable:
    def __init__(self, *_args: object, **_kwargs: object) -> None:
        raise RuntimeError("an engine process has no tokenizers and downloads nothing")
