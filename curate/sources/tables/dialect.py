"""How a table of text is written: what `--table` says of it, and what a shard takes to its worker, in the same words."""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass

from curate.core.errors import OptionError, near

DELIMITERS = {"comma": ",", "tab": "\t", "semicolon": ";", "pipe": "|"}

UTF8 = "utf-8-sig"
"""UTF-8 as Python names it where a byte order mark is taken away."""

_CHOICES = {"quote": ("double", "backslash", "none"), "header": ("yes", "no"), "newline": ("lf", "cr")}
_NAMES = ("delimiter", "quote", "header", "encoding", "newline")
_BY_SIGN = {sign: name for name, sign in DELIMITERS.items()}
_ESCAPE = re.compile(r"\\x([0-9a-f]{2})", re.IGNORECASE)


@dataclass(frozen=True)
class Dialect:
    """How a table is written. Where `quoted`, a value may stand in double quotes; where not, they are what they are."""

    encoding: str  # a codec of Python
    delimiter: str  # one ASCII sign
    quoted: bool
    escaped: bool  # in quotes, a backslash stands before a quote; else a quote is doubled
    header: bool
    cr: bool  # lines end with a carriage return alone

    def __str__(self) -> str:
        """Return it as `--table` takes it."""
        sign = self.delimiter
        found = {
            "delimiter": _BY_SIGN.get(sign) or (sign if sign.isprintable() else f"\\x{ord(sign):02x}"),
            "quote": "none" if not self.quoted else "backslash" if self.escaped else "double",
            "header": "yes" if self.header else "no",
            "encoding": self.encoding.removesuffix("-sig"),
            **({"newline": "cr"} if self.cr else {}),
        }
        return ",".join(f"{name}={value}" for name, value in found.items())

    @property
    def cuttable(self) -> bool:
        """Return whether ASCII signs are bytes that nothing else has, so that rows are found from any byte on."""
        one_byte = re.fullmatch(r"cp125\d|iso8859-\d+|ascii", codecs.lookup(self.encoding).name)
        return not self.cr and (self.encoding == UTF8 or one_byte is not None)


def dialect(told: Mapping[str, str]) -> Dialect:
    """Return the dialect of which `told` says everything (see `given`)."""
    quote = told["quote"]
    cr = told.get("newline") == "cr"
    return Dialect(told["encoding"], told["delimiter"], quote != "none", quote == "backslash", told["header"] == "yes", cr)


def given(text: str) -> dict[str, str]:
    """Return what `--table` says, by name; the delimiter as its sign, the encoding as a codec. Raises OptionError.

    >>> given("delimiter=tab,header=no")
    {'delimiter': '\\t', 'header': 'no'}
    """
    told: dict[str, str] = {}
    for part in filter(None, text.replace("delimiter=,", "delimiter=comma,").split(",")):
        name, equals, value = part.partition("=")
        if name not in _NAMES or not equals:
            raise OptionError(f"--table {part}: must be NAME=VALUE with a name of {', '.join(_NAMES)}{near(name, _NAMES)}")
        if name in told:
            raise OptionError(f"--table {part}: {name} is given twice")
        told[name] = _value(part, name, value)
    return told


def _value(part: str, name: str, value: str) -> str:
    if name == "delimiter":
        return _delimiter(part, value)
    if name == "encoding":
        return _encoding(part, value)
    if value not in _CHOICES[name]:
        raise OptionError(f"--table {part}: must be {' or '.join(_CHOICES[name])}{near(value, _CHOICES[name])}")
    return value


def _delimiter(part: str, value: str) -> str:
    escape = _ESCAPE.fullmatch(value)
    sign = DELIMITERS.get(value) or (chr(int(escape[1], 16)) if escape else value)
    if len(sign) != 1 or not sign.isascii() or sign.isalnum() or sign in '"\\\r\n\0':
        raise OptionError(f"--table {part}: must be {', '.join(DELIMITERS)}, or one sign of ASCII{near(value, DELIMITERS)}")
    return sign


def _encoding(part: str, value: str) -> str:
    sample = 'a,"\n'
    try:
        name = codecs.lookup(value).name
        if codecs.getincrementaldecoder(name)(errors="replace").decode(sample.encode(name)) == sample:
            return UTF8 if name in ("utf-8", UTF8) else name
    except (LookupError, ValueError, TypeError):
        pass
    raise OptionError(f"--table {part}: no such encoding; write utf-8, utf-16, cp1252, or another that Python knows")
