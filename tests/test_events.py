"""Progress off a terminal: lines now and then, and OUT/events.jsonl, which no other file of an output depends on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curate.commands.events import Events
from curate.commands.progress import Bars
from curate.storage.backend import storage
from tests.running import KEEP_ALL, curate, make_tar, pairs, written


def events(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]


def test_a_run_says_what_it_did_when(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(KEEP_ALL)
    tar = make_tar(tmp_path / "in.tar", pairs(range(4)))
    given = ("run", tmp_path / "recipe.yaml", tar, "--workers", 1, "--out")
    assert curate(*given, tmp_path / "out").returncode == 0
    found = events(tmp_path / "out")
    assert [one["event"] for one in found] == ["start", *["pass"] * (len(found) - 2), "end"]
    assert [one["step"] for one in found[1:-1]] == ["scan", "judge", "pack", "report"]
    before = written(tmp_path / "out")
    assert curate(*given, tmp_path / "out").returncode == 0 and events(tmp_path / "out") == found  # nothing was done
    assert curate(*given, tmp_path / "other", "--quiet").stderr == ""
    assert written(tmp_path / "other") == before


@pytest.mark.parametrize("log", ["text", "json", "none"])
def test_a_line_each_half_minute(log: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    times: Iterator[float] = iter([0, 0, 10, 31, 31, 32])
    with Events(storage(tmp_path), Bars(hidden=True), log, clock=lambda: next(times)) as shown:
        shown.start("scan", 3)
        for _ in range(3):
            shown.advance(310)
    said = {"text": "curate: scan: 2 of 3 shards, 620 records, 20 records/s\n", "none": ""}
    told = capsys.readouterr().err
    assert told == said[log] if log in said else json.loads(told)["records"] == 620
    assert [one["event"] for one in events(tmp_path)] == ["start", "pass", "progress", "end"]


def test_a_failure_is_an_event(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), Events(storage(tmp_path), Bars(hidden=True)) as shown:
        shown.start("scan", 3)
        raise RuntimeError("the reason")
    assert events(tmp_path)[-1]["event"] == "failure" and events(tmp_path)[-1]["text"] == "the reason"


def test_details_of_passes_and_of_what_is_used_again(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(KEEP_ALL)
    tars = [make_tar(tmp_path / f"{name}.tar", pairs(range(at, at + 4))) for at, name in ((0, "a"), (4, "b"))]
    given = ("run", tmp_path / "recipe.yaml", *tars, "--workers", 1, "--out", tmp_path / "out", "-v")
    told = curate(*given).stderr
    for line in ("scan: a.tar: 4 records in ", "judge: b.tar: 4 records in ", "pack: block 0: 8 records in "):
        assert told.count(f"curate: {line}") == 1
    assert "recipe.yaml" in told and "over 2 shards: scan, judge, pack" in told and "done already" not in told
    written_elsewhere = curate(*given, "--replace", "--samples-per-shard", 2, "--log-format", "json").stderr
    details = [json.loads(line) for line in written_elsewhere.splitlines()]
    said = [one["text"] for one in details if one["event"] == "detail"]
    assert "scan: 2 of 2 are done already, by earlier runs" in said and not [text for text in said if "judge: a.tar" in text]
    assert [one for one in details if one["event"] == "warning"]
    assert all("detail" not in one["event"] for one in events(tmp_path / "out"))


def test_errors_are_json_too(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(KEEP_ALL)
    given = ("run", tmp_path / "recipe.yaml", "--out", tmp_path / "out", "--log-format", "json")
    for wrong, code in (((tmp_path / "none.tar",), 1), ((tmp_path / "x.tar", "-q", "-v"), 1), (("--workers", "none"), 2)):
        failed = curate(*given, *wrong)
        [line] = failed.stderr.splitlines()
        assert json.loads(line)["event"] == "error" and json.loads(line)["text"] and failed.returncode == code
