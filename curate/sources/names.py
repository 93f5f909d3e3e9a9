"""Inputs as they are named: brace lists, {00000..00099}.tar or {a,b}.parquet, and files that list inputs, @list.txt."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterable, Iterator

from curate.core.errors import InputError
from curate.storage.paths import exists, is_local, plain, staged, without_scheme

DEPTH = 16
"""Lists that may name each other in a chain."""

_RANGE = re.compile(r"(-?\d+)\.\.(-?\d+)(?:\.\.(\d+))?|([A-Za-z])\.\.([A-Za-z])")


def given(inputs: Iterable[str], depth: int = 0) -> Iterator[str]:
    """Yield inputs with those that lists name, in order. A file that is literally named so is itself.

    Raises InputError for a list that cannot be read, is empty, or names itself.
    """
    for one in inputs:
        if one.startswith("@") and len(one) > 1 and not (is_local(one) and exists(plain(one))):
            yield from given(_lines(one[1:], depth), depth + 1)
        else:
            yield one


def _lines(url: str, depth: int) -> list[str]:
    """Return the inputs in a list; relative ones are in its folder."""
    url = plain(url)
    if depth >= DEPTH:
        raise InputError(f"{url}: lists name each other more than {DEPTH} deep, or in a circle")
    try:
        with staged(url) as path, open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = [line.strip() for line in file]
    except OSError as error:
        raise InputError(f"{url}: {error.strerror or error}") from None
    found = [_beside(url, line) for line in lines if line and not line.startswith("#")]
    if not found:
        raise InputError(f"{url}: names no input; write one a line")
    return found


def _beside(url: str, line: str) -> str:
    sign = "@" if line.startswith("@") else ""
    name = line.removeprefix("@")
    if not is_local(name):
        return line if not name.startswith(("file://", "local://")) else sign + without_scheme(name)
    return sign + (posixpath.join(posixpath.dirname(url), name) if not os.path.isabs(name) else name)


def expanded(name: str) -> Iterator[str]:
    """Yield the names that a brace list stands for, in order, as bash does; one by one, since a range may be long.

    >>> list(expanded("s3://b/{008..010}-{a,b}.tar"))[:3]
    ['s3://b/008-a.tar', 's3://b/008-b.tar', 's3://b/009-a.tar']
    >>> list(expanded("{a{1..2},b}.tar")), list(expanded("{a}.tar"))
    (['a1.tar', 'a2.tar', 'b.tar'], ['{a}.tar'])
    """
    found = _first(name)
    if found is None:
        yield name
        return
    begin, end, parts = found
    head, tail = name[:begin], name[end:]
    for part in _items(parts):
        for rest in expanded(tail):
            yield head + part + rest


def pattern(name: str) -> str:
    """Return a glob that matches every name of a brace list.

    >>> pattern("s3://b/{008..010}-{a,b}.tar")
    's3://b/*-*.tar'
    """
    found = _first(name)
    return name if found is None else name[: found[0]] + "*" + pattern(name[found[1] :])


def _first(name: str) -> tuple[int, int, list[str]] | None:
    """Return where the first brace list of a name begins and ends, and its parts; None when there is none."""
    for begin in (at for at, sign in enumerate(name) if sign == "{"):
        depth, start, parts = 0, begin + 1, []
        for at in range(begin, len(name)):
            sign = name[at]
            depth += {"{": 1, "}": -1}.get(sign, 0)
            if (sign == "," and depth == 1) or depth == 0:
                parts.append(name[start:at])
                start = at + 1
            if depth == 0:
                break
        if depth == 0 and (len(parts) > 1 or _RANGE.fullmatch(parts[0])):
            return begin, start, parts
    return None


def _items(parts: list[str]) -> Iterator[str]:
    if len(parts) > 1:
        for part in parts:
            yield from expanded(part)
        return
    match = _RANGE.fullmatch(parts[0])
    assert match is not None
    first, last, step, low, high = match.groups()
    if low is not None:
        yield from map(chr, _between(ord(low), ord(high), 1))
        return
    padded = any(len(digits := end.lstrip("-")) > 1 and digits[0] == "0" for end in (first, last))
    width = max(len(first), len(last)) if padded else 0
    for number in _between(int(first), int(last), int(step or 1) or 1):
        yield f"{number:0{width}d}"


def _between(first: int, last: int, step: int) -> range:
    return range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
