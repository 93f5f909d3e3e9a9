"""curate plan, stats, report, calibrate, filters and recipes."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import pyarrow as pa

import filters
from curate import facts, recipe
from curate import plan as planning
from curate.commands import common
from curate.commands.options import Calibrate, List, Plan, Report, Stats
from curate.contracts import CorpusCount, Needs, Shard, ShardBreak, TaskDied
from curate.fetch.manners import Manners
from curate.manifest import checked
from curate.runners.local import LocalRunner
from curate.savings import savings
from curate.scan import base_facts, image_facts
from curate.shards import Shards
from curate.sources import open_shard, shard_name
from curate.stages.header import HeaderStage
from curate.stages.language import LanguageStage
from curate.stages.text import normalised
from curate.store import ParquetWriter


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2), pad_edge=False)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def plan_command(given: Plan) -> None:
    """Print the passes of a recipe."""
    wanted = recipe.load(given.recipe, given.overrides, given.models)
    shards = common.shards_of(given.inputs, given.columns) if given.inputs else Shards([])
    plan = planning.plan(planning.fetching(wanted) if shards.on_the_web.any() else wanted)
    models = checked(plan)
    with LocalRunner(1) as runner:
        saved = savings(plan, shards, runner) if plan.fetches and len(shards) else None
    rows = _passes(plan)
    if given.as_json:
        passes = [dict(zip(("pass", "rows", "what", "cost"), row, strict=True)) for row in rows]
        sizes = {"shards": len(shards), "bytes": shards.bytes()}
        downloads = None if saved is None else dataclasses.asdict(saved)
        described = {"passes": passes, "models": models, "input": sizes, "downloads": downloads, "warnings": plan.warnings()}
        common.print_json({**described, "recipe_hash": plan.recipe.digest()})
        return
    _table(("pass", "rows", "what", "core time a record"), rows)
    if models:
        _table(("stage", "model", "revision", "sha256"), [[_short(one[name]) for name in _MODEL] for one in models])
    if shards:
        click.echo(f"input: {len(shards):,} shards, {shards.bytes() / 1e9:,.2f} GB")
    if saved is not None:
        click.echo(saved.sentence())
    for warning in plan.warnings():
        click.secho(f"warning: {warning}", fg="yellow")


def _passes(plan: planning.Plan) -> list[tuple[str, str, str, str]]:
    """Return the steps of a plan: pass, rows, what, cost."""
    rows = [
        ("scan", "every record", "record, header, sha256, text", _cost("header", "text")),
        *(("scan", "every record", f"partial count: {count.fact}", _cost("counts")) for count in plan.counts),
        *(("merge", "whole corpus", f"{count.fact}, exact from {_floor(count)}", "") for count in plan.counts),
    ]
    for step in plan.steps:
        rows += [("judge", f"alive before {step.name}", stage.name, _cost(stage.name)) for stage in step.stages]
        if step.name == planning.FETCH:
            rows.append(("fetch", "images alive", "the image, by its url", ""))
        rows.append(("judge", "every record" if not step.lazy else "records alive", f"filter {step.name}", ""))
    rows += [("judge", "kept records", stage.name, _cost(stage.name)) for stage in plan.last]
    output = plan.recipe.output
    rows.append(("pack", f"blocks of {output.block_shards} shards", f"tars of {output.samples_per_shard} samples", ""))
    return rows


_MODEL = ("stage", "spec", "revision", "sha256")


def _short(text: str | None) -> str:
    """Return a cell: of a long hash its beginning."""
    return "" if text is None else text[:12] if len(text) in (40, 64) and "/" not in text else text


def _floor(count: CorpusCount) -> str:
    return f"the vocabulary's {count.vocabulary:,} upward" if count.vocabulary else f"{count.record_from} upward"


def _cost(*names: str) -> str:
    cost = sum(planning.COST.get(name, 0.0) for name in names)
    return f"{cost * 1e3:.3g} ms" if cost >= 1e-3 else f"{cost * 1e6:.3g} us"


@dataclass(frozen=True)
class _Collect:
    """The task: writes one shard's facts, with languages, for statistics."""

    folder: Path

    def __call__(self, shard: Shard) -> str | None:
        names = ("key", "url", "text", "error", "bytes", "sha256", "header", "format", "width", "height", "animated", "words",
                 "characters", "language", "language_score")  # fmt: skip
        writer = ParquetWriter(self.folder / f"{shard.index:06d}.parquet", facts.schema(names))
        problem = None
        try:
            with open_shard(shard) as opened:
                for batch in opened.read():
                    known = base_facts(image_facts(shard, HeaderStage(), batch), normalised(batch["text"]))
                    writer.write(pa.Table.from_batches([LanguageStage()(known)]))
        except ShardBreak as stop:
            problem = f"{shard_name(shard)}: {stop}"
        writer.close()
        return problem


