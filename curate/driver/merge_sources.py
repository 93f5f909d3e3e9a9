"""What is merged: finished outputs, their places in the merged one, and what is the same in several of them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from curate.core.errors import InputError, OutputError
from curate.core.shards import Shards
from curate.driver import identity
from curate.driver.identity import Identity
from curate.driver.removal import PENDING
from curate.driver.resume import Index
from curate.passes.merging import Source
from curate.passes.pack import mark_of
from curate.report.query import connected, create_view, parquet_files
from curate.report.rules import rules_of
from curate.storage.backend import Disk, Storage
from curate.storage.file_lists import listed
from curate.storage.manifest import read_manifest
from curate.storage.marks import Mark
from curate.storage.paths import plain
from curate.storage.samples import kind_in
from curate.storage.store import Store

_KEPT = {"shard_index": "INTEGER", "row": "BIGINT", "text_no": "SMALLINT", "sample_key": "VARCHAR", "sha256": "VARCHAR",
         "text": "VARCHAR", "dropped_by": "VARCHAR"}  # fmt: skip


@dataclass(frozen=True)
class Finished:
    """A finished output. Its shards are those that were judged: it has no decisions of those that were only counted."""

    out: Storage
    manifest: dict[str, Any]
    identity: Identity
    shards: Shards
    blocks: list[int]

    def marks(self) -> Iterator[tuple[int, Mark]]:
        """Yield the blocks with their marks, in order. Raises OutputError when one is gone."""
        found = Store(self.out).marks(self.identity.run, map(mark_of, self.blocks))
        for block, (_, mark) in zip(self.blocks, found, strict=True):
            if mark is None:
                raise OutputError(f"{self.out.root}: the marks of its tars are gone")
            yield block, mark


def finished(out: Storage) -> Finished:
    """Open an output. Raises OutputError where it is none that was finished, OSError."""
    manifest, store = read_manifest(out), Store(out)
    was = identity.held(store)
    if was is None or "files" not in manifest:
        raise OutputError(f"{out.root} does not say what it is of: it was not made by this version of curate run")
    if out.size(PENDING) is not None:
        raise OutputError(f"{out.root}: records are being removed; run the same `curate remove` to its end first")
    every = identity.shards_of(store, was)
    judged = every.at(np.arange(len(every) - was.counted_only))
    return Finished(out, manifest, was, Shards(judged), sorted(map(int, store.marked(was.run, "pack"))))


def check_apart(outs: Sequence[Storage], merged: Storage) -> None:
    """Raise InputError where an output is named twice, or the merged one is, or is inside one or around one."""
    target, places = _place(merged), [_place(out) for out in outs]
    for number, (out, place) in enumerate(zip(outs, places, strict=True)):
        if place in places[:number]:
            raise InputError(f"{out.root} is named twice")
        if place == target or place.startswith(target + "/") or target.startswith(place + "/"):
            raise InputError(f"--out {merged.root} and {out.root} overlap; choose another --out")


def _place(out: Storage) -> str:
    return os.path.realpath(out.root) if isinstance(out, Disk) else plain(out.root)


def placed(outs: Sequence[Finished]) -> tuple[Source, ...]:
    """Return where shards and blocks of each output begin: one after the other."""
    rules = {name: rule for out in reversed(outs) for name, rule in rules_of(out.manifest).items()}
    found = list[Source]()
    shard = block = 0
    for one in outs:
        unknown = tuple(name for name in rules if name not in one.manifest["filters"])
        of_captions = tuple(name for name in unknown if not rules[name].web_texts_only)
        found.append(Source(one.out, one.identity.run, shard, block, unknown, of_captions))
        shard += len(one.shards)
        block += 1 + max(one.blocks, default=-1)
    return tuple(found)


def decisions_schema(outs: Sequence[Finished]) -> pa.Schema:
    """Return the columns of all decisions. Raises OutputError where two outputs have other types of a column."""
    schemas = []
    for one in outs:
        first = next(listed(one.out, "decisions"), None)
        if first is not None:
            with one.out.reading(f"decisions/{first[0]}") as path:
                schemas.append(pq.read_schema(path).remove_metadata())
    try:
        return pa.unify_schemas(schemas, promote_options="permissive") if schemas else pa.schema([])
    except pa.ArrowException as error:
        raise OutputError(f"the decisions of these outputs do not go together: {error}") from None


def check_kinds(outs: Sequence[Finished]) -> None:
    """Raise OutputError unless the samples of all outputs are in files of one kind, and parquet files have the same columns.

    Readers take the columns of the first file for those of all.
    """
    first, *others = outs
    for other in others:
        kinds = [kind_in(one.manifest) for one in (first, other)]
        if kinds[0] != kinds[1]:
            both = " and ".join(f"{one.out.root} has {kind}" for one, kind in zip((first, other), kinds, strict=True))
            raise OutputError(f"{both}: run one of them again with another --set output.kind=KIND")
    columns = [(one, found) for one in outs if (found := _columns_of_samples(one)) is not None]
    for one, found in columns[1:]:
        if found != columns[0][1]:
            roots = f"{columns[0][0].out.root} and {one.out.root}"
            raise OutputError(
                f"the parquet files of {roots} have other columns, since their recipes have other filters: merge tars"
            )


def _columns_of_samples(one: Finished) -> pa.Schema | None:
    """Return the columns of an output's parquet files, None where it has none."""
    name = None if kind_in(one.manifest) == "tars" else next((name for name, _ in listed(one.out, "shards")), None)
    if name is None:
        return None
    with one.out.reading(f"shards/{name}") as path:
        return pq.read_schema(path)


