"""How a table of text is written, judged by its head: encoding, delimiter, quotes, header, newlines."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Mapping, Sequence

from curate.sources.tables.columns import GUESSES
from curate.sources.tables.csv_rows import Rows
from curate.sources.tables.dialect import DELIMITERS, UTF8, Dialect, dialect

HEAD = 1 << 20
"""Bytes that the dialect is judged by."""

_LINES = 100  # that are looked at
_BOMS = ((codecs.BOM_UTF8, UTF8), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_NOTHING: Mapping[str, str] = {}
_KNOWN = frozenset(name for names in GUESSES.values() for name in names)
_ADDRESS = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*://\S+|\S+\.(?:jpe?g|png|webp|gif|bmp|tiff?|avif))\s*", re.IGNORECASE)


def detect(head: bytes, *, tabs: bool, wanted: Sequence[str] = (), told: Mapping[str, str] = _NOTHING) -> Dialect:
    """Return the dialect of a table that begins with `head`; `tabs` says that its name ends with .tsv.

    `wanted` names columns that are asked for: numbers mean that there is no header. What is `told` (see
    curate.sources.tables.dialect.given) is so.
    """
    encoding = told.get("encoding") or _encoding(head)
    text = codecs.getincrementaldecoder(encoding)(errors="replace").decode(head).removeprefix("\ufeff")
    newline = told.get("newline") or ("cr" if "\n" not in text and "\r" in text else "lf")
    lines = re.split(r"\r\n|\r|\n" if newline == "cr" else r"\r?\n", text)
    lines = (lines if len(head) < HEAD else lines[:-1])[:_LINES]
    delimiter = told.get("delimiter") or _delimiter([line for line in lines if line], tabs=tabs)
    quote = told.get("quote") or _quote(lines, delimiter)
    first = _first("\n".join(lines), delimiter, quoted=quote != "none")
    header = told.get("header") or ("yes" if _has_header(first, wanted) else "no")
    return dialect({"encoding": encoding, "newline": newline, "delimiter": delimiter, "quote": quote, "header": header})


def _quote(lines: Sequence[str], delimiter: str) -> str:
    """Return how quotes are meant; where tabs separate, they are none unless all of the lines parse with them."""
    escaped = _escapes([line for line in lines if '\\"' in line], delimiter)
    body = "\n".join(lines)
    if delimiter == "\t" and not ('"' in body and _parses_cleanly(body, delimiter, escaped=escaped)):
        return "none"
    return "backslash" if escaped else "double"


def is_address(value: str) -> bool:
    """Return whether a value is a URL, or the path of an image."""
    return _ADDRESS.fullmatch(value) is not None


def _encoding(head: bytes) -> str:
    """Return the encoding: by its byte order mark, by zero bytes, UTF-8 where any of it is, else the one of old Windows."""
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    for at, name in ((1, "utf-16-le"), (0, "utf-16-be")):  # of text that is mostly ASCII, every second byte is zero
        if head[at : 2 * _LINES : 2].count(0) > len(head[: 2 * _LINES]) // 4:
            return name
    text = codecs.getincrementaldecoder("utf-8")(errors="replace").decode(head)
    others = sum(sign > "\x7f" and sign != "\ufffd" for sign in text)
    return "cp1252" if "\ufffd" in text and not others else UTF8


def _delimiter(lines: Sequence[str], *, tabs: bool) -> str:
    """Return what stands in every line, as often as in the first; the usual one of the file's name where several do."""
    usual = "\t" if tabs else ","
    if not lines:
        return usual
    order = sorted(DELIMITERS.values(), key=lambda sign: sign != usual)
    same = {sign: sum(line.count(sign) == lines[0].count(sign) for line in lines) for sign in order if sign in lines[0]}
    return max(same, key=lambda sign: same[sign] + (sign == usual), default=usual)


def _escapes(lines: Sequence[str], delimiter: str) -> bool:
    """Return whether more of the lines with a backslash before a quote are rows if it escapes than if a doubled quote does."""
    ways = (Rows(delimiter.encode(), escaped) for escaped in (True, False))
    with_backslash, doubled = (sum(rows.fits(line.encode(errors="replace")) for line in lines) for rows in ways)
    return with_backslash > doubled


def _parses_cleanly(body: str, delimiter: str, *, escaped: bool) -> bool:
    """Return whether every quote is one of a quoted value: no row has another number of values than the first."""
    reader = csv.reader(
        io.StringIO(body), delimiter=delimiter, strict=True, doublequote=not escaped, escapechar="\\" if escaped else None
    )
    try:
        counts = {len(row) for row in reader if row}
    except csv.Error:
        return False
    return len(counts) == 1 and bool(re.search(rf'(?:^|{re.escape(delimiter)})"', body, re.MULTILINE))


def _first(body: str, delimiter: str, *, quoted: bool) -> list[str]:
    try:
        if quoted:
            return next(csv.reader(io.StringIO(body), delimiter=delimiter), [])
    except csv.Error:
        pass
    return body.partition("\n")[0].split(delimiter)


def _has_header(first: Sequence[str], wanted: Sequence[str]) -> bool:
    """Return whether the first row names columns: none of its values is an address, or one is a name that is known."""
    names = {name.strip().lower() for name in first}
    asked = {name.lower() for name in wanted}
    if asked and asked <= names:
        return True
    if asked and all(name.isdigit() for name in asked):
        return False
    return bool(names & _KNOWN) or not any(map(is_address, first))
