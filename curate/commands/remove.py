"""`curate remove`: takes records out of a finished output."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import click

from curate.commands import common
from curate.commands.options import Remove
from curate.commands.progress import Bars
from curate.core.errors import InputError
from curate.driver.removal import Found, Removal, Selection
from curate.runners.local.runner import LocalRunner
from curate.storage.shared_facts import with_facts
from curate.storage.store import Store

_SHOWN = 20

_FORMS = {"sha256": r"[0-9a-fA-F]{64}", "phash": r"[0-9a-fA-F]{16}"}


class Item(NamedTuple):
    """One thing to remove."""

    kind: str
    value: str
    radius: int | None = None


def remove_command(given: Remove) -> int:
    """Remove what is named and print it; return 1 if there was nothing of it."""
    items = [*_named(given), *chain.from_iterable(map(_listed, given.lists))]
    if not items:
        raise click.UsageError("name what to remove: --sha256, --phash, --url, --key, --text or --list")
    with common.output(given.out) as out, Bars() as bars, LocalRunner(common.workers(given.workers)) as runner:
        removal = Removal(Store(with_facts(out)), runner, bars)
        found = removal.remove(_selection(items, given.radius), datetime.date.today().isoformat(), dry_run=given.dry_run)
    if given.as_json:
        common.print_json(_described(found, given))
    else:
        _print(found, given)
    return 0 if found.records else 1


def _named(given: Remove) -> Iterator[Item]:
    for kind in ("sha256", "phash", "url", "key", "text"):
        yield from (_item(kind, value, f"--{kind}") for value in getattr(given, kind))


def _listed(path: Path) -> Iterator[Item]:
    """Yield the lines of a file: a kind and a value, or a hash alone. Raises InputError with path:line."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from None
    for number, line in enumerate(lines, start=1):
        kind, _, value = line.strip().partition(" ")
        if not kind or kind.startswith("#"):
            continue
        if not value:
            kind, value = next((name for name, form in _FORMS.items() if re.fullmatch(form, kind)), ""), kind
        if kind not in ("sha256", "phash", "url", "key", "text"):
            raise InputError(f"{path}:{number}: expected sha256, phash, url, key or text and a value, or a hash: {line[:80]!r}")
        if kind == "phash" and (match := re.fullmatch(r"(\S+)\s+(\d+)", value)):
            yield _item(kind, match[1], f"{path}:{number}")._replace(radius=int(match[2]))
        else:
            yield _item(kind, value.strip(), f"{path}:{number}")


def _item(kind: str, value: str, where: str) -> Item:
    if kind in _FORMS and not re.fullmatch(_FORMS[kind], value):
        raise InputError(f"{where}: {value[:80]!r} is no {kind}: {64 if kind == 'sha256' else 16} hex digits")
    if not value:
        raise InputError(f"{where}: an empty {kind}")
    return Item(kind, value)


def _selection(items: list[Item], radius: int) -> Selection:
    of = {kind: [item for item in items if item.kind == kind] for kind in ("sha256", "phash", "url", "key", "text")}
    hashes = [(int(item.value, 16), radius if item.radius is None else item.radius) for item in of["phash"]]
    values = {kind: [item.value for item in some] for kind, some in of.items()}
    return Selection(values["sha256"], hashes, values["url"], values["key"], values["text"])


def _described(found: Found, given: Remove) -> dict[str, object]:
    records = [record for some in found.records.values() for record in some]
    return {"removed": not given.dry_run and bool(records), "number": found.number, "kept": found.kept, "records": records}


def _print(found: Found, given: Remove) -> None:
    if not found.records:
        click.echo(f"nothing of it is in {given.out}")
        return
    records = chain.from_iterable(found.records.values())
    rows = [(r["shard"], f"{r['row']:,}", r["key"] or "", "sample" if r["kept"] else "", r["sha256"] or r["url"] or "")
            for r in islice(records, _SHOWN)]  # fmt: skip
    common.print_table(["shard", "row", "key", "in tars", "image"], rows)
    if found.number > _SHOWN:
        click.echo(f"... and {found.number - _SHOWN:,} more")
    records_of = f"{found.number:,} record{'s' if found.number > 1 else ''} of {len(found.records):,} shards"
    done = f"would be removed from {given.out}; nothing was changed" if given.dry_run else f"removed from {given.out}"
    click.echo(f"{records_of}, {found.kept:,} of them samples: {done}")
