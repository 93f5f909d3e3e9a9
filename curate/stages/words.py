"""The words of normal forms that are not plain ASCII.

Words are the tokens between spaces that hold a letter, a digit or punctuation: symbols (emoji among them), marks and characters
without width make none. A text without a letter has no words. Scripts that are written without spaces are cut into words by
ICU's dictionaries where PyICU is installed; without it the letters of such scripts are counted, and divided by what words
usually have. What stands beside them in such a token, like a name in Latin letters, is one more word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from curate.core.errors import ModelError

LETTERS = "letters"
"""The segmenter that needs nothing: letters by their number."""

_SKIPPED, _SYMBOL, _SPACE, _NEXT, _OTHER, _DIGIT, _LETTER = range(7)
_UNSPACED = 7  # of a script without spaces whose words have about two letters
_UNSPACED_LONG = 8  # ... about three: of Thai and Lao without vowel signs and tone marks, of katakana
_SIXTHS = np.array([0] * 7 + [3, 2])  # of a word that a letter is

_BLOCKS = (
    ("\u0e00", "\u0eff", _UNSPACED_LONG),  # Thai, Lao
    ("\u0f00", "\u0fff", _UNSPACED),  # Tibetan
    ("\u1000", "\u109f", _UNSPACED),  # Burmese
    ("\u1780", "\u17ff", _UNSPACED),  # Khmer
    ("\u1950", "\u19df", _UNSPACED),  # Tai Le, New Tai Lue
    ("\u1a20", "\u1aaf", _UNSPACED),  # Tai Tham
    ("\u3005", "\u3007", _UNSPACED),  # signs that stand for Chinese characters
    ("\u3040", "\u309f", _UNSPACED),  # hiragana
    ("\u30a0", "\u30ff", _UNSPACED_LONG),  # katakana
    ("\u3100", "\u312f", _UNSPACED),  # bopomofo
    ("\u31a0", "\u31ef", _UNSPACED),
    ("\u31f0", "\u31ff", _UNSPACED_LONG),
    ("\u3400", "\u9fff", _UNSPACED),  # Chinese characters
    ("\ua9e0", "\ua9ff", _UNSPACED),
    ("\uaa60", "\uaadf", _UNSPACED),  # Burmese, Tai Viet
    ("\uf900", "\ufaff", _UNSPACED),
    ("\U0001b000", "\U0001b16f", _UNSPACED),
    ("\U00020000", "\U0003ffff", _UNSPACED),
)
_PICTURES = (("\u2190", "\u23ff"), ("\u2500", "\u2bff"), ("\u3030", "\u3030"))
"""Arrows, shapes and a dash: symbols, though Unicode calls some of them mathematical or punctuation."""
_NO_WIDTH = "\u115f\u1160"  # letters by their category, but nothing is seen of them
_KEYCAP = 0x20E3  # makes an emoji of the digit or sign before it

_RUN = re.compile("[{}]+".format("".join(f"{first}-{last}" for first, last, _ in _BLOCKS)))
_WORD = 200  # the lowest of ICU's rule status for a segment of letters, kana or ideographs; numbers are below

Counts = npt.NDArray[np.int32]


def installed() -> str:
    """Return the name of the segmenter that this machine has: "icu VERSION", or "letters"."""
    try:
        from icu import ICU_VERSION
    except ImportError:
        return LETTERS
    return f"icu {ICU_VERSION}"


def described(segmenter: str) -> str:
    """Return in a sentence how a segmenter counts."""
    scripts = "words of Chinese, Japanese, Thai, Lao, Khmer and Burmese texts"
    if segmenter != LETTERS:
        return f"{scripts} are those that {segmenter.replace('icu', 'ICU')} finds"
    return (
        f"{scripts} are estimated, at two letters a word (three in Thai, Lao and katakana): "
        'ICU would find them, which comes with pip install "curate-image-text[icu]"'
    )


def has_letters(text: str) -> bool:
    """Return whether a text has a letter that can be seen.

    >>> has_letters("1,200 \N{WHITE SMILING FACE}"), has_letters("12 km")
    (False, True)
    """
    return any(character.isalpha() and character not in _NO_WIDTH for character in text)


def count_words(texts: Sequence[str], segmenter: str) -> Counts:
    """Return the number of words of each normal form. Raises ModelError where this machine's segmenter is another one."""
    codes = np.frombuffer("\n".join(texts).encode("utf-32-le"), "<u4")
    kinds = _kinds()[codes]
    _mark_keycaps(codes, kinds)
    kinds = kinds[kinds != _SKIPPED]
    text = np.cumsum(kinds == _NEXT)
    unspaced = kinds >= _UNSPACED
    counts = _spaced(kinds, text, unspaced, len(texts))
    places = np.flatnonzero(np.bincount(text[unspaced], minlength=len(texts)))
    if segmenter == LETTERS:
        sixths = np.bincount(text[unspaced], _SIXTHS[kinds[unspaced]], len(texts))[places]
        counts[places] += np.maximum(1, (sixths + 3) // 6).astype(np.int32)
    elif len(places):
        segments = _segments(segmenter)
        counts[places] += np.array([segments(texts[place]) for place in places.tolist()], np.int32)
    letters = np.bincount(text[kinds >= _LETTER], minlength=len(texts)) > 0
    return np.where(letters, counts, 0).astype(np.int32)


def _spaced(kinds: npt.NDArray[np.uint8], text: npt.NDArray[np.int64], unspaced: npt.NDArray[np.bool_], size: int) -> Counts:
    """Count the words that are not of scripts without spaces."""
    between = (kinds == _SPACE) | (kinds == _NEXT)
    token = np.cumsum(between)
    changes = between.copy()
    changes[1:] |= unspaced[1:] != unspaced[:-1]
    named = np.flatnonzero((kinds == _DIGIT) | (kinds == _LETTER))
    piece = np.cumsum(changes)[named]
    first = named[np.diff(piece, prepend=-1) != 0]  # of each piece with letters or digits
    signs = np.flatnonzero(kinds == _OTHER)
    filled = np.zeros(int(token[-1]) + 1 if len(token) else 1, np.bool_)
    filled[token[named]] = filled[token[unspaced]] = True
    alone = signs[~filled[token[signs]]]
    alone = alone[np.diff(token[alone], prepend=-1) != 0]  # of each token of punctuation alone
    found: Counts = np.bincount(text[np.concatenate([first, alone])], minlength=size).astype(np.int32)
    return found


def _mark_keycaps(codes: npt.NDArray[np.uint32], kinds: npt.NDArray[np.uint8]) -> None:
    """Make symbols of the digits and signs that keycaps enclose; a variation selector may stand between."""
    for place in np.flatnonzero(codes == _KEYCAP).tolist():
        before = place - (2 if place > 1 and codes[place - 1] == 0xFE0F else 1)
        if before >= 0 and kinds[before] in (_DIGIT, _OTHER):
            kinds[before] = _SYMBOL


def _segments(segmenter: str) -> Callable[[str], int]:
    """Return what counts the words of the scripts without spaces in a text."""
    if segmenter != (here := installed()):
        raise ModelError(f"words are counted with {segmenter}, but this machine has {here}: install the same ICU")
    import icu

    found = icu.BreakIterator.createWordInstance(icu.Locale.getRoot())

    def count(text: str) -> int:
        words = 0
        for run in _RUN.findall(text):
            found.setText(run)
            words += sum(found.getRuleStatus() >= _WORD for _ in found)
        return words

    return count


@cache
def _kinds() -> npt.NDArray[np.uint8]:
    """Return what each code point is for a word. Planes without letters of any script hold symbols."""
    kinds = np.full(0x110000, _SYMBOL, np.uint8)
    for plane in (range(0x34000), range(0xE0000, 0xE1000)):
        kinds[plane.start : plane.stop] = [_KIND_OF.get(unicodedata.category(chr(code)), _OTHER) for code in plane]
    ascii_ = kinds[:0x80]
    ascii_[ascii_ == _SYMBOL] = _OTHER  # as all signs of ASCII
    for first, last in _PICTURES:
        kinds[ord(first) : ord(last) + 1] = _SYMBOL
    for first, last, kind in _BLOCKS:
        block = kinds[ord(first) : ord(last) + 1]
        block[block == _LETTER] = kind
    kinds[0x3007] = _UNSPACED  # zero, a number by its category
    kinds[[ord(character) for character in _NO_WIDTH]] = _SKIPPED
    kinds[ord("\n")], kinds[ord(" ")] = _NEXT, _SPACE
    return kinds


_KIND_OF = {
    **dict.fromkeys(("Ll", "Lu", "Lt", "Lm", "Lo"), _LETTER),
    **dict.fromkeys(("Nd", "Nl", "No"), _DIGIT),
    **dict.fromkeys(("Mn", "Mc", "Me", "Cf"), _SKIPPED),
    **dict.fromkeys(("So", "Sk", "Cn", "Co", "Cs"), _SYMBOL),
}
"""Of Unicode's general categories; what is not named is punctuation or another sign, which counts where it stands alone."""
