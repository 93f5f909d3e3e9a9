"""Values of a large JSON text one by one, with no more of it in memory than one value."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

import pyarrow as pa

LONGEST = 64 << 20
"""Characters of the longest value that is read."""

_CHUNK = 1 << 20
_SPACE = " \t\n\r"
_NEAR = 16  # a value that was cut off is found to be wrong at most as far from the end (its strings elsewhere)
_DECODER = json.JSONDecoder(strict=False)  # a newline in a caption is one


@dataclass
class Scanner:
    """Reads JSON from a file in UTF-8, or in what its first bytes say. Raises ArrowInvalid, with the place, where it is none.

    The text that is held is at most as long as the value that is asked for, and a chunk.
    """

    file: BinaryIO
    start: int = 0  # bytes before the first of `file`
    encoding: str | None = None
    _text: str = ""
    _at: int = 0
    _ended: bool = False
    _read: int = 0
    _decoder: codecs.IncrementalDecoder | None = field(default=None, repr=False)

    def peek(self) -> str:
        """Return the next character that is no white space, "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _SPACE:
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def take(self, sign: str) -> bool:
        """Go on behind `sign` if it is the next character that is no white space."""
        if self.peek() != sign:
            return False
        self._at += 1
        return True

    def expect(self, sign: str) -> None:
        """Go on behind `sign`, which must come next."""
        if not self.take(sign):
            raise self.wrong(f"{sign} was expected" if self.peek() else "the file ends too early")

    def value(self, longest: int) -> object:
        """Return the next value. Raises OverflowError for one of more than `longest` characters."""
        self.peek()
        while True:
            try:
                found, end = _DECODER.raw_decode(self._text, self._at)
            except RecursionError:
                raise self.wrong("it is nested too deep") from None
            except json.JSONDecodeError as error:
                if self._ended or not (error.msg.startswith("Unterminated") or error.pos >= len(self._text) - _NEAR):
                    self._at = min(error.pos, len(self._text))
                    raise self.wrong(error.msg) from None
            else:
                whole = not isinstance(found, (int, float)) or end + len("e+0") < len(self._text)  # else it may go on
                if whole or self._ended:
                    self._at = end
                    return found
            if len(self._text) - self._at > longest:
                raise OverflowError(f"a value of more than {longest} characters")
            self._more(len(self._text) - self._at)  # twice as much each time: decoding again costs no more than once

    def items(self) -> Iterator[object]:
        """Yield the items of the list that comes next."""
        self.expect("[")
        if self.take("]"):
            return
        while True:
            yield self.bounded()
            if self.take("]"):
                return
            self.expect(",")

    def members(self) -> Iterator[str]:
        """Yield the names of the object that comes next; who takes them reads each value."""
        self.expect("{")
        if self.take("}"):
            return
        while True:
            name = self.bounded()
            if not isinstance(name, str):
                raise self.wrong("a name was expected")
            self.expect(":")
            yield name
            if self.take("}"):
                return
            self.expect(",")

    def inside(self) -> Iterator[object]:
        """Yield the items of the list, or the values of the object, that comes next."""
        if self.peek() == "[":
            yield from self.items()
        else:
            yield from (self.bounded() for _ in self.members())

    def place(self) -> int:
        """Return how many bytes of the file are before the next character."""
        encoding = self.plain()
        held = len(self._text[self._at :].encode(encoding, "surrogateescape" if encoding == "utf-8" else "replace"))
        waiting = 0 if self._decoder is None else len(self._decoder.getstate()[0])
        return self.start + self._read - held - waiting

    def wrong(self, what: str) -> Exception:
        """Return the exception for something that is wrong here."""
        error: Exception = pa.ArrowInvalid(f"byte {self.place()}: {what}")
        return error

    def bounded(self) -> object:
        """Return the next value, which must not be longer than LONGEST."""
        try:
            return self.value(LONGEST)
        except OverflowError as error:
            raise self.wrong(str(error)) from None

    def plain(self) -> str:
        """Return the encoding as it is after the first bytes of the file."""
        encoding = self.encoding or "utf-8"
        return {"utf-16": "utf-16-le", "utf-32": "utf-32-le", "utf-8-sig": "utf-8"}.get(encoding, encoding)

    def _more(self, size: int = 0) -> bool:
        """Read on; return whether there was something."""
        if self._ended:
            return False
        data = self.file.read(max(size, _CHUNK))
        self._read += len(data)
        if self._decoder is None:
            self.encoding = self.encoding or json.detect_encoding(data[:4])
            escaped = "surrogateescape" if self.encoding.startswith("utf-8") else "replace"  # so that `place` is right
            self._decoder = codecs.getincrementaldecoder(self.encoding)(escaped)
        self._ended = not data
        self._text = self._text[self._at :] + self._decoder.decode(data, final=self._ended)
        self._at = 0
        return not self._ended