def stats_command(given: Stats) -> None:
    """Print statistics of a dataset."""
    from rich.console import Console

    from curate.statistics import as_json, render, statistics, write_html

    shards = common.shards_of(given.inputs, given.columns)
    with TemporaryDirectory(prefix="curate-stats-") as folder:
        with LocalRunner(min(common.workers(given.workers), max(1, len(shards)))) as runner:
            for answer in runner.map(_Collect(Path(folder)), shards, Needs()):
                problem = f"{shard_name(answer.item)}: {answer.reason}" if isinstance(answer, TaskDied) else answer
                if problem:
                    click.secho(f"cut short: {problem}", err=True, fg="yellow")
        found = statistics(sorted(str(path) for path in Path(folder).glob("*.parquet")))
    if given.html is not None:
        write_html(found, given.html)
    if given.as_json:
        common.print_json(as_json(found))
    else:
        Console(width=None if sys.stdout.isatty() else 120).print(render(found))


def report_command(given: Report) -> None:
    """Make the report again and print the attrition."""
    from rich.console import Console

    from curate.report import write_report
    from curate.report.attrition import attrition, attrition_table

    with common.output(given.out) as out:
        rows = attrition(out, common.manifest_of(out)["filters"])
        path = write_report(out)
    if given.as_json:
        common.print_json({"report": path, "attrition": [dataclasses.asdict(row) for row in rows]})
        return
    Console(width=None if sys.stdout.isatty() else 110).print(attrition_table(rows))
    click.echo(f"report: {path}")


def calibrate_command(given: Calibrate) -> None:
    """Print the threshold that a wanted rate of unrelated images dropped asks for."""
    from curate.calibrate import calibrate, table

    found = calibrate(given.sets, given.candidates, given.rate, given.embedder, common.cache())
    if given.as_json:
        common.print_json(dataclasses.asdict(found))
        return
    _table(("what", "share", ""), table(found))
    click.echo(f"use: --set eval_overlap.similarity={found.threshold:.4g} --set eval_overlap.embedder={given.embedder}")


def filters_command(given: List) -> None:
    """List the filters and the facts."""
    found = [(name, filters.load(name)) for name in filters.names()]
    if given.as_json:
        common.print_json([{"name": name, **_described(rule)} for name, rule in found])
        return
    for name, rule in found:
        described = _described(rule)
        click.secho(f"{name}  ({rule.about})", bold=True)
        click.echo(f"  {described['drops']}\n  {rule.paper}")
        for parameter in described["parameters"]:
            kind = "  (changes facts)" if parameter["changes_facts"] else ""
            click.echo(f"    {parameter['name']} = {parameter['default']}   {parameter['doc']}{kind}")
    for name, section in (("output", recipe.Output), ("fetch", Manners)):
        click.secho(f"\nsection {name}", bold=True)
        keys = [(item.name, str(item.default), item.metadata["doc"]) for item in dataclasses.fields(section)]
        _table(("key", "default", "what"), keys)
    click.secho("\nfacts that sql can read", bold=True)
    _table(("fact", "type", "what"), [(fact.name, str(fact.type), fact.doc) for fact in facts.FACTS.values()])


def _described(rule: type[Any]) -> dict[str, Any]:
    parameters = [
        {"name": item.name, "default": item.default, "doc": item.metadata["doc"], "changes_facts": item.metadata["setting"]}
        for item in dataclasses.fields(rule)
    ]
    return {"about": rule.about, "drops": (rule.__doc__ or "").split("\n\n")[0], "paper": rule.paper, "parameters": parameters}


def recipes_command(given: List) -> None:
    """List the recipes that come with curate."""
    found = [recipe.load(name) for name in recipe.names()]
    if given.as_json:
        paths = [{"about": one.about, "path": str(recipe.folder() / f"{one.name}.yaml")} for one in found]
        common.print_json([{**one.resolved(), **path} for one, path in zip(found, paths, strict=True)])
        return
    for one in found:
        click.secho(one.name, bold=True)
        click.echo(f"  {one.about}\n  filters: {', '.join(one.filters)}\n  {recipe.folder() / f'{one.name}.yaml'}")
