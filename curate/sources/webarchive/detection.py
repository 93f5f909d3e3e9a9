"""The charset of a page that names none, from its text: charset-normalizer for other scripts, languages for the Latin one.

charset-normalizer alone takes most Western pages for Central European ones: both have all letters. Which language the text is in
tells them apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from typing import Any

SAMPLE = 4096
"""Bytes of words with other than ASCII letters that are looked at."""

WINDOW = 1 << 20
"""Bytes, from the first that is not ASCII on, in which they are searched."""

_AFTER = 2  # words of ASCII after such a word, as context

_MARKUP = re.compile(rb"<(?i:(script|style))\b.*?(?:</(?i:\1)|\Z)|<!--.*?(?:-->|\Z)", re.DOTALL)
_WORDS = re.compile(rb"[^\x00-\x20<>\"=&;]++")
_HIGH = re.compile(rb"[\x80-\xff]+")
_IN_RUN = 3  # bytes in a row past ASCII: hardly ever in Latin script

_WEST = "af an ast br ca co da de en es eu fi fo fr fy ga gd gl gv ia id io is it lb ms nds nl nn no oc pt rm sc sv sw wa"
_CENTRE = "bs cs de dsb hr hsb hu pl ro sh sk sl sq sr"
_BALTIC = "et lt ltg lv sgs"
_CYRILLIC = "ba be bg bxr ce cv kk ky mk mn os ru sr tt uk"
_LANGUAGES = {
    codec: frozenset(languages.split())
    for codec, languages in {
        "cp1252": _WEST, "cp1250": _CENTRE, "iso8859-2": _CENTRE, "cp1254": "az ku tr", "cp1257": _BALTIC, "cp1258": "vi",
        "iso8859-16": "ro", "cp932": "ja", "euc_jp": "ja", "gb18030": "wuu yue zh", "big5hkscs": "wuu yue zh", "cp949": "ko",
        "cp1251": _CYRILLIC, "koi8-u": "ru uk", "koi8-r": "ru", "cp866": _CYRILLIC, "iso8859-5": _CYRILLIC,
        "mac-cyrillic": "ru uk",
        "cp1256": "ar arz azb ckb fa pnb ps sd ug ur", "cp1255": "he yi", "cp1253": "el", "iso8859-7": "el", "cp874": "th",
    }.items()
}  # fmt: skip
_LATIN = ("cp1252", "cp1250", "iso8859-2", "cp1254", "cp1257", "cp1258", "iso8859-16")
_WIDE = ("gb18030", "cp949", "big5hkscs", "euc_jp", "cp932")  # two bytes a character, the second often one of ASCII
_OTHERS = {name.replace("-", "_"): name for name in _LANGUAGES if name not in _LATIN}  # by the names of charset-normalizer
_LETTER = r"[^\W\d_]"
_ODD = re.compile(  # signs inside words; Thai vowels without a consonant
    rf"[\u00a9\u00ae\u00b0\u2116\u20ac](?={_LETTER})|(?<={_LETTER})[\u00ab\u00bb\u201c-\u201f](?={_LETTER})"
    r"|(?<![\u0e01-\u0e3a\u0e47-\u0e4e])[\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]|[\u0e40-\u0e44](?![\u0e01-\u0e2e])"
)
_SIGNS = frozenset(
    "\u2013\u2014\u2015\u2018\u2019\u201c\u201d\u2190\u2191\u2192\u2193\u00d7\u2032\u2033\u25a0\u25a1\u25cb\u25cf\u25b2\u25bc\u2605\u2606"
)
_USUAL = frozenset("\u2026\u00b0\u00a9\u00ae\u20ac\u2116\u2022\u00b7\u00a0\u2122\u3001\u3002\uff0c\uff01\uff1f\u00bf\u00a1")


def detected(data: bytes) -> str | None:
    """Return Python's codec for a page that is neither ASCII nor UTF-8; None where the text does not tell."""
    sample = sample_of(data)
    if (name := _of_signs(sample)) is not None:
        return name
    if not any(one.isalpha() for one in sample.decode("cp1252", "replace") if one > "\x7f"):
        return None  # quotes, dashes and signs
    if _is_latin(sample):
        return _likeliest(sample, dict.fromkeys((*_LATIN, *_WIDE), 0.0))
    from charset_normalizer import from_bytes

    matches = from_bytes(sample, cp_isolation=list(_OTHERS))
    chaos = {_OTHERS[one.encoding]: one.chaos - one.coherence / 20 for one in matches}
    return _likeliest(sample, chaos) or _likeliest(sample, dict.fromkeys(_LANGUAGES, 0.0))


def sample_of(data: bytes) -> bytes:
    """Return the words of a page that hold other than ASCII, each with the two after it, about SAMPLE bytes."""
    text = _MARKUP.sub(b" ", data)
    first = _HIGH.search(text)
    begin = 0 if first is None else max(0, first.start() - 64)
    found: list[bytes] = []
    size, after, end = 0, 0, -1
    for match in _WORDS.finditer(text, begin, begin + WINDOW):
        word = match[0]
        if not word.isascii():
            after = _AFTER
        elif after and match.start() == end + 1 and text[end] == 0x20 and word.isalpha():  # of the same sentence
            after -= 1
        else:
            after = 0
            continue
        found.append(word)
        size, end = size + len(word) + 1, match.end()
        if size >= SAMPLE:
            break
    return b" ".join(found)


def _of_signs(sample: bytes) -> str | None:
    """Return the East Asian charset in which all of a text past ASCII is signs and Latin letters; None for none."""
    for name in _WIDE:
        try:
            other = [one for one in sample.decode(name) if one > "\x7f"]
        except UnicodeDecodeError:
            continue
        if other and all(one in _SIGNS or one in _USUAL or (one.isalpha() and one < "\u0250") for one in other):
            return name
    return None


def _is_latin(sample: bytes) -> bool:
    runs = _HIGH.findall(sample)
    return 2 * sum(len(run) >= _IN_RUN for run in runs) < len(runs)


def _likeliest(sample: bytes, chaos: Mapping[str, float]) -> str | None:
    """Return the charset whose languages a text is most like; `chaos`, from 0 to 1, counts against it."""
    from curate.models.lid176 import load

    best, most, model = None, 0.0, load()
    for name, against in chaos.items():
        share = _likeness(sample.decode(name, "replace"), name, model) - against
        if share > most:
            best, most = name, share
    return best


def _likeness(text: str, name: str, model: Any) -> float:
    """Return how much a text looks like one of a charset's languages, from 0 to 1."""
    strange = _strange(text)
    if strange > 0.5 or (name in _WIDE and sum(map(str.isascii, text)) > len(text) / 2):
        return 0.0
    labels, scores = model.predict([" ".join(unicodedata.normalize("NFC", text).lower().split())], k=3)
    of_languages = zip(labels[0], scores[0], strict=True)
    likely = sum(float(score) for label, score in of_languages if label.removeprefix("__label__") in _LANGUAGES[name])
    return likely * (1 - strange)


def _strange(text: str) -> float:
    """Return the share of characters that are not of words, among those past ASCII."""
    other = [one for one in text if one > "\x7f"]
    odd = sum(not _is_usual(one) for one in other) + len(_ODD.findall(text))
    return min(1.0, odd / max(1, len(other)))


def _is_usual(one: str) -> bool:
    kind = unicodedata.category(one)
    return kind[0] in "LM" or kind in ("Pd", "Pi", "Pf", "Ps", "Pe") or one in _USUAL
