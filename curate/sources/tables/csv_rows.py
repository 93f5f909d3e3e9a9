"""The rows of a csv file as clean csv: a quote that opens nothing is written as part of its value, so that it swallows no row.

A row is read as RFC 4180 has it where it is on one line. One with a value in quotes that goes over several lines is believed
if the quotes end where a value ends, and no line inside is as wide as a row and has an address where the row has its own; else
its first line is taken as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Literal, NamedTuple, TypeAlias

import pyarrow as pa

_LONE_CR = re.compile(rb"\r(?!\n)")

_NEWLINE = re.compile(rb"\n")
_BLANK = re.compile(rb"^\r?\n", re.MULTILINE)
_ADDRESS = re.compile(rb'\s*"?(?:[a-z][a-z0-9+.-]*://\S+?|[^"]*\.(?:jpe?g|png|webp|gif|bmp|tiff?|avif))"?\s*', re.IGNORECASE)

LONGEST = 4 << 20
"""Bytes of a row."""

_Kind: TypeAlias = Literal["lines", "row", "literal"]
"""Rows of one line each | one of several lines | one line with quotes that open nothing."""


class Block(NamedTuple):
    """Whole rows as clean csv."""

    data: bytes
    rows: int  # that it has: lines, without blank ones and those within quotes
    line: int  # lines of the file before it


def _rows(lines: bytes) -> int:
    """Return how many lines are not blank."""
    some_blank = b"\n\n" in lines or b"\n\r\n" in lines or lines.startswith((b"\n", b"\r\n"))
    return lines.count(b"\n") - (len(_BLANK.findall(lines)) if some_blank else 0)


@dataclass(frozen=True)
class Rows:
    """Cuts UTF-8 csv into blocks of whole rows."""

    delimiter: bytes
    escaped: bool  # in quotes, a backslash stands before a quote; else a quote is doubled
    quoted: bool = True  # a value may stand in quotes; else quotes are part of it
    width: int = 0  # columns of the table: a line with fewer values is no row

    @cached_property
    def _on_one_line(self) -> re.Pattern[bytes]:
        value = self._value(rb"\n")
        return re.compile(rb"(?:(?>%s(?:%s%s)*+)\r?\n)++" % (value, self._between, value))

    @cached_property
    def _on_lines(self) -> re.Pattern[bytes]:
        value = self._value(b"")
        return re.compile(rb"(?>%s(?:%s%s)*+)\r?\n" % (value, self._between, value), re.DOTALL)

    @cached_property
    def _after_blank_ones(self) -> re.Pattern[bytes]:
        return re.compile(rb"(?:\r?\n)*+" + self._on_lines.pattern, re.DOTALL)

    @cached_property
    def _unended(self) -> re.Pattern[bytes]:
        """Of what can be the beginning of a row."""
        last = rb'(?:%s"?|%s\\?|)' % (self._quoted(b""), self._plain())
        return re.compile(rb"(?>(?:%s%s)*+)%s\r?\Z" % (self._value(b""), self._between, last), re.DOTALL)

    @cached_property
    def _between(self) -> bytes:
        return re.escape(self.delimiter)

    def _value(self, but: bytes) -> bytes:
        """Return the pattern of a value; in quotes it has no sign of `but`. Nothing is tried twice."""
        return rb'(?:%s"|%s|)' % (self._quoted(but), self._plain())

    def _plain(self) -> bytes:
        """Return the pattern of a value without quotes; a backslash that escapes takes what follows along, but no newline."""
        if self.escaped:
            return rb'(?:[^"\\%s\r\n]|\\[^\r\n])(?:[^\\%s\r\n]++|\\[^\r\n])*+' % (self._between, self._between)
        return rb'[^"%s\r\n][^%s\r\n]*+' % (self._between, self._between)

    def _quoted(self, but: bytes) -> bytes:
        """Return the pattern of a value in quotes without the last one."""
        return rb'"(?:[^"%s%s]++|%s)*+' % ((rb"\\", but, rb"\\.") if self.escaped else (b"", but, b'""'))

    def fits(self, line: bytes) -> bool:
        """Return whether a line, without its end, is a row."""
        return self._on_one_line.fullmatch(line + b"\n") is not None

    def ends(self, data: bytes) -> Iterator[int]:
        """Yield where each row of clean csv ends; blank lines are none."""
        at = 0
        while (row := self._after_blank_ones.match(data, at)) is not None:
            at = row.end()
            yield at

    def without_first(self, block: Block) -> Block:
        """Return a block without its first row."""
        end = next(self.ends(block.data), 0)
        return Block(block.data[end:], block.rows - 1, block.line + block.data.count(b"\n", 0, end))

    def blocks(self, chunks: Iterable[bytes]) -> Iterator[Block]:
        """Yield clean csv, whole rows in blocks. Raises ArrowInvalid for a row that is longer than LONGEST."""
        held, lines = b"", 0
        for chunk in chain(chunks, (None,)):
            held += (b"" if held.endswith(b"\n") or not held else b"\n") if chunk is None else chunk
            parts: list[bytes] = []
            rows, at = self._clean(held, parts, ended=chunk is None)
            held = held[at:]
            if len(held) > LONGEST:
                raise pa.ArrowInvalid(f"the row of line {lines + 1} is longer than {LONGEST >> 20} MB")
            if data := b"".join(parts):
                yield Block(data, rows, lines)
                lines += data.count(b"\n")

    def _clean(self, data: bytes, parts: list[bytes], *, ended: bool) -> tuple[int, int]:
        """Append the clean rows of some bytes; return how many, and where those begin that need more bytes."""
        if not self.quoted:
            end = data.rfind(b"\n") + 1
            plain = b'"' not in data and _LONE_CR.search(data) is None
            parts += [data[:end]] if plain else [self._literal(line) for line in data[:end].split(b"\n")[:-1]]
            return _rows(data[:end]), end
        rows = at = 0
        for at, end, kind in self._spans(data, 0, ended=ended):
            parts.append(self._literal(data[at:end]) if kind == "literal" else data[at:end])
            rows += _rows(data[at:end]) if kind == "lines" else 1
            at = end
        return rows, at

    def _spans(self, data: bytes, at: int, *, ended: bool) -> Iterator[tuple[int, int, _Kind]]:
        """Yield begin, end and kind of rows from `at`, where a row begins, to where more bytes are needed."""
        end = data.rfind(b"\n") + 1
        while at < end:
            kind: _Kind = "lines"
            if (found := self._on_one_line.match(data, at)) is None:
                kind, found = "row", self._on_lines.match(data, at, at + LONGEST)
            if found is None and not ended and len(data) - at < LONGEST and self._unended.match(data, at):
                return  # the quotes may end in what follows
            if found is None or (kind == "row" and not self._believable(found[0])):
                kind, upto = "literal", data.index(b"\n", at) + 1
            else:
                upto = found.end()
            yield at, upto, kind
            at = upto

    def start(self, data: bytes) -> int | None:
        """Return where a row begins for certain, in bytes from anywhere in a table; None where that cannot be told.

        Of what may go on at the first byte (a line, a value in quotes, one without) each leads to a first row; where the
        readings from all of these have met, it does not matter which was true. 2 * LONGEST bytes are always enough to tell.
        """
        first = data.find(b"\n") + 1
        if not first or not self.quoted:
            return first or None
        begun = {first}
        for begin, rest in ((b'"', data), (b'"', data[1:]), (b"x", data)):
            row = self._on_lines.match(begin + rest)
            if row is not None:
                begun.add(row.end() - len(begin) + len(data) - len(rest))
            elif len(data) < 2 * LONGEST and self._unended.match(begin + rest):
                return None
        return min(set.intersection(*(self._starts(data, at) for at in begun)), default=None)

    def _starts(self, data: bytes, at: int) -> set[int]:
        """Return where rows begin from `at` on, if one begins there."""
        found = {at}
        for begin, end, kind in self._spans(data, at, ended=False):
            found.add(end)
            if kind == "lines":
                found.update(line.end() for line in _NEWLINE.finditer(data, begin, end))
        return found

    def _believable(self, row: bytes) -> bool:
        """Return whether no line within the quotes of a row looks like a row of its own."""
        first, *others = row.split(b"\n")[:-1]
        if not self._wide(first):  # it is not a row by itself, and the last line has the rest of its values
            return not any(self._wide(line) and self._addresses(line) for line in others[:-1])
        own = self._addresses(first)
        return not any(self._wide(line) and own & self._addresses(line) for line in others)

    def _wide(self, line: bytes) -> bool:
        return line.count(self.delimiter) >= self.width - 1

    def _addresses(self, line: bytes) -> set[int]:
        """Return which values of a line are addresses, counted from its begin and, below zero, from its end."""
        values = line.split(self.delimiter)
        places = [place for place, value in enumerate(values) if _ADDRESS.fullmatch(value)]
        return {*places, *(place - len(values) for place in places)}

    def _literal(self, line: bytes) -> bytes:
        """Return a line whose quotes, and carriage returns but for that of its end, are part of its values."""
        escapes = ((b"\\", b"\\\\"), (b'"', b'\\"')) if self.escaped else ((b'"', b'""'),)
        body = line.removesuffix(b"\n").removesuffix(b"\r")
        for sign, written in escapes:
            body = body.replace(sign, written)
        return self.delimiter.join(b'"%s"' % value if value else value for value in body.split(self.delimiter)) + b"\n"
