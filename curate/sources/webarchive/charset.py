"""Bytes of a page to text, with the charset that a browser would take. Knows no HTML but `<meta charset>`."""

from __future__ import annotations

import codecs
import functools
import re
from typing import NamedTuple

PRESCAN = 1024
"""Bytes in which a page should name its charset itself."""

LATE = 1 << 16
"""Bytes in which it is looked for when it is not there."""

_LABELS = {
    "utf-8": "unicode-1-1-utf-8 unicode11utf8 unicode20utf8 utf-8 utf8 x-unicode20utf8",
    "cp866": "866 cp866 csibm866 ibm866",
    "iso8859-2": "csisolatin2 iso-8859-2 iso-ir-101 iso8859-2 iso88592 iso_8859-2 iso_8859-2:1987 l2 latin2",
    "iso8859-3": "csisolatin3 iso-8859-3 iso-ir-109 iso8859-3 iso88593 iso_8859-3 iso_8859-3:1988 l3 latin3",
    "iso8859-4": "csisolatin4 iso-8859-4 iso-ir-110 iso8859-4 iso88594 iso_8859-4 iso_8859-4:1988 l4 latin4",
    "iso8859-5": "csisolatincyrillic cyrillic iso-8859-5 iso-ir-144 iso8859-5 iso88595 iso_8859-5 iso_8859-5:1988",
    "iso8859-6": "arabic asmo-708 csiso88596e csiso88596i csisolatinarabic ecma-114 iso-8859-6 iso-8859-6-e iso-8859-6-i "
    "iso-ir-127 iso8859-6 iso88596 iso_8859-6 iso_8859-6:1987",
    "iso8859-7": "csisolatingreek ecma-118 elot_928 greek greek8 iso-8859-7 iso-ir-126 iso8859-7 iso88597 iso_8859-7 "
    "iso_8859-7:1987 sun_eu_greek",
    "iso8859-8": "csiso88598e csisolatinhebrew hebrew iso-8859-8 iso-8859-8-e iso-ir-138 iso8859-8 iso88598 iso_8859-8 "
    "iso_8859-8:1988 visual csiso88598i iso-8859-8-i logical",
    "iso8859-10": "csisolatin6 iso-8859-10 iso-ir-157 iso8859-10 iso885910 l6 latin6",
    "iso8859-13": "iso-8859-13 iso8859-13 iso885913",
    "iso8859-14": "iso-8859-14 iso8859-14 iso885914",
    "iso8859-15": "csisolatin9 iso-8859-15 iso8859-15 iso885915 iso_8859-15 l9",
    "iso8859-16": "iso-8859-16",
    "koi8-r": "cskoi8r koi koi8 koi8-r koi8_r",
    "koi8-u": "koi8-ru koi8-u",
    "mac-roman": "csmacintosh mac macintosh x-mac-roman",
    "cp874": "dos-874 iso-8859-11 iso8859-11 iso885911 tis-620 windows-874",
    "cp1250": "cp1250 windows-1250 x-cp1250",
    "cp1251": "cp1251 windows-1251 x-cp1251",
    "cp1252": "ansi_x3.4-1968 ascii cp1252 cp819 csisolatin1 ibm819 iso-8859-1 iso-ir-100 iso8859-1 iso88591 iso_8859-1 "
    "iso_8859-1:1987 l1 latin1 us-ascii windows-1252 x-cp1252",
    "cp1253": "cp1253 windows-1253 x-cp1253",
    "cp1254": "cp1254 csisolatin5 iso-8859-9 iso-ir-148 iso8859-9 iso88599 iso_8859-9 iso_8859-9:1989 l5 latin5 windows-1254 "
    "x-cp1254",
    "cp1255": "cp1255 windows-1255 x-cp1255",
    "cp1256": "cp1256 windows-1256 x-cp1256",
    "cp1257": "cp1257 windows-1257 x-cp1257",
    "cp1258": "cp1258 windows-1258 x-cp1258",
    "mac-cyrillic": "x-mac-cyrillic x-mac-ukrainian",
    "gb18030": "chinese csgb2312 csiso58gb231280 gb2312 gb_2312 gb_2312-80 gbk iso-ir-58 x-gbk gb18030",
    "big5hkscs": "big5 big5-hkscs cn-big5 csbig5 x-x-big5",
    "euc_jp": "cseucpkdfmtjapanese euc-jp x-euc-jp",
    "iso2022_jp": "csiso2022jp iso-2022-jp",
    "cp932": "csshiftjis ms932 ms_kanji shift-jis shift_jis sjis windows-31j x-sjis",
    "cp949": "cseuckr csksc56011987 euc-kr iso-ir-149 korean ks_c_5601-1987 ks_c_5601-1989 ksc5601 ksc_5601 windows-949",
    "utf-16-be": "unicodefffe utf-16be",
    "utf-16-le": "csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff utf-16 utf-16le",
}
_CODECS = {label: codec for codec, labels in _LABELS.items() for label in labels.split()}
_NAMES = {
    "cp866": "ibm866", "mac-roman": "macintosh", "mac-cyrillic": "x-mac-cyrillic", "cp874": "windows-874", "big5hkscs": "big5",
    "euc_jp": "euc-jp", "iso2022_jp": "iso-2022-jp", "cp932": "shift_jis", "cp949": "euc-kr", "utf-16-be": "utf-16be",
    "utf-16-le": "utf-16le",
}  # fmt: skip
_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF16_LE, "utf-16-le"))

