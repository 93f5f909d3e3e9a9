"""`curate plan`: the passes of a recipe, their costs, and the downloads that its filters save."""

from __future__ import annotations

import dataclasses

import click

from curate.commands import common
from curate.commands.common import print_table
from curate.commands.ending import ended, print_cut_short, print_problems
from curate.commands.options import Plan
from curate.core.contracts import CorpusCount, Stage
from curate.core.errors import InputError
from curate.core.shards import Shards
from curate.driver.download_estimate import Savings, savings
from curate.driver.fields import check_fields
from curate.driver.look import look
from curate.driver.manifest import checked
from curate.driver.preflight import check_lists, check_weights
from curate.fetch.preflight import check_ready
from curate.planning import loader as recipe
from curate.planning import plan as planning
from curate.planning import plugins
from curate.runners.local.runner import LocalRunner
from curate.stages.evalsets import default_cache
from curate.storage.samples import FILES


def plan_command(given: Plan) -> int:
    """Print the passes of a recipe; return the exit code."""
    wanted = recipe.load(given.recipe, given.overrides, given.models, plugins.given(given.plugins))
    shards = common.shards_of(given.inputs, given) if given.inputs else Shards([])
    plan = planning.plan(planning.fetching(wanted) if shards.on_the_web.any() else wanted)
    models = checked(plan)
    check_fields(plan, shards)
    check_weights(plan)
    check_lists(plan, default_cache())
    refused = _refused(plan)
    seen = look(shards)
    saved = _savings(plan, shards)
    rows, warnings = _passes(plan), [*plan.warnings(), *([refused] if refused else [])]
    if given.as_json:
        passes = [dict(zip(("pass", "rows", "what", "cost"), row, strict=True)) for row in rows]
        sizes = {"shards": len(shards), "bytes": shards.bytes()}
        downloads = None if saved is None else dataclasses.asdict(saved)
        described = {"passes": passes, "models": models, "input": sizes, "downloads": downloads, "warnings": warnings}
        described["notes"] = plan.notes()
        described["tables"] = common.dialects(shards)
        problems = None if seen is None else {"records": seen.records, **seen.manifest["problems"]}
        described["partial_shards"] = [] if seen is None else seen.manifest["partial_shards"]
        common.print_json({**described, "problems": problems, "recipe_hash": plan.recipe.digest()})
        return 0 if seen is None else ended(seen.manifest, given.max_bad_records)
    print_table(("pass", "rows", "what", "core time per record"), rows)
    if models:
        print_table(("stage", "model", "revision", "sha256"), [[_short(one[name]) for name in _MODEL] for one in models])
    if shards:
        click.echo(f"input: {len(shards):,} shards, {shards.bytes() / 1e9:,.2f} GB")
    common.print_dialects(shards)
    for note in plan.notes():
        click.echo(f"note: {note}")
    if saved is not None:
        click.echo(saved.sentence())
    for warning in warnings:
        click.secho(f"warning: {warning}", fg="yellow")
    if seen is None:
        return 0
    click.echo(seen.sentence())
    print_problems(seen.manifest)
    print_cut_short(seen.manifest)
    return ended(seen.manifest, given.max_bad_records)


def _refused(plan: planning.Plan) -> str | None:
    """Return why a run could not fetch the images, if so: a plan can be made without a contact."""
    try:
        if plan.fetches:
            check_ready(plan.recipe.policy)
    except InputError as error:
        return f"a run will be refused: {error}"
    return None


def _savings(plan: planning.Plan, shards: Shards) -> Savings | None:
    if not plan.fetches or not len(shards):
        return None
    with LocalRunner(1) as runner:
        return savings(plan, shards, runner)


def _passes(plan: planning.Plan) -> list[tuple[str, str, str, str]]:
    """Return the steps of a plan: pass, rows, what, cost."""
    rows = [
        ("scan", "every record", "record, header, sha256, text", _cost(plan.header, plan.text)),
        *(("scan", "every record", f"partial count: {count.fact}", _cost(count)) for count in plan.counts),
        *(("merge", "whole corpus", f"{count.fact}, exact from {count.exact_from()}", "") for count in plan.counts),
    ]
    shown: set[str] = set()
    for one in plan.passes():
        for step in one.steps:  # each under the first pass that evaluates it
            if step.name not in shown:
                rows += [(one.name, f"alive before {step.name}", stage.name, _cost(stage)) for stage in step.stages]
                rows.append((one.name, "every record" if not step.lazy else "records alive", f"filter {step.name}", ""))
                shown.add(step.name)
        if one.until == "fetch":
            rows.append((one.name, "images alive", "the image, by its url", ""))
    rows += [("judge", "kept records", stage.name, _cost(stage)) for stage in plan.last]
    output = plan.recipe.output
    rows.append(
        ("pack", f"blocks of {output.block_shards} shards", f"{FILES[output.kind]} of {output.samples_per_shard} samples", "")
    )
    return rows


_MODEL = ("stage", "spec", "revision", "sha256")


def _short(text: str | None) -> str:
    """Return a cell: of a long hash its beginning."""
    return "" if text is None else text[:12] if len(text) in (40, 64) and "/" not in text else text


def _cost(*providers: Stage | CorpusCount) -> str:
    cost = sum(provider.cost for provider in providers)
    return f"{cost * 1e3:.3g} ms" if cost >= 1e-3 else f"{cost * 1e6:.3g} us"
