"""`curate why`: everything known about one record."""

from __future__ import annotations

from typing import Any

import click

from curate.commands import common
from curate.commands.options import Why
from curate.core.errors import InputError
from curate.report.find import find
from curate.report.rules import rules_of
from curate.storage.manifest import read_manifest

_SHOWN = 20
_HIDDEN = ("failed", "not_evaluated", "dropped_by", "key", "shard", "row", "shard_index", "text_no", "source")


def why_command(given: Why) -> None:
    """Print what is known about a record. Raises InputError if there is no such record."""
    with common.output(given.out) as out:
        manifest = read_manifest(out)
        found = find(out, given.key)
    if not found:
        raise InputError(f"no record of {given.out} has the key, url or sha256 {given.key!r}")
    if given.as_json:
        common.print_json([_plain(record) for record in found])
        return
    for record in found[:_SHOWN]:
        _print(record, manifest)
    if len(found) > _SHOWN:
        click.echo(f"... and {len(found) - _SHOWN} more such records (--json prints all)")


def _plain(record: dict[str, Any]) -> dict[str, Any]:
    phash = record["phash"]
    return {**record, "phash": None if phash is None else f"{phash:016x}"}


def _print(record: dict[str, Any], manifest: dict[str, Any]) -> None:
    from rich.text import Text

    from curate.report.tables import Column, table

    console = common.console()
    verdict = "kept" if record["dropped_by"] is None else f"dropped by {record['dropped_by']}"
    kind = "caption" if record["source"] == "synthetic" else "text"
    which = f", {kind} {record['text_no']}" if record["text_no"] else ""
    console.print(Text(f"{record['key']} ({record['shard']}, row {record['row']}{which}): {verdict}", style="bold"))
    facts = []
    hidden = {*manifest["filters"], *_HIDDEN}
    for name, value in _plain(record).items():
        if name not in hidden and value is not None:
            facts.append((name, str(value)))
    console.print(table([Column("fact", least=24), Column("value")], facts, console.width))
    lines = []
    rules = rules_of(manifest)
    for name in rules:
        if record["source"] == "synthetic" and rules[name].web_texts_only:
            continue
        state = "fails" if name in record["failed"] else "not evaluated" if name in record["not_evaluated"] else "passes"
        first = "fails first" if name == record["dropped_by"] else state
        given = manifest["recipe"]["filters"][name].items()
        parameters = ", ".join(f"{key} {value}" for key, value in given if value not in (None, [], ""))
        evidence = "" if record[name] is None else str(record[name])
        style = "red" if state == "fails" else "dim" if state == "not evaluated" else ""
        lines.append((name, evidence, Text(first, style=style), parameters))
    columns = [Column(title) for title in ("filter", "evidence", "verdict", "parameters")]
    console.print(table(columns, lines, console.width))
    console.print()
