"""The contenders of the serving benchmark: everything that can be given the same clients."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks.processes import Usage, Worker, children, usage
from benchmarks.results import Cpu
from quince.bench.server import STARTING, Server, free_port
from quince.bench.workload import ClientSpec, Job, JobResult, soon, split


class Contender(ABC):
    """Can be measured any number of times, from its construction to ``stop``."""

    def __init__(self, name: str) -> None:
        self.name = name

    @abstractmethod
    def run(self, clients: list[ClientSpec]) -> list[JobResult]:
        """Serve the clients to the end; one result per process that played them."""

    @abstractmethod
    def usage(self) -> tuple[Usage, Usage]:
        """What the API process and the engine have used so far."""

    @abstractmethod
    def stop(self) -> None: ...

    def measure(self, clients: list[ClientSpec]) -> tuple[list[JobResult], Cpu]:
        """Run, and tell what that cost."""
        before = self.usage()
        results = self.run(clients)
        api, engine = self.usage()
        cpu = Cpu(
            api.cpu_seconds - before[0].cpu_seconds,
            engine.cpu_seconds - before[1].cpu_seconds,
            api.peak_rss,
            engine.peak_rss,
        )
        return results, cpu


class InProcess(Contender):
    """mlx-lm's BatchGenerator, called directly. Its one process counts as the engine."""

    def __init__(self, model: Path, batch_size: int) -> None:
        super().__init__("BatchGenerator in process")
        self._worker = Worker("benchmarks.batch_generator", str(model), "--batch-size", str(batch_size))

    def run(self, clients: list[ClientSpec]) -> list[JobResult]:
        self._worker.send(Job(clients, soon()))
        return [msgspec.structs.replace(self._worker.result(), cpu_seconds=0.0)]  # there is no client

    def usage(self) -> tuple[Usage, Usage]:
        return Usage(), usage([self._worker.pid])

    def stop(self) -> None:
        self._worker.stop()


class Http(Contender):
    """An OpenAI-compatible server. ``server`` None: someone else's, whose processes and model are not known.

    ``model``: what requests name, for a server that wants a name. With ``patience`` set, a server of ours that takes
    longer than so many seconds for one measurement is killed, which its clients see; ``stopped`` tells.
    """

    patience: float | None = None
    stopped = False

    def __init__(
        self,
        name: str,
        url: str,
        players: Sequence[Worker],
        server: Server | None = None,
        model: str | None = None,
    ) -> None:
        super().__init__(name)
        self._url = url.rstrip("/").removesuffix("/v1")
        self._players = players
        self._server = server
        self._model = model if server else _first_model(self._url)

    def run(self, clients: list[ClientSpec]) -> list[JobResult]:
        parts = split(clients, len(self._players))
        start = soon()
        busy = self._players[: len(parts)]
        with self.patiently():
            for player, part in zip(busy, parts, strict=True):
                player.send(Job(part, start, self._url, self._model))
            return [player.result() for player in busy]

    @contextlib.contextmanager
    def patiently(self) -> Iterator[None]:
        """One measurement, which has ``patience`` seconds."""
        if self.patience is None or self._server is None:
            yield
            return
        timer = threading.Timer(self.patience, self._give_up, [self._server.pid])
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self, pid: int) -> None:
        self.stopped = True
        os.kill(pid, signal.SIGKILL)

    @property
    def url(self) -> str:
        return self._url

    @property
    def model(self) -> str | None:
        return self._model

    def usage(self) -> tuple[Usage, Usage]:
        if self._server is None:
            return Usage(), Usage()
        return usage([self._server.pid]), usage(children(self._server.pid))

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()


def _first_model(url: str) -> str:
    with urllib.request.urlopen(f"{url}/v1/models", timeout=30) as answer:
        return str(msgspec.json.decode(answer.read())["data"][0]["id"])


def quince(
    model: Path,
    batch_size: int,
    players: Sequence[Worker],
    logs: Path,
    extra: Sequence[str],
    *,
    timeout: float = STARTING,
) -> Http:
    """``timeout``: see Server."""
    port = free_port()
    command = [sys.executable, "-m", "quince", "serve", str(model), "--port", str(port)]
    command += ["--max-running-requests", str(batch_size), *extra]
    server = Server(command, port, logs / "quince.log", timeout=timeout)
    return Http("Quince", server.url, players, server)


def mlx_lm_server(model: Path, batch_size: int, players: Sequence[Worker], logs: Path) -> Http:
    port = free_port()
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(model), "--port", str(port)]
    command += ["--decode-concurrency", str(batch_size), "--log-level", "WARNING"]
    server = Server(command, port, logs / "mlx_lm_server.log")
    return Http("mlx_lm.server", server.url, players, server)


def mlx_vlm_server(
    model: Path, players: Sequence[Worker], logs: Path, *, prefix_cache: bool, timeout: float = STARTING
) -> Http:
    """``prefix_cache``: with its cache of prefixes in memory, which is off by default, and room for 131,072 tokens.
    ``timeout``: see Server."""
    port = free_port()
    name = "mlx_vlm.server" + " (APC)" * prefix_cache
    settings = ["APC_ENABLED=1", "APC_DISK_ENABLED=0", "APC_NUM_BLOCKS=8192"] if prefix_cache else ["APC_ENABLED=0"]
    command = ["env", *settings, sys.executable, "-m", "mlx_vlm", "server", "--model", str(model)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--vision-cache-size", "64", "--log-level", "WARNING"]
    server = Server(command, port, logs / f"mlx_vlm_server{'_apc' * prefix_cache}.log", timeout=timeout)
    return Http(name, server.url, players, server, str(model))
