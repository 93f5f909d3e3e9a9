"""Charsets of pages: as browsers take them, and from the text where a page names none."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from curate.sources.webarchive.charset import LATE, PRESCAN, codec, decoded, name_of
from curate.sources.webarchive.html import Page, read_page
from curate.sources.webarchive.pairs import Reading, pairs
from tests.archives import Archive

RUSSIAN, FRENCH = "Красная машина стоит на зелёной траве", "Un garçon très fâché mange une crêpe près de la forêt"
JAPANESE = "赤い車が緑の芝生に停まっている"
TEXTS = {
    "windows-1251": RUSSIAN, "koi8-r": RUSSIAN, "ibm866": RUSSIAN, "iso-8859-5": RUSSIAN,
    "gb18030": "红色的汽车停在绿色的草地上", "big5": "紅色的汽車停在綠色的草地上", "euc-kr": "빨간 차가 푸른 잔디 위에 있다",
    "shift_jis": JAPANESE, "euc-jp": JAPANESE, "iso-2022-jp": JAPANESE,
    "windows-874": "รถสีแดงจอดอยู่บนหญ้า", "windows-1256": "سيارة حمراء على العشب", "windows-1255": "מכונית אדומה על הדשא הירוק",
    "windows-1253": "Ένα κόκκινο αυτοκίνητο στο πράσινο γρασίδι",
    "windows-1254": "Yeşil çimlerin üzerinde kırmızı bir araba duruyor",
    "windows-1250": "Czerwony samochód stoi na zielonej trawie, źródło zdjęć",
    "iso-8859-2": "Žluťoučký kůň stojí vedle červeného auta a pěti dětí",
    "windows-1252": FRENCH,
}  # fmt: skip


def html(text: str, head: str = "") -> str:
    return f'<html><head>{head}</head><body><p>{f"{text} " * 20}</p><img src="/a.jpg" alt="{text}"></body></html>'


def told(data: bytes, label: str | None = None) -> tuple[str, str | None, str | None, bool]:
    """Return the alt text of the only image of a page, its charset and where that is from, and whether bytes were bad."""
    found = read_page(data, Page("http://site.example/", label))
    [pair] = found.pairs
    return pair.text, found.charset, found.charset_from, found.bad_bytes


@pytest.mark.parametrize(
    ("data", "label", "text"),
    [
        (b"\xef\xbb\xbf\xc3\xa9", "latin1", "é"),
        (b"\xff\xfe\xe9\x00", None, "é"),
        (b"\xe9", "iso-8859-2", "é"),
        (b"\x93x\x94", "ISO-8859-1", "“x”"),
        (b"<meta charset=windows-1251>\xe9", None, "<meta charset=windows-1251>й"),
        (b"<!--<meta charset=koi8-r>-->\xc3\xa9", None, "<!--<meta charset=koi8-r>-->é"),
        (b"<meta charset=utf-16>\xc3\xa9", None, "<meta charset=utf-16>é"),
        (b"\x82\xa0", "shift_jis", "あ"),
        (b"\xc4\xe3", "gb2312", "你"),
        (b"\xb0\xa1", "euc-kr", "가"),
        (b"\xc3\xa9", "klingon", "é"),
        (b"\xe9", None, "é"),
        (b"x" * 1025 + b"<meta charset=koi8-r>\xc1", None, "x" * 1025 + "<meta charset=koi8-r>а"),
        (b"x" * 1025 + b"<title><meta charset=koi8-r></title>\xc3", "l1", "x" * 1025 + "<title><meta charset=koi8-r></title>Ã"),
    ],
)  # fmt: skip
def test_charsets_are_those_of_a_browser(data: bytes, label: str | None, text: str) -> None:
    assert decoded(data, label).text == text


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_ascii_is_ascii_in_every_charset_of_the_web(text: str) -> None:
    for label in ("latin1", "gb2312", "big5", "euc-jp", "koi8-r", "windows-1255"):
        assert decoded(text.encode(), label).text == text
    assert codec(text) is None or decoded(b"a", text).text in ("a", "\ufffd")


@given(st.binary(max_size=400), st.booleans())
def test_no_bytes_are_a_crash(data: bytes, page: bool) -> None:
    found = decoded(b"<p>" + data if page else data)
    assert found.charset_from and codec(found.charset)


@pytest.mark.parametrize("name", TEXTS)
def test_a_page_that_names_no_charset(name: str) -> None:
    data = html(TEXTS[name]).encode(str(codec(name)))
    assert told(data) == (TEXTS[name], name, "detected", False)


@pytest.mark.parametrize("name", TEXTS)
def test_a_charset_that_is_named_is_taken(name: str) -> None:
    text, python = TEXTS[name], str(codec(name))
    assert told(html(text).encode(python), name) == (text, name, "header", False)
    assert told(html(text, f"<meta charset={name}>").encode(python)) == (text, name, "meta", False)
    late = f"<!--{'x' * PRESCAN}--><meta http-equiv=content-type content='text/html; charset={name}'>"
    assert told(html(text, late).encode(python)) == (text, name, "meta", False)
    assert told(f"<?xml version='1.0' encoding='{name}'?>{html(text)}".encode(python)) == (text, name, "xml", False)
    assert len(late) < LATE and name_of(python) == name


@pytest.mark.parametrize("name", ["utf-16le", "utf-16be"])
@pytest.mark.parametrize("label", [None, "utf-16"])
def test_utf_16_without_a_mark_has_zero_bytes(name: str, label: str | None) -> None:
    data = html(RUSSIAN, "<title>x</title>").encode(name)
    assert told(data, label) == (RUSSIAN, name, "header" if label else "detected", False)
    marked = {"utf-16le": codecs.BOM_UTF16_LE, "utf-16be": codecs.BOM_UTF16_BE}[name] + data
    assert told(marked, "koi8-r") == (RUSSIAN, name, "bom", False)


@pytest.mark.parametrize("text", [RUSSIAN, FRENCH, TEXTS["gb18030"]])
def test_a_few_bad_bytes_leave_utf_8_what_it_is(text: str) -> None:
    data = html(text).encode()
    bad = data.replace(b"</p>", b"\xe9 \xff</p>")
    assert told(data) == (text, "utf-8", "detected", False)
    assert told(bad) == (text, "utf-8", "detected", True)
    assert told(bad, "utf-8") == (text, "utf-8", "header", True)


def test_western_pages_with_a_quote_or_two_stay_western() -> None:
    for text in (
        "The cat\u2019s new hat \u2014 a \u201cpicture\u201d",
        "Caf\u00e9 at the lake",
        "\u00a9 2004 Some Company",
        FRENCH,
    ):
        found = told(f"<img src=a.jpg alt='{text.replace(chr(39), '')}'>".encode("cp1252"))
        assert found[:2] == (text, "windows-1252"), text
    assert told(b"<img src=a.jpg alt=plain>") == ("plain", "utf-8", "default", False)
    assert told(b"<img src=a.jpg alt='\xa0\xb1\xa0 plain'>")[1:] == ("windows-1252", "default", False)


@pytest.mark.parametrize("name", ["gb18030", "big5", "euc-jp", "shift_jis", "euc-kr"])
def test_english_with_the_quotes_of_an_east_asian_charset(name: str) -> None:
    text = "The cat\u2019s \u201cnew\u201d hat \u2192 shop"
    assert told(f'<img src=a.jpg alt="{text}">'.encode(str(codec(name))))[0] == text


def test_the_table_says_where_a_charset_is_from_and_damage_is_counted(tmp_path: Path) -> None:
    archive, pages = Archive(), [
        ("text/html; charset=koi8-r", html(RUSSIAN).encode("koi8-r")),
        ("text/html", html(f"{RUSSIAN} 2").encode("cp1251")),
        ("text/html; charset=utf-8", html(f"{RUSSIAN} 3").encode() + b"\xff"),
        ("text/html", b"<img src=/d.jpg alt='plus \xb1 minus'>"),
    ]  # fmt: skip
    for number, (media, body) in enumerate(pages):
        archive.answer(f"http://site.example/{number}", body, {"Content-Type": media})
    reading = Reading(str(archive.write(tmp_path / "a.warc.gz")))
    rows: list[dict[str, Any]] = [row for batch in pairs(reading) for row in batch.to_pylist()]
    assert [(row["charset"], row["charset_from"]) for row in rows] == [
        ("koi8-r", "header"), ("windows-1251", "detected"), ("utf-8", "header"), ("windows-1252", "default")]  # fmt: skip
    assert dict(reading.tally.damaged) == {"charset_detected": 1, "charset_unknown": 1, "bad_bytes": 1}
