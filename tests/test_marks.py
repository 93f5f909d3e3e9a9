"""The commit mark: the same in JSON and back, and what is no mark is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from curate.storage.backend import storage
from curate.storage.marks import File, Mark, Note
from curate.storage.spool import Spool
from curate.storage.store import Store

VERDICT = Mark({"decisions/000003.parquet": File(10, "ab", 0)}, {"records": 4, "kept": 0}, "cut off at byte 7")
BLOCK = Mark({"shards/00000.tar": File(7, "cd", 2), "x": File(1)}, made_with="f00", parts={"000003": VERDICT})


@pytest.mark.parametrize("mark", [Mark(), VERDICT, BLOCK])
def test_a_mark_survives_json(mark: Mark) -> None:
    assert Mark.from_json(json.loads(json.dumps(mark.to_json()))) == mark


@pytest.mark.parametrize("content", [None, [], "x", {"file": "a.parquet", "size": 3}, {"parts": {"0": {"tally": {}}}}])
def test_what_is_no_mark_is_refused(content: object) -> None:
    with pytest.raises(ValueError, match="not a mark"):
        Mark.from_json(content)


def test_a_mark_of_an_older_version_counts_as_none(tmp_path: Path) -> None:
    store = Store(storage(tmp_path))
    store.write_json("marks/run/judge-x/000000.json", {"decisions": "ab", "tally": {}, "error": None})
    store.commit("run", "judge-x/000001", VERDICT)
    assert dict(store.marks("run", ["judge-x/000000", "judge-x/000001"])) == {"judge-x/000000": None, "judge-x/000001": VERDICT}


def test_spooled_marks_are_read_in_any_order_and_the_last_one_of_a_block_counts() -> None:
    spool = Spool()
    spool[7], spool[2] = BLOCK, VERDICT
    assert (spool[2], spool[7]) == (VERDICT, BLOCK)
    spool[7] = Mark()
    spool[9] = BLOCK
    assert [spool[block] for block in (7, 9, 2, 7)] == [Mark(), BLOCK, VERDICT, Mark()]


def test_facts_have_their_size_and_note_in_the_mark(tmp_path: Path) -> None:
    store, note = Store(storage(tmp_path)), Note()
    with store.writing_facts("words-v1", "0" * 16, note) as path:
        path.write_bytes(b"facts")
        note.counts["rows"], note.error = 3, "cut off"
    mark = store.mark_of_facts("words-v1", "0" * 16)
    assert mark is not None
    [(name, file)] = mark.files.items()
    assert (store.facts("words-v1", "0" * 16), file, dict(mark.counts), mark.error) == (name, File(5), {"rows": 3}, "cut off")
    (tmp_path / name).write_bytes(b"fact")
    assert store.facts("words-v1", "0" * 16) is None
