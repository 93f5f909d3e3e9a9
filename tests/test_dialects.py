"""Tables of text as people have them: whatever writes them, every row is a record or is told."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import string
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import example, given, settings
from hypothesis import strategies as st

from curate import api
from curate.cli import main
from curate.core.contracts import ShardBreak
from curate.core.errors import InputError
from curate.sources.listing import list_shards
from curate.sources.opening import read
from curate.sources.source import Columns
from curate.sources.tables import csv_rows, cutting
from curate.sources.tables.columns import resolve
from curate.sources.tables.csv import Csv
from curate.sources.tables.csv_rows import Block, Rows
from curate.sources.tables.detect import detect
from curate.sources.tables.dialect import UTF8, Dialect, dialect
from curate.sources.tables.dialect import given as told

TEXTS = ["a boat at the pier", "größere Boote am See", "two boats, one red", "Café at the lake"]


def url(number: int) -> str:
    return f"http://a.example/{number}.jpg"


def found(path: Path, columns: dict[str, str] | None = None) -> list[tuple[str | None, str | None, str | None]]:
    """Return url, text and error of each record."""
    rows = [row for shard in list_shards([str(path)], columns or {}) for batch in read(shard) for row in batch.to_pylist()]
    return [(row["url"], row["text"], row["error"]) for row in rows]


def joined(blocks: Iterable[Block]) -> bytes:
    return b"".join(block.data for block in blocks)


def table(delimiter: str, *, end: str = "\n", header: str = "url,caption") -> str:
    """Return the texts as a table; a value with the delimiter stands in quotes."""
    lines = [header.replace(",", delimiter)] if header else []
    cells = [f'"{text}"' if delimiter in text else text for text in TEXTS]
    return end.join([*lines, *(f"{url(number)}{delimiter}{cell}" for number, cell in enumerate(cells)), ""])


DIALECTS: dict[str, bytes] = {
    "semicolon.csv": table(";").encode(),
    "tabs.csv": table("\t").encode(),
    "pipe.csv": table("|").encode(),
    "bom.csv": table(",").encode("utf-8-sig"),
    "utf16.csv": table(",").encode("utf-16"),
    "utf16be.tsv": table("\t").encode("utf-16-be"),
    "cp1252.csv": table(",").encode("cp1252"),
    "crlf.csv": table(",", end="\r\n").encode(),
    "oldmac.csv": table(",", end="\r").encode(),
    "none.tsv": table("\t", header="").encode(),
    "none.csv": table(",", header="").encode(),
    "upper.tsv": table("\t", header="Image URL,Caption").encode(),
    "packed.csv.gz": gzip.compress(table(",").encode()),
    "packed.tsv.bz2": bz2.compress(table("\t").encode()),
    "packed.csv.zst": pa.compress(table(",").encode(), "zstd", asbytes=True),
    "no_end.csv": table(",").rstrip().encode(),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_a_table_is_read_however_it_is_written(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(DIALECTS[name])
    columns = {"url": "Image URL"} if name == "upper.tsv" else {}
    assert found(tmp_path / name, columns) == [(url(number), text, None) for number, text in enumerate(TEXTS)]


@pytest.mark.parametrize("delimiter", [",", "\t"])
@pytest.mark.parametrize("stray", ['"the red one', '"red" boats', 'a 12" ruler', '""', 'say "cheese"', '"never', '"a" and "b'])
def test_a_quote_that_opens_nothing_swallows_no_row(delimiter: str, stray: str, tmp_path: Path) -> None:
    texts = [f"boat number {number}" for number in range(200)]
    texts[20] = texts[90] = stray
    path = tmp_path / ("t.tsv" if delimiter == "\t" else "t.csv")
    path.write_text("".join([f"url{delimiter}caption\n", *(f"{url(n)}{delimiter}{text}\n" for n, text in enumerate(texts))]))
    wanted = [(url(number), text, None) for number, text in enumerate(texts)]
    if stray == '""':  # an empty text in quotes
        wanted = [(one, text.replace('""', ""), error) for one, text, error in wanted]
    assert found(path) == wanted


def test_quotes_of_other_rows_stay_quotes(tmp_path: Path) -> None:
    lines = ["url,caption", f'{url(0)},"a ""red"" boat,\nseen from the bridge"', f'{url(1)},"stray', f'{url(2)},"one, two"', ""]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    assert [text for _, text, _ in found(tmp_path / "t.csv")] == ['a "red" boat,\nseen from the bridge', '"stray', "one, two"]


def test_a_backslash_before_a_quote(tmp_path: Path) -> None:
    lines = ["url,caption", f'{url(0)},"a \\"red\\" boat, small"', f"{url(1)},two boats", f'{url(2)},"stray', ""]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    assert [text for _, text, _ in found(tmp_path / "t.csv")] == ['a "red" boat, small', "two boats", '"stray']


def test_columns_without_names_may_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("".join(f"{n}\tlonger than the text of it\t{url(n)}\ttext {n}\n" for n in range(3)))
    assert [text for _, text, _ in found(tmp_path / "t.tsv")] == ["longer than the text of it"] * 3
    chosen = found(tmp_path / "t.tsv", {"image_url": "2", "text": "3", "key": "0"})
    assert chosen == [(url(n), f"text {n}", None) for n in range(3)]
    with pytest.raises(InputError, match="no column 7 for text; there are 0, 1, 2, 3"):
        found(tmp_path / "t.tsv", {"text": "7"})


def test_rows_of_another_width_are_told(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"url,caption\n{url(0)},one\n{url(1)},one,two\n{url(2)}\n{url(3)},three\n")
    assert [error for _, _, error in found(tmp_path / "t.csv")] == [None, None, "bad_row", "bad_row"]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress])
def test_a_packed_table_that_is_cut_off_breaks(pack: Callable[[bytes], bytes], tmp_path: Path) -> None:
    data = pack(("url,caption\n" + "".join(f"{url(n)},text {n * 7919 % 1013}\n" for n in range(20_000))).encode())
    path = tmp_path / f"t.csv.{'gz' if pack is gzip.compress else 'bz2'}"
    path.write_bytes(data[: len(data) // 2])
    [shard] = list_shards([str(path)], {})
    with pytest.raises(ShardBreak, match=r"t\.csv\."):
        list(read(shard))


TEXT = st.text(
    st.one_of(st.sampled_from('",;|\t\n\r\\\'"'), st.sampled_from(string.ascii_letters + " "), st.sampled_from("äöüßéñ")),
    max_size=20,
)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    texts=st.lists(TEXT, min_size=1, max_size=30),
    delimiter=st.sampled_from(",\t;|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
    end=st.sampled_from(["\n", "\r\n"]),
    reverse=st.booleans(),
)
@example(texts=['"', "a", '"'], delimiter="\t", encoding="utf-8", end="\n", reverse=False)
def test_what_pandas_writes_comes_back(
    texts: list[str], delimiter: str, encoding: str, end: str, reverse: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    frame = pd.DataFrame({"url": [url(n) for n in range(len(texts))], "caption": texts})
    frame = frame[["caption", "url"]] if reverse else frame
    path = tmp_path_factory.getbasetemp() / ("any.tsv" if delimiter == "\t" else "any.csv")
    frame.to_csv(path, sep=delimiter, index=False, encoding=encoding, lineterminator=end)
    if end == "\n":  # then pandas puts no quotes around a carriage return, and at the end of a line it could be part of that
        texts = [text.rstrip("\r") for text in texts]
    rows = [(url, text if text is None or end == "\r\n" else text.rstrip("\r") or None) for url, text, _ in found(path)]
    assert rows == [(url(n), text or None) for n, text in enumerate(texts)]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(texts=st.lists(TEXT, max_size=12), size=st.integers(1, 40))
def test_blocks_may_end_anywhere(texts: list[str], size: int) -> None:
    file = io.StringIO()
    pd.DataFrame({"a": texts, "b": texts}).to_csv(file, index=False)
    data = file.getvalue().encode() + b'x,"stray\ny,z\n'
    rows = Rows(b",", escaped=False)
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    assert joined(rows.blocks(chunks)) == joined(rows.blocks([data]))


def test_a_quote_without_end_is_given_up_after_the_longest_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_rows, "LONGEST", 1000)
    lines = [b'a,"stray\n', *(b"%d,text\n" % number for number in range(1000))]
    assert joined(Rows(b",", escaped=False).blocks(lines)).count(b"\n") == 1001


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    texts=st.lists(TEXT, min_size=1, max_size=20),
    delimiter=st.sampled_from(",\t;|~"),
    encoding=st.sampled_from(["utf-8", "utf-16", "cp1252", "iso8859-15"]),
    escaped=st.booleans(),
    header=st.booleans(),
)
@example(texts=["a\\", "\\", '\\"'], delimiter=",", encoding="utf-8", escaped=True, header=True)
def test_what_is_told_of_a_table_of_pandas_is_so(
    texts: list[str], delimiter: str, encoding: str, escaped: bool, header: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    frame = pd.DataFrame({"url": [url(n) for n in range(len(texts))], "caption": texts})
    path = tmp_path_factory.getbasetemp() / "told.csv"
    how: dict[str, Any] = {"doublequote": not escaped, "escapechar": "\\" if escaped else None, "quoting": csv.QUOTE_ALL}
    frame.to_csv(path, sep=delimiter, index=False, header=header, encoding=encoding, lineterminator="\n", **how)
    quote = "backslash" if escaped else "double"
    said = f"delimiter={delimiter},quote={quote},header={'yes' if header else 'no'},encoding={encoding}"
    names = ("url", "caption") if header else ("0", "1")
    assert with_told(path, said, dict(zip(("url", "text"), names, strict=True))) == list(zip(frame["url"], texts, strict=True))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    texts=st.lists(st.text(max_size=20), min_size=1, max_size=20),
    ascii_only=st.booleans(),
    pack=st.booleans(),
    sizes=st.booleans(),
)
def test_a_jsonl_of_pandas_comes_back(
    texts: list[str], ascii_only: bool, pack: bool, sizes: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / ("any.jsonl.gz" if pack else "any.jsonl")
    frame = pd.DataFrame({"url": [url(n) for n in range(len(texts))], "caption": texts})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "PART", 100 if sizes else cutting.PART)
        frame.to_json(path, orient="records", lines=True, force_ascii=ascii_only)
        assert [(url, text) for url, text, _ in found(path)] == list(zip(frame["url"], texts, strict=True))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    texts=st.lists(TEXT, min_size=1, max_size=30),
    delimiter=st.sampled_from(",\t;|"),
    style=st.sampled_from(["necessary", "always", "non_numeric"]),
    end=st.sampled_from(["\n", "\r\n"]),
    bom=st.booleans(),
)
def test_what_polars_writes_comes_back(
    texts: list[str], delimiter: str, style: Any, end: str, bom: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    frame = pl.DataFrame({"url": [url(n) for n in range(len(texts))], "caption": texts})
    folder = tmp_path_factory.getbasetemp()
    path = folder / ("any.tsv" if delimiter == "\t" else "any.csv")
    frame.write_csv(path, separator=delimiter, quote_style=style, line_terminator=end, include_bom=bom)
    frame.write_ndjson(folder / "any.jsonl")
    assert [(address, text or "") for address, text, _ in found(path)] == frame.rows()
    assert [(address, text) for address, text, _ in found(folder / "any.jsonl")] == frame.rows()


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.text(st.sampled_from('",;\t\n\r\\ abé\0'), max_size=60),
    st.sampled_from(["double", "backslash", "none"]),
    st.sampled_from(["comma", "tab", "semicolon"]),
    st.booleans(),
    st.booleans(),
)
@example("\n\na,b\n1,2\n", "double", "comma", True, False)  # blank lines before the header
@example('a,"b\rc"\n1,2\n', "double", "comma", True, False)
@example("a,é\n", "double", "comma", True, False)
@example("a,b\n1,\\\n2,3\n", "backslash", "comma", True, False)
@example('\0é\t"a"\n', "none", "tab", False, False)
def test_as_many_rows_are_read_as_there_are(text: str, quote: str, delimiter: str, header: bool, cr: bool) -> None:
    said = f"delimiter={delimiter},quote={quote},header={'yes' if header else 'no'},encoding=utf-8,newline={'cr' if cr else 'lf'}"
    data = text.encode()
    table = Csv(lambda: nullcontext(io.BytesIO(data)), data, dialect(told(said)))
    names = table.names()
    if len(names) > 1:
        rows = sum(batch.num_rows for _, batch in table.pieces(names, 0)) + table.bad() + header
        lines = text.replace("\r", "\n") if cr else text
        assert rows <= lines.count("\n") + 1
        if quote == "none":
            assert rows == sum(bool(line.removesuffix("\r")) for line in lines.split("\n"))


def test_rows_that_are_lost_are_told_with_their_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["url,caption", *(f'{url(n)},"boat {n}\nat the pier"' for n in range(300)), ""]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    parsed = Csv._parsed

    def losing(self: Csv, data: bytes, names: list[str], columns: list[str]) -> tuple[int, pa.Table]:
        read, rows = parsed(self, data, names, columns)
        return read - (b"boat 77" in data), rows

    monkeypatch.setattr(Csv, "_parsed", losing)
    with pytest.raises(ShardBreak, match=r"t\.csv: line 156: 299 rows were read where there are 300"):
        found(tmp_path / "t.csv")


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_a_quote_swallows_no_row_of_local_pictures(delimiter: str, tmp_path: Path) -> None:
    texts = [f"boat number {number}" for number in range(200)]
    texts[20], texts[90] = '"the red one', 'a 12"'
    rows = "".join([f"file{delimiter}caption\n", *(f"my pictures/{n}.JPG{delimiter}{text}\n" for n, text in enumerate(texts))])
    (tmp_path / "t.csv").write_text(rows)
    assert [text for _, text, _ in found(tmp_path / "t.csv")] == texts


def test_a_row_of_several_lines_may_have_several_addresses(tmp_path: Path) -> None:
    rows = [f'{url(n)},http://page.example/{n},"a boat {n}\nat the pier",http://licence.example' for n in range(3)]
    (tmp_path / "t.csv").write_text("\n".join(["url,page,caption,licence", *rows]))
    (tmp_path / "u.csv").write_text(
        f'caption,url\n"a boat, see http://b.example\nfor more",{url(0)}\n"boat.jpg\nby me",{url(1)}\n'
    )
    assert found(tmp_path / "t.csv") == [(url(n), f"a boat {n}\nat the pier", None) for n in range(3)]
    assert [text for _, text, _ in found(tmp_path / "u.csv")] == ["a boat, see http://b.example\nfor more", "boat.jpg\nby me"]


SIGNS = list(" !#$%&'()*+-./:;<=>?@[]^_`{|}~\t\x01,")


@given(
    st.builds(
        Dialect,
        encoding=st.sampled_from([UTF8, "utf-16", "cp1252", "shift_jis"]),
        delimiter=st.sampled_from(SIGNS),
        quoted=st.just(True),
        escaped=st.booleans(),
        header=st.booleans(),
        cr=st.booleans(),
    )
)
def test_a_dialect_is_told_as_the_option_takes_it(found: Dialect) -> None:
    assert dialect(told(str(found))) == found


def with_told(path: Path, table: str, columns: dict[str, str] | None = None) -> list[tuple[str | None, str | None]]:
    shards = list_shards([str(path)], Columns(columns or {}, table))
    return [(row["url"], row["text"]) for shard in shards for batch in read(shard) for row in batch.to_pylist()]


def test_what_is_told_is_so(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes("".join(f'{url(n)}~"{text}, yes\n' for n, text in enumerate(TEXTS)).encode("cp1252"))
    said = "delimiter=~,quote=none,header=no,encoding=cp1252"
    assert with_told(path, said, {"url": "0", "text": "1"}) == [(url(n), f'"{text}, yes') for n, text in enumerate(TEXTS)]
    [shard] = list_shards([str(path)], Columns({"url": "0", "text": "1"}, said))
    assert shard.form == said
    path.write_bytes(table("\t").encode("utf-16-le"))
    assert with_told(path, "encoding=utf-16-le") == [(url(n), text) for n, text in enumerate(TEXTS)]
    path.write_text(table(","))
    assert [name for name, _ in with_told(path, "header=no", {"url": "0", "text": "1"})] == ["url", *map(url, range(len(TEXTS)))]


def test_another_dialect_is_another_input(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(table(","))
    found, same, other = (
        list_shards([str(path)], Columns({}, said))[0].fingerprint for said in ("", "delimiter=comma,header=yes", "quote=none")
    )
    assert found == same != other


def test_plan_and_stats_print_the_dialects(tmp_path: Path) -> None:
    for name in ("semicolon.csv", "none.tsv", "packed.tsv.bz2"):
        (tmp_path / name).write_bytes(DIALECTS[name])
    runner = CliRunner()
    as_json = [runner.invoke(main, [*words, str(tmp_path), "--json"]) for words in (["plan", "fetch"], ["stats"])]
    expected = {
        "delimiter=semicolon,quote=double,header=yes,encoding=utf-8": 1,
        "delimiter=tab,quote=none,header=no,encoding=utf-8": 1,
        "delimiter=tab,quote=none,header=yes,encoding=utf-8": 1,
    }
    for one in as_json:
        assert {table["dialect"]: table["files"] for table in json.loads(one.stdout)["tables"]} == expected
    printed = runner.invoke(main, ["stats", str(tmp_path)]).stdout
    assert all(f"tables: 1 file, {form}" in printed for form in expected)


def test_a_dialect_without_a_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"url": "http://a.example/0.jpg", "text": "a boat"}\n')
    found = CliRunner().invoke(main, ["stats", str(tmp_path / "t.jsonl"), "--table", "header=no"])
    assert (found.exit_code, "no csv or tsv among the inputs" in found.stderr) == (1, True)


def test_the_api_takes_the_dialect(tmp_path: Path) -> None:
    (tmp_path / "semicolon.csv").write_bytes(DIALECTS["semicolon.csv"])
    assert api.plan("fetch", [str(tmp_path)]).fetches
    with pytest.raises(InputError, match="no image or url column among url;caption"):
        api.plan("fetch", [str(tmp_path)], api.Settings(table="delimiter=comma"))


def test_one_role_has_one_column() -> None:
    with pytest.raises(InputError, match="two columns for url: a and b"):
        resolve("t.csv", ["a", "b", "text"], {"url": "a", "image_url": "b"})


def test_the_dialect_is_told_in_words() -> None:
    assert str(detect(DIALECTS["semicolon.csv"], tabs=False)) == "delimiter=semicolon,quote=double,header=yes,encoding=utf-8"
    assert str(detect(DIALECTS["none.tsv"], tabs=True)) == "delimiter=tab,quote=none,header=no,encoding=utf-8"
