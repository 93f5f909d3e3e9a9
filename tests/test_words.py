"""How many words a text has: what makes one, and what does in scripts without spaces, with ICU and without."""

from __future__ import annotations

import string
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.core.errors import ModelError
from curate.planning import loader as recipes
from curate.planning import plan as planning
from curate.stages import words
from curate.stages.mojibake import MojibakeStage
from curate.stages.text import TextStage
from tests.running import Setup, decisions, jpeg, make_tar, manifest, run_job

SENTENCES = ["红色的汽车停在绿色的草地上", "一只小狗在海边奔跑", "夕阳下的城市天际线",
             "赤い車が緑の芝生に停まっている", "海辺を走る小さな犬",
             "รถสีแดงจอดอยู่บนหญ้าสีเขียว", "สุนัขตัวเล็กวิ่งอยู่บนชายหาด",
             "a small dog runs on the beach",
             "កង្កែបបៃតងមួយនៅលើស្លឹកឈើ", "ກົບສີຂຽວຢູ່ເທິງໃບໄມ້", "အစိမ်းရောင်ဖားတစ်ကောင်"]  # fmt: skip
SPAM = "购买便宜鞋子" * 200


def counted(texts: list[str | None], segmenter: str = words.LETTERS) -> list[int | None]:
    found: list[int | None] = TextStage(segmenter)(pa.record_batch({"text": pa.array(texts, pa.string())}))["words"].to_pylist()
    return found


class ByTwos:
    """A break iterator as ICU's, which ends a word after every second character."""

    def setText(self, text: str) -> None:
        self._text = text

    def __iter__(self) -> Iterator[int]:
        return iter([*range(2, len(self._text), 2), len(self._text)])

    def getRuleStatus(self) -> int:
        return 400


@pytest.fixture
def icu(monkeypatch: pytest.MonkeyPatch) -> str:
    """Install a module `icu`; return the segmenter's name."""
    maker = SimpleNamespace(createWordInstance=lambda locale: ByTwos())
    module = SimpleNamespace(ICU_VERSION="99.1", BreakIterator=maker, Locale=SimpleNamespace(getRoot=lambda: None))
    monkeypatch.setitem(sys.modules, "icu", module)  # type: ignore[arg-type]
    return "icu 99.1"


@pytest.fixture
def no_icu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "icu", None)


@settings(deadline=None)  # the first example waits for tables, or a model
@given(st.lists(st.one_of(st.none(), st.text(string.printable, max_size=20)), max_size=12))
def test_words_of_ascii_are_its_tokens_where_it_has_a_letter(texts: list[str | None]) -> None:
    tokens = [None if text is None else text.split() for text in texts]
    assert counted(texts) == [None if one is None else len(one) * any(map(str.isalpha, "".join(one))) for one in tokens]


@settings(deadline=None)  # the first example waits for tables, or a model
@given(st.lists(st.text("a1- \u00e9\u2665\u200b\u0301\u20e3\ufe0f\u6c34\u0e01\u0e31\u3002\u2013", max_size=12), max_size=8))
def test_a_text_has_the_same_words_in_any_batch(texts: list[str]) -> None:
    assert counted([*texts]) == [one for text in texts for one in counted([text])]
    assert counted([f"{text} \u00e9 x" for text in texts]) == counted([f"x \u00e9 {text}" for text in texts])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\u2665 cat \u2665", 1),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467 family", 1),
        ("i \u2764\ufe0f ny", 2),
        ("\u200b\u200b a \u200b \ufeff b", 2),
        ("caf\u00e9 \u0301 b", 2),
        ("1\ufe0f\u20e3 2\u20e3 #\ufe0f\u20e3 hi", 1),
        ("\U0001f1e9\U0001f1ea flag \U0001f44d\U0001f3fd", 1),
        ("sun \u2194\ufe0f \u3030\ufe0f moon", 2),
        ("a \u2013 b", 3),  # as "a - b" has
        ("\u00e9t\u00e9 2021", 2),
        ("개구리 한 마리", 3),
        ("\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", 2),
        ("水", 1),
        ("\u0e01", 1),
        ("红色的汽车。", 3),
        ("カエル", 1),
        ("สีเขียว", 2),
        ("iphone手机 壳 2021年新款 \u2665", 5),
        ("ＳＡＬＥ 鞋", 2),
        ("。 、", 0),
        ("٣ ٤", 0),
    ],
)
def test_what_makes_a_word(text: str, expected: int) -> None:
    assert counted([text]) == [expected]


