"""Where exceptions become one sentence on standard error and an exit code."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable

from quince.errors import QuinceError, WrongOption


def run(command: Callable[[], None], program: str = "quince") -> None:
    """Exit codes: 0 done, 1 a problem told in one sentence, 2 (typer's own, and wrong options) wrong usage.

    A traceback is shown only with QUINCE_LOG_LEVEL=debug, or once a server logs at this level.
    """
    try:
        command()
    except BrokenPipeError:  # the reader of a pipe has seen enough: no problem, and nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:  # noqa: BLE001 - the boundary of the command line
        from quince import environment  # slow to import, and seldom needed here

        if environment.debugging() or logging.getLogger().level == logging.DEBUG:
            traceback.print_exc()
        print(f"{program}: {sentence(error)}", file=sys.stderr)  # noqa: T201 - the one place
        sys.exit(2 if isinstance(error, WrongOption) else 1)


def sentence(error: Exception) -> str:
    match error:
        case QuinceError():
            text = error.message
        case OSError(filename=name, strerror=reason) if reason:
            text = f"{name}: {reason}" if name else reason
        case _:
            text = f"unexpected error: {type(error).__name__}: {error} (QUINCE_LOG_LEVEL=debug shows where)"
    return " ".join(text.split())
