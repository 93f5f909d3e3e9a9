"""Two outputs compared: what joins their records, what is counted, and the page."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import fsspec
import pytest
from rich.console import Console

from curate.report import diff_gallery
from curate.report.diff import Cell, Diff, Evidence, Side, Texts, diff, write_html
from curate.report.diff_table import tables
from curate.storage.backend import storage
from tests import running
from tests.running import Setup, curate, decisions, jpeg, make_tar, manifest, run_job

RECIPE = """
filters:
  caption_words: {min_words: 2, max_words: 20}
  min_side: {larger_than: 100}
  unreadable:
output: {samples_per_shard: 4, block_shards: 2}
"""
HOSTILE = "<script>alert('x')</script> \u202e & more"

Rows = dict[tuple[str, int], list[dict[str, Any]]]
"""Decisions by record: name of the shard, row."""


def members(records: list[tuple[str, int, str]]) -> list[tuple[str, bytes]]:
    """Return the members of records: key, seed of the picture (its shorter side too), text."""
    found = []
    for key, side, text in records:
        found += [(f"{key}.jpg", jpeg(side, (side + 20, side))), (f"{key}.txt", text.encode())]
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return A, of one.tar and two.tar, and B, of two.tar and three.tar with a higher threshold of min_side."""
    base = tmp_path_factory.mktemp("small")
    again = "moved elsewhere"
    first = [
        ("a0", 150, "only in A"),
        ("a1", 160, again),
        ("a2", 160, again),
        ("a3", 90, "too small here"),
    ]
    one = make_tar(base / "one.tar", members(first))
    common = [("b0", 150, HOSTILE), ("b1", 250, "large enough"), ("b2", 251, "short"), ("b3", 99, "tiny one")]
    two = make_tar(base / "two.tar", members(common))
    three = make_tar(base / "three.tar", members([("c0", 160, again), ("c1", 160, "other text"), ("c2", 300, "only in B")]))
    run_job(Setup(RECIPE, [one, two]), base / "a")
    run_job(Setup(RECIPE, [two, three], ("min_side.larger_than=200",)), base / "b")
    return base / "a", base / "b"


