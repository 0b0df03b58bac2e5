"""Files of the prefix cache: one segment or snapshot each, written at once, verified before use. No MLX in here.

A format of our own rather than safetensors: the header alone says which tokens a file is for, has a checksum of its
own, and the payload is what NumPy reads and writes in place; bfloat16 needs no library that knows it.

    magic (8 bytes) | header's length, header's CRC-32 (2 x uint32) | header (msgpack) | the arrays, one after another

The checksum is to find what a disk or a kill has broken, not what somebody has forged: the directory is its owner's.
CRC-32 runs at three times the speed of SHA-256, and its time is part of every restore.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import zlib
from array import array
from collections.abc import Hashable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import numpy as np

from quince import __version__
from quince.engine.host_arrays import Array, HostArrays, numpy_dtype

FORMAT = 1
MAGIC = b"QUINCEPC"
TEMPORARY = ".tmp"
MAX_HEADER = 2**26
_LENGTHS = struct.Struct("<II")
_VERSIONS = ("mlx", "mlx-lm", "mlx-vlm")


class BrokenFile(Exception):
    """Not a file of this cache, not one of this model, or not whole."""


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """What a file is for. A segment: the tokens from ``start`` on, 8 bytes each, behind those whose digest is
    ``before``; ``end`` is the digest of all of them. A snapshot: the state after ``start`` tokens, no tokens of its
    own; both digests are those of the tokens before it."""

    snapshot: bool
    start: int
    before: bytes
    end: bytes
    tokens: bytes = b""

    @property
    def name(self) -> str:
        """Of its file: equal for equal content, whoever writes it."""
        return f"{self.end.hex()}.snapshot" if self.snapshot else f"{self.end.hex()}-{self.start}.segment"

    @property
    def stop(self) -> int:
        return self.start + len(self.tokens) // 8


class _Header(msgspec.Struct, array_like=True):
    identity: str
    entry: Entry
    tree: Any
    shapes: list[list[int]]
    dtypes: list[str]
    checksum: int


class Digests:
    """Digests of the prefixes of a token sequence, at ascending positions. ``key``: see PrefixCache.match."""

    def __init__(self, tokens: array[int], key: Hashable) -> None:
        self._tokens = tokens
        self._position = 0
        self._hash = hashlib.blake2b(repr(key).encode(), digest_size=16)

    def at(self, position: int) -> bytes:
        assert position >= self._position, "positions ascend"
        self._hash.update(memoryview(self._tokens)[self._position : position])
        self._position = position
        return self._hash.copy().digest()


def packed(token_ids: Sequence[int]) -> array[int]:
    return array("q", token_ids)


def identity(directories: Iterable[Path], facts: Iterable[object]) -> str:
    """Names what keys and values depend on besides tokens: the weights and configurations of a model and its adapter,
    ``facts``, the libraries, this program and this format."""
    digest = hashlib.blake2b(repr((FORMAT, __version__, [_version(name) for name in _VERSIONS], list(facts))).encode())
    for directory in directories:
        for path in sorted(directory.iterdir()):
            if path.suffix in (".safetensors", ".npz", ".py"):
                status = path.stat()
                digest.update(repr((path.name, status.st_size, status.st_mtime_ns)).encode())
            elif path.suffix == ".json" and "config" in path.name:
                digest.update(repr((path.name, path.read_bytes())).encode())
    return digest.hexdigest()[:32]


def _version(package: str) -> str | None:
    with contextlib.suppress(metadata.PackageNotFoundError):
        return metadata.version(package)
    return None


def write(path: Path, identity: str, entry: Entry, host: HostArrays) -> int:
    """Write a file that is there as a whole or not at all, for its owner alone. Returns its size. Raises OSError."""
    arrays = [np.ascontiguousarray(one) for one in host.arrays]
    checksum = 0
    for one in arrays:
        checksum = zlib.crc32(_bytes(one), checksum)
    header = msgspec.msgpack.encode(
        _Header(identity, entry, host.tree, [list(one.shape) for one in arrays], host.dtypes, checksum)
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb", buffering=0) as file:
            _write_all(file, MAGIC + _LENGTHS.pack(len(header), zlib.crc32(header)) + header)
            for one in arrays:
                _write_all(file, _bytes(one))
            size = file.tell()
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return size


def _bytes(array: Array) -> memoryview:
    """Of a contiguous array, without a copy."""
    return array.reshape(-1).view(np.uint8).data


def _write_all(file: Any, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def read_entry(path: Path, identity: str) -> Entry:
    """What a file is for, by its header. Raises BrokenFile, or OSError."""
    with path.open("rb") as file:
        return _read_header(file, path, identity).entry


def read(path: Path, identity: str) -> HostArrays:
    """What a file holds, verified. Raises BrokenFile, or OSError."""
    with path.open("rb") as file:
        header = _read_header(file, path, identity)
        sizes = _sizes(header)
        payload = bytearray(sum(sizes))
        if file.readinto(payload) != len(payload) or zlib.crc32(payload) != header.checksum:
            raise BrokenFile(f"{path.name} is not what was written")
    arrays, position = [], 0
    for size, shape, dtype in zip(sizes, header.shapes, header.dtypes, strict=True):
        flat = np.frombuffer(payload, numpy_dtype(dtype), count=int(np.prod(shape)), offset=position)
        arrays.append(flat.reshape(shape))
        position += size
    return HostArrays(header.tree, arrays, header.dtypes)


def _read_header(file: BinaryIO, path: Path, identity: str) -> _Header:
    """Leaves the file at its payload."""
    start = file.read(len(MAGIC) + _LENGTHS.size)
    if len(start) != len(MAGIC) + _LENGTHS.size or not start.startswith(MAGIC):
        raise BrokenFile(f"{path.name} is no file of a prefix cache")
    length, checksum = _LENGTHS.unpack_from(start, len(MAGIC))
    raw = file.read(length) if length <= MAX_HEADER else b""
    if len(raw) != length or zlib.crc32(raw) != checksum:
        raise BrokenFile(f"{path.name} has a broken header")
    try:
        header = msgspec.msgpack.decode(raw, type=_Header)
        size = len(start) + length + sum(_sizes(header))
    except (msgspec.DecodeError, TypeError, ValueError) as error:
        raise BrokenFile(f"{path.name} has an unknown header: {error}") from error
    if header.identity != identity or header.entry.name != path.name:
        raise BrokenFile(f"{path.name} is another model's, or another prompt's")
    if os.fstat(file.fileno()).st_size != size:
        raise BrokenFile(f"{path.name} is cut off")
    return header


def _sizes(header: _Header) -> list[int]:
    """Bytes of each array. Raises TypeError or ValueError if the header makes no sense."""
    return [
        int(np.prod(shape)) * numpy_dtype(dtype).itemsize
        for shape, dtype in zip(header.shapes, header.dtypes, strict=True)
    ]
