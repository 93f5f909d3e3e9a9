"""HTTP responses as archives store them: header parsed, chunks and compression undone, never more bytes than requested."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass, field

_END = re.compile(rb"\r?\n\r?\n")
_STATUS = re.compile(rb"HTTP/[0-9.]{1,8} +([0-9]{3})(?![0-9])")
_LINE = re.compile(rb"\r?\n(?![ \t])")
_CHUNK = re.compile(rb"[ \t]*([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\n]{0,4096})?\r?\n")
_CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([^\s\"';,]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Head:
    """The header of an answer, names in lower case."""

    fields: dict[str, str]
    size: int  # bytes, with the empty line after it
    status: int = 200

    def media(self) -> str:
        """Return the media type, empty when there is none."""
        return self.fields.get("content-type", "").partition(";")[0].strip().lower()

    def charset(self) -> str | None:
        """Return the charset that goes with it."""
        return charset_of(self.fields.get("content-type", ""))


@dataclass
class Body:
    """A body with its encodings undone, and what was wrong with them."""

    data: bytes
    wrong: list[str] = field(default_factory=list)  # bad_chunks, bad_encoding, page_cut


def charset_of(media: str) -> str | None:
    """Return the charset that goes with a media type.

    >>> charset_of('text/html; charset="koi8-r"'), charset_of("text/html")
    ('koi8-r', None)
    """
    found = _CHARSET.search(media)
    return found[1] if found else None


def head_of(block: bytes) -> Head | None:
    """Return the header at the start of an answer; None when there is none."""
    end = _END.search(block) if block.startswith(b"HTTP/") else None
    if end is None:
        return None
    fields: dict[str, str] = {}
    for line in _LINE.split(block[: end.start()])[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            fields.setdefault(name.strip().lower().decode("latin-1"), value.strip().decode("latin-1"))
    status = _STATUS.match(block)
    return Head(fields, end.end(), int(status[1]) if status else 0)


def body_of(head: Head, data: bytes, most: int) -> Body:
    """Return the body in `data`, at most `most` bytes; of a damaged one, as much as can be decoded."""
    body = Body(data)
    if "chunked" in head.fields.get("transfer-encoding", "").lower():
        body.data = _dechunked(body)
    for name in reversed(head.fields.get("content-encoding", "").lower().split(",")):
        if name.strip() and body.data:
            _decode(body, name.strip(), most)
    if len(body.data) > most:
        body.data = body.data[:most]
        body.wrong.append("page_cut")
    return body


def _dechunked(body: Body) -> bytes:
    data, at = body.data, 0
    parts: list[bytes] = []
    while (line := _CHUNK.match(data, at)) is not None:
        size = int(line[1], 16)
        if size == 0:
            return b"".join(parts)
        parts.append(data[line.end() : line.end() + size])
        at = line.end() + size
        at += 2 if data[at : at + 2] == b"\r\n" else data[at : at + 1] == b"\n"
    if not parts:  # crawlers often undo the chunks and leave the header
        return data
    if at < len(data):
        body.wrong.append("bad_chunks")
        parts.append(data[at:])
    return b"".join(parts)


def _decode(body: Body, name: str, most: int) -> None:
    data = body.data
    if name in ("gzip", "x-gzip"):
        if data.startswith(b"\x1f\x8b"):  # else decoded by the crawler, which left the header
            _inflate(body, 31, most)
    elif name == "deflate":
        if data[0] & 15 == 8 and len(data) > 1 and (data[0] << 8 | data[1]) % 31 == 0:
            _inflate(body, 15, most)
        elif not _is_markup(data):
            _inflate(body, -15, most)
    elif name == "br":
        _brotli(body, most)
    elif name == "zstd":
        if data.startswith(b"\x28\xb5\x2f\xfd"):
            _zstd(body, most)
    elif name != "identity" and not _is_markup(data):
        body.data = b""
        body.wrong.append("bad_encoding")


def _is_markup(data: bytes) -> bool:
    """Return whether a page is not encoded at all: crawlers that decode it often leave the header."""
    return data[:64].removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<"


def _inflate(body: Body, window: int, most: int) -> None:
    stream, parts, size, data = zlib.decompressobj(window), [], 0, body.data
    try:
        while data and not stream.eof and size <= most:
            part = stream.decompress(data, 1 << 18)  # small steps: what comes before an error is kept
            parts.append(part)
            size += len(part)
            data = stream.unconsumed_tail
    except zlib.error:
        body.wrong.append("bad_encoding")
    body.data = b"".join(parts)


def _brotli(body: Body, most: int) -> None:
    import brotli  # type: ignore[import-untyped]

    stream, parts, size, data = brotli.Decompressor(), [], 0, body.data
    try:
        while size <= most:
            part = stream.process(data, output_buffer_limit=1 << 18)
            parts.append(part)
            size += len(part)
            data = b""
            if stream.is_finished() or (not part and stream.can_accept_more_data()):
                break
    except brotli.error:
        if not parts and _is_markup(body.data):  # never was brotli
            return
        body.wrong.append("bad_encoding")
    body.data = b"".join(parts)


def _zstd(body: Body, most: int) -> None:
    import io

    from fastwarc.stream_io import ZstdReader

    stream, parts, size = ZstdReader(io.BytesIO(body.data)), [], 0
    try:
        while size <= most and (part := stream.read(1 << 18)):
            parts.append(bytes(part))
            size += len(part)
    except (OSError, ValueError):
        body.wrong.append("bad_encoding")
    body.data = b"".join(parts)
