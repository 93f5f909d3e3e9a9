"""The Python API: run a recipe, plan it, and read what a run wrote. `import curate` has these names.

import curate

outcome = curate.run("align", ["crawl/*.tar"], "out", curate.Settings(overrides=["min_side.larger_than=256"]))
kept = curate.decisions("out").to_table(filter=pc.field("dropped_by").is_null())
for sample in curate.samples("out"):
    train(sample.image, sample.text)
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from curate.core.contracts import Runner
from curate.core.errors import InputError
from curate.core.shards import Shards
from curate.driver.options import RunOptions
from curate.driver.preflight import check_before_reading
from curate.driver.progress import Outcome, Progress, Quiet
from curate.driver.resolve import resolve
from curate.driver.run import Run
from curate.planning import loader, plugins
from curate.planning import plan as planning
from curate.planning.plan import Plan
from curate.report.what_if import WhatIf
from curate.report.what_if import what_if as answered
from curate.stages.evalsets import default_cache
from curate.storage.backend import storage
from curate.storage.file_lists import listed
from curate.storage.manifest import read_manifest
from curate.storage.samples import open_samples
from curate.storage.shared_facts import with_facts
from curate.storage.store import Store

if TYPE_CHECKING:
    import pyarrow.dataset as ds


@dataclass(frozen=True)
class Settings:
    """What a run takes beside recipe, input and output."""

    overrides: Sequence[str] = ()
    """FILTER.PARAM=VALUE, as --set."""

    models: str | None = None
    """A set of models: mini, blip-base or blip-large."""

    plugins: Sequence[str | os.PathLike[str]] = ()
    """Python files with filters, stages, models or sources, beside those that the recipe names."""

    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns of tables, or fields beside images, by role: {"image": "jpg", "text": "alt"}; {"texts": "lines"} splits texts."""

    table: str = ""
    """How csv and tsv are written, as --table: "delimiter=tab,quote=none"."""

    members: Mapping[str, str] = field(default_factory=dict)
    """What members of tars are besides the usual ones, by extension: {"img": "image", "cap": "text", "meta": "json"}."""

    max_json: int | None = None
    """Bytes of the largest JSON beside an image that is read; None: 1 MiB."""

    runner: Runner | None = None
    """Where the passes run; None: worker processes on this machine."""

    workers: int | None = None
    """Worker processes on this machine; None: one per core. Scripts need the guard `if __name__ == "__main__":`."""

    facts: str | os.PathLike[str] | None = None
    """A store of facts that several outputs share; None: inside the output, or where it was begun with."""

    options: RunOptions = field(default_factory=RunOptions)
    progress: Progress = field(default_factory=Quiet)


@dataclass(frozen=True)
class Sample:
    """One sample of an output: the image's bytes and their format, the text, and all that key.json says."""

    key: str
    extension: str
    image: bytes
    text: str
    about: dict[str, Any]


_DEFAULT = Settings()


def run(recipe: str, inputs: Sequence[str], out: str | os.PathLike[str], settings: Settings = _DEFAULT) -> Outcome:
    """Curate `inputs` into `out` by a recipe (a name or a path), or finish an earlier run of the same; return what was done.

    Raises CurateError: RecipeError, InputError, ModelError before any work; OutputError when another run holds `out`, or
    when a disk is full. A shard that fails is in the outcome and stops no other.
    """
    planned, shards = _planned(recipe, inputs, settings)
    apart(inputs, os.fspath(out))
    place = with_facts(storage(out), None if settings.facts is None else os.fspath(settings.facts))
    room = check_before_reading(planned, shards, place)
    resolved, unread = resolve(planned, default_cache())
    warnings = [*planned.warnings(), *unread, *room, *shards.left_aside]
    options = settings.options if settings.options.warnings else _with_warnings(settings.options, warnings)
    with _runner(settings, len(shards)) as runner:
        return Run(resolved, shards, Store(place), runner, options, settings.progress).run()


def plan(recipe: str, inputs: Sequence[str] = (), settings: Settings = _DEFAULT) -> Plan:
    """Return the plan of a recipe: its passes, the stages of each filter, the corpus counts. Raises RecipeError, InputError."""
    return _planned(recipe, inputs, settings)[0]


def decisions(out: str | os.PathLike[str]) -> ds.Dataset:
    """Return the decisions of an output, a row for each record and text, as a pyarrow dataset. Raises OutputError."""
    import pyarrow.dataset as ds  # slow to import

    from curate.storage.paths import filesystem, is_local

    found = storage(out)
    read_manifest(found)
    url = found.url("decisions")
    if is_local(url):
        return ds.dataset(url, format="parquet")
    fs, path = filesystem(url)
    return ds.dataset(path, filesystem=fs, format="parquet")


def samples(out: str | os.PathLike[str]) -> Iterator[Sample]:
    """Yield the samples of an output, in order. Raises OutputError."""
    found = storage(out)
    read_manifest(found)
    for name, _ in listed(found, "shards"):
        with found.reading(f"shards/{name}") as path, open_samples(path, name) as reader:
            for one in reader:
                yield Sample(one.key, one.extension, one.image, one.text.decode(), json.loads(one.about))


def what_if(out: str | os.PathLike[str], overrides: Sequence[str], settings: Settings = _DEFAULT) -> WhatIf:
    """Return how many records other thresholds (FILTER.PARAM=VALUE) would keep, from recorded evidence: no image is read.

    Raises RecipeError for a parameter that changes facts, OutputError.
    """
    for plugin in plugins.given(settings.plugins):
        plugin.load()
    found = storage(out)
    return answered(found, read_manifest(found), overrides)


def apart(inputs: Sequence[str], out: str) -> None:
    """Raise InputError where OUT is an input, inside one or around one: a run clears what it finds in OUT."""
    from curate.sources.names import expanded, given
    from curate.storage.paths import plain

    target = plain(out).rstrip("/")
    for one in map(plain, (one for name in given(inputs) for one in (expanded(name) if "{" in name else [name]))):
        place = one.rstrip("/")
        if place == target or place.startswith(target + "/") or target.startswith(place + "/"):
            raise InputError(f"--out {out} and the input {one} overlap; choose another --out")


def _planned(recipe: str, inputs: Sequence[str], settings: Settings) -> tuple[Plan, Shards]:
    from curate.sources.listing import list_shards
    from curate.sources.source import Columns

    loaded = loader.load(recipe, settings.overrides, settings.models, plugins.given(settings.plugins))
    said = Columns(settings.columns, settings.table, settings.members, settings.max_json)
    shards = list_shards(inputs, said) if inputs else Shards([])
    return planning.plan(planning.fetching(loaded) if shards.on_the_web.any() else loaded), shards


def _with_warnings(options: RunOptions, warnings: Sequence[str]) -> RunOptions:
    from dataclasses import replace

    return replace(options, warnings=warnings)


def _runner(settings: Settings, shards: int) -> AbstractContextManager[Runner]:
    from curate.core.platform import cores
    from curate.runners.local.runner import LocalRunner

    if settings.runner is not None:
        return nullcontext(settings.runner)
    return LocalRunner(min(settings.workers or cores(), max(1, shards)), settings.options.gpus)
