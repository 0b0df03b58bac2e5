"""Starts, watches and ends one process of a model, its engine or its preprocessor, from the API process.

Its stderr is logged line by line, and the last one is kept: a dead child's last words reach the user.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Sequence

import msgspec

from quince import children, logs

logger = logging.getLogger("quince.engine")

FATAL = "Fatal Python error: "  # begins what faulthandler says of a crash, before stacks and a list of modules
STOP_TIMEOUT = 5.0
ENGINE_ENVIRONMENT = {
    # glibc otherwise keeps freed blocks of up to 32 MiB, and the resident size follows the heap's fragmentation.
    "MALLOC_MMAP_THRESHOLD_": "65536",
    # MLX's CUDA build otherwise takes a process that has met twice as many shapes as it keeps kernels for (512 of
    # attention) to be wrong, and raises: with 0.32.4 if none of them came again, and every server meets new ones.
    "MLX_ENABLE_CACHE_THRASHING_CHECK": "0",
}
ENGINE_COMMAND = children.command("quince.engine.process")
_LEVELS = {name: getattr(logging, name) for name in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")}


class ChildProcess:
    """One life of a process. ``command`` reads its configuration from its stdin, as a line of JSON, and ends when that
    closes."""

    def __init__(self, process: asyncio.subprocess.Process, name: str, role: str) -> None:
        self._process = process
        self._name = name
        self._role = role
        self._last_words = ""
        self._crashed = False
        self._reader = asyncio.create_task(self._read_stderr(), name=f"{role}-{process.pid}-stderr")

    @classmethod
    async def start(
        cls, config: msgspec.Struct, command: Sequence[str], name: str, role: str = "engine"
    ) -> ChildProcess:
        """``name`` is the model's, for the log; ``role`` what the process is to it."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={**ENGINE_ENVIRONMENT, **os.environ},
            start_new_session=True,  # a terminal's Ctrl-C is for the API process, which drains first
        )
        child = cls(process, name, role)
        assert process.stdin is not None
        # A child that dies at once is seen by wait(), not here.
        with contextlib.suppress(ConnectionError):
            process.stdin.write(msgspec.json.encode(config) + b"\n")
            await process.stdin.drain()
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    async def wait(self) -> str:
        """Wait for the end; tells how it ended, in words."""
        code = await self._process.wait()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._reader), 1.0)
        how = f"was killed by signal {-code}" if code < 0 else f"exited with code {code}"
        return f"the {self._role} process {how}" + (f": {self._last_words}" if self._last_words else "")

    async def stop(self) -> None:
        """Close its stdin, which ends it; kill it if that does not."""
        if self._process.returncode is None:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                await asyncio.wait_for(self._process.wait(), STOP_TIMEOUT)
            except TimeoutError:
                self.kill()
                await self._process.wait()
            except asyncio.CancelledError:
                self.kill()  # whoever cancels does not wait, but the process must not stay
                raise
        self._reader.cancel()  # a process that it left behind may hold its stderr open for ever

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _read_stderr(self) -> None:
        assert self._process.stderr is not None
        async for line in _lines(self._process.stderr):
            self._keep(line)
            level, text = _split_level(line)
            logs.event(logger, level, text, model=self._name, **{self._role: self.pid})

    def _keep(self, line: str) -> None:
        """Of a crash, its name and what a library said right before it."""
        if self._crashed:
            return
        self._crashed = line.startswith(FATAL)
        if not self._crashed:
            self._last_words = line
        elif self._last_words.partition(" ")[0] in _LEVELS:
            self._last_words = line.removeprefix(FATAL)
        else:
            self._last_words = ", ".join(filter(None, (line.removeprefix(FATAL), self._last_words)))


def _split_level(line: str) -> tuple[int, str]:
    """The level and the text of a log line of the engine's. What has no level is no log line: a traceback, a library's
    complaint, a crash."""
    first, _, text = line.partition(" ")
    return (_LEVELS[first], text) if first in _LEVELS else (logging.WARNING, line)


async def _lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """Lines of any length and encoding; an overlong one comes in pieces."""
    while True:
        try:
            raw = await stream.readuntil(b"\n")
        except asyncio.IncompleteReadError as end:
            raw = end.partial
        except asyncio.LimitOverrunError as overrun:
            raw = await stream.readexactly(overrun.consumed)
        if not raw:
            return
        text = raw.decode("utf-8", "replace").rstrip()
        if text:
            yield text
