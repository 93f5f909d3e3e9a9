"""`curate stats`: statistics of any input, without a recipe."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from curate.commands import common
from curate.commands.options import Stats
from curate.core.contracts import Needs, TaskDied, shard_name
from curate.passes.collect import _Collect
from curate.runners.local.runner import LocalRunner


def stats_command(given: Stats) -> None:
    """Print statistics of a dataset."""
    from rich.console import Console

    from curate.report.statistics import as_json, render, statistics, write_html

    shards = common.shards_of(given.inputs, given.columns, given.table)
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
        common.print_json({**as_json(found), "tables": common.dialects(shards)})
    else:
        Console(width=None if sys.stdout.isatty() else 120).print(render(found))
        common.print_dialects(shards)
