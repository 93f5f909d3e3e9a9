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
