"""`curate merge`: one dataset of several finished outputs."""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack

import click

from curate.commands import common
from curate.commands.options import Merge
from curate.commands.progress import Bars
from curate.driver.merging import Merge as Merging
from curate.driver.merging import Merged
from curate.report.trainers import for_trainers
from curate.runners.local.runner import LocalRunner
from curate.storage.backend import storage
from curate.storage.manifest import read_manifest
from curate.storage.samples import FILES, kind_in
from curate.storage.store import Store


def merge_command(given: Merge) -> None:
    """Merge outputs and print the result."""
    with ExitStack() as held:
        outs = [held.enter_context(common.output(out)) for out in given.outs]
        bars, runner = held.enter_context(Bars()), held.enter_context(LocalRunner(common.workers(given.workers)))
        merged = Merging(outs, Store(storage(given.out)), runner, given.duplicates, bars).merge()
    if given.as_json:
        common.print_json({**dataclasses.asdict(merged), "report": f"{merged.out}/report.html"})
    else:
        _print(merged)


def _print(merged: Merged) -> None:
    if merged.state == "nothing to do":
        click.echo(f"{merged.out} is a merge of these outputs already; nothing to do")
    manifest = read_manifest(storage(merged.out))
    kind = kind_in(manifest)
    click.echo(f"{merged.outputs} outputs: {merged.kept:,} of {merged.records:,} records kept, in {merged.tars:,} {FILES[kind]}")
    if merged.duplicates:
        click.echo(f"{merged.duplicates:,} dropped, since an output before keeps the same image and text")
    if merged.removed:
        click.echo(f"{merged.removed:,} left out, since they were removed from another output")
    click.echo(f"{kind}: {merged.out}/shards   report: {merged.out}/report.html")
    for line in for_trainers(merged.out, manifest):
        click.echo(line)
