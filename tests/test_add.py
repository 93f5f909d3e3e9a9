"""An output belongs to its recipe and its input: what refuses, what replaces, and how one grows."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from curate.core.errors import InputError, OutputError
from curate.driver.progress import Quiet
from curate.sources.listing import list_shards
from curate.sources.tables import csv_rows, cutting
from tests.running import KEEP_ALL, Setup, curate, decisions, jpeg, leftovers, make_tar, manifest, pairs, run_job, stamps, written

COUNTED = """
filters:
  caption_frequency: {max_images: 4, identity: content}
  caption_words: {min_words: 2}
  unreadable:
output: {samples_per_shard: 4, block_shards: 2}
"""


def shards(folder: Path, counts: list[int], text: str = "a picture of") -> list[Path]:
    """Return tars of so many records; no picture occurs twice."""
    found, number = [], 0
    for at, count in enumerate(counts):
        members: list[tuple[str, bytes]] = []
        for seed in range(number, number + count):
            members += [(f"{seed:04d}.jpg", jpeg(seed)), (f"{seed:04d}.txt", f"{text} {seed % 3}".encode())]
        found.append(make_tar(folder / f"{at}.tar", members))
        number += count
    return found


def fresh(setup: Setup, out: Path) -> dict[str, str]:
    """Return what a run into an empty folder writes."""
    assert run_job(setup, out).failed == []
    return written(out)


# Refused, replaced -----------------------------------------------------------------------------------------------------


def test_a_finished_output_is_not_replaced_unless_told(tmp_path: Path) -> None:
    [one, two, three] = shards(tmp_path, [5, 5, 5])
    setup, out = Setup(KEEP_ALL, [one, two], into="same"), tmp_path / "out"
    run_job(setup, out)
    before = stamps(out)
    other = replace(setup, inputs=[one, three], overrides=("unreadable.max_decoded_bytes=1000000",))
    with pytest.raises(OutputError) as refused:
        run_job(other, out)
    for words in ("nothing was changed", "unreadable.max_decoded_bytes: 400000000 -> 1000000", "without 1 shard (1.tar)",
                  "1 shard (2.tar) new", "--out OTHER", "--replace", "3 tars with 10 samples"):  # fmt: skip
        assert words in str(refused.value), str(refused.value)
    assert "--add" not in str(refused.value)  # for another recipe
    assert stamps(out) == before
    assert run_job(setup, out).state == "nothing to do"
    assert run_job(replace(other, into="replace"), out).state == "done"
    assert written(out) == fresh(other, tmp_path / "fresh")


def test_the_choices_are_the_commands(tmp_path: Path) -> None:
    [one, two] = shards(tmp_path, [3, 3])
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(KEEP_ALL)
    assert curate("run", recipe, one, "--out", out).returncode == 0
    refused = curate("run", recipe, one, two, "--out", out)
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "--add         add 1 shard (1.tar) to it" in refused.stderr
    both = curate("run", recipe, two, "--out", out, "--add", "--replace")
    assert both.returncode == 1 and "choose one" in both.stderr
    assert curate("run", recipe, two, "--out", out, "--add").returncode == 0
    assert manifest(out)["kept"] == 6
    replaced = curate("run", recipe, two, "--out", out, "--replace")
    assert replaced.returncode == 0 and "2 tars with 6 samples" in replaced.stderr
    assert manifest(out)["kept"] == 3


def test_a_run_that_never_finished_is_not_protected(tmp_path: Path) -> None:
    setup, out = Setup(KEEP_ALL, shards(tmp_path, [3]), into="same"), tmp_path / "out"
    run_job(setup, out)
    identity = json.loads((out / "output.json").read_text())
    (out / "output.json").write_text(json.dumps({**identity, "finished": False}))
    assert run_job(replace(setup, overrides=("unreadable.max_decoded_bytes=1000000",)), out).state == "done"


class Interrupted(Quiet):
    """Ends the run when it begins to pack."""

    def start(self, name: str, total: int) -> None:
        if name == "pack":
            raise KeyboardInterrupt


def test_a_finished_output_stays_one_while_it_is_tried_again(tmp_path: Path) -> None:
    tars = shards(tmp_path, [3, 3])
    setup, out = Setup(KEEP_ALL, tars, into="same"), tmp_path / "out"
    run_job(setup, out)
    (out / "manifest.json").unlink()  # as when its failed shards are tried again
    with pytest.raises(KeyboardInterrupt):
        run_job(setup, out, progress=Interrupted())
    with pytest.raises(OutputError, match="nothing was changed"):
        run_job(replace(setup, inputs=tars[:1]), out)
    assert run_job(setup, out).state == "done"


# Added ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [KEEP_ALL, COUNTED])
@pytest.mark.parametrize("gone", [False, True])
def test_old_and_new_give_the_bytes_of_one_run(recipe: str, gone: bool, tmp_path: Path) -> None:
    tars = shards(tmp_path, [5, 3, 4, 6])
    out = tmp_path / "out"
    wanted = fresh(Setup(recipe, tars), tmp_path / "fresh")
    run_job(Setup(recipe, tars[:2]), out)
    for tar in tars[2:]:
        if gone:
            for old in tars[: tars.index(tar)]:
                old.unlink(missing_ok=True)
        assert run_job(Setup(recipe, [tar], into="add"), out).failed == []
    assert written(out) == wanted
    assert leftovers(out) == []
    assert curate("verify", out).returncode == 0


def test_only_what_changes_is_written(tmp_path: Path) -> None:
    tars = shards(tmp_path, [5, 3, 4, 6, 2])
    setup, out = Setup(KEEP_ALL, tars[:4]), tmp_path / "out"
    run_job(setup, out)
    before = {name: stamp for name, stamp in stamps(out).items() if name.startswith(("shards/0", "index", "facts", "decisions"))}
    run_job(Setup(KEEP_ALL, tars[4:], into="add"), out)
    after = stamps(out)
    assert {name: after[name] for name in before} == before


def test_a_verdict_that_new_counts_change_is_made_again(tmp_path: Path) -> None:
    tars = shards(tmp_path, [9, 9])  # each of three texts 3 times a tar
    out = tmp_path / "out"
    run_job(Setup(COUNTED, tars[:1]), out)
    assert manifest(out)["kept"] == 9
    tars[0].unlink()
    run_job(Setup(COUNTED, tars[1:], into="add"), out)
    assert manifest(out)["kept"] == 0 and {row["caption_frequency"] for row in decisions(out)} == {6}
    assert list((out / "shards").glob("*.tar")) == []


class Started(Quiet):
    """Remembers how many items each pass had."""

    def __init__(self) -> None:
        self.items: dict[str, int] = {}

    def start(self, name: str, items: int) -> None:
        self.items[name] = items


@pytest.mark.parametrize(("max_images", "looked_at"), [(4, 3), (100_000, 1)])
def test_shards_whose_counts_cannot_have_changed_are_not_looked_at(max_images: int, looked_at: int, tmp_path: Path) -> None:
    tars, out, started = shards(tmp_path, [9, 9, 9]), tmp_path / "out", Started()
    recipe = COUNTED.replace("max_images: 4", f"max_images: {max_images}")
    run_job(Setup(recipe, tars[:2]), out)
    run_job(Setup(recipe, tars[2:], into="add"), out, progress=started)
    assert started.items["judge"] == looked_at
    assert written(out) == fresh(Setup(recipe, tars), tmp_path / "whole")


def test_input_that_is_needed_again_and_gone_costs_nothing(tmp_path: Path) -> None:
    common = "common_ngrams: {min_count: 4, vocabulary: 100}"
    recipe = COUNTED.replace("caption_frequency: {max_images: 4, identity: content}", common)
    tars = shards(tmp_path, [3, 9])
    out = tmp_path / "out"
    run_job(Setup(recipe, tars[:1]), out)
    assert manifest(out)["kept"] == 0
    tars[0].rename(tmp_path / "away.tar")
    outcome = run_job(Setup(recipe, tars[1:], into="add"), out)
    assert [item["shard"] for item in outcome.failed] == ["0.tar"]  # it holds no sample of it: nothing is lost
    (tmp_path / "away.tar").rename(tars[0])
    assert run_job(Setup(recipe, tars[1:], into="add"), out).failed == []
    assert written(out) == fresh(Setup(recipe, tars), tmp_path / "fresh")


def test_an_output_of_another_recipe_takes_no_more(tmp_path: Path) -> None:
    tars = shards(tmp_path, [3, 3])
    run_job(Setup(KEEP_ALL, tars[:1]), tmp_path / "out")
    with pytest.raises(OutputError, match=r"only adds input: recipe: .*caption_words"):
        run_job(Setup(COUNTED, tars[1:], into="add"), tmp_path / "out")


def test_a_shard_that_changed_is_not_added_twice(tmp_path: Path) -> None:
    tars = shards(tmp_path, [3, 3])
    run_job(Setup(KEEP_ALL, tars), tmp_path / "out")
    make_tar(tars[0], pairs(range(20, 25)))
    with pytest.raises(InputError, match=r"0\.tar.* changed after"):
        run_job(Setup(KEEP_ALL, tars, into="add"), tmp_path / "out")
    assert run_job(Setup(KEEP_ALL, tars[1:], into="add"), tmp_path / "out").state == "nothing to do"


def test_a_table_that_is_cut_elsewhere_is_not_added_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place, name, value in ((cutting, "PART", 120), (cutting, "_WINDOWS", (100,)), (csv_rows, "LONGEST", 50)):
        monkeypatch.setattr(place, name, value)
    rows = []
    for seed in range(12):
        (tmp_path / f"{seed}.jpg").write_bytes(jpeg(seed))
        rows.append(f"{seed}.jpg,a picture of number {seed}\n")
    table = tmp_path / "t.csv"
    table.write_text("file,caption\n" + "".join(rows[:10]))
    found = run_job(Setup(KEEP_ALL, [table]), tmp_path / "out")
    assert (found.records, found.kept, found.failed, found.partial) == (10, 10, [], [])
    assert len(list_shards([str(table)], {})) == 2
    table.write_text("file,caption\n" + "".join([rows[11], *rows[:11]]))
    with pytest.raises(InputError, match=r"t\.csv.* changed after"):
        run_job(Setup(KEEP_ALL, [table], into="add"), tmp_path / "out")


def test_input_that_is_only_counted_stays_behind(tmp_path: Path) -> None:
    one, two, three, four = shards(tmp_path, [3, 3, 3, 3])
    out, setup = tmp_path / "out", Setup(COUNTED, [one], counts_of=[two])
    run_job(setup, out)
    assert run_job(replace(setup, inputs=[three], counts_of=[four], into="add"), out).failed == []
    assert written(out) == fresh(replace(setup, inputs=[one, three], counts_of=[two, four]), tmp_path / "fresh")
    found: dict[str, Any] = manifest(out)["input"]
    assert (found["shards"], found["counted_only"]) == (4, 2)
