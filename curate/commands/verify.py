"""`curate verify`: checks everything that a run wrote."""

from __future__ import annotations

import click

from curate.commands import common
from curate.commands.options import Report
from curate.report.verify import verify
from curate.runners.local.runner import LocalRunner
from curate.storage.manifest import read_manifest
from curate.storage.samples import FILES, kind_in


def verify_command(given: Report) -> int:
    """Print the problems; return 0 if there are none, else 1."""
    with common.output(given.out) as out:
        manifest = read_manifest(out)
        tars: int = manifest["files"]["shards"]["files"]
        with LocalRunner(min(common.workers(None), max(1, tars))) as runner:
            wrong = verify(out, manifest, runner)
    if given.as_json:
        common.print_json({"ok": not wrong, "wrong": wrong, "tars": tars, "samples": manifest["kept"]})
    else:
        for line in wrong:
            click.echo(line)
        good = f"all well: {tars} {FILES[kind_in(manifest)]}, {manifest['kept']:,} samples"
        click.echo(f"{len(wrong)} things are wrong" if wrong else good)
    return 1 if wrong else 0
