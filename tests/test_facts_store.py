"""Facts that several outputs share: computed once, safe for two writers, freed when no output uses them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from curate.core.contracts import Batch, Shard
from curate.core.errors import InputError, OutputError
from curate.core.timing import Activities
from curate.driver.gc import collect
from curate.driver.removal import Removal, Selection
from curate.passes.scan import Scan
from curate.passes.shard_facts import ShardFacts
from curate.storage.backend import storage
from curate.storage.shared_facts import with_facts
from curate.storage.store import Store
from tests.running import InProcess, Setup, curate, jpeg, leftovers, make_tar, run_job, stamps, written
from tests.test_add import COUNTED, shards
from tests.test_pack import samples
from tests.test_remove import RECIPE, holds, same
from tests.web import Web, table, url, web_of

OTHER = ("min_side.larger_than=230",)


def run(setup: Setup, out: Path, facts: Path) -> None:
    """Run into `out` with the facts in a store."""
    assert run_job(setup, out, facts=facts).failed == []


def test_a_second_output_computes_only_what_is_new(tmp_path: Path) -> None:
    tars, facts = shards(tmp_path, [4, 4]), tmp_path / "facts"
    setup = Setup(RECIPE, tars)
    run(setup, tmp_path / "a" / "out", facts)
    before = {path: path.stat().st_mtime_ns for path in facts.rglob("*.parquet")}
    other = Setup(RECIPE, tars, OTHER)
    run(other, tmp_path / "b" / "out", facts)
    assert {path: path.stat().st_mtime_ns for path in facts.rglob("*.parquet")} == before
    for name, one in (("a", setup), ("b", other)):
        run_job(one, tmp_path / name / "alone")
        assert written(tmp_path / name / "out") == written(tmp_path / name / "alone")
        assert not (tmp_path / name / "out" / "facts").exists() and leftovers(tmp_path / name / "out") == []


def test_the_output_remembers_where_its_facts_are(tmp_path: Path) -> None:
    tars, facts, out = shards(tmp_path, [4, 4]), tmp_path / "facts", tmp_path / "a" / "out"
    run(Setup(RECIPE, tars[:1]), out, facts)
    run_job(Setup(RECIPE, tars[1:], into="add"), out)
    assert not (out / "facts").exists() and len(samples(out)) == 8


def test_what_is_removed_from_one_output_no_other_gets(tmp_path: Path) -> None:
    tars, facts = shards(tmp_path, [4, 4]), tmp_path / "facts"
    first, second = tmp_path / "a" / "out", tmp_path / "b" / "out"
    run(Setup(RECIPE, tars), first, facts)
    place = Store(with_facts(storage(first)))
    assert Removal(place, InProcess()).remove(Selection(keys=["0002"]), "2026-11-27").number == 1
    for folder in (first, facts):
        assert holds(folder, jpeg(2)[-400:-50]) == []
    run(Setup(RECIPE, tars, OTHER), second, facts)
    assert "0002" not in samples(second) and len(samples(second)) == 7


def test_fetched_images_are_shared(tmp_path: Path) -> None:
    recipe, facts = RECIPE + "fetch: {contact: https://example.org/crawl}\n", tmp_path / "facts"
    web = web_of(range(4))
    listed = table(tmp_path / "a.parquet", [(url(n), f"picture of number {n}") for n in range(4)])
    run(Setup(recipe, [listed], download=web), tmp_path / "a" / "out", facts)
    again = Web(web.answers)
    run(Setup(recipe, [listed], OTHER, download=again), tmp_path / "b" / "out", facts)
    assert again.asked == [] and len(samples(tmp_path / "b" / "out")) == 4


def test_gc_frees_what_no_output_uses(tmp_path: Path) -> None:
    tars, facts = shards(tmp_path, [4, 4]), tmp_path / "facts"
    first, second = tmp_path / "a" / "out", tmp_path / "b" / "out"
    run(Setup(RECIPE, tars), first, facts)
    run(Setup(RECIPE.replace("  unreadable:", "  unreadable:\n  nsfw:"), tars[:1]), second, facts)
    everything = sorted(path for path in facts.rglob("*.parquet"))
    assert collect(storage(facts)).bytes == 0
    shutil.rmtree(first)
    said = curate("gc", facts, "--dry-run")
    assert said.returncode == 0 and f"used by {second}" in said.stdout and "would be freed" in said.stdout
    assert sorted(path for path in facts.rglob("*.parquet")) == everything
    assert collect(storage(facts)).bytes > 0
    left = sorted(path for path in facts.rglob("*.parquet"))
    assert left and set(left) < set(everything)
    setup = Setup(RECIPE.replace("  unreadable:", "  unreadable:\n  nsfw:"), tars[:1])
    stamps = {path: path.stat().st_mtime_ns for path in left}
    (second / "manifest.json").unlink()
    run(setup, second, facts)
    assert {path: path.stat().st_mtime_ns for path in facts.rglob("*.parquet")} == stamps
    run_job(setup, tmp_path / "alone" / "out")
    assert same(written(second), written(tmp_path / "alone" / "out"))


def test_what_another_run_has_scanned_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tars, facts, fresh, seen = shards(tmp_path, [4, 4]), tmp_path / "facts", Scan._fresh, dict[str, object]()
    one, other = Setup(COUNTED, tars), Setup(COUNTED, tars, ("caption_words.min_words=3",))

    def slow(self: Scan, shard: Shard, activities: Activities) -> Iterator[tuple[Batch, pa.Array]]:
        batches = list(fresh(self, shard, activities))
        if not seen:  # the other run has read the first shard; this one does all
            seen["begun"] = True
            run(one, tmp_path / "a" / "out", facts)
            seen.update(stamps(facts, "facts/*/[!.]*"))
        yield from batches

    with monkeypatch.context() as patch:
        patch.setattr(Scan, "_fresh", slow)
        run(other, tmp_path / "b" / "out", facts)
    assert {"begun": True, **stamps(facts, "facts/*/[!.]*")} == seen  # the first may have listed these files already
    for name, setup in (("a", one), ("b", other)):
        run_job(setup, tmp_path / name / "alone")
        assert written(tmp_path / name / "out") == written(tmp_path / name / "alone")


def test_what_two_runs_have_judged_at_once_is_all_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    members: list[tuple[str, bytes]] = []
    for seed in range(5):
        members.append((f"{seed}.jpg", jpeg(seed, (256, 240 if seed < 3 else 210))))
        members.append((f"{seed}.txt", b"a text" if seed < 2 else b"a much longer text"))
    tar, facts, commit = make_tar(tmp_path / "0.tar", members), tmp_path / "facts", ShardFacts.commit
    outs = {"a": Setup(RECIPE, [tar], OTHER), "b": Setup(RECIPE, [tar], ("caption_words.min_words=3",))}
    begun: list[str] = []

    def slow(self: ShardFacts) -> None:
        if not begun:
            begun.append("a")
            run(outs["a"], tmp_path / "a" / "out", facts)
        commit(self)

    with monkeypatch.context() as patch:
        patch.setattr(ShardFacts, "commit", slow)
        run(outs["b"], tmp_path / "b" / "out", facts)
    [decoded] = facts.glob("facts/decode*/*.parquet")
    assert pq.read_table(decoded)["row"].to_pylist() == [0, 1, 2, 3, 4]
    assert set(samples(tmp_path / "a" / "out")) == {"0", "1", "2"} and set(samples(tmp_path / "b" / "out")) == {"2", "3", "4"}


@pytest.mark.parametrize("finished", [True, False])
def test_gc_waits_for_no_run_and_frees_nothing_of_it(finished: bool, tmp_path: Path) -> None:
    facts, out = tmp_path / "facts", tmp_path / "a" / "out"
    run(Setup(RECIPE, shards(tmp_path, [4])), out, facts)
    if not finished:  # as a run that has just told the store of its output
        (out / "output.json").unlink()
    before = sorted(facts.rglob("*"))
    with Store(with_facts(storage(out))).locked():
        refused = curate("gc", facts)
        assert curate("gc", facts, "--dry-run").returncode == 0
    holder = f"process {os.getpid()}"
    assert refused.stderr == f"curate: {facts} is in use: {holder} is writing to {out}; wait for it\n"
    assert refused.returncode == 1 and sorted(facts.rglob("*")) == before
    assert (collect(storage(facts)).bytes == 0) is finished


def test_gc_frees_what_a_kill_left(tmp_path: Path) -> None:
    facts, out = tmp_path / "facts", tmp_path / "a" / "out"
    run(Setup(RECIPE, shards(tmp_path, [4])), out, facts)
    before = stamps(facts)
    [name] = facts.glob("facts/base-*/*.parquet")
    for left in (f"{name.name[:16]}.00000000.parquet", ".0123456789abcdef.parquet.12345678"):
        (name.parent / left).write_bytes(b"half")
    assert collect(storage(facts), dry_run=True).bytes == 8 and collect(storage(facts)).bytes == 8
    assert stamps(facts) == before


def test_gc_sees_that_a_run_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    facts, out, other = tmp_path / "facts", tmp_path / "a" / "out", tmp_path / "b" / "out"
    setup, unused = Setup(RECIPE, shards(tmp_path, [4, 3])), Store.unmarked_facts
    run(setup, out, facts)
    shutil.rmtree(out)

    def late(self: Store, key: str) -> Iterator[tuple[str, int]]:
        if not other.exists():
            run(setup, other, facts)
        return unused(self, key)

    monkeypatch.setattr(Store, "unmarked_facts", late)
    before = stamps(facts, "facts/*/*")
    with pytest.raises(OutputError, match=f"facts is in use: a run into {other} has just begun; wait for it"):
        collect(storage(facts))
    assert stamps(facts, "facts/*/*") == before


def test_gc_sees_a_run_on_an_object_store(tmp_path: Path) -> None:
    at, facts = "memory://gc/out", storage("memory://gc/facts")
    place = with_facts(storage(at), facts.root)
    run_job(Setup(RECIPE, shards(tmp_path, [4])), tmp_path / "out", at=at, facts=facts.root)
    with Store(place, beat=0.05).locked(), pytest.raises(OutputError, match=r"facts is in use: process .* is writing to .*/out"):
        collect(facts, beat=0.1)
    assert collect(facts, beat=0.1).bytes == 0
    place.remove_folder("")
    assert collect(facts, beat=0.1).bytes > 0 and list(storage(at).listing("")) == []


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    tars = shards(tmp_path, [2])
    run_job(Setup(RECIPE, tars), tmp_path / "a" / "out")
    with pytest.raises(OutputError, match="is an output"):
        run_job(Setup(RECIPE, tars), tmp_path / "b" / "out", facts=tmp_path / "a" / "out")
    with pytest.raises(InputError, match="overlap"):
        run_job(Setup(RECIPE, tars), tmp_path / "b" / "out", facts=tmp_path / "b" / "out" / "facts")
    (tmp_path / "empty").mkdir()
    refused = curate("gc", tmp_path / "empty")
    assert refused.returncode == 1 and "is no store of facts" in refused.stderr
