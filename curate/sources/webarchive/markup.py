"""The syntax of HTML: tags, attributes, comments, raw text and character references, as the HTML Standard's tokenizer has them.

Patterns take time that is linear in the page, whatever the page: their repetitions are possessive, so none of them backtracks.
"""

from __future__ import annotations

import re
from html import unescape
from html.entities import html5

_S, _NAMED = r"[\t\n\f\r ]", r"[^\t\n\f\r />]"
# names may begin with "=", values in quotes may hold anything, a tag without its end is none
_VALUE = rf"{_S}*+={_S}*+(?:\"([^\"]*+)\"|'([^']*+)'|([^\t\n\f\r >\"'][^\t\n\f\r >]*+)|(?=>))"
_ATTRIBUTE = rf"(=?+[^\t\n\f\r />=]++|=)(?:{_VALUE}|(?!{_S}*+=))"
_PLAIN = re.sub(r"(?<!\\)\((?!\?)", "(?:", _ATTRIBUTE)  # the same without groups
_REST = rf"(?:[\t\n\f\r /]++|{_PLAIN})*+"

RAW = ("script", "style", "textarea", "title", "xmp", "iframe", "noembed", "noframes")
"""Elements whose content is text up to their end tag."""

_WANTED = ("img", "image", "base", "html", "source", "picture", "figure", "figcaption", "plaintext", "template", "svg", "math")
# cases spelt out: so the engine sees by its first letter that a name is none of them
_FOUND = "|".join("".join(f"[{letter}{letter.upper()}]" for letter in name) for name in sorted((*_WANTED, *RAW)))
_NEVER = "[ACDEGJKLOQRUVWYZacdegjkloqruvwyz]"  # what none of them begins with
_USUAL = rf"(?:{_S}++[a-zA-Z0-9_:\-]++=(?:\"[^\"]*+\"|'[^']*+'))++[\t\n\f\r /]*+"  # attributes as nearly all are written
# what follows "<"
_COMMENT = r"!--(?:-?>|[^-]*+(?:-(?!-!?>)[^-]*+)*+--!?>)"
_BOGUS = r"(?:[!?](?!--)|/[^a-zA-Z>])[^>]*+>|/>"
_OTHER = rf"/?(?:{_NEVER}|(?!(?:{_FOUND})[\t\n\f\r />])[a-zA-Z]){_NAMED}*+(?:>|{_USUAL}>|[^>\"']*+>|{_REST}>)"

SKIP = re.compile(rf"(?:[^<]*+<(?:{_OTHER}|{_COMMENT}|{_BOGUS}|(?![a-zA-Z/!?])))*+[^<]*+")
"""What lies before the next tag that matters here, or before a `<` that ends nothing: text, comments and other tags."""

TAG = re.compile(rf"<(/?)([a-zA-Z]{_NAMED}*+)({_REST})>")
"""A tag: the slash of an end tag, its name, its attributes as written."""

_ATTRIBUTES = re.compile(_ATTRIBUTE)
_INSIDE_WORDS = "a|abbr|b|bdi|bdo|cite|code|em|font|i|kbd|mark|q|s|small|span|strong|sub|sup|u|wbr"
_INLINE = re.compile(rf"</?(?i:{_INSIDE_WORDS})(?=[\t\n\f\r />]){_REST}>|<{_COMMENT}")
_MARKUP = re.compile(rf"<(?:/?[a-zA-Z]{_NAMED}*+{_REST}>|{_COMMENT}|{_BOGUS})")
_RAW_END = {name: re.compile(rf"</{name}(?=[\t\n\f\r />])", re.IGNORECASE) for name in RAW}
_SCRIPT = re.compile(r"<script(?=[\t\n\f\r />])", re.IGNORECASE)
_REFERENCE = re.compile(r"&(?:#(?:[xX][0-9a-fA-F]++|[0-9]++);?|([a-zA-Z][a-zA-Z0-9]*+(?:;|(?!=))))")
_LONG_NUMBER = re.compile(r"&#(?:([0-9]{9,})|[xX]([0-9a-fA-F]{9,}));?")


def raw_end(source: str, name: str, at: int) -> int:
    """Return where raw text ends: at its end tag, else at the end of the page."""
    closing, start = _RAW_END[name], at
    while (found := closing.search(source, at)) is not None:
        if name != "script" or not _in_escaped_script(source, start, found.start()):
            return found.start()
        start = at = found.end()
    return len(source)


def _in_escaped_script(source: str, start: int, end: int) -> bool:
    """Return whether an end tag belongs to a script inside a comment of the script (`<!--<script>`)."""
    comment = source.rfind("<!--", start, end)
    if comment < 0 or source.find("-->", comment + 2, end) >= 0:
        return False
    return _SCRIPT.search(source, comment, end) is not None


def attributes(written: str) -> dict[str, str]:
    """Return the attributes of a tag as written, names in lower case, the first of several of a name.

    >>> attributes("SRC=a.jpg alt='x &amp; y' alt=z hidden")
    {'src': 'a.jpg', 'alt': 'x & y', 'hidden': ''}
    """
    found: dict[str, str] = {}
    for name, double, single, bare in _ATTRIBUTES.findall(written):
        found.setdefault(name.lower(), double or single or bare)
    for name, value in found.items():
        if "&" in value:
            found[name] = _REFERENCE.sub(_referred, value)
    return found


def _referred(reference: re.Match[str]) -> str:
    # without its semicolon a name before a letter or "=" is part of a URL: "?a=1&copy=2"
    return entities(reference[0]) if reference[1] is None else html5.get(reference[1], reference[0])


def entities(text: str) -> str:
    """Return a text with its character references resolved; numbers that no character has are replaced, however long.

    >>> entities("&amp;&#65;&#" + "0" * 5000 + "66;&#" + "9" * 5000 + ";") == "&AB\ufffd"
    True
    """
    return unescape(_LONG_NUMBER.sub(_shortened, text)) if "&#" in text else unescape(text)


def _shortened(number: re.Match[str]) -> str:
    digits = (number[1] or number[2]).lstrip("0")
    return "\ufffd" if len(digits) > 8 else f"&#{'' if number[1] else 'x'}{digits or '0'};"


def unescaped(value: str) -> str:
    """Return the value of an attribute with its character references resolved."""
    return _REFERENCE.sub(_referred, value) if "&" in value else value


def collapsed(text: str | None) -> str | None:
    """Return a text trimmed, with every run of whitespace one space; None for a blank one."""
    return " ".join(text.split()) or None if text else None


def plain_text(source: str, *, strip: bool = True) -> str:
    """Return the text of a piece of HTML, whitespace collapsed; with strip=False one space stays at either end.

    >>> plain_text(" <p>one<b>s</b></p><p>two &amp; three")
    'ones two & three'
    """
    if "<" in source:
        source = _MARKUP.sub(" ", _INLINE.sub("", source))
    text = entities(source) if "&" in source else source
    joined = " ".join(text.split())
    if strip or not text:
        return joined
    if not joined:
        return " "
    return (" " if text[0].isspace() else "") + joined + (" " if text[-1].isspace() else "")
