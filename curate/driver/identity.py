"""What an output is of, its recipe and its input, and what a run of anything else may do to it.

OUT/output.json names both; OUT/input/ holds the list of shards. An output that was finished once is not replaced unless the run
is told to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from curate.core.contracts import ROW_GROUP, shard_name
from curate.core.errors import InputError, OutputError
from curate.core.shards import LIST_SCHEMA, Shards, listed
from curate.storage.manifest import IDENTITY, LISTS, list_name
from curate.storage.parquet import ParquetWriter
from curate.storage.samples import FILES, kind_in
from curate.storage.store import Store

NAME, FOLDER = IDENTITY, LISTS

_NAMED = 3  # shards of a message


@dataclass(frozen=True)
class Identity:
    """What an output is of."""

    run: str  # the folder of its marks
    made_of: str  # hash of recipe, facts, input, output settings and code
    recipe: Mapping[str, Any]  # as resolved
    stages: Mapping[str, str]  # keys of the facts
    version: str  # of curate
    input: str  # digest of the shards, which name their list
    counted_only: int  # shards at the end of the input that are only counted
    finished: bool = False  # it was complete once
    counts: Mapping[str, str] = field(default_factory=dict)  # the merged corpus counts of its verdicts, by fact
    providers: Sequence[str] = ()  # keys of all facts that it uses


def held(store: Store) -> Identity | None:
    """Return what OUT is of, None where no run has said so yet. Raises OutputError when that file is damaged."""
    found = store.read_json(NAME)
    if found is None:
        return None
    try:
        return Identity(**found)
    except TypeError:
        raise OutputError(f"{store.storage.url(NAME)} is not what this version of curate writes; choose another --out") from None


def record(store: Store, identity: Identity, shards: Shards) -> None:
    """Write what OUT is of: first the list of shards, under a name of its own, then the file that names it."""
    name = list_name(identity.input)
    if store.storage.size(name) is None:
        with store.writing(name) as path:
            writer = ParquetWriter(path, LIST_SCHEMA)
            for batch in shards.batches():
                writer.write(pa.Table.from_batches([batch]))
            writer.close()
    store.write_json(NAME, asdict(identity))
    others = (found.name for found in store.storage.listing(FOLDER))
    store.storage.remove([f"{FOLDER}/{other}" for other in others if f"{FOLDER}/{other}" != name])


def shards_of(store: Store, identity: Identity) -> Shards:
    """Return the shards that OUT is of. Raises OutputError when their list is gone."""
    try:
        with store.storage.reading(list_name(identity.input)) as path:
            return Shards(listed(pq.ParquetFile(path).iter_batches(ROW_GROUP)))
    except FileNotFoundError:
        raise OutputError(f"{store.storage.url(list_name(identity.input))}, the list of what OUT is of, is missing") from None


# Another recipe or input ------------------------------------------------------------------------------------------------


def refusal(store: Store, was: Identity, now: Identity, shards: Shards) -> OutputError:
    """Return the error for a run into an output of something else: what differs, and what can be done."""
    before = shards_of(store, was)
    missing, new = _only_in(before, shards), _only_in(shards, before)
    differs = list(differences(was, now))
    lines = [f"{store.storage.root} is a finished output of something else; nothing was changed"]
    lines += [f"  {line}" for line in differs]
    if len(missing):
        lines.append(f"  input: without {_some(before, missing)}, which it was made of")
    if len(new):
        lines.append(f"  input: {_some(shards, new)} new")
    lines += ["choose:", "  --out OTHER   leave it as it is"]
    lines += [f"  --replace     remove {goes(store)}, then run"]
    if not differs and len(new):
        lines.append(f"  --add         add {_some(shards, new)} to it")
    return OutputError("\n".join(lines))


def goes(store: Store) -> str:
    """Return what of a finished output a run with --replace removes."""
    manifest = store.read_json("manifest.json") or {}
    tars = manifest.get("files", {}).get("shards", {})
    if not tars:
        return "its tars and decisions"
    return f"its {tars['files']:,} {FILES[kind_in(manifest)]} with {tars['samples']:,} samples, and its decisions"


def differences(was: Identity, now: Identity) -> Iterator[str]:
    """Yield what of the recipe differs, else of the code and models, one thing a line."""
    before, after = _flat(was.recipe), _flat(now.recipe)
    some = False
    for name in sorted(before.keys() | after.keys()):
        if name != "name" and before.get(name) != after.get(name):
            some = True
            yield f"recipe: {name}: {_shown(before.get(name))} -> {_shown(after.get(name))}"
    if some:
        return
    if was.version != now.version:
        yield f"curate: {was.version} -> {now.version}"
    for name in sorted(was.stages.keys() | now.stages.keys()):
        if was.stages.get(name) != now.stages.get(name):
            yield f"facts of {name}: computed in another way (code, weights, evaluation sets or lists)"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    parts = (_flat(item, f"{prefix}.{name}" if prefix else str(name)) for name, item in value.items())
    return {name.removeprefix("filters."): item for part in parts for name, item in part.items()}


def _shown(value: Any) -> str:
    text = "none" if value is None else ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _only_in(one: Shards, other: Shards) -> npt.NDArray[np.int64]:
    return np.flatnonzero(~np.isin(one.fingerprints, other.fingerprints))


def _some(shards: Shards, places: npt.NDArray[np.int64]) -> str:
    names = ", ".join(shard_name(shard) for shard in islice(shards.at(places), _NAMED))
    more = f" and {len(places) - _NAMED:,} more" if len(places) > _NAMED else ""
    return f"{len(places):,} shard{'s' if len(places) > 1 else ''} ({names}{more})"


# More input -------------------------------------------------------------------------------------------------------------


def with_more(store: Store, was: Identity, shards: Shards, counted_only: int) -> tuple[Shards, int]:
    """Return the shards of OUT followed by those of `shards` that it does not hold, and how many at the end are only counted.

    Raises InputError for a shard that OUT holds with another content.
    """
    before = shards_of(store, was)
    new = np.flatnonzero(~np.isin(_files(shards), _files(before)))
    changed = np.setdiff1d(_only_in(shards, before), new)
    if len(changed):
        raise InputError(f"{_some(shards, changed)} changed after {store.storage.root} was made of it; use --replace")
    cut, end = len(before) - was.counted_only, len(shards) - counted_only
    old, parts = np.arange(len(before)), (new[new < end], new[new >= end])
    every = chain(before.at(old[:cut]), shards.at(parts[0]), before.at(old[cut:]), shards.at(parts[1]))
    return Shards(every), was.counted_only + len(parts[1])


def _files(shards: Shards) -> npt.NDArray[np.uint64]:
    """Return a hash of each shard's file. A folder of images grows by parts; those of a file that grew are other parts of it."""
    files = ((shard.url, shard.part if shard.kind == "folder" else None) for shard in shards)
    texts = (repr(file).encode(errors="replace") for file in files)
    return np.fromiter(map(xxhash.xxh3_64_intdigest, texts), np.uint64, len(shards))
