"""What is wrong with a synthetic caption: captioners loop, repeat their prompt, spell web addresses out, and are cut off."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from curate.stages.text import normalise

EMPTY, WORD, PHRASE, PROMPT = "empty_caption", "repeated_word", "repeated_phrase", "repeated_prompt"
ADDRESS, CUT = "web_address", "cut_caption"
"""Names of faults, as decisions have them in `error`."""

_RUN = 3  # the same word so often in a row is a decoder that got stuck
_LONGEST_PHRASE = 16  # words of a phrase that is looked for twice in a row
_SHORT = 24  # characters up to which zlib's own bytes hide any repetition

_GAPS = re.compile(r"[\s!-&(-,./:-@\[-`{-~¡¿«»“”„…、。「」・]+")  # not the apostrophe and the hyphen, which words hold
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_CHARACTER = re.compile(f"[{_UNSPACED}]")  # of scripts without spaces: Thai, Lao, Burmese, Khmer, kana, Han

_ENDS = (".", "!", "?", "。", "！", "？", "।", "…", '."', ".)")

# Tokenisers write "www. example. com" and "http : / / a. b": there may be spaces at the marks.
_ADDRESS = re.compile(
    r"""\bhttps?\s*:\s*/\s*/
    | \bwww\d?\s*\.\s*\w
    | [\w.+-]\s*@\s*[\w-]+(\s?\.\s?[\w-]+)*\s?\.\s?[a-z]{2,}\b
    | \b[\w-]+\s?\.\s?(com|net|org|edu|gov|info|co\s?\.\s?(uk|jp|kr|nz|za|in))\b
    | \b[\w-]+\.[a-z]{2,}/[\w-]
    """,
    re.VERBOSE | re.IGNORECASE,
)


def fault(caption: str | None) -> str | None:
    """Return what is wrong with a caption whatever the settings are, or None: it is empty, or repeats one word.

    >>> fault(" "), fault("a dog dog dog"), fault("dog dog"), fault("a dog in a park")
    ('empty_caption', 'repeated_word', 'repeated_word', None)
    """
    words = (caption or "").split()
    if not words:
        return EMPTY
    if len(words) > 1 and len(set(words)) == 1:
        return WORD
    return WORD if _runs(words, 1, _RUN) else None


@dataclass(frozen=True)
class FaultRules:
    """Which captions are faulty; None, 0 or an empty text: not asked. The measures see the text's normal form.

    `repeated_share` is a bound of `repeated_share()`, `compression` one of `compression()`. A phrase of one or two words that
    stands `phrase_run` times in a row is a loop, and a longer one that stands there twice.
    """

    repeated_share: float | None
    phrase_run: int
    compression: float | None
    prompt: str
    addresses: bool
    cuts: bool

    def fault(self, caption: str | None, *, cut: bool | None) -> str | None:
        """Return the name of a caption's fault, or None; `cut` is whether its last token is not the model's end.

        >>> rules = FaultRules(0.4, 3, 2.4, "a picture of", addresses=True, cuts=True)
        >>> rules.fault("ray ban ray ban ray ban", cut=True), rules.fault("a red car on the", cut=True)
        ('repeated_phrase', 'cut_caption')
        """
        found = fault(caption)
        if found is not None or caption is None:
            return found
        normal = normalise(caption)
        words, wide = words_of(normal)
        if self.phrase_run and wide == 1 and _runs(words, 1, self.phrase_run):
            return WORD  # three times one character is a word in some languages
        if self._loops(words, wide) or self._shrinks(normal):
            return PHRASE
        if self.prompt and _begins(normal, normalise(self.prompt)):
            return PROMPT
        if self.addresses and _ADDRESS.search(normal):
            return ADDRESS
        return CUT if self.cuts and cut and not caption.rstrip().endswith(_ENDS) else None

    def _loops(self, words: Sequence[str], wide: int) -> bool:
        share = repeated_share(words, 2 * wide)
        if self.repeated_share is not None and share > self.repeated_share:
            return True
        if not self.phrase_run or not share:  # a phrase cannot be repeated where no pair of words is
            return False
        longest = min(_LONGEST_PHRASE * wide, len(words) // 2)
        short = any(_runs(words, size, self.phrase_run) for size in range(2 * wide, 3 * wide))
        return short or any(_runs(words, size, 2) for size in range(3 * wide, longest + 1))

    def _shrinks(self, normal: str) -> bool:
        return self.compression is not None and len(normal) > _SHORT and compression(normal) > self.compression


def words_of(normal: str) -> tuple[list[str], int]:
    """Return the words of a normal form without punctuation, and how many of them count as one: 1.

    Of a text that is mostly in a script without spaces these are its characters, and two of them count as one word.

    >>> words_of("a dog, a cat"), words_of("狗在车上")
    ((['a', 'dog', 'a', 'cat'], 1), (['狗', '在', '车', '上'], 2))
    """
    words = [word for word in _GAPS.split(normal) if word]
    joined = "".join(words)
    if 2 * len(_CHARACTER.findall(joined)) > len(joined):
        return list(joined), 2
    return words, 1


def repeated_share(words: Sequence[str], size: int) -> float:
    """Return the share, 0 to 1, of words that are in an n-gram of `size` words which has been there before.

    A longer phrase that is repeated consists of such n-grams, so that one size is enough.

    >>> repeated_share("ray ban ray ban".split(), 2), repeated_share("a dog and a cat".split(), 2)
    (0.5, 0.0)
    """
    seen, covered = set(), [False] * len(words)
    for start in range(len(words) - size + 1):
        gram = tuple(words[start : start + size])
        if gram in seen:
            covered[start : start + size] = [True] * size
        seen.add(gram)
    return sum(covered) / len(words) if words else 0.0


def compression(text: str) -> float:
    """Return how many times smaller zlib makes a text, in bytes of UTF-8; under 1 for short texts.

    >>> compression("a dog") < 1, compression("ray ban " * 20) > 2.4
    (True, True)
    """
    plain = text.encode(errors="replace")
    return len(plain) / len(zlib.compress(plain, 9))


def _runs(words: Sequence[str], size: int, times: int) -> bool:
    """Return whether a phrase of `size` words stands `times` times in a row."""
    same = 0
    for before, after in zip(words, words[size:], strict=False):
        same = same + 1 if before == after else 0
        if same >= size * (times - 1):
            return True
    return False


def _begins(normal: str, prompt: str) -> bool:
    """Return whether a text begins with the words of a prompt."""
    words, wanted = words_of(normal)[0], words_of(prompt)[0]
    return bool(wanted) and words[: len(wanted)] == wanted
