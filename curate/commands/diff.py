"""`curate diff`: two outputs, compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from curate.commands import common
from curate.commands.options import Diff
from curate.core.errors import OutputError

if TYPE_CHECKING:
    from curate.storage.backend import Storage


def diff_command(given: Diff) -> None:
    """Compare two outputs; print and write what differs."""
    import dataclasses

    from curate.report.diff import diff, write_html
    from curate.report.diff_table import tables

    with common.output(given.a) as a, common.output(given.b) as b:
        found = diff(a, b, _settings(a, b), pictures=given.html is not None)
    if given.html is not None:
        try:
            write_html(found, given.html)
        except OSError as error:
            raise OutputError(f"--html {given.html}: {error}") from error
    if given.as_json:
        common.print_json({**dataclasses.asdict(dataclasses.replace(found, shelves=())), "html": given.html})
        return
    console = common.console()
    for part in tables(found):
        console.print(part)
        console.print()
    if given.html is not None:
        click.echo(f"page: {given.html}")


def _settings(a: Storage, b: Storage) -> list[str]:
    """Return what of recipes, code and models differs, where both outputs say it."""
    from curate.driver.identity import differences, held
    from curate.storage.store import Store

    one, other = held(Store(a)), held(Store(b))
    return [] if one is None or other is None else list(differences(one, other))
