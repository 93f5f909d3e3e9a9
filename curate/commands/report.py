"""`curate report`: the attrition, and the page made again."""

from __future__ import annotations

import dataclasses

import click

from curate.commands import common
from curate.commands.ending import print_problems
from curate.commands.options import Report
from curate.report.problems import faults
from curate.storage.manifest import read_manifest


def report_command(given: Report) -> None:
    """Make the report again and print the attrition."""
    from curate.report import write_report
    from curate.report.attrition import attrition_table

    with common.output(given.out) as out:
        manifest = read_manifest(out)
        rows, path = write_report(out), out.url("report.html")
    if given.as_json:
        common.print_json({"report": path, "attrition": [dataclasses.asdict(row) for row in rows],
                           "problems": manifest.get("problems"), "faults": faults(manifest)})  # fmt: skip
        return
    console = common.console()
    console.print(attrition_table(rows, manifest["records"], console.width))
    print_problems(manifest)
    for fault in faults(manifest):
        click.secho(f"curate: {fault}", err=True, fg="red")
    click.echo(f"report: {path}")