def test_scripts_without_spaces_are_cut_by_icu_and_the_rest_by_spaces(icu: str) -> None:
    assert words.installed() == icu
    assert counted(["红色的汽车停。a dog", "กข", "plain", "\u00e9t\u00e9", "iphone手机壳"], icu) == [5, 1, 1, 1, 3]


def test_another_segmenter_than_the_plan_has_is_an_error(icu: str) -> None:
    with pytest.raises(ModelError, match=r"counted with icu 72.1, but this machine has icu 99.1"):
        counted(["水"], "icu 72.1")


@pytest.mark.usefixtures("no_icu")
def test_without_icu_the_letters_are_the_measure() -> None:
    assert words.installed() == words.LETTERS
    assert counted(["红色的汽车停在绿色的草地上"]) == [7]


def test_icu_finds_the_words_of_sentences() -> None:
    pytest.importorskip("icu")
    found = counted(SENTENCES, words.installed())
    assert found[:8] == [8, 5, 7, 11, 5, 9, 7, 7] and all(3 <= (number or 0) <= 20 for number in found)


RECIPE = "filters:\n  caption_words: {min_words: 3, max_words: 20}\n  unreadable:\n"


@pytest.mark.usefixtures("no_icu")
def test_sentences_of_scripts_without_spaces_are_kept_and_spam_is_not(tmp_path: Path) -> None:
    given_ = [*SENTENCES, SPAM]
    members = (((f"{n}.jpg", jpeg(n)), (f"{n}.txt", text.encode())) for n, text in enumerate(given_))
    make_tar(tmp_path / "a.tar", chain.from_iterable(members))
    run_job(Setup(RECIPE, [tmp_path / "a.tar"]), tmp_path / "out")
    assert [row["dropped_by"] for row in decisions(tmp_path / "out")] == [None] * len(SENTENCES) + ["caption_words"]
    [note] = manifest(tmp_path / "out")["notes"]
    assert "estimated" in note and "[icu]" in note


def test_facts_and_notes_say_what_counted(tmp_path: Path, icu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "none.yaml").write_text("filters:\n  unreadable:\n")
    having = planning.plan(recipes.load(str(tmp_path / "r.yaml")))
    monkeypatch.setitem(sys.modules, "icu", None)
    lacking = planning.plan(recipes.load(str(tmp_path / "r.yaml")))
    assert having.base_key != lacking.base_key
    assert "ICU 99.1" in having.notes()[0] and "estimated" in lacking.notes()[0]
    assert planning.plan(recipes.load(str(tmp_path / "none.yaml"))).notes() == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("größere Boote", False),
        ("größere Boote".encode().decode("cp1252"), True),
        ("日本語の説明".encode().decode("cp1252", "replace"), True),
        ("a boat \N{REPLACEMENT CHARACTER} at the pier", True),
        ("plain", False),
        ("日本語の説明", False),
        ("", False),
        (None, None),
    ],
)
def test_texts_of_a_wrong_charset(text: str | None, found: bool | None) -> None:
    assert MojibakeStage()(pa.record_batch({"text": pa.array([text], pa.string())}))["mojibake"].to_pylist() == [found]


def test_an_expression_drops_texts_of_a_wrong_charset(tmp_path: Path) -> None:
    texts = ["größere Boote", "größere Boote".encode().decode("cp1252"), "two boats"]
    path = make_tar(tmp_path / "0.tar", [(f"{n}.{kind}", data) for n, text in enumerate(texts)
                                         for kind, data in (("jpg", jpeg(n)), ("txt", text.encode()))])  # fmt: skip
    run_job(Setup("filters:\n  sql: {where: 'not mojibake'}\n", [path]), tmp_path / "out")
    assert [row["dropped_by"] for row in decisions(tmp_path / "out")] == [None, "sql", None]