@pytest.fixture(scope="module")
def captioned(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two outputs of demo data with captions, of overlapping shards, by other thresholds and captions."""
    base = tmp_path_factory.mktemp("captioned")
    match = "  caption_match: {matcher: fake}\noutput"
    recipe = "captions: {model: fake, min_tokens: 3, per_image: 2}\n" + running.RECIPE.lstrip().replace("output", match)
    tars, sets = sorted((demo / "pairs").glob("*.tar")), f"eval_overlap.sets={demo / 'eval'}"
    run_job(Setup(recipe, tars[:3], (sets,)), base / "a")
    other = (
        "min_side.larger_than=210",
        "caption_words.max_words=30",
        "captions.max_tokens=12",
        "caption_frequency.max_images=20",
    )
    run_job(Setup(recipe, tars[1:4], (sets, *other, "caption_frequency.max_images=20")), base / "b")
    return base / "a", base / "b"


def compared(outs: tuple[Path, Path], *, pictures: bool = False) -> Diff:
    return diff(storage(outs[0]), storage(outs[1]), pictures=pictures)


def cells(found: Diff) -> dict[tuple[str | None, str | None], int]:
    return {(cell.a, cell.b): cell.records for cell in found.verdicts}


def by_record(out: Path) -> Rows:
    found: Rows = defaultdict(list)
    for row in decisions(out):
        found[row["shard"], row["row"]].append(row)
    return found


def joined(a: Rows, b: Rows) -> list[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """Join records as the comparison should; an empty list stands for a record that is missing."""
    shards = {shard for shard, _ in a} & {shard for shard, _ in b}
    pairs = [(a[place], b[place]) for place in a if place[0] in shards]
    rest: dict[Any, list[list[dict[str, Any]]]] = defaultdict(list)
    for place in b:
        if place[0] not in shards:
            rest[b[place][0]["sha256"], b[place][0]["text"]].append(b[place])
    for place in a:
        if place[0] not in shards:
            others = rest[a[place][0]["sha256"], a[place][0]["text"]]
            pairs.append((a[place], others.pop(0) if others else []))
    return pairs + [([], texts) for others in rest.values() for texts in others]


def verdict(texts: list[dict[str, Any]]) -> str | None:
    if not texts:
        return None
    return "kept" if any(text["dropped_by"] is None for text in texts) else texts[0]["dropped_by"]


# Joins and counts -----------------------------------------------------------------------------------------------------


def test_records_are_joined_on_their_place_else_on_their_content(small: tuple[Path, Path]) -> None:
    found = compared(small)
    assert (found.both, found.by_content, found.only_a, found.only_b) == (5, 1, 3, 2)
    assert cells(found) == {
        ("kept", "kept"): 1,
        ("kept", "min_side"): 2,  # b0, and the first of the two that moved
        ("kept", None): 2,
        ("caption_words", "caption_words"): 1,
        ("min_side", "min_side"): 1,
        ("min_side", None): 1,
        (None, "min_side"): 1,
        (None, "kept"): 1,
    }
    assert (found.a.records, found.a.kept, found.a.kept_alone, found.a.absent) == (8, 5, 4, 2)
    assert (found.b.records, found.b.kept, found.b.kept_alone, found.b.absent) == (7, 2, 1, 1)
    assert all(not line.changed for line in found.evidence)
    assert found.axis == ("kept", "caption_words", "min_side")


def test_the_numbers_are_those_of_a_plain_join(captioned: tuple[Path, Path]) -> None:
    found, pairs = compared(captioned), joined(*map(by_record, captioned))
    assert cells(found) == Counter((verdict(a), verdict(b)) for a, b in pairs)
    both = [(a, b) for a, b in pairs if a and b]
    assert (found.both, found.same_verdict) == (len(both), sum(verdict(a) == verdict(b) for a, b in both))
    for line in found.evidence:
        values = [(a[0][line.filter], b[0][line.filter]) for a, b in both]
        complete = [(one, other) for one, other in values if one is not None and other is not None]
        assert line.compared == len(complete)
        assert line.changed == sum(one != other for one, other in complete)
        assert line.only_a == sum(one is not None and other is None for one, other in values)
        assert line.only_b == sum(one is None and other is not None for one, other in values)
        assert len(line.examples) == min(3, line.changed)
    assert [line.filter for line in found.evidence] == manifest(captioned[0])["filters"]
    frequent = next(line for line in found.evidence if line.filter == "caption_frequency")
    assert frequent.largest == max(
        abs(a[0]["caption_frequency"] - b[0]["caption_frequency"])
        for a, b in both
        if None not in (a[0]["caption_frequency"], b[0]["caption_frequency"])
    )


def test_texts_that_differ(captioned: tuple[Path, Path]) -> None:
    found, pairs = compared(captioned).texts, joined(*map(by_record, captioned))

    def captions(texts: list[dict[str, Any]]) -> list[str]:
        return sorted(text["text"] for text in texts if text["text_no"])

    def kept(texts: list[dict[str, Any]]) -> list[str]:
        return sorted(text["text"] for text in texts if text["dropped_by"] is None)

    both = [(captions(a), captions(b)) for a, b in pairs if captions(a) and captions(b)]
    assert found.captioned == len(both) and found.captions_differ == sum(a != b for a, b in both) > 0
    kept_both = [(kept(a), kept(b)) for a, b in pairs if kept(a) and kept(b)]
    assert found.kept == len(kept_both) and found.kept_differ == sum(a != b for a, b in kept_both) > 0
    for one in found.examples:
        assert [text.text for text in one.a] != [text.text for text in one.b]
        assert {text.source for text in one.a} == {"web", "synthetic"}


def test_an_example_is_a_record_of_both(captioned: tuple[Path, Path]) -> None:
    a, b = map(by_record, captioned)
    line = next(line for line in compared(captioned).evidence if line.filter == "common_ngrams")
    for one in line.examples:
        assert one.a == str(a[one.shard, one.row][0]["common_ngrams"]) != one.b
        if (one.shard, one.row) in b:
            assert one.b == str(b[one.shard, one.row][0]["common_ngrams"])


def test_outputs_that_do_not_name_their_shards_are_joined_on_content(small: tuple[Path, Path], tmp_path: Path) -> None:
    shutil.copytree(small[1], tmp_path / "b")
    (tmp_path / "b" / "output.json").unlink()
    found = compared((small[0], tmp_path / "b"))
    assert (found.both, found.by_content) == (5, 5)
    assert cells(found) == cells(compared(small))


def test_an_output_compared_with_itself(captioned: tuple[Path, Path]) -> None:
    found = compared((captioned[0], captioned[0]))
    assert found.same_verdict == found.both == found.a.records and not found.by_content
    assert not found.texts.captions_differ and not found.texts.kept_differ and not found.texts.examples
    assert not any(line.changed or line.only_a or line.only_b for line in found.evidence)


def test_columns_that_only_one_has_are_not_compared(small: tuple[Path, Path], captioned: tuple[Path, Path]) -> None:
    found = compared((small[0], captioned[1]))
    assert [line.filter for line in found.evidence] == ["caption_words", "min_side", "unreadable"]
    assert found.both == 0 and found.only_a == 8 and found.texts.captioned == 0


def test_remote_outputs(small: tuple[Path, Path]) -> None:
    memory = fsspec.filesystem("memory")
    memory.put(str(small[1]), "/diffed/b", recursive=True)
    try:
        local = compared(small, pictures=True)
        found = diff(storage(small[0]), storage("memory://diffed/b"), pictures=True)
        assert dataclasses.replace(found, b=local.b) == local
        both = diff(storage("memory://diffed/b"), storage("memory://diffed/b"))
        assert both.same_verdict == both.both == 7
    finally:
        memory.rm("/diffed", recursive=True)


# The page and the command ---------------------------------------------------------------------------------------------


def test_the_page_is_safe_and_has_the_same_numbers(small: tuple[Path, Path], tmp_path: Path) -> None:
    found = compared(small, pictures=True)
    write_html(found, tmp_path / "diff.html")
    page = (tmp_path / "diff.html").read_text()
    assert "<script" not in page and 'http-equiv="Content-Security-Policy"' in page and "\u202e" not in page
    assert "&lt;script&gt;alert" in page
    assert not re.search(r"(?:src|href)=\"(?!data:)", page)
    row = re.search(r"<tr><th>kept</th>(.*?)</tr>", page)
    assert row and re.findall(r">(\d+)</td>", row[1]) == ["1", "0", "2", "2"]


def test_pictures_are_of_records_that_changed_sides(small: tuple[Path, Path]) -> None:
    [shelf] = compared(small, pictures=True).shelves
    assert (shelf.a, shelf.b) == ("kept", "min_side")
    assert sorted(one.key for one in shelf.pictures) == ["a1", "b0"]
    assert all(one.image for one in shelf.pictures)
    assert {one.reason for one in shelf.pictures} == {"150", "160"}


def test_a_thumbnail_of_one_output_is_enough(small: tuple[Path, Path], tmp_path: Path) -> None:
    for side in (0, 1):
        outs = [Path(shutil.copytree(out, tmp_path / f"{side}{out.name}")) for out in small]
        shutil.rmtree(outs[side] / "thumbs")
        assert compared((outs[0], outs[1]), pictures=True).shelves == compared(small, pictures=True).shelves
    for out in outs:
        shutil.rmtree(out / "thumbs", ignore_errors=True)
    assert compared((outs[0], outs[1]), pictures=True).shelves == ()


def test_images_that_nobody_should_see_are_not_drawn(small: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"nsfw", "blocklist", "removed"} == diff_gallery.UNSEEN
    monkeypatch.setattr(diff_gallery, "UNSEEN", frozenset({"min_side"}))
    [shelf] = compared(small, pictures=True).shelves
    assert len(shelf.pictures) == 2 and not any(one.image for one in shelf.pictures)


def test_no_number_is_cut_in_80_columns() -> None:
    many = 12_345_678_901
    side = Side("s3://bucket/" + "folder/" * 20, "recipe", many, many, many + 1, many, many, many)
    line = Evidence("caption_frequency", many, many, many, many, 1.25e100, ())
    pairs = (Cell("caption_frequency", "kept", many), Cell(None, "kept", many))
    found = Diff(side, side, (), many, many, many, many, many, ("kept",), pairs, (line,), Texts(many, many, many, many, ()))
    shown = io.StringIO()
    for part in tables(found):
        Console(file=shown, width=80).print(part)
    assert max(map(len, shown.getvalue().splitlines())) <= 80 and "…" not in shown.getvalue()
    assert shown.getvalue().count("12,345,678,901") == 2 * 9 + 2 + 2 + 4 + 4 - 2
    assert "1.25e+100" in shown.getvalue()


def test_the_command(small: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = small
    told = curate("diff", a, b, "--html", tmp_path / "diff.html")
    assert told.returncode == 0 and "min_side.larger_than: 100 -> 200" in told.stdout
    assert re.search(r"^kept +min_side +2$", told.stdout, re.MULTILINE)
    assert "kept in A, dropped in B by min_side" in (tmp_path / "diff.html").read_text()
    found = json.loads(curate("diff", a, b, "--json").stdout)
    assert found["both"] == 5 and {"a": "kept", "b": None, "records": 2} in found["verdicts"]
    assert curate("diff", a, a).returncode == 0


def test_what_is_no_output_is_refused(small: tuple[Path, Path], tmp_path: Path) -> None:
    empty = curate("diff", small[0], tmp_path)
    assert empty.returncode == 1 and "holds no finished run" in empty.stderr and "Traceback" not in empty.stderr
    assert curate("diff", small[0], tmp_path / "nowhere").returncode == 2
    unwritable = curate("diff", *small, "--html", small[0] / "manifest.json" / "diff.html")
    assert unwritable.returncode == 1 and "Traceback" not in unwritable.stderr
