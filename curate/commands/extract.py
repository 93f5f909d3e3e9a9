"""`curate extract`: pairs from web archives."""

from __future__ import annotations

import time

from curate import api
from curate.commands import common
from curate.commands.ending import NO_SUCCESS
from curate.commands.options import Extract
from curate.commands.progress import Bars
from curate.commands.runners import open_runner
from curate.driver.extract import Extracted, Extraction
from curate.sources.webarchive.pairs import Options
from curate.storage.backend import storage
from curate.storage.store import Store


def extract_command(given: Extract) -> int:
    """Extract and print the result; return the exit code."""
    api.apart(given.inputs, given.out)
    store = Store(storage(given.out))
    shards = common.shards_of(given.inputs, common.AsItIs())
    started = time.monotonic()
    with Bars() as bars, open_runner(given, len(shards)) as runner:
        options = Options(given.surrounding, given.error_pages)
        outcome = Extraction(shards, store, runner, options, given.images_from_archive, bars).run()
    seconds = time.monotonic() - started
    if given.as_json:
        common.print_json(_described(outcome, seconds))
    else:
        _print(outcome, seconds)
    return NO_SUCCESS if outcome.failed or outcome.cut_short() else 0


def _described(outcome: Extracted, seconds: float) -> dict[str, object]:
    described: dict[str, object] = {"state": outcome.state, "archives": len(outcome.archives), **outcome.totals()}
    described |= {"damaged": outcome.damaged(), "seconds": round(seconds, 2)}
    return described | {"cut_short": outcome.cut_short(), "failed": outcome.failed, "out": outcome.out}


def _print(outcome: Extracted, seconds: float) -> None:
    import click
    from rich.console import Console
    from rich.table import Table

    from curate.sources.webarchive.pairs import DAMAGES

    if outcome.state == "nothing to do":
        click.echo(f"{outcome.out} is finished: the same archives were read to the end; nothing to do")
    found, table = outcome.totals(), Table(box=None, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    rows = {"archives": len(outcome.archives), "pages": found["pages"], "images": found["images"]}
    rows |= {"images with alt": found["with_alt"], "pairs": found["pairs"], "different pairs": found["different"]}
    rows |= {"images written": found["images_written"]} if found["images_written"] else {}
    for name, value in (rows | {DAMAGES.get(reason, reason): count for reason, count in outcome.damaged().items()}).items():
        table.add_row(name, f"{value:,}")
    Console(width=110).print(table)
    if outcome.state == "done":
        click.echo(f"{seconds:,.1f} s, {found['pages'] / max(seconds, 1e-9):,.0f} pages/s")
    for item in outcome.cut_short():
        click.secho(f"cut short: {item['reason']} (the pairs before are kept)", err=True, fg="yellow")
    for item in outcome.failed:
        click.secho(f"failed: {item['archive']}: {item['reason']} (run again to retry it)", err=True, fg="red")
    click.echo(f"pairs: {outcome.out}/pairs   details: {outcome.out}/extract.json")
