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
from curate.core.errors import InputError, needs
from curate.driver.removal import Found, Removal, Selection
from curate.images.listed_hashes import MODULES
from curate.passes.removal_search import COMPUTED
from curate.runners.local.runner import LocalRunner
from curate.stages.hash_lists import KINDS, one_hash
from curate.storage.shared_facts import with_facts
from curate.storage.store import Store

_SHOWN = 20

_OTHERS = ("url", "key", "text")
_HASH_LINE = re.compile(r"(?:([a-z0-9]+)(?::\s*|\s+))?([0-9a-f]+)(?:\s+(\d+))?", re.ASCII | re.IGNORECASE)


class Item(NamedTuple):
    """One thing to remove."""

    kind: str
    value: str
    radius: int | None = None


def remove_command(given: Remove) -> int:
    """Remove what is named and print it; return 1 if there was nothing of it."""
    items = [*_named(given), *chain.from_iterable(map(_listed, given.lists))]
    if not items:
        raise click.UsageError("name what to remove: a hash (--sha256, --phash, ...), --url, --key, --text or --list")
    with common.output(given.out) as out, Bars() as bars, LocalRunner(common.workers(given.workers)) as runner:
        removal = Removal(Store(with_facts(out)), runner, bars)
        found = removal.remove(_selection(items, given.radius), datetime.date.today().isoformat(), dry_run=given.dry_run)
    if given.as_json:
        common.print_json(_described(found, given))
    else:
        _print(found, given)
    return 0 if found.records else 1


def _named(given: Remove) -> Iterator[Item]:
    for kind in KINDS:
        for value in getattr(given, kind):
            yield from _hashes(f"{kind}:{value}", f"--{kind}")
    for kind in _OTHERS:
        yield from (_item(kind, value, f"--{kind}") for value in getattr(given, kind))


def _listed(path: Path) -> Iterator[Item]:
    """Yield the lines of a file: a kind and a value, or a hash as lists of hashes have it. Raises InputError with path:line."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}") from None
    for number, line in enumerate(lines, start=1):
        kind, _, value = line.strip().partition(" ")
        if kind in _OTHERS:
            yield _item(kind, value.strip(), f"{path}:{number}")
        elif word := line.partition("#")[0].strip():
            yield from _hashes(word, f"{path}:{number}")


def _item(kind: str, value: str, where: str) -> Item:
    if not value:
        raise InputError(f"{where}: an empty {kind}")
    return Item(kind, value)


def _hashes(word: str, where: str) -> Iterator[Item]:
    """Yield what a hash is: a bare one of 16 digits can be of two kinds. Raises InputError."""
    parts = _HASH_LINE.fullmatch(word)
    if parts is None:
        raise InputError(f"{where}: expected {', '.join(_OTHERS)} or a kind of hash, and a value: {word[:80]!r}")
    kind, digits, radius = parts.groups()
    try:
        kinds, digits = one_hash(f"{kind}:{digits}" if kind else digits)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    for one in kinds:
        if one in MODULES:
            bare = " (16 digits without a kind may be: write phash before them if they are curate's)" if not kind else ""
            needs(f"{where}: a hash of {one}{bare}", one, [MODULES[one]])
        yield Item(one, digits, None if radius is None else int(radius))


def _selection(items: list[Item], radius: int) -> Selection:
    of = {kind: [item for item in items if item.kind == kind] for kind in (*KINDS, *_OTHERS)}
    values = {kind: [item.value for item in some] for kind, some in of.items()}
    reaching = {kind: [(one.value, radius if one.radius is None else one.radius) for one in some] for kind, some in of.items()}
    phash = [(int(value, 16), reach) for value, reach in reaching["phash"]]
    computed = {kind: reaching[kind] for kind in COMPUTED}
    return Selection(values["sha256"], phash, values["url"], values["key"], values["text"], computed)


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
