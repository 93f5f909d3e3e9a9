"""Helpers that several commands share: inputs, sizes, tables, the cache folder."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from curate.commands.saying import say
from curate.core.errors import InputError, OptionError, OutputError
from curate.core.platform import cores
from curate.core.shards import Shards
from curate.report.tables import WIDTH
from curate.storage.backend import Disk, Storage, storage

if TYPE_CHECKING:
    from rich.console import Console

MEMBERS = ("image", "text", "json")
MOST_JSON = 256_000_000  # a JSON as large as an image may be; parsed it takes about ten times as much memory
ROLES = ("image", "text", "url", "key", "sha256", "texts")


def column_roles(pairs: Sequence[str]) -> dict[str, str]:
    """Read ROLE=NAME options; a role may have one of the names that its column usually has. Raises OptionError."""
    from curate.sources.tables.columns import role_of

    roles: dict[str, str] = {}
    for pair in pairs:
        given, equals, name = pair.partition("=")
        role = role_of(given)
        if not equals or role is None or not name:
            raise OptionError(f"--column {pair}: must be ROLE=NAME with a role of {', '.join(ROLES)}")
        if role in roles:
            raise OptionError(f"--column {pair}: {role} is {roles[role]} already")
        if role == "texts" and name != "lines":
            raise OptionError(f"--column {pair}: texts can only be lines: each line of a text is a text of its own")
        roles[role] = name
    return roles


def member_roles(pairs: Sequence[str]) -> dict[str, str]:
    """Read ROLE=EXTENSION options; return roles by extension. Raises OptionError."""
    roles: dict[str, str] = {}
    for pair in pairs:
        role, equals, extension = pair.partition("=")
        extension = extension.removeprefix(".").lower()
        if not equals or role not in MEMBERS or not extension or "." in extension or "/" in extension:
            raise OptionError(f"--member {pair}: must be ROLE=EXTENSION with a role of {', '.join(MEMBERS)}, as image=img")
        if roles.setdefault(extension, role) != role:
            raise OptionError(f"--member {pair}: {extension} is {roles[extension]} already")
    return roles


def json_bytes(text: str) -> int | None:
    """Read the size of --max-json; None where it is not given. Raises OptionError."""
    found = size(text) if text else None
    if found is not None and not 0 < found <= MOST_JSON:
        raise OptionError(f"--max-json {text}: must be at most {MOST_JSON // 10**6}MB, and above 0")
    return found


class Described(Protocol):
    """What options say of the input: --column, --table, --member, --max-json."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Return ROLE=NAME of columns."""

    @property
    def table(self) -> str:
        """Return how csv and tsv are written."""

    @property
    def members(self) -> tuple[str, ...]:
        """Return ROLE=EXTENSION of members of tars."""

    @property
    def max_json(self) -> str:
        """Return the size of the largest JSON beside an image that is read."""


@dataclass(frozen=True)
class AsItIs:
    """Nothing is said of the input."""

    columns: tuple[str, ...] = ()
    table: str = ""
    members: tuple[str, ...] = ()
    max_json: str = ""


def shards_of(inputs: Sequence[str], described: Described) -> Shards:
    """List the shards of INPUT... in order. Raises InputError."""
    from curate.sources.listing import list_shards
    from curate.sources.source import Columns
    from curate.sources.tables.dialect import given

    told, members, most = given(described.table), member_roles(described.members), json_bytes(described.max_json)
    shards = list_shards(inputs, Columns(column_roles(described.columns), described.table, members, most))
    for line in shards.left_aside:
        say(line)
    if told and not shards.forms():
        raise InputError(f"--table {described.table}: there is no csv or tsv among the inputs")
    if members and not any(shard.kind == "tar" for shard in shards):
        raise InputError(f"--member {described.members[0]}: there is no tar among the inputs")
    return shards


def dialects(shards: Shards) -> list[dict[str, str | int]]:
    """Return how the csv and tsv files among the inputs are written, as --table takes it, and how many are."""
    return [{"files": files, "dialect": form} for form, files in shards.forms().items()]


def print_dialects(shards: Shards) -> None:
    """Print a line for each way in which csv and tsv files are written."""
    for form, files in shards.forms().items():
        click.echo(f"tables: {files:,} {'file' if files == 1 else 'files'}, {form}")


def size(text: str) -> int:
    """Read a size like 500MB or 2GB as bytes. Raises OptionError.

    >>> size("2GB")
    2000000000
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", text.strip(), re.IGNORECASE)
    if match is None:
        raise OptionError(f"{text!r} is not a size; write 500MB or 2GB")
    return int(float(match[1]) * {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}[match[2].upper()])


@contextmanager
def output(text: str) -> Iterator[Storage]:
    """Open OUT, a path or URL, for reading.

    Raises UsageError if there is no such folder, InputError if the URL's backend is not installed, and OutputError for an
    OSError inside the block.
    """

    out = storage(text)
    if isinstance(out, Disk) and not Path(out.root).is_dir():
        raise click.UsageError(f"{text}: no such folder")
    try:
        yield out
    except BrokenPipeError:  # the reader of our output is gone
        raise
    except OSError as error:
        raise OutputError(f"{text}: {error}") from error


def workers(wanted: int | None) -> int:
    """Return the number of worker processes: `wanted`, or one per core that this process may use."""
    return wanted or cores()


def print_json(value: Any) -> None:
    """Print one JSON document."""

    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=str))


def console(width: int = WIDTH) -> Console:
    """Return the standard output, as wide as its terminal; without one as COLUMNS says, else `width` characters."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else width)


def print_table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows of text under these titles; no number is cut."""
    from curate.report.tables import Column, table

    out = console(140)
    out.print(table([Column(title) for title in titles], rows, out.width))
