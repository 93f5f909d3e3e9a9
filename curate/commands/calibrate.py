"""`curate calibrate`: the threshold of eval_overlap for a user's evaluation sets."""

from __future__ import annotations

import dataclasses

import click

from curate.commands import common
from curate.commands.common import print_table
from curate.commands.options import Calibrate
from curate.stages.evalsets import default_cache


def calibrate_command(given: Calibrate) -> None:
    """Print the threshold that drops at most the given share of unrelated images."""
    from curate.report.calibrate import calibrate, table

    found = calibrate(given.sets, given.candidates, given.rate, given.embedder, default_cache())
    if given.as_json:
        common.print_json(dataclasses.asdict(found))
        return
    print_table(("what", "share", ""), table(found))
    click.echo(f"use: --set eval_overlap.similarity={found.threshold:.4g} --set eval_overlap.embedder={given.embedder}")
