"""`curate dry-run`: a recipe tried on one shard."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from curate.commands import common
from curate.commands.ending import ended, print_cut_short, print_problems
from curate.commands.options import DryRun
from curate.core.contracts import CorpusCount
from curate.counts.lookup import Lookup
from curate.driver.dry_run import DryRun as Found
from curate.driver.dry_run import Estimate, as_json, dry_run, earlier_counts
from curate.driver.fields import check_fields
from curate.driver.manifest import checked
from curate.driver.preflight import check_weights
from curate.driver.resolve import resolve
from curate.fetch.preflight import check_ready
from curate.planning import loader as recipes
from curate.planning import plan as planning
from curate.planning import plugins
from curate.report import attrition_table, report_page
from curate.report.problems import faults
from curate.report.tables import Column, number, table
from curate.stages.evalsets import default_cache
from curate.storage.backend import Storage
from curate.storage.manifest import read_manifest

if TYPE_CHECKING:
    from rich.table import Table


def dry_run_command(given: DryRun) -> int:
    """Try a recipe on one shard and print the estimates; return the exit code."""
    recipe = recipes.load(given.recipe, given.overrides, given.models, plugins.given(given.plugins))
    shards = common.shards_of([given.shard], given)
    plan = planning.plan(planning.fetching(recipe) if shards[0].on_the_web else recipe)
    if plan.fetches:
        check_ready(recipe.policy)
    lookups: dict[str, Lookup] = {}
    unserved = [name for name, rule in plan.recipe.filters.items() if isinstance(rule.provider(), CorpusCount)]
    if given.counts is not None:
        with common.output(given.counts) as out:
            lookups, unserved = earlier_counts(out, read_manifest(out), plan)
    plan = plan.without(unserved)
    checked(plan)
    check_fields(plan, shards)
    check_weights(plan)
    if len(shards) > 1:
        click.echo(f"curate: {given.shard} is {len(shards)} shards; the first is tried", err=True)
    plan, warnings = resolve(plan, default_cache())
    for warning in [*plan.warnings(), *warnings]:
        click.secho(f"curate: {warning}", err=True, fg="yellow")
    code = 0
    for item in dry_run(plan, dataclasses.replace(shards[0], limit=given.samples), lookups, given.pairs):
        if isinstance(item, Storage):
            if given.html is not None:
                given.html.write_bytes(report_page(item))
            continue
        found = dataclasses.replace(item, not_estimated=unserved)
        if given.as_json:
            common.print_json({**as_json(found, given.pairs), "faults": faults(found.manifest, given.max_bad_records)})
        else:
            _print(found, given)
        code = ended(found.manifest, given.max_bad_records)
    return code


def _print(found: Found, given: DryRun) -> None:
    from curate.models.checks import gpus

    console = common.console()
    console.print(attrition_table(found.attrition, found.records, console.width))
    console.print(_stages(found, console.width))
    if (idle := found.idle()) is not None and gpus():  # on a CPU, models and decoding share the same cores
        click.echo(f"captioner and matcher waited for images {idle:.0%} of their time")
    for name in found.not_estimated:
        click.echo(f"{name}: not estimated, it needs corpus counts (--counts OUT of an earlier run)")
    click.echo(f"{found.records:,} records tried, {found.kept:,} kept. For {given.pairs:,.0f} pairs:")
    click.echo(f"  kept pairs   {_range(found.kept_pairs)}")
    click.echo(f"  core-hours   {_range(found.core_hours)}  on cores, storage and network like these")
    print_problems(found.manifest)
    print_cut_short(found.manifest)
    if given.html is not None:
        click.echo(f"gallery: {given.html}")


def _stages(found: Found, width: int) -> Table:
    """Return the stages with their records, times and rates, the slowest first."""
    total = sum(found.work().values()) or 1.0
    lines = []
    for name, seconds in sorted(found.work().items(), key=lambda item: -item[1]):
        rows = found.rows.get(name) or found.records
        mark = "<- bottleneck" if name == found.bottleneck() else ""
        lines.append((name, f"{rows:,}", f"{seconds:.3f}", f"{rows / max(seconds, 1e-9):,.0f}", f"{seconds / total:.0%}", mark))
    numbers = [number(title) for title in ("records", "seconds", "records/s per core", "share")]
    return table([Column("stage"), *numbers, Column("", least=13)], lines, width)


def _range(estimate: Estimate) -> str:
    return f"{estimate.value:,.0f}  (95%: {estimate.low:,.0f} to {estimate.high:,.0f})"
