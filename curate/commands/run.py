"""curate run."""

from __future__ import annotations

import dataclasses
import sys
import time
from types import TracebackType

from curate import plan as planning
from curate import recipe as recipes
from curate.commands import common
from curate.commands.engine import crew
from curate.commands.options import Run
from curate.job import Job, Outcome, resolve
from curate.manifest import checked
from curate.plan import Plan
from curate.report.fetches import fetches
from curate.storage import storage
from curate.store import Store
from curate.walk import WAIT

PARTIAL = 3


class Bars:
    """Progress on a terminal: records, rate and time left of each step; nothing at all when it is not one."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        console = Console(stderr=True)
        columns = [TextColumn("{task.description:20}"), BarColumn(30), MofNCompleteColumn(), TextColumn("shards"),
                   TextColumn("{task.fields[rate]:>16}"), TimeElapsedColumn(), TimeRemainingColumn()]  # fmt: skip
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal)
        self._task: object = None
        self._records, self._since = 0, 0.0

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def start(self, name: str, total: int) -> None:
        """Begin a step."""
        self._task = self._progress.add_task(name, total=total or None, rate="")
        self._records, self._since = 0, time.monotonic()

    def advance(self, records: int) -> None:
        """Count a shard of the step."""
        self._records += records
        rate = self._records / max(time.monotonic() - self._since, 1e-3)
        self._progress.update(self._task, advance=1, rate=f"{rate:,.0f} records/s")  # type: ignore[arg-type]

    def warn(self, text: str) -> None:
        """Say it above the bars, and where there are none."""
        _warn(text)


def _warn(text: str) -> None:
    import click

    click.secho(f"curate: {text}", err=True, fg="yellow")


def run_command(given: Run) -> int:
    """Run a recipe and print what came of it; return the exit code."""
    recipe = recipes.load(given.recipe, given.overrides, given.models)
    if given.samples_per_shard is not None:
        recipe = dataclasses.replace(recipe, output=dataclasses.replace(recipe.output, samples_per_shard=given.samples_per_shard))
    common.apart([*given.inputs, *given.counts_of], given.out)
    store = Store(storage(given.out))
    judged = len(common.shards_of(given.inputs, given.columns)) if given.counts_of else None
    shards = common.shards_of([*given.inputs, *given.counts_of], given.columns)
    plan = planning.plan(planning.fetching(recipe) if shards.on_the_web.any() else recipe)
    checked(plan)
    plan, unread = resolve(plan, common.cache())
    warnings = [*plan.warnings(), *unread]
    for warning in warnings:
        _warn(warning)
    started = time.monotonic()
    with Bars() as bars, crew(given, plan, len(shards)) as workers:
        job = Job(plan, shards, store, workers.runner, bars, common.size(given.memory), warnings, given.max_failed_shards)
        job.gpus, job.threads, job.gpu_share, job.shared = workers.gpus, workers.threads, given.gpu_share, given.runner != "local"
        job.retry_failed, job.counted_only = given.retry_failed, 0 if judged is None else len(shards) - judged
        outcome = job.run()
    seconds = time.monotonic() - started
    if given.as_json:
        common.print_json(_described(outcome, seconds, plan))
    else:
        _tell(outcome, seconds, plan)
    return PARTIAL if outcome.failed or outcome.partial else 0


def _described(outcome: Outcome, seconds: float, plan: Plan) -> dict[str, object]:
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
        "failed_shards": outcome.failed,
        "partial_shards": outcome.partial,
        "report": f"{outcome.out}/report.html",
    }


def _tell(outcome: Outcome, seconds: float, plan: Plan) -> None:
    import click
    from rich.console import Console

    from curate.models.checks import gpus
    from curate.report.attrition import attrition, attrition_table

    if outcome.state == "nothing to do":
        click.echo(f"{outcome.out} is finished: the same recipe and input were run to the end; nothing to do")
    out = storage(outcome.out)
    rows = attrition(out, common.manifest_of(out)["filters"])
    Console(width=None if sys.stdout.isatty() else 110).print(attrition_table(rows))
    rate = f" in {seconds:,.1f} s, {outcome.records / max(seconds, 1e-9):,.0f} records/s" if outcome.state == "done" else ""
    click.echo(f"{outcome.kept:,} of {outcome.records:,} records kept{rate}")
    if plan.fetches and (fetched := fetches(out)) is not None:
        click.echo(fetched.sentence())
    if (idle := outcome.idle()) is not None and gpus():  # on a CPU they share the core with what they wait for
        click.echo(f"captioner and matcher waited for pictures {idle:.0%} of their time")
    for item in outcome.partial:
        click.secho(f"cut short: {item['shard']}: {item['reason']} (the records before are kept)", err=True, fg="yellow")
    for item in outcome.failed:
        click.secho(f"failed: {item['shard']}: {item['reason']} (run again to retry it)", err=True, fg="red")
    click.echo(f"tars: {outcome.out}/shards   report: {outcome.out}/report.html")