_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_RAW = re.compile(rb"<(script|style|title|textarea)(?=[\s/>]).*?(?:</\1|\Z)|<!--.*?(?:-->|\Z)", re.DOTALL | re.IGNORECASE)
_META = re.compile(rb"<meta[\s/](?:[^>\"']|\"[^\"]*\"|'[^']*')*", re.IGNORECASE)
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([^\s\"';,/>]+)", re.IGNORECASE)
_XML = re.compile(rb"\s*<\?xml\s[^>]*?encoding\s*=\s*[\"']\s*([^\s\"'>]+)")
_JIS = re.compile(rb"\x1b\$[@B]")  # turns ISO-2022-JP to its characters
_PAST_ASCII = re.compile("[^\0-\x7f\ufffd]")

_TRUE = 2  # sequences that only UTF-8 has, for each byte that it does not have, make it UTF-8 nonetheless


class Decoded(NamedTuple):
    """A page as text."""

    text: str
    charset: str  # by its name in the Encoding Standard, in lower case
    charset_from: str  # header, bom, meta, xml, detected, default
    bad: bool  # whether it has bytes that the charset does not have: they were replaced


def codec(label: str | None) -> str | None:
    """Return Python's codec for a label of the Encoding Standard, None for one that it does not know.

    >>> codec(" Latin1 "), codec("gb2312"), codec("klingon")
    ('cp1252', 'gb18030', None)
    """
    return None if label is None else _CODECS.get(label.strip("\t\n\f\r \"'").lower())


def name_of(codec: str) -> str:
    """Return the name that the Encoding Standard has for one of Python's codecs.

    >>> name_of("cp1251"), name_of("iso8859-2"), name_of("cp949")
    ('windows-1251', 'iso-8859-2', 'euc-kr')
    """
    return _NAMES.get(codec) or codec.replace("iso8859", "iso-8859").replace("cp125", "windows-125")


def decoded(data: bytes, label: str | None = None) -> Decoded:
    """Return a page as text: by its byte order mark, else by `label` (of HTTP), its `<meta>`, its XML declaration, or its text.

    Text that is neither UTF-8 (a few bad bytes aside) nor like another charset is windows-1252. Bytes that are bad are replaced.
    """
    for mark, its in _BOMS:
        if data.startswith(mark):
            return _by(its, "bom", data[len(mark) :])
    name = codec(label)
    if (name is None or name.startswith("utf-16")) and (wide := _of_zeros(data[:PRESCAN])) is not None:
        return _by(wide, "detected" if name is None else "header", data)
    if name is not None:
        return _by(name, "header", data)
    name, where = _declared(data)
    return _undeclared(data) if name is None else _by(name, where, data)


def _by(name: str, where: str, data: bytes) -> Decoded:
    try:
        return Decoded(data.decode(name), name_of(name), where, bad=False)
    except UnicodeDecodeError as error:
        cut = error.reason in ("unexpected end of data", "truncated data", "incomplete multibyte sequence")
        return Decoded(data.decode(name, "replace"), name_of(name), where, bad=not (cut and error.end >= len(data)))


def _of_zeros(head: bytes) -> str | None:
    """Return which UTF-16 a page is that does not say so: each character of its markup has a zero byte, before or after."""
    if head.count(0) <= len(head) // 32:
        return None
    before, after = head[::2].count(0), head[1::2].count(0)
    return "utf-16-be" if before > 4 * after else "utf-16-le" if after > 4 * before else None


def _declared(data: bytes) -> tuple[str | None, str]:
    """Return the charset that a page names, and how: meta or xml."""
    head = data[:PRESCAN]
    name = _declared_in(head) if b"harset" in head or b"HARSET" in head else None
    if name is None and (xml := _XML.match(head)) is not None and (name := _readable(xml[1])) is not None:
        return name, "xml"
    if name is None and len(data) > PRESCAN:
        late = data[:LATE]
        if late.find(b"harset", PRESCAN) >= 0 or late.find(b"HARSET", PRESCAN) >= 0:
            name = _of_meta(_RAW.sub(b"", late)) if _of_meta(late) else None
    return name, "meta"


@functools.lru_cache(64)
def _declared_in(head: bytes) -> str | None:
    return _of_meta(_COMMENT.sub(b"", head))


def _of_meta(markup: bytes) -> str | None:
    for meta in _META.finditer(markup):
        found = _CHARSET.search(meta[0])
        name = _readable(found[1]) if found else None
        if name is not None:
            return name
    return None


def _readable(label: bytes) -> str | None:
    name = codec(label.decode("latin-1"))  # whoever could read it in UTF-16 would not have needed it
    return "utf-8" if name is not None and name.startswith("utf-16") else name


def _undeclared(data: bytes) -> Decoded:
    """Return a page by what its bytes look like."""
    if b"\x1b$" in data and _JIS.search(data) is not None and data.isascii():
        return _by("iso2022_jp", "detected", data)
    try:
        return Decoded(data.decode(), "utf-8", "default" if data.isascii() else "detected", bad=False)
    except UnicodeDecodeError as error:
        # a page that was cut inside its last character is UTF-8 nonetheless
        if error.reason == "unexpected end of data" and not data[: error.start].isascii():
            return _by("utf-8", "detected", data)
    text = data.decode("utf-8", "replace")
    if len(_PAST_ASCII.findall(text)) >= _TRUE * text.count("\ufffd"):
        return Decoded(text, "utf-8", "detected", bad=True)
    from curate.sources.webarchive.detection import detected

    name = detected(data)
    return _by("cp1252", "default", data) if name is None else _by(name, "detected", data)
