"""Records with several web texts: each is a text of its own, from the input to the decisions, the tars, and back."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.core.errors import InputError
from curate.driver.removal import Removal, Selection
from curate.passes import removed
from curate.passes.removed import Tombstone
from curate.passes.scan import base_facts, image_facts
from curate.passes.texts import by_text
from curate.report.attrition import attrition, attrition_table
from curate.report.diff_join import paired
from curate.report.rules import rules_of
from curate.report.what_if import what_if
from curate.runners.local.runner import LocalRunner
from curate.sources.listing import list_shards
from curate.sources.opening import read
from curate.stages.header import HeaderStage
from curate.stages.text import TextStage, normalised
from curate.storage.backend import storage
from curate.storage.store import Store
from tests.running import KEEP_ALL, InProcess, Setup, decisions, jpeg, make_tar, manifest, run_job, written
from tests.test_capfilt import samples
from tests.test_remove import DATE, holds
from tests.web import table, url, web_of

FOUR = ("a boat", "a red boat", "one small boat", "a vessel")
FIVE = [[*(f"{what} number {i} by the pier" for what in FOUR), f"pier {i}"] for i in range(3)]

WORDS = """
filters:
  caption_frequency: {max_images: 10, record_from: 2}
  caption_words: {min_words: 6}
  min_side: {larger_than: 200}
  duplicate_pair: {same: pair}
  unreadable:
