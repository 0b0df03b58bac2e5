"""The pulls of one server: each on a thread of its own, seen from the event loop as progress and an end."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import threading
from collections.abc import AsyncGenerator, Callable

from quince.errors import QueueFull
from quince.models.pull import Installer, Progress, PullRequest
from quince.models.store import ModelStore, StoredModel

MAX_PULLS = 8
GOODBYE = 2.0  # seconds


class PullJob:
    """Starts when it is made. A thread of its own, since the loop's pool is for short things."""

    def __init__(self, installer: Installer, request: PullRequest) -> None:
        self._installer = installer
        self._request = request
        self._loop = asyncio.get_running_loop()
        self._cancelled = threading.Event()
        # The newest of every file and of every step, so that a slow reader costs nothing.
        self._news: dict[str, Progress] = {}
        self._arrived = asyncio.Event()
        self.result: asyncio.Future[StoredModel] = self._loop.create_future()
        self.result.add_done_callback(self._on_end)
        threading.Thread(target=self._run, name=f"pull-{request.repo_id}", daemon=True).start()

    def cancel(self) -> None:
        """Ask the thread to stop, which it does soon; ``result`` tells when."""
        self._cancelled.set()

    async def progress(self) -> AsyncGenerator[Progress, None]:
        """What is new, until the end. Raises what the pull raises. For one reader, whose leaving cancels the pull."""
        try:
            while not self.result.done() or self._news:
                while self._news:
                    yield self._news.pop(next(iter(self._news)))
                await self._arrived.wait()
                self._arrived.clear()
            await self.result
        finally:
            self.cancel()

    def _on_end(self, result: asyncio.Future[StoredModel]) -> None:
        result.exception()  # nobody may be left to hear of a failure: its client is gone
        self._arrived.set()

    def _run(self) -> None:
        try:
            model = self._installer.pull(self._request, self._tell, self._cancelled)
        except Exception as error:  # noqa: BLE001 - the boundary of a thread: its error is the future's
            self._from_thread(functools.partial(self.result.set_exception, error))
        else:
            self._from_thread(functools.partial(self.result.set_result, model))

    def _tell(self, progress: Progress) -> None:
        self._from_thread(lambda: self._put(progress))

    def _put(self, progress: Progress) -> None:
        self._news[progress.file or progress.status] = progress
        self._arrived.set()

    def _from_thread(self, call: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended; so does the process
            self._loop.call_soon_threadsafe(call)


class Downloads:
    """Bounds the pulls and ends them with the server."""

    def __init__(self, store: ModelStore) -> None:
        self._installer = Installer(store)
        self._jobs: set[PullJob] = set()
        self._shared: dict[str, PullJob] = {}

    def start(self, request: PullRequest) -> PullJob:
        """Raises QueueFull."""
        if len(self._jobs) >= MAX_PULLS:
            raise QueueFull(f"{MAX_PULLS} pulls are under way; try again later", retry_after=30)
        job = PullJob(self._installer, request)
        self._jobs.add(job)
        job.result.add_done_callback(lambda _: self._jobs.discard(job))
        return job

    async def wait_for(self, repo_id: str) -> StoredModel:
        """The model of a pull that all who wait for the repository share; it goes on when they leave."""
        job = self._shared.get(repo_id)
        if job is None:
            job = self._shared[repo_id] = self.start(PullRequest(repo_id))
            job.result.add_done_callback(lambda _: self._shared.pop(repo_id))
        return await asyncio.shield(job.result)

    async def stop(self) -> None:
        """Cancel them, and give them a moment to end the connections and converters that they have."""
        jobs = list(self._jobs)
        for job in jobs:
            job.cancel()
        if jobs:
            await asyncio.wait([job.result for job in jobs], timeout=GOODBYE)
