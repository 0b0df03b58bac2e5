"""The wire between the API process and one process of a model: msgpack over a ZeroMQ PAIR on a Unix socket.

The socket lives in a directory that only its owner can enter (mode 0700), so nobody else can speak to an engine.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar

import msgspec
import zmq
import zmq.asyncio

from quince.engine.media_messages import FromPreprocessor, ToPreprocessor
from quince.engine.messages import FromEngine, ToEngine

Received = TypeVar("Received")
Sent = TypeVar("Sent")

_encoder = msgspec.msgpack.Encoder()


class SocketDirectory:
    """A private directory for one server's engine sockets; removed on close."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="quince-"))

    def address(self, name: str) -> str:
        self.path.mkdir(mode=0o700, exist_ok=True)  # a dying engine removes it if it was the last
        return f"ipc://{self.path / name}"

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def remove_socket(address: str) -> None:
    """Clear up after an API process that died: the socket's file, and its directory if nothing else is in it."""
    path = Path(address.removeprefix("ipc://"))
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()


class ChildSocket(Generic[Received, Sent]):
    """The child process's end: blocking, used by one thread alone, but for ``wake``."""

    def __init__(self, address: str, decoder: msgspec.msgpack.Decoder[list[Received]]) -> None:
        self._context = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.PAIR)
        self._socket.setsockopt(zmq.LINGER, 1000)
        self._socket.connect(address)
        self._decoder = decoder
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        self._poller = zmq.Poller()
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._wake_reader, zmq.POLLIN)

    def wake(self) -> None:
        """Let a ``receive`` that sleeps, or the next one, return. Called by any thread."""
        with contextlib.suppress(BlockingIOError):  # full: awake already
            os.write(self._wake_writer, b"!")

    def receive(self, *, wait: bool, timeout: float | None = None) -> list[Received]:
        """Every message that has arrived; with ``wait``, sleep until there is one, somebody wakes it or ``timeout``
        seconds are over."""
        messages: list[Received] = []
        if wait:
            ready = dict(self._poller.poll(None if timeout is None else math.ceil(1000 * timeout)))
            if self._wake_reader in ready:
                os.read(self._wake_reader, 4096)
        while self._socket.poll(0):
            messages += self._decoder.decode(self._socket.recv())
        return messages

    def send(self, message: Sent) -> None:
        self._socket.send(_encoder.encode(message))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        self._context.term()
        os.close(self._wake_reader)
        os.close(self._wake_writer)


class EngineSocket(ChildSocket[ToEngine, FromEngine]):
    def __init__(self, address: str) -> None:
        super().__init__(address, msgspec.msgpack.Decoder(list[ToEngine]))


class PreprocessorSocket(ChildSocket[ToPreprocessor, FromPreprocessor]):
    def __init__(self, address: str) -> None:
        super().__init__(address, msgspec.msgpack.Decoder(list[ToPreprocessor]))


class ParentSocket(Generic[Received, Sent]):
    """The API process's end: asynchronous, bound before the child starts."""

    def __init__(self, address: str, decoder: msgspec.msgpack.Decoder[Received]) -> None:
        """Raises OSError if the socket cannot be made."""
        self._context = zmq.asyncio.Context()
        try:
            self._socket = self._context.socket(zmq.PAIR)
            self._socket.setsockopt(zmq.LINGER, 0)
            self._socket.bind(address)
        except zmq.ZMQError as error:
            self._context.destroy(linger=0)
            raise OSError(error.errno, f"{address}: {error}") from error
        self._decoder = decoder

    async def receive(self) -> Received:
        message: Received = self._decoder.decode(await self._socket.recv())
        return message

    def send(self, *messages: Sent) -> None:
        """Hand the messages over, all at once, without waiting: what is on its way is bounded by the requests that are
        open."""
        self._socket.send(_encoder.encode(messages))

    def close(self) -> None:
        self._socket.close()
        self._context.term()


class ClientSocket(ParentSocket[FromEngine, ToEngine]):
    def __init__(self, address: str) -> None:
        super().__init__(address, msgspec.msgpack.Decoder(FromEngine))


class PreprocessorClientSocket(ParentSocket[FromPreprocessor, ToPreprocessor]):
    def __init__(self, address: str) -> None:
        super().__init__(address, msgspec.msgpack.Decoder(FromPreprocessor))
