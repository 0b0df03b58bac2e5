"""The wire between the API process and one process of a model: msgpack over a Unix socket.

The socket lives in a directory that only its owner can enter (mode 0700), so nobody else can speak to an engine.
A message is its length in four bytes, big-endian, and then its msgpack.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import select
import shutil
import socket
import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

import msgspec

from quince.engine.media_messages import FromPreprocessor, ToPreprocessor
from quince.engine.messages import FromEngine, ToEngine

Received = TypeVar("Received")
Sent = TypeVar("Sent")

LENGTH_BYTES = 4
READ_BYTES = 1 << 18
BUFFER_BYTES = 1 << 20  # what the system keeps for a reader that is busy; a sender of more waits for it

_encoder = msgspec.msgpack.Encoder()


class SocketDirectory:
    """A private directory for one server's engine sockets; removed on close."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="quince-"))

    def address(self, name: str) -> str:
        self.path.mkdir(mode=0o700, exist_ok=True)  # a dying engine removes it if it was the last
        return str(self.path / name)

    def close(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def remove_socket(address: str) -> None:
    """Clear up after an API process that died: the socket's file, and its directory if nothing else is in it."""
    path = Path(address)
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()


def frame(message: object) -> bytes:
    """A message as it is sent."""
    payload = _encoder.encode(message)
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


class Frames:
    """Puts messages together again out of a stream of bytes."""

    def __init__(self) -> None:
        self._rest = bytearray()  # the beginning of a message

    def take(self, data: bytes) -> Iterator[bytes]:
        """The messages that are whole with ``data``."""
        if self._rest:
            self._rest += data
            if len(self._rest) < _end(self._rest):
                return
            data, self._rest = bytes(self._rest), bytearray()
        start = 0
        while (stop := start + _end(data, start)) <= len(data):
            yield data[start + LENGTH_BYTES : stop]
            start = stop
        self._rest += data[start:]


def _end(data: bytes | bytearray, start: int = 0) -> int:
    """The bytes of the message that begins at ``start``, its length included; of the length alone if that is cut."""
    length = data[start : start + LENGTH_BYTES]
    return LENGTH_BYTES + (int.from_bytes(length, "big") if len(length) == LENGTH_BYTES else 0)


class ChildSocket(Generic[Received, Sent]):
    """The child process's end: blocking, used by one thread alone, but for ``wake``."""

    def __init__(self, address: str, decoder: msgspec.msgpack.Decoder[list[Received]]) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
        self._socket.connect(address)
        self._decoder = decoder
        self._frames = Frames()
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        self._poller = select.poll()
        self._poller.register(self._socket, select.POLLIN)
        self._poller.register(self._wake_reader, select.POLLIN)
        self._connected = True

    def wake(self) -> None:
        """Let a ``receive`` that sleeps, or the next one, return. Called by any thread."""
        with contextlib.suppress(BlockingIOError):  # full: awake already
            os.write(self._wake_writer, b"!")

    def receive(self, *, wait: bool, timeout: float | None = None) -> list[Received]:
        """Every message that has arrived; with ``wait``, sleep until there is one, somebody wakes it or ``timeout``
        seconds are over. When the other process is gone there is nothing more, ever."""
        if wait:
            ready = dict(self._poller.poll(None if timeout is None else math.ceil(1000 * timeout)))
            if self._wake_reader in ready:
                os.read(self._wake_reader, 4096)
        messages: list[Received] = []
        while self._connected and (data := self._read()) is not None:
            for payload in self._frames.take(data):
                messages += self._decoder.decode(payload)
        return messages

    def _read(self) -> bytes | None:
        """What is there; None if that is nothing."""
        try:
            if data := self._socket.recv(READ_BYTES, socket.MSG_DONTWAIT):
                return data
        except BlockingIOError:
            return None
        except ConnectionError:
            pass
        self._connected = False
        self._poller.unregister(self._socket)  # else it would be ready for ever
        return None

    def send(self, message: Sent) -> None:
        """Hand the message over. It is lost if the other process is gone."""
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(frame(message))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
        os.close(self._wake_reader)
        os.close(self._wake_writer)


class EngineSocket(ChildSocket[ToEngine, FromEngine]):
    def __init__(self, address: str) -> None:
        super().__init__(address, msgspec.msgpack.Decoder(list[ToEngine]))


class PreprocessorSocket(ChildSocket[ToPreprocessor, FromPreprocessor]):
    def __init__(self, address: str) -> None:
        super().__init__(address, msgspec.msgpack.Decoder(list[ToPreprocessor]))


class ParentSocket(asyncio.Protocol, Generic[Received, Sent]):
    """The API process's end: asynchronous, made in the event loop before the child starts."""

    def __init__(self, address: str, decoder: msgspec.msgpack.Decoder[Received]) -> None:
        """Raises OSError if the socket cannot be made."""
        self._address = address
        self._decoder = decoder
        self._frames = Frames()
        self._payloads: deque[bytes] = deque()
        self._arrived = asyncio.Event()
        self._unsent: list[bytes] = []  # until the child is there
        self._transport: asyncio.WriteTransport | None = None
        self._connection: socket.socket | None = None
        self._connecting: asyncio.Task[object] | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listener.bind(address)
            self._listener.listen(1)
        except OSError as error:
            self._listener.close()
            raise OSError(error.errno, f"{address}: {error.strerror or error}") from error
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        """The child has come: there is one."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._listener.fileno())
        self._connection, _ = self._listener.accept()
        self._connecting = loop.create_task(loop.connect_accepted_socket(lambda: self, self._connection))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's is none by class
        self._transport.writelines(self._unsent)
        self._unsent = []

    def data_received(self, data: bytes) -> None:
        self._payloads.extend(self._frames.take(data))
        self._arrived.set()

    async def receive(self) -> Received:
        """The next message. When the child is gone there is none, ever."""
        while not self._payloads:
            self._arrived.clear()
            await self._arrived.wait()
        return self._decoder.decode(self._payloads.popleft())

    def send(self, *messages: Sent) -> None:
        """Hand the messages over, all at once, without waiting: what is on its way is bounded by the requests that are
        open."""
        if self._transport is None:
            self._unsent.append(frame(messages))
        elif not self._transport.is_closing():
            self._transport.write(frame(messages))

    def close(self) -> None:
        """What the child has not read is lost."""
        asyncio.get_running_loop().remove_reader(self._listener.fileno())
        self._listener.close()
        Path(self._address).unlink(missing_ok=True)
        if self._transport is not None:
            self._transport.abort()
        elif self._connecting is not None and self._connection is not None:
            self._connecting.cancel()
            self._connection.close()


class ClientSocket(ParentSocket[FromEngine, ToEngine]):
    def __init__(self, address: str) -> None:
        super().__init__(address, msgspec.msgpack.Decoder(FromEngine))


class PreprocessorClientSocket(ParentSocket[FromPreprocessor, ToPreprocessor]):
    def __init__(self, address: str) -> None:
        super().__init__(address, msgspec.msgpack.Decoder(FromPreprocessor))