output: {samples_per_shard: 4, block_shards: 2}
"""
CAPTIONED = "captions: {model: fake, min_tokens: 3, per_image: 2}" + WORDS.replace(
    "output", "  caption_match: {matcher: fake}\noutput"
)

Maker = Callable[[Path, list[list[str]]], Path]


def in_parquet(folder: Path, texts: list[list[str]]) -> Path:
    images = [jpeg(i) for i in range(len(texts))]
    pq.write_table(pa.table({"image": images, "caption": texts}), folder / "flickr.parquet")
    return folder / "flickr.parquet"


def in_json(folder: Path, texts: list[list[str]], name: str = "captions") -> Path:
    members = []
    for i, several in enumerate(texts):
        members += [(f"{i:04d}.jpg", jpeg(i)), (f"{i:04d}.json", json.dumps({name: several}).encode())]
    return make_tar(folder / "coco.tar", members)


def in_caption(folder: Path, texts: list[list[str]]) -> Path:
    return in_json(folder, texts, "caption")


def in_jsonl(folder: Path, texts: list[list[str]]) -> Path:
    (folder / "pictures").mkdir()
    lines = []
    for i, several in enumerate(texts):
        (folder / f"pictures/{i}.jpg").write_bytes(jpeg(i))
        lines.append(json.dumps({"image": f"pictures/{i}.jpg", "captions": several}) + "\n")
    (folder / "flickr.jsonl").write_text("".join(lines))
    return folder / "flickr.jsonl"


def in_folder(folder: Path, texts: list[list[str]]) -> Path:
    for i in range(len(texts)):
        (folder / f"{i}.jpg").write_bytes(jpeg(i))
    lines = (json.dumps({"file_name": f"{i}.jpg", "captions": several}) + "\n" for i, several in enumerate(texts))
    (folder / "captions.jsonl").write_text("".join(lines))
    return folder


def in_lines(folder: Path, texts: list[list[str]]) -> Path:
    members = []
    for i, several in enumerate(texts):
        members += [(f"{i:04d}.jpg", jpeg(i)), (f"{i:04d}.txt", "\r\n".join(several).encode())]
    return make_tar(folder / "lines.tar", members)


def tars_with_fields(folder: Path) -> list[Path]:
    """Return three tars of records with one to four texts and a field; texts and images are there again."""
    found = []
    for number in range(3):
        members = []
        for i in range(8):
            told = {"captions": [f"text {k} of the thing number {i % 5}" for k in range(1 + i % 4)], "score": i / 8}
            members += [(f"{number}{i}.jpg", jpeg(i % 3 + number)), (f"{number}{i}.json", json.dumps(told).encode())]
        found.append(make_tar(folder / f"{number}.tar", members))
    return found


def read_texts(path: Path, columns: dict[str, str] | None = None) -> list[list[str]]:
    """Return the texts of each record as its source reads them."""
    [shard] = list_shards([str(path)], columns or {})
    rows = [row for batch in read(shard) for row in batch.to_pylist()]
    return [[text for text in (row["text"], *(row["more_texts"] or ())) if text is not None] for row in rows]


@pytest.mark.parametrize("maker", [in_parquet, in_json, in_caption, in_jsonl, in_folder])
def test_all_of_a_list_are_texts_each_once_and_none_empty(maker: Maker, tmp_path: Path) -> None:
    given = [FIVE[0], ["", "a dog", " ", "a dog"], [], ["one"]]
    assert read_texts(maker(tmp_path, given)) == [FIVE[0], ["a dog"], [], ["one"]]


def test_lines_are_texts_only_where_that_is_asked_for(tmp_path: Path) -> None:
    path = in_lines(tmp_path, FIVE)
    assert read_texts(path) == [["\r\n".join(several)] for several in FIVE]
    assert read_texts(path, {"texts": "lines"}) == FIVE


def test_a_list_beside_a_text_file_adds_to_it(tmp_path: Path) -> None:
    told = json.dumps({"caption": "not this one", "captions": ["a boat", "a ship"]}).encode()
    path = make_tar(tmp_path / "both.tar", [("a.jpg", jpeg(1)), ("a.txt", b"a boat"), ("a.json", told)])
    assert read_texts(path) == [["a boat", "a ship"]]


def test_what_does_not_fit_is_left_out_and_said(tmp_path: Path) -> None:
    path = in_json(tmp_path, [[f"text {i}" for i in range(100)], ["a", "b" * 40_000, "c" * 40_000, "d"]])
    [batch] = read(next(iter(list_shards([str(path)], {}))))
    assert [len(row["more_texts"]) for row in batch.to_pylist()] == [63, 1]
    assert batch["error"].to_pylist() == ["too_many_texts"] * 2


def test_a_column_that_cannot_hold_texts_is_one_line(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [jpeg(1)], "caption": [[{"raw": "a boat"}]]}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"column caption cannot hold texts, it is list<.*struct<raw: string>>"):
        list_shards([str(tmp_path / "t.parquet")], {})


def test_each_text_is_judged_by_itself(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(Setup(WORDS, [in_parquet(tmp_path, FIVE)]), out)
    rows = decisions(out)
    assert [(row["row"], row["text_no"], row["source"]) for row in rows] == [(i, k, "web") for i in range(3) for k in range(5)]
    assert [row["text"] for row in rows] == [text for several in FIVE for text in several]
    assert [row["words"] for row in rows[:5]] == [len(text.split()) for text in FIVE[0]]
    assert [row["dropped_by"] for row in rows[:5]] == [None, None, None, None, "caption_words"]
    assert all(row["not_evaluated"] == ["unreadable"] for row in rows if row["dropped_by"])
    assert all(row["language"] == ("en" if row["dropped_by"] is None else None) for row in rows)
    told = manifest(out)
    assert (told["records"], told["texts"], told["kept"]) == (3, 15, 3)
    for i, sample in enumerate(samples(out).values()):
        assert [(text["text_no"], text["text"]) for text in sample["texts"]] == list(enumerate(FIVE[i][:4]))
    lines = attrition(storage(out), rules_of(told))
    assert [line.dropped for line in lines if line.filter == "caption_words"] == [3]
    assert [str(next(iter(attrition_table(lines, records).columns[0].cells))) for records in (3, 15)] == ["texts", "input"]


def test_a_record_lives_while_one_of_its_texts_does(tmp_path: Path) -> None:
    """The first text is too short: the image is judged for the others, and the first of these becomes key.txt."""
    out = tmp_path / "out"
    run_job(Setup(WORDS, [in_json(tmp_path, [["too short", "too", "one that is long enough here"], ["too short", "tiny"]])]), out)
    rows = decisions(out)
    assert [row["dropped_by"] for row in rows] == ["caption_words", "caption_words", None, "caption_words", "caption_words"]
    assert [row["phash"] is not None for row in rows] == [True, True, True, False, False]
    [sample] = samples(out).values()
    assert [text["text_no"] for text in sample["texts"]] == [2]
    assert sample["evidence"]["caption_words"] == 6
    assert manifest(out)["kept"] == 1


def test_counts_see_each_text(tmp_path: Path) -> None:
    """Another record has the texts of the first in another order: each pair of image and text is kept once."""
    texts = [["a dog in the green park", "a cat on the old sofa"], ["a cat on the old sofa", "a third text that is new"]]
    members = []
    for i, several in enumerate(texts):
        members += [
            (f"{i}.jpg", jpeg(7)),
            (f"{i}.json", json.dumps({"captions": several, "url": "https://a.example/7"}).encode()),
        ]
    out = tmp_path / "out"
    recipe = WORDS.replace("unreadable:", "sql: {where: 'images_per_text is null'}\n  unreadable:").replace(
        "same: pair", "same: pair"
    )
    run_job(Setup(recipe, [make_tar(tmp_path / "a.tar", members)]), out)
    assert [(row["text_no"], row["dropped_by"]) for row in decisions(out)] == [
        (0, None), (1, None), (0, "duplicate_pair"), (1, None)
    ]  # fmt: skip
    assert [row["duplicate_pair"] for row in decisions(out)] == [None, None, "0/0", None]


def test_captions_come_after_the_web_texts(tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_job(Setup(CAPTIONED, [in_json(tmp_path, [*FIVE, ["a single text of six words"]])]), out)
    rows = decisions(out)
    told = [(row["row"], row["text_no"], row["source"]) for row in rows]
    web = [(i, k, "web") for i in range(3) for k in range(5)] + [(3, 0, "web")]
    made = [(i, 5 + k, "synthetic") for i in range(3) for k in range(2)] + [(3, 1, "synthetic"), (3, 2, "synthetic")]
    assert told == sorted(web + made)
    alone = tmp_path / "alone"
    run_job(
        Setup(CAPTIONED, [in_json(alone, [several[:1] for several in [*FIVE, ["a single text of six words"]]])]), alone / "out"
    )
    scores = {(row["row"], row["text"]): row["caption_match"] for row in rows}
    for row in decisions(alone / "out"):
        assert scores[row["row"], row["text"]] == row["caption_match"]
    assert len({row["caption_match"] for row in rows if row["row"] == 0}) == 7
    assert what_if(storage(out), manifest(out), []).kept == manifest(out)["kept"]


@pytest.mark.parametrize("change", ["caption_words.min_words=2", "caption_words.min_words=7", "min_side.larger_than=250"])
def test_what_if_counts_records(change: str, tmp_path: Path) -> None:
    path = in_json(tmp_path, [*FIVE, ["too short", "tiny"]])
    run_job(Setup(WORDS, [path]), tmp_path / "out")
    asked = what_if(storage(tmp_path / "out"), manifest(tmp_path / "out"), [change])
    run_job(Setup(WORDS, [path], (change,)), tmp_path / "real")
    real = manifest(tmp_path / "real")
    assert asked.records == real["records"] == 4
    assert asked.at_least <= real["kept"] <= asked.kept


def test_two_outputs_are_compared_by_all_kept_texts(tmp_path: Path) -> None:
    path = in_json(tmp_path, FIVE)
    run_job(Setup(WORDS, [path]), tmp_path / "a")
    run_job(Setup(WORDS, [path], ("caption_words.min_words=5",)), tmp_path / "b")
    with paired(storage(tmp_path / "a"), storage(tmp_path / "b")) as pair:
        assert pair.totals["a"].texts == 15 and pair.totals["a"].synthetic == 0
        assert pair.several


def test_any_of_its_texts_removes_a_record(tmp_path: Path) -> None:
    out = tmp_path / "out"
    setup = Setup(WORDS, [in_json(tmp_path, FIVE)])
    run_job(setup, out)
    assert Removal(Store(storage(out)), InProcess()).remove(Selection(texts=(FIVE[1][3].upper(),)), "2026-11-27").number == 1
    assert sorted(sample["row"] for sample in samples(out).values()) == [0, 2]
    assert holds(out, *(text.encode() for text in FIVE[1])) == []
    run_job(Setup(WORDS, [in_json(tmp_path, FIVE)], ("caption_words.min_words=5",)), out)
    assert [row["dropped_by"] for row in decisions(out) if row["row"] == 1] == ["removed"]


def test_a_second_run_keeps_all_web_texts(tmp_path: Path) -> None:
    run_job(Setup(WORDS, [in_json(tmp_path, FIVE)]), tmp_path / "one")
    run_job(Setup(KEEP_ALL, [tmp_path / "one"]), tmp_path / "two")
    for first, second in zip(samples(tmp_path / "one").values(), samples(tmp_path / "two").values(), strict=True):
        assert [text["text"] for text in second["texts"]] == [text["text"] for text in first["texts"]]


def test_workers_and_batches_change_nothing(tmp_path: Path) -> None:
    texts = [[f"text {k} of the record number {i}" for k in range(1 + i % 4)] for i in range(12)]
    inputs = [in_json(tmp_path / f"{n}", texts) for n in range(2)]
    run_job(Setup(CAPTIONED, inputs), tmp_path / "one")
    with LocalRunner(2) as runner:
        run_job(Setup(CAPTIONED, inputs), tmp_path / "two", runner)
    one, two = written(tmp_path / "one"), written(tmp_path / "two")
    assert {name: digest for name, digest in one.items() if name != "manifest.json"} == {
        name: digest for name, digest in two.items() if name != "manifest.json"
    }


def test_an_image_is_fetched_once_for_all_of_its_texts(tmp_path: Path) -> None:
    given = [["too short", "a text that has six words"], ["short", "too"], ["one text that has six words", "tiny"]]
    web, out = web_of(range(3)), tmp_path / "out"
    recipe = WORDS.replace("same: pair", "identity: url") + "fetch: {contact: https://example.org/crawl}\n"
    run_job(Setup(recipe, [table(tmp_path / "a.parquet", [(url(n), texts) for n, texts in enumerate(given)])], download=web), out)
    assert sorted(web.asked) == [url(0), url(2)]
    assert [[text["text"] for text in sample["texts"]] for sample in samples(out).values()] == [given[0][1:], given[2][:1]]


def test_sql_sees_each_text(tmp_path: Path) -> None:
    recipe = WORDS.replace("unreadable:", "sql: {where: 'characters < 25 and width > 100'}\n  unreadable:")
    out = tmp_path / "out"
    run_job(Setup(recipe, [in_json(tmp_path, FIVE[:1])]), out)
    assert [row["sql"] for row in decisions(out)] == [False, False, False, False, True]


@pytest.mark.parametrize("recipe", [WORDS, CAPTIONED])
def test_facts_of_an_earlier_run_are_those_of_the_right_text(recipe: str, tmp_path: Path) -> None:
    """Facts are stored by record: those of a text are of the first alone, lists of scores have one for each."""
    path = in_json(tmp_path, [["the boat lies by the pier", "das Boot liegt jetzt am Steg"], ["a ship"]])
    run_job(Setup(recipe, [path]), tmp_path / "out")
    run_job(Setup(recipe, [path], ("caption_words.min_words=1",)), tmp_path / "out")
    run_job(Setup(recipe, [path], ("caption_words.min_words=1",)), tmp_path / "fresh")
    assert decisions(tmp_path / "out") == decisions(tmp_path / "fresh")


def test_a_record_is_known_by_each_text_that_was_taken_out_also_after_it_is_gone(tmp_path: Path) -> None:
    shard = list_shards([str(in_json(tmp_path, [["a boat", "a ship"], ["a boat", "a dog"], ["a cat"]]))], {})[0]
    [batch] = read(shard)
    known = base_facts(image_facts(shard, HeaderStage(), batch), normalised(batch["text"]), TextStage())
    gone = removed.of([Tombstone("text", removed.text_value("A  SHIP"), DATE)])
    dates = gone.of_base(known)
    assert dates.to_pylist() == [DATE, None, None]
    left = removed.without_texts(known, dates)
    assert left["more_texts"].to_pylist() == [[None], ["a dog"], None]
    assert gone.of_base(left).to_pylist() == [DATE, None, None]
    before, after = by_text(known, TextStage()), by_text(left, TextStage())
    assert after["text"].to_pylist() == [None, None, "a boat", "a dog", "a cat"]
    assert after["text_no"].to_pylist() == [0, 1, 0, 1, 0]
    for name in ("row", "text_key", "content_key"):
        assert before[name].equals(after[name])
