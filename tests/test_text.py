"""The normal form and the words of texts equal their plain definitions, however they are batched."""

from __future__ import annotations

import hashlib
import unicodedata
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.models import lid176
from curate.planning.plan import identity
from curate.stages.language import LanguageStage, model_facts
from curate.stages.text import _BASE, TextStage, _table, mix, normalise, normalised, tokens

TEXTS = st.lists(st.one_of(st.none(), st.text(max_size=40), st.text("aÅ \t\n\u00a0\u3000ﬁẞ\0", max_size=12)), max_size=12)


@given(st.text())
def test_the_normal_form_is_stable_and_as_documented(text: str) -> None:
    normal = normalise(text)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    assert normal == " ".join(folded.split())
    assert normal == normal.strip()
    assert "  " not in normal


def test_ascii_takes_a_shorter_way_to_the_same_form() -> None:
    every = "".join(map(chr, range(128)))
    assert normalise(every) == " ".join(unicodedata.normalize("NFKC", every).casefold().split())


@settings(deadline=None)  # the first example waits for tables, or a model
@given(TEXTS)
def test_characters_are_counted(texts: list[str | None]) -> None:
    batch = TextStage()(pa.record_batch({"text": pa.array(texts, pa.string())}))
    assert batch["characters"].to_pylist() == [None if t is None else len(normalise(t)) for t in texts]


def hash_of(word: str) -> int:
    """Return a word's hash by the definition, in whole numbers: the sum of table[byte] * base**position, then mixed."""
    data = word.encode()
    total = sum(int(_table()[byte]) * pow(_BASE, place, 1 << 64) for place, byte in enumerate(data)) % (1 << 64)
    return int(mix(np.array([total], np.uint64), np.array([len(data)], np.uint64))[0])


@given(TEXTS)
def test_tokens_are_the_hashes_of_the_words(texts: list[str | None]) -> None:
    found = tokens(normalised(pa.array(texts, pa.string())))
    words = [normalise(text or "").split(" ") if normalise(text or "") else [] for text in texts]
    assert np.diff(found.starts).tolist() == [len(one) for one in words]
    assert found.words.tolist() == [hash_of(word) for one in words for word in one]
    keys, inside = found.bigrams()
    expected = [int(mix(*(np.array([hash_of(word)], np.uint64) for word in pair))[0]) for one in words for pair in pairwise(one)]
    assert keys[inside].tolist() == expected


def test_words_do_not_collide_and_texts_are_hashed_in_pieces() -> None:
    words = ["".join(letters) for size in range(1, 4) for letters in product("abcdefghijklmnopqrstuvwxyz", repeat=size)]
    once = tokens(pa.array([" ".join(words)])).words
    assert len(np.unique(once)) == len(words)
    many = tokens(pa.array([" ".join(words)] * 30 + [None, ""]))  # several megabytes
    assert many.words.tolist() == once.tolist() * 30 and many.starts[-3:].tolist() == [30 * len(words)] * 3


def test_mixing_knows_order_and_does_not_collide() -> None:
    left, right = np.random.default_rng(0).integers(0, 2**63, (2, 100_000)).astype(np.uint64)
    assert len(np.unique(np.concatenate([mix(left, right), mix(right, left)]))) == 200_000


def test_languages_are_told_and_nothing_is_not_a_language() -> None:
    texts = ["the dog runs over the green grass", None, "", "der Hund läuft\nüber die Wiese", "le chien\0court dans le jardin"]
    found = LanguageStage()(pa.record_batch({"text": pa.array(texts, pa.string())}))
    assert found["language"].to_pylist() == ["en", None, None, "de", "fr"]
    scores = found["language_score"].to_pylist()
    assert all(score is None or 0 <= score <= 1 for score in scores)


@settings(deadline=None)  # the first example waits for tables, or a model
@given(st.text("ABEILMNRSTabeilmnrstÄÖéЖяİ \n", min_size=1, max_size=40))
def test_capitals_and_blanks_do_not_change_the_language(text: str) -> None:
    twins = [text, text.lower(), " ".join(text.split()), f"\n\t{text}\r\n"]
    found = LanguageStage()(pa.record_batch({"text": pa.array(twins, pa.string())}))
    assert len(set(found["language"].to_pylist())) == len(set(found["language_score"].to_pylist())) == 1


def test_texts_in_capitals_have_their_language() -> None:
    texts = ["PHOTO OF A RED CAR", "MENS T-SHIRT XL BLUE", "WOMEN'S SUMMER DRESS SALE", "KITCHEN TABLE WITH FOUR CHAIRS",
             "MY FRIEND IS A BIRD", "THROTTLE CABLE FOR MOTORBIKE NEW", "THE COMPLETE THIRD SEASON BOX",
             "BLACK LEATHER SHOES FOR MEN", "a red car\0stands on the road", "\na red\tcar stands on the road\n"]  # fmt: skip
    found = LanguageStage()(pa.record_batch({"text": pa.array(texts)}))
    assert set(found["language"].to_pylist()) == {"en"}


@pytest.mark.parametrize(
    "text", ["12 345", "\N{GRINNING FACE} \N{GRINNING FACE}", "-- !!! ...", "\u200b\ufeff", "\u0301", "1\ufe0f\u20e3", "\u1160"]
)
def test_texts_without_letters_have_no_words_and_no_language(text: str) -> None:
    batch = pa.record_batch({"text": pa.array([text])})
    assert LanguageStage()(batch)["language"].to_pylist() == LanguageStage()(batch)["language_score"].to_pylist() == [None]
    assert TextStage()(batch)["words"].to_pylist() == [0]


def test_the_language_model_is_known_by_its_weights() -> None:
    path = Path(lid176.__file__).parent / "lid.176.ftz"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == lid176.SHA256
    assert model_facts() == {
        "stage": "language",
        "kind": "language",
        "spec": "lid.176",
        "revision": None,
        "sha256": lid176.SHA256,
    }
    assert "ShareAlike" in (path.parent / "NOTICE.md").read_text() and lid176.SHA256 in (path.parent / "NOTICE.md").read_text()


def test_other_weights_make_another_stage() -> None:
    assert identity(LanguageStage()) != identity(LanguageStage(weights="0" * 64))
