from __future__ import annotations

import sys

import msgspec
import pytest

from quince.engine.supervisor import ChildProcess


class Nothing(msgspec.Struct):
    pass


CRASH = "import faulthandler, os, sys; faulthandler.enable(); {} os.kill(os.getpid(), {})"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "import sys; print('WARNING one', file=sys.stderr); sys.exit('no such model')",
            "exited with code 1: no such model",
        ),
        ("pass", "exited with code 0"),
        (CRASH.format("print('INFO a step', file=sys.stderr);", 8), "was killed by signal 8: Floating point exception"),
        (CRASH.format("print('out of memory', file=sys.stderr);", 6), "was killed by signal 6: Aborted, out of memory"),
        (CRASH.format("", 11), "was killed by signal 11: Segmentation fault"),
    ],
    ids=["message", "silent", "crash after a log line", "crash that a library announced", "crash"],
)
async def test_the_last_words_say_why_it_ended(code: str, words: str) -> None:
    child = await ChildProcess.start(Nothing(), [sys.executable, "-c", code], "tiny")
    assert await child.wait() == f"the engine process {words}"
    await child.stop()
