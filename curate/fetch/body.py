"""Reads the body of a response within limits."""

from __future__ import annotations

import zlib
from tempfile import TemporaryFile
from typing import IO, Protocol

import aiohttp

from curate.fetch.errors import FetchError
from curate.images.header import HEAD_BYTES, read_header

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


async def receive(response: aiohttp.ClientResponse, body: Body) -> bool:
    """Read a response into `body`, decoded if the site encoded it unasked. Raises FetchError.

    Return whether it claims an encoding and was taken as it came: an encoding that nobody knows (utf-8, binary, none), or
    that the first bytes belie, is none, as in browsers.
    """
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    chunks = response.content.iter_chunked(_CHUNK)
    try:
        head = b""
        while encoding and len(head) < HEAD_BYTES and (chunk := await anext(chunks, b"")):
            head += chunk
        decoder = _decoder_of(encoding, head) if head else None
        _add(decoder, head, body)
        async for chunk in chunks:
            _add(decoder, chunk, body)
    except aiohttp.ClientError as error:
        raise FetchError("truncated", retryable=True) from error
    if decoder is not None and not decoder.ended():
        raise FetchError("truncated")
    return decoder is None and encoding not in ("", "identity")


def _add(decoder: _Decoder | None, data: bytes, body: Body) -> None:
    if decoder is None:
        body.add(data)
    else:
        decoder.decode(data, body)


class _Decoder(Protocol):
    """Decodes a body in bounded pieces, so that the limit of the body stops a decompression bomb."""

    def decode(self, data: bytes, body: Body) -> None:
        """Add what `data` decode to. Raises FetchError."""

    def ended(self) -> bool:
        """Return whether the encoded data are complete."""


class _Inflater:
    def __init__(self, window: int) -> None:
        self._stream = zlib.decompressobj(window)

    def decode(self, data: bytes, body: Body) -> None:
        try:
            while data and not self._stream.eof:
                body.add(self._stream.decompress(data, _CHUNK))
                data = self._stream.unconsumed_tail
        except zlib.error as error:
            raise FetchError("bad_encoding") from error

    def ended(self) -> bool:
        return self._stream.eof


class _Brotli:
    def __init__(self) -> None:
        import brotli  # type: ignore[import-untyped]

        self._stream, self._error = brotli.Decompressor(), brotli.error

    def decode(self, data: bytes, body: Body) -> None:
        try:
            while not self._stream.is_finished():
                part = self._stream.process(data, output_buffer_limit=_CHUNK)
                body.add(part)
                data = b""
                if not part and self._stream.can_accept_more_data():
                    return
        except self._error as error:
            raise FetchError("bad_encoding") from error

    def ended(self) -> bool:
        return bool(self._stream.is_finished())


def _decoder_of(encoding: str, head: bytes) -> _Decoder | None:
    """Return the decoder for a Content-Encoding, given the first bytes; None where they are not encoded, or nobody knows how."""
    if read_header(head).reason != "not_an_image":
        return None
    if encoding in ("gzip", "x-gzip"):
        return _Inflater(zlib.MAX_WBITS | 16) if head.startswith(b"\x1f\x8b") else None
    if encoding == "deflate":
        has_header = head[0] & 15 == zlib.DEFLATED and int.from_bytes(head[:2], "big") % 31 == 0
        return _Inflater(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)
    return _Brotli() if encoding == "br" else None
