"""The rows of a csv file as clean csv: a quote that opens nothing is written as part of its value, so that it swallows no row.

A row is read as RFC 4180 has it where it is on one line. One with a value in quotes that goes over several lines is believed
if the quotes end where a value ends, and no line inside has its address where the row has its own; else its first line is taken
as it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import pyarrow as pa

_LONE_CR = re.compile(rb"\r(?!\n)")

LONGEST = 4 << 20
"""Bytes of a row."""


@dataclass(frozen=True)
class Rows:
    """Cuts UTF-8 csv into blocks of whole rows."""

    delimiter: bytes
    escaped: bool  # in quotes, a backslash stands before a quote; else a quote is doubled
    quoted: bool = True  # a value may stand in quotes; else quotes are part of it

    @cached_property
    def _on_one_line(self) -> re.Pattern[bytes]:
        value = self._value(rb"\n")
        return re.compile(rb"(?:(?>%s(?:%s%s)*+)\r?\n)++" % (value, self._between, value))

    @cached_property
    def _on_lines(self) -> re.Pattern[bytes]:
        value = self._value(b"")
        return re.compile(rb"(?>%s(?:%s%s)*+)\r?\n" % (value, self._between, value), re.DOTALL)

    @cached_property
    def _unended(self) -> re.Pattern[bytes]:
        """Of what can be the beginning of a row."""
        last = rb'(?:%s"?|[^"%s\r\n][^%s\r\n]*+|)' % (self._quoted(b""), self._between, self._between)
        return re.compile(rb"(?>(?:%s%s)*+)%s\r?\Z" % (self._value(b""), self._between, last), re.DOTALL)

    @cached_property
    def _between(self) -> bytes:
        return re.escape(self.delimiter)

    def _value(self, but: bytes) -> bytes:
        """Return the pattern of a value; in quotes it has no sign of `but`. Nothing is tried twice."""
        return rb'(?:%s"|[^"%s\r\n][^%s\r\n]*+|)' % (self._quoted(but), self._between, self._between)

    def _quoted(self, but: bytes) -> bytes:
        """Return the pattern of a value in quotes without the last one."""
        return rb'"(?:[^"%s%s]++|%s)*+' % ((rb"\\", but, rb"\\.") if self.escaped else (b"", but, b'""'))

    def fits(self, line: bytes) -> bool:
        """Return whether a line, without its end, is a row."""
        return self._on_one_line.fullmatch(line + b"\n") is not None

    def blocks(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield clean csv, whole rows in blocks. Raises ArrowInvalid for a row that is longer than LONGEST."""
        held = b""
        for chunk in chain(chunks, (None,)):
            held += (b"" if held.endswith(b"\n") or not held else b"\n") if chunk is None else chunk
            parts: list[bytes] = []
            held = held[self._clean(held, parts, ended=chunk is None) :]
            if len(held) > LONGEST:
                raise pa.ArrowInvalid(f"a row is longer than {LONGEST >> 20} MB")
            if block := b"".join(parts):
                yield block

    def _clean(self, data: bytes, parts: list[bytes], *, ended: bool) -> int:
        """Append the clean rows of some bytes; return where those begin that need more bytes."""
        at, end = 0, data.rfind(b"\n") + 1
        if not self.quoted:
            plain = b'"' not in data and _LONE_CR.search(data) is None
            parts += [data[:end]] if plain else [self._literal(line) for line in data[:end].split(b"\n")[:-1]]
            return end
        while at < end:
            if (run := self._on_one_line.match(data, at)) is not None:
                parts.append(run[0])
                at = run.end()
                continue
            row = self._on_lines.match(data, at, at + LONGEST)
            if row is not None and self._believable(row[0]):
                parts.append(row[0])
                at = row.end()
            elif row is None and not ended and len(data) - at < LONGEST and self._unended.match(data, at):
                break  # the quotes may end in what follows
            else:
                line = data.index(b"\n", at) + 1
                parts.append(self._literal(data[at:line]))
                at = line
        return at

    def _believable(self, row: bytes) -> bool:
        """Return whether no line within the quotes of a row looks like a row of its own."""
        first, *others = row.split(b"\n")
        own = self._addresses(first)
        return not any(own & self._addresses(line) for line in others)

    def _addresses(self, line: bytes) -> set[int]:
        return {place for place, value in enumerate(line.split(self.delimiter)) if b"://" in value}

    def _literal(self, line: bytes) -> bytes:
        """Return a line whose quotes, and carriage returns but for that of its end, are part of its values."""
        escapes = ((b"\\", b"\\\\"), (b'"', b'\\"')) if self.escaped else ((b'"', b'""'),)
        body = line.removesuffix(b"\n").removesuffix(b"\r")
        for sign, written in escapes:
            body = body.replace(sign, written)
        return self.delimiter.join(b'"%s"' % value if value else value for value in body.split(self.delimiter)) + b"\n"
