"""Reads the body of a response within limits."""

from __future__ import annotations

import zlib
from tempfile import TemporaryFile
from typing import IO, Any

import aiohttp

from curate.fetch.errors import FetchError

IN_MEMORY = 1 << 20
"""Bytes of a body that are kept in memory; a larger one goes to a temporary file."""

_CHUNK = 64 << 10


class Body:
    """The received bytes, at most `limit` of them."""

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._parts: list[bytes] = []
        self._file: IO[bytes] | None = None

    def add(self, data: bytes) -> None:
        """Append bytes up to the limit. Raises FetchError above it."""
        if too_large := self._size + len(data) > self._limit:
            data = data[: self._limit - self._size]
        self._size += len(data)
        if self._file is None and self._size > IN_MEMORY:
            self._file = TemporaryFile(prefix="curate-")  # noqa: SIM115 - it lives as long as the body
            self._file.write(b"".join(self._parts))
            self._parts.clear()
        if self._file is None:
            self._parts.append(data)
        else:
            self._file.write(data)
        if too_large:
            raise FetchError("too_large")

    def take(self) -> bytes:
        """Return all bytes; call it once."""
        if self._file is None:
            return b"".join(self._parts)
        with self._file as file:
            file.seek(0)
            return file.read()

    def head(self, size: int) -> bytes:
        """Return at most `size` bytes of the beginning."""
        if self._file is None:
            return b"".join(self._parts)[:size] if self._size <= size else _first(self._parts, size)
        self._file.seek(0)
        found = self._file.read(size)
        self._file.seek(0, 2)
        return found

    def __len__(self) -> int:
        return self._size


def _first(parts: list[bytes], size: int) -> bytes:
    found = bytearray()
    for part in parts:
        found += part[: size - len(found)]
        if len(found) == size:
            break
    return bytes(found)


async def receive(response: aiohttp.ClientResponse, body: Body) -> None:
    """Read a response into `body`, decompressing it if the server encoded it unasked. Raises FetchError."""
    inflate = _inflater(response.headers.get("Content-Encoding", "").strip().lower())
    try:
        async for chunk in response.content.iter_chunked(_CHUNK):
            if inflate is None:
                body.add(chunk)
            else:
                _inflate(inflate, chunk, body)
    except aiohttp.ClientError as error:
        raise FetchError("truncated", retryable=True) from error
    except zlib.error as error:
        raise FetchError("bad_encoding") from error
    if inflate is not None and not inflate.eof:
        raise FetchError("truncated")


def _inflater(encoding: str) -> Any:
    """Return the decompressor for a Content-Encoding, None if there is none. Raises FetchError for an unknown one."""
    if encoding in ("", "identity"):
        return None
    if encoding in ("gzip", "x-gzip", "deflate"):
        return zlib.decompressobj(zlib.MAX_WBITS | 32)
    raise FetchError("bad_encoding")


def _inflate(inflate: Any, chunk: bytes, body: Body) -> None:
    """Decompress a chunk in bounded pieces, so that the limit of the body stops a decompression bomb."""
    while chunk:
        body.add(inflate.decompress(chunk, _CHUNK))
        chunk = inflate.unconsumed_tail
        if inflate.eof:
            return
