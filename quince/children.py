"""How Quince starts another process of itself: by the interpreter, or from the single-file binary by the binary.

A child is a module of this package with a ``main()``. In the binary there is no ``python -m``, so the binary runs
itself again with a first argument that people never type.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping

CHILD_OPTION = "--quince-child"
_PACKAGE = "quince"


def command(module: str, *args: str) -> tuple[str, ...]:
    """What to execute for ``python -m module args``; ``module`` is ``quince`` or one below it."""
    if is_frozen():
        return (sys.executable, *(() if module == _PACKAGE else (CHILD_OPTION, module)), *args)
    return (sys.executable, "-m", module, *args)


def independent(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` for a child that outlives this process: the binary's children share its unpacked files."""
    return {**environment, "PYINSTALLER_RESET_ENVIRONMENT": "1"} if is_frozen() else dict(environment)


def is_frozen() -> bool:
    return bool(getattr(sys, "frozen", False))


def main() -> None:
    """The binary's entry: the child that the arguments ask for, else the command line."""
    module = "quince.__main__"
    if sys.argv[1:2] == [CHILD_OPTION]:
        module = sys.argv[2]
        del sys.argv[1:3]
    importlib.import_module(module).main()
