"""`curate gc`: frees what no output uses of a store of facts."""

from __future__ import annotations

import click

from curate.commands import common
from curate.commands.options import Gc
from curate.driver.gc import collect


def gc_command(given: Gc) -> None:
    """Free it and print what it was."""
    with common.output(given.store) as store:
        freed = collect(store, dry_run=given.dry_run)
    if given.as_json:
        common.print_json({"outputs": freed.outputs, "freed": freed.providers, "bytes": freed.bytes, "dry_run": given.dry_run})
        return
    for out in freed.outputs:
        click.echo(f"used by {out}")
    if freed.providers:
        common.print_table(["facts", "MB"], [[name, f"{size / 1e6:,.1f}"] for name, size in sorted(freed.providers.items())])
    verb = "would be freed" if given.dry_run else "freed"
    click.echo(f"{freed.bytes / 1e6:,.1f} MB {verb}")
