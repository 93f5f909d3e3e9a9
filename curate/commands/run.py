"""`curate run` and `curate fetch`: a recipe over an input."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Iterator
from dataclasses import replace

from curate import api
from curate.commands import common, options
from curate.commands.ending import ended, print_problems
from curate.commands.events import Events
from curate.commands.progress import Bars
from curate.commands.runners import Crew, crew
from curate.commands.saying import say
from curate.core.errors import InputError, OptionError
from curate.driver.options import RunOptions
from curate.driver.preflight import check_before_reading
from curate.driver.progress import Outcome
from curate.driver.resolve import resolve
from curate.driver.run import Run
from curate.passes.evaluation import WAIT
from curate.planning import loader as recipes
from curate.planning import plan as planning
from curate.planning import plugins
from curate.planning.plan import Plan
from curate.report.fetches import fetches
from curate.report.problems import faults
from curate.stages.evalsets import default_cache
from curate.storage.backend import Storage, storage
from curate.storage.manifest import read_manifest
from curate.storage.shared_facts import with_facts
from curate.storage.store import Store


def run_command(given: options.Run) -> int:
    """Run a recipe and print the result; return the exit code."""
    if given.add and given.replace:
        raise InputError("--add keeps what OUT holds and --replace removes it: choose one")
    recipe = recipes.load(given.recipe, given.overrides, given.models, plugins.given(given.plugins))
    if given.samples_per_shard is not None:
        recipe = replace(recipe, output=replace(recipe.output, samples_per_shard=given.samples_per_shard))
    api.apart([*given.inputs, *given.counts_of], given.out)
    store = Store(with_facts(storage(given.out), given.facts))
    judged = len(common.shards_of(given.inputs, given)) if given.counts_of else None
    shards = common.shards_of([*given.inputs, *given.counts_of], given)
    plan = planning.plan(planning.fetching(recipe) if shards.on_the_web.any() else recipe)
    room = check_before_reading(plan, shards, store.storage)
    plan, unread = resolve(plan, default_cache())
    warnings = [*plan.warnings(), *unread, *room]
    progress = _shown(given, store.storage)
    for warning in warnings:
        progress.warn(warning)
    for detail in _details(plan, given, len(shards)):
        progress.note(detail)
    counted_only = 0 if judged is None else len(shards) - judged
    started = time.monotonic()
    with progress as bars, crew(given, plan, len(shards)) as workers:
        run_options = replace(_options(given, workers), warnings=warnings, counted_only=counted_only)
        outcome = Run(plan, shards, store, workers.runner, run_options, bars).run()
    seconds = time.monotonic() - started
    if given.as_json:
        common.print_json(_described(outcome, seconds, plan, given.max_bad_records))
    else:
        _print(outcome, seconds, plan)
    return ended(read_manifest(store.storage), given.max_bad_records)


def _shown(given: options.Run, out: Storage) -> Events:
    """Return the progress as the command wants it shown."""
    if given.quiet and given.verbose:
        raise OptionError("--quiet and --verbose are opposites: choose one")
    lines = given.progress == "lines" or (given.progress == "auto" and not sys.stderr.isatty())
    bars = Bars(hidden=given.quiet or given.progress in ("lines", "none"), quiet=given.quiet)
    return Events(out.own, bars, given.log_format if lines and not given.quiet else "none", verbose=given.verbose)


def _details(plan: Plan, given: options.Run, shards: int) -> Iterator[str]:
    """Yield what is done where, before it begins."""
    passes = ", ".join(dict.fromkeys(one.name for one in plan.passes()))
    counts = f"; corpus counts: {', '.join(count.fact for count in plan.counts)}" if plan.counts else ""
    yield f"recipe {given.recipe} ({plan.recipe.digest()[:12]}) over {shards:,} shards: {passes}{counts}"
    yield f"facts: {given.facts or f'{given.out}/facts'}; signatures of evaluation sets: {default_cache()}"


def _options(given: options.Run, workers: Crew) -> RunOptions:
    return RunOptions(
        memory=common.size(given.memory),
        max_failed_shards=given.max_failed_shards,
        gpus=workers.gpus,
        gpu_share=given.gpu_share,
        threads=workers.threads,
        retry_failed=given.retry_failed,
        into="add" if given.add else "replace" if given.replace else "same",
        shared=given.runner != "local",
    )


def _described(outcome: Outcome, seconds: float, plan: Plan, max_bad: float) -> dict[str, object]:
    manifest = read_manifest(storage(outcome.out))
    fetched = fetches(storage(outcome.out)) if plan.fetches else None
    return {
        "state": outcome.state,
        "records": outcome.records,
        "texts": outcome.texts,
        "kept": outcome.kept,
        "seconds": round(seconds, 2),
        "core_seconds": {name: round(value, 3) for name, value in sorted(outcome.seconds.items()) if name != WAIT},
        "models_idle": outcome.idle(),
        "fetch": None if fetched is None else {**dataclasses.asdict(fetched), "saved": fetched.saved},
        "problems": manifest["problems"],
        "faults": faults(manifest, max_bad),
        "failed_shards": outcome.failed,
        "partial_shards": outcome.partial,
        "report": f"{outcome.out}/report.html",
    }


def _print(outcome: Outcome, seconds: float, plan: Plan) -> None:
    import click

    from curate.models.checks import gpus
    from curate.report.attrition import attrition, attrition_table
    from curate.report.rules import rules_of
    from curate.report.trainers import for_trainers
    from curate.storage.samples import kind_in

    if outcome.state == "nothing to do":
        click.echo(f"{outcome.out} is finished: the same recipe and input were run to the end; nothing to do")
    out = storage(outcome.out)
    manifest = read_manifest(out)
    rows = attrition(out, rules_of(manifest)) if outcome.attrition is None else outcome.attrition
    console = common.console()
    console.print(attrition_table(rows, outcome.records, console.width))
    rate = f" in {seconds:,.1f} s, {outcome.records / max(seconds, 1e-9):,.0f} records/s" if outcome.state == "done" else ""
    click.echo(f"{outcome.kept:,} of {outcome.records:,} records kept{rate}")
    if plan.fetches and (fetched := fetches(out)) is not None:
        click.echo(fetched.sentence())
    print_problems(manifest)
    if (idle := outcome.idle()) is not None and gpus():  # on a CPU, models and decoding share the same cores
        click.echo(f"captioner and matcher waited for images {idle:.0%} of their time")
    for item in outcome.partial:
        say(f"cut short: {item['shard']}: {item['reason']} (the records before are kept)", prefix="")
    for item in outcome.failed:
        say(f"failed: {item['shard']}: {item['reason']} (run again to retry it)", "error", prefix="")
    click.echo(f"{kind_in(manifest)}: {outcome.out}/shards   report: {outcome.out}/report.html")
    for line in for_trainers(outcome.out, manifest):
        click.echo(line)
