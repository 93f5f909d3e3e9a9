"""Further fields of the input: they come out again in `key.json`, over any number of runs, and `sql` reads them."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from curate.core.errors import CurateError, InputError, RecipeError
from curate.core.expressions import columns_of, evaluate
from curate.driver.fields import check_fields
from curate.driver.removal import Removal, Selection
from curate.planning import loader
from curate.planning import plan as planning
from curate.sources.kept import MAX_BYTES, MAX_FIELD, kept, kept_columns
from curate.sources.listing import list_shards
from curate.sources.opening import read
from curate.storage.backend import storage
from curate.storage.store import Store
from tests.running import KEEP_ALL, InProcess, Setup, decisions, jpeg, make_tar, run_job
from tests.test_capfilt import samples
from tests.test_remove import holds

LAION = {"uid": "00f", "similarity": 0.25, "license": "cc-by", "width": 640, "safe": True}


def rows(number: int = 4) -> list[dict[str, Any]]:
    return [
        {
            **LAION,
            "uid": f"{i:032x}",
            "similarity": 0.2 + i / 10,
            "caption": f"a boat number {i}",
            "url": f"http://a.example/{i}.jpg",
        }
        for i in range(number)
    ]


def in_parquet(folder: Path, number: int = 4) -> Path:
    folder.mkdir(exist_ok=True)
    table = [{"jpg": jpeg(i), "tags": ["a"], **row} for i, row in enumerate(rows(number))]
    pq.write_table(pa.Table.from_pylist(table), folder / "laion.parquet")
    return folder / "laion.parquet"


def in_tar(folder: Path, number: int = 4) -> Path:
    members = []
    for i, row in enumerate(rows(number)):
        told = {**row, "tags": ["a"], "nested": {"a": 1}, "nothing": None}
        members += [(f"{i:04d}.jpg", jpeg(i)), (f"{i:04d}.json", json.dumps(told).encode())]
        members.append((f"{i:04d}.txt", row["caption"].encode()))
    return make_tar(folder / "laion.tar", members)


def in_jsonl(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(4):
        (folder / f"{i}.jpg").write_bytes(jpeg(i))
    lines = (json.dumps({"image": f"{i}.jpg", "tags": ["a"], **row}) + "\n" for i, row in enumerate(rows()))
    (folder / "laion.jsonl").write_text("".join(lines))
    return folder / "laion.jsonl"


def in_csv(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(4):
        (folder / f"{i}.jpg").write_bytes(jpeg(i))
    table = pa.Table.from_pylist([{"image": f"{i}.jpg", **row} for i, row in enumerate(rows())]).drop_columns("safe")
    pyarrow.csv.write_csv(table, folder / "laion.csv")
    return folder / "laion.csv"


def in_folder(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for i, row in enumerate(rows()):
        (folder / f"{i}.jpg").write_bytes(jpeg(i))
        (folder / f"{i}.json").write_text(json.dumps(row))
    return folder


def told(out: Path) -> list[dict[str, Any]]:
    return list(samples(out).values())


@pytest.mark.parametrize("maker", [in_parquet, in_tar, in_jsonl, in_folder, in_csv])
def test_scalars_come_out_under_their_names_and_in_input_where_these_are_ours(maker: Any, tmp_path: Path) -> None:
    run_job(Setup(KEEP_ALL, [maker(tmp_path / "in")]), tmp_path / "out")
    found = told(tmp_path / "out")
    assert len(found) == 4
    for i, (sample, row) in enumerate(zip(found, rows(), strict=True)):
        names = ("uid", "similarity", "license", *(("safe",) if maker is not in_csv else ()))
        assert {name: sample[name] for name in names} == {name: row[name] for name in names}
        assert (sample["width"], sample["input"]) == (256, {"width": 640})
        assert sample["url"] == f"http://a.example/{i}.jpg"
        assert not {"tags", "nested", "nothing", "caption", "captions", "image", "jpg"} & sample.keys()


def test_a_record_without_further_fields_has_the_same_json_as_ever(tmp_path: Path) -> None:
    run_job(Setup(KEEP_ALL, [make_tar(tmp_path / "a.tar", [("a.jpg", jpeg(1)), ("a.txt", b"a boat")])]), tmp_path / "out")
    [sample] = told(tmp_path / "out")
    assert [name for name in sample if name != "txt"] == [
        *("url", "key", "shard", "row", "texts", "sha256", "width", "height", "format", "language", "language_score", "phash"),
        "evidence",
    ]  # fmt: skip


@pytest.mark.parametrize(("keep", "names"), [("uid,width", {"uid"}), ("[]", set())])
def test_a_recipe_says_which_are_kept(keep: str, names: set[str], tmp_path: Path) -> None:
    run_job(Setup(KEEP_ALL, [in_tar(tmp_path)], (f"output.keep={keep}",)), tmp_path / "out")
    for sample in told(tmp_path / "out"):
        assert sample.keys() & {*LAION} - {"width"} == names
        assert sample.get("input") == ({"width": 640} if names else None)


def test_other_fields_are_packed_without_another_scan(tmp_path: Path) -> None:
    path = in_tar(tmp_path)
    run_job(Setup(KEEP_ALL, [path]), tmp_path / "out")
    before = sorted((tmp_path / "out/facts").glob("base-*/*.parquet"))
    run_job(Setup(KEEP_ALL, [path], ("output.keep=[license]",)), tmp_path / "out")
    assert sorted((tmp_path / "out/facts").glob("base-*/*.parquet")) == before
    assert all("license" in sample and "uid" not in sample for sample in told(tmp_path / "out"))


def test_they_are_kept_over_any_number_of_runs(tmp_path: Path) -> None:
    run_job(Setup(KEEP_ALL, [in_parquet(tmp_path / "in")]), tmp_path / "0")
    for number in range(2):
        run_job(Setup(KEEP_ALL, [tmp_path / str(number)]), tmp_path / str(number + 1))
    first, last = told(tmp_path / "0"), told(tmp_path / "2")
    for one, other in zip(first, last, strict=True):
        assert {name: one[name] for name in (*LAION, "input")} == {name: other[name] for name in (*LAION, "input")}


def test_removing_a_record_removes_them(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(Setup(KEEP_ALL, [in_tar(tmp_path)]), out)
    assert holds(out, b'"uid":"00000000000000000000000000000002"')
    assert Removal(Store(storage(out)), InProcess()).remove(Selection(keys=("0002",)), "2026-11-27").number == 1
    assert holds(out, b"00000000000000000000000000000002") == []
    assert [sample["uid"][-1] for sample in told(out)] == ["0", "1", "3"]


@pytest.mark.parametrize(
    ("where", "rows_kept"),
    [("input.similarity > 0.35", [2, 3]), ("input.license = ''cc-by'' and input.safe", [0, 1, 2, 3]), ("input.width < 100", [])],
)
@pytest.mark.parametrize("maker", [in_parquet, in_tar])
def test_sql_reads_them(maker: Any, where: str, rows_kept: list[int], tmp_path: Path) -> None:
    recipe = KEEP_ALL.replace("unreadable:", f"sql: {{where: '{where}'}}\n  unreadable:")
    run_job(Setup(recipe, [maker(tmp_path / "in")]), tmp_path / "out")
    assert [row["row"] for row in decisions(tmp_path / "out") if row["dropped_by"] is None] == rows_kept


def test_each_record_has_its_own_type() -> None:
    """What a text compared with a number would be is null for that record, whatever other records or shards hold."""
    told = ['{"s":0.31}', '{"s":"abc"}', None, '{"s":1}', '{"s":true}', '{"s":"0.5","u":"x"}']
    batch = pa.record_batch({"input": pa.array(told)})
    for where, wanted in (
        ("input.s > 0.3", [True, None, None, True, None, None]),
        ("input.s = 'abc'", [None, True, None, None, None, False]),
        ("input.s is null", [False, False, True, False, False, False]),
        ("coalesce(input.u, 'none') = 'x'", [False, False, False, False, False, True]),
    ):
        assert evaluate(where, batch, columns_of(where)).to_pylist() == wanted
        parts = [evaluate(where, batch.slice(i, 1), columns_of(where)).to_pylist()[0] for i in range(len(told))]
        assert parts == wanted


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("similarity > 0.3", "a further field of the input is input.similarity"),
        ("input.a.b = 1", "input.NAME"),
        ("input = 1", "input.NAME"),
    ],
)
def test_a_wrong_name_in_sql_says_how_fields_are_named(where: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        columns_of(where)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ("output.keep=uid,licence",),
            "output.keep: no field 'licence'.*there are .*similarity, license.*did you mean 'license'",
        ),
        (("sql.where=input.similarty > 0.3",), "sql: no field 'similarty'.*did you mean 'similarity'"),
    ],
)
def test_a_field_that_is_not_there_is_an_error_before_a_run(overrides: tuple[str, ...], words: str, tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(KEEP_ALL.replace("unreadable:", "sql: {where: 'input.uid is not null'}\n  unreadable:"))
    for path in (in_parquet(tmp_path / "in"), in_tar(tmp_path)):
        shards = list_shards([str(path)], {})
        check_fields(planning.plan(loader.load(str(recipe), ("output.keep=uid,similarity",))), shards)
        with pytest.raises(InputError, match=words):
            check_fields(planning.plan(loader.load(str(recipe), overrides)), shards)


def test_what_is_long_or_no_scalar_is_left_out() -> None:
    fields = {
        "a": "x" * MAX_FIELD,
        "b": "x" * (MAX_FIELD + 1),
        "c": float("nan"),
        "d": [1],
        "e": {},
        "f": None,
        "g": 1 << 300,
        "h": 1,
    }
    assert json.loads(kept(fields, ()) or "") == {"a": "x" * MAX_FIELD, "h": 1}
    many = {f"n{i}": "y" * 1000 for i in range(100)}
    assert 7 <= len(json.loads(kept(many, ()) or "")) <= 8
    assert len(kept(many, ()) or "") <= MAX_BYTES
    columns = [(name, pa.array([value, "short"])) for name, value in many.items()]
    assert kept_columns(columns, 2, written=False).to_pylist()[0] == kept(dict(list(many.items())[:64]), ())
    assert len(json.loads(kept({f"n{i}": i for i in range(100)}, ()) or "")) == 64
    assert json.loads(kept({"a\ud800": "\ud800"}, ()) or "") == {"a?": "?"}


def test_columns_and_fields_give_the_same_json() -> None:
    columns: dict[str, list[Any]] = {
        "text": ['a "quoted" \\ größe', "two\nlines", "", None, "x" * (MAX_FIELD + 1)],
        "whole": [1, -5, 1 << 62, None, 0],
        "part": [0.25, 1.0, None, float("inf"), -3.5],
        "truth": [True, False, None, True, None],
        'na"me': ["a", "b", "c", None, "e"],
    }
    found = kept_columns([(name, pa.array(values)) for name, values in columns.items()], 5, written=False).to_pylist()
    for i, one in enumerate(found):
        assert one == kept({name: values[i] for name, values in columns.items()}, ())


def test_dates_are_iso_and_plain_numbers_of_a_csv_are_numbers() -> None:
    date, time = datetime.date(2024, 1, 2), datetime.datetime(2024, 1, 2, 3, 4, 5)
    columns = [("day", pa.array([date])), ("time", pa.array([time], pa.timestamp("s"))), ("n", pa.array([0.3], pa.float32()))]
    assert kept_columns(columns, 1, written=False).to_pylist() == ['{"day":"2024-01-02","time":"2024-01-02T03:04:05","n":0.3}']
    values = pa.array(["0.31", "-5", "1e-05", "007", "1e5", "12345678901234567890", ""])
    found = [json.loads(one)["n"] for one in kept_columns([("n", values)], 7, written=True).to_pylist()]
    assert found == [0.31, -5, 1e-05, "007", "1e5", "12345678901234567890", ""]


# Columns of tars and folders ------------------------------------------------------------------------------------------


def own_tar(folder: Path) -> Path:
    told = {"prompt": "a boat", "meta": {"caption": "a ship", "from": "http://a.example/1", "id": "k1"}}
    return make_tar(folder / "own.tar", [("a.jpg", jpeg(1)), ("a.txt", b"not this"), ("a.json", json.dumps(told).encode())])


def own_folder(folder: Path) -> Path:
    folder.mkdir()
    (folder / "a.jpg").write_bytes(jpeg(1))
    told = {"prompt": "a boat", "meta": {"caption": "a ship", "from": "http://a.example/1", "id": "k1"}}
    (folder / "a.json").write_text(json.dumps(told))
    return folder


@pytest.mark.parametrize("maker", [own_tar, own_folder])
def test_columns_name_fields_beside_images(maker: Any, tmp_path: Path) -> None:
    path = str(maker(tmp_path / "in"))

    def record(columns: dict[str, str]) -> dict[str, Any]:
        [batch] = read(list_shards([path], columns)[0])
        [row] = batch.to_pylist()
        found: dict[str, Any] = row
        return found

    assert record({"text": "prompt"})["text"] == "a boat"
    deep = record({"text": "meta.caption", "url": "meta.from", "key": "meta.id"})
    assert (deep["text"], deep["url"], deep["key"]) == ("a ship", "http://a.example/1", "k1")
    assert json.loads(deep["input"]) == {"prompt": "a boat"}
    usual, named = list_shards([path], {}), list_shards([path], {"text": "prompt"})
    assert usual[0].fingerprint != named[0].fingerprint == list_shards([path], {"text": "prompt", "image": "jpg"})[0].fingerprint
    with pytest.raises(
        InputError, match=r"no field promt for text beside its first images; there are prompt, meta, meta.caption"
    ):
        list_shards([path], {"text": "promt"})


def test_a_list_of_fields_is_a_list_of_names(tmp_path: Path) -> None:
    recipe = tmp_path / "r.yaml"
    recipe.write_text(KEEP_ALL.replace("output: {", "output: {keep: [uid, license], "))
    assert loader.load(str(recipe)).output.keep == ("uid", "license")
    assert loader.load(str(recipe), ("output.keep=[]",)).output.keep == ()
    assert loader.load(str(recipe), ("output.keep=null",)).output.keep is None
    with pytest.raises(RecipeError, match=r"output\.keep must be"):
        loader.load(str(recipe), ("output.keep=3",))
    assert issubclass(RecipeError, CurateError)
