"""`curate stats`: statistics of any input, without a recipe."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from curate.commands import common
from curate.commands.ending import ended, print_cut_short, print_problems
from curate.commands.options import Stats
from curate.core.contracts import Needs, TaskDied, shard_name
from curate.passes import problems
from curate.passes.collect import _Collect
from curate.report.problems import faults
from curate.runners.local.runner import LocalRunner
from curate.stages.text import TextStage


def stats_command(given: Stats) -> int:
    """Print statistics of a dataset; return the exit code."""
    from curate.report.statistics import as_json, render, statistics, write_html

    shards = common.shards_of(given.inputs, given)
    broken: list[dict[str, str]] = []
    with TemporaryDirectory(prefix="curate-stats-") as folder:
        with LocalRunner(min(common.workers(given.workers), max(1, len(shards)))) as runner:
            for answer in runner.map(_Collect(Path(folder), TextStage()), shards, Needs()):
                if isinstance(answer, TaskDied):
                    broken.append({"shard": shard_name(answer.item), "reason": answer.reason})
                elif answer is not None:
                    broken.append(answer)
        found = statistics(sorted(str(path) for path in Path(folder).glob("*.parquet")))
    if given.html is not None:
        write_html(found, given.html)
    counted = problems.described(problems.of_counted(found.errors))
    manifest = {"records": found.records, "kept": found.records, "problems": counted, "partial_shards": broken}
    if given.as_json:
        described = {**as_json(found), "tables": common.dialects(shards), "problems": counted}
        common.print_json({**described, "partial_shards": broken, "faults": faults(manifest, given.max_bad_records)})
    else:
        console = common.console(120)
        console.print(render(found, console.width))
        common.print_dialects(shards)
        print_problems(manifest)
    print_cut_short(manifest)
    return ended(manifest, given.max_bad_records)
