"""`curate what-if`: the attrition that other thresholds would give."""

from __future__ import annotations

import click

from curate.commands import common
from curate.commands.options import WhatIf
from curate.storage.manifest import read_manifest


def what_if_command(given: WhatIf) -> None:
    """Print the attrition with other thresholds."""
    import dataclasses

    from curate.planning import plugins
    from curate.report.tables import Column, number, table
    from curate.report.what_if import what_if

    for plugin in plugins.given(given.plugins):
        plugin.load()
    with common.output(given.out) as out:
        manifest = read_manifest(out)
        answer = what_if(out, manifest, given.overrides)
    if given.as_json:
        common.print_json(dataclasses.asdict(answer))
        return
    rows = []
    before = {line["filter"]: line["dropped"] for line in manifest["attrition"]}
    left = answer.texts
    for line in answer.filters:
        left -= line.dropped
        unknown = f"{line.unknown:,}" if line.unknown else ""
        rows.append((line.filter, f"{line.dropped:,}", f"{before[line.filter]:,}", f"{left:,}", unknown))
    console = common.console()
    numbers = [number(title) for title in ("dropped", "was", "left", "unknown")]
    console.print(table([Column("filter"), *numbers], rows, console.width))
    if answer.at_least == answer.kept:
        click.echo(f"{answer.kept:,} of {answer.records:,} records would be kept ({answer.kept - answer.was:+,})")
        return
    click.echo(
        f"between {answer.at_least:,} and {answer.kept:,} of {answer.records:,} records would be kept, now {answer.was:,}: "
        "some filters have never seen the records that would pass now; only a run can tell"
    )