# What several have ----------------------------------------------------------------------------------------------------


def check_keys(outs: Sequence[Storage]) -> None:
    """Raise OutputError where two outputs have a sample with the same key. Memory is bounded."""
    with connected([out.root for out in outs]) as connection:
        ranges = []
        for number, out in enumerate(outs):
            create_view(connection, f"keys_{number}", [out.url(f"index/{name}") for name, _ in listed(out, "index")],
                        {"key": "VARCHAR"})  # fmt: skip
            ranges.append(connection.execute(f"SELECT min(key), max(key) FROM keys_{number}").fetchall()[0])
        for (a, (a_low, a_high)), (b, (b_low, b_high)) in combinations(enumerate(ranges), 2):
            if a_low is None or b_low is None or a_high < b_low or b_high < a_low:
                continue  # prefixes differ: nearly always
            [(key,)] = connection.execute(f"SELECT min(key) FROM keys_{a} SEMI JOIN keys_{b} USING (key)").fetchall()
            if key is not None:
                raise OutputError(
                    f"{outs[a].root} and {outs[b].root} both have a sample with the key {key}: "
                    "run one of them again with another --set output.key_prefix=PREFIX"
                )


def find_duplicates(out: Storage, sources: Sequence[Source], target: Path) -> Index:
    """Write the kept records of which an earlier source keeps the same image and text (shard_index, row; ordered) to `target`.

    Returns the shards that these are in, and those in which such records were dropped before. Memory is bounded.
    """
    number = " + ".join(f"(shard_index >= {source.first_shard})::INTEGER" for source in sources[1:]) or "0"
    path = str(target).replace("'", "''")
    with connected([out.root]) as connection:
        create_view(connection, "data", parquet_files(out, "decisions"), _KEPT)
        connection.execute(
            "CREATE TEMP TABLE records AS SELECT md5_number(concat(sha256, ' ', text)) AS content,"
            f" {number} AS source, shard_index, row FROM data WHERE text_no = 0 AND sample_key IS NOT NULL AND sha256 IS NOT NULL"
        )
        several = "SELECT content, min(source) AS first FROM records GROUP BY content HAVING min(source) < max(source)"
        connection.execute(
            f"COPY (SELECT r.shard_index, r.row FROM records r JOIN ({several}) s ON s.content = r.content AND r.source > s.first"
            f" ORDER BY ALL) TO '{path}' (FORMAT parquet)"
        )
        earlier = "SELECT shard_index FROM data WHERE dropped_by = 'merge_duplicate'"
        found = connection.execute(
            f"SELECT DISTINCT shard_index FROM (SELECT shard_index FROM read_parquet('{path}') UNION ALL {earlier}) ORDER BY ALL"
        ).fetchall()
    return np.array([shard for (shard,) in found], np.int64)


def count_duplicates(out: Storage) -> int:
    """Return how many records were dropped as duplicates."""
    with connected([out.root]) as connection:
        create_view(connection, "data", parquet_files(out, "decisions"), _KEPT)
        dropped = "SELECT DISTINCT shard_index, row FROM data WHERE dropped_by = 'merge_duplicate'"
        return int(connection.execute(f"SELECT count(*) FROM ({dropped})").fetchall()[0][0])
