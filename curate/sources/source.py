"""What a source is: which files are its own, how they become shards, and how a shard is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

import pyarrow as pa
import xxhash

from curate.core.contracts import Batch, Shard
from curate.storage.paths import Entry

MEMBER = "member "
"""In the columns of a shard: what stands before an extension that was said to be an image, a text or JSON."""

JSON_BYTES = "json bytes"
"""There: the largest JSON that is read. Neither is the name of a column's role, which has no space."""


class OpenShard(Protocol):
    """A shard that is open for the duration of a task."""

    def read(self) -> Iterator[Batch]:
        """Yield batches (RECORD_SCHEMA) of at most ROW_GROUP rows or BATCH_BYTES. Raises ShardBreak after the last good row."""

    def images(self, rows: pa.Table) -> Iterator[bytes | None]:
        """Yield the image bytes of `rows` (int64 columns row, offset, bytes; ascending by row), None where there are none."""


class Columns(dict[str, str]):
    """The names of columns that were asked for, by role, and what else is said of the input.

    That is how tables of text are written (as `--table`), what members of tars are (role by extension, as `--member`), and how
    many bytes a JSON beside an image may have (as `--max-json`).
    """

    def __init__(
        self,
        columns: Mapping[str, str],
        table: str = "",
        members: Mapping[str, str] | None = None,
        max_json: int | None = None,
    ) -> None:
        super().__init__(columns)
        self.table = table
        self.of_files = {MEMBER + extension: role for extension, role in (members or {}).items()}
        if max_json is not None:
            self.of_files[JSON_BYTES] = str(max_json)


@dataclass(frozen=True)
class Source:
    """A kind of input. A new one is a single entry: in curate.sources.registry, or registered by a plug-in."""

    kind: str
    """Its name, unique; Shard.kind of its shards."""

    suffixes: tuple[str, ...]
    """How the names of its files end, in lower case and with the dot: (".tar",). The longest suffix that fits a name wins."""

    open: Callable[[Shard], AbstractContextManager[OpenShard]]
    """Opens a shard. Raises ShardBreak when nothing of it can be read, OSError when it is not there."""

    list: Callable[[Entry, Mapping[str, str]], Iterable[Shard]] | None = None
    """Splits a file into shards (see `shard_of`), given the names of columns by role (a `Columns`); None: one file is one shard.

    Raises InputError when the file cannot be used.
    """

    fields: Callable[[Shard], Sequence[str]] | None = None
    """Names the fields that the first records of a shard have in JSON beside their images; None where there are no such fields.

    Raises ShardBreak, OSError.
    """

    yields_to: tuple[str, ...] = ()
    """In a folder, a file is skipped when there is one of the same stem with one of these suffixes, which it describes."""

    beside: bool = False
    """In a folder, its files are skipped where there are images or files of another source: they mostly describe these."""

    table: bool = False
    """In a folder, its files may be no input: one that cannot be used is left aside, and so is one that another stands for."""

    def shards(self, entry: Entry, columns: Mapping[str, str]) -> Iterable[Shard]:
        """Return the shards of a file, each with index 0. Raises InputError when the file cannot be used."""
        return [shard_of(entry, self.kind)] if self.list is None else self.list(entry, columns)


def shard_of(
    entry: Entry,
    kind: str,
    part: tuple[int, int] | None = None,
    columns: Mapping[str, str] | None = None,
    *,
    on_the_web: bool = False,
) -> Shard:
    """Return a shard of a file, or of a `part` of it. Its fingerprint changes with the file's content and the columns used."""
    used = tuple(sorted((columns or {}).items()))
    identity = repr((entry.url, entry.size, entry.stamp, kind, part, used))
    fingerprint = xxhash.xxh3_64_hexdigest(identity.encode(errors="replace"))
    return Shard(0, entry.url, kind, entry.size, fingerprint, part, used, on_the_web=on_the_web)


def with_form(shard: Shard, form: str) -> Shard:
    """Return a shard with how its file is written, as its source found out; that is part of its fingerprint."""
    fingerprint = xxhash.xxh3_64_hexdigest(f"{shard.fingerprint} {form}".encode())
    return replace(shard, form=form, fingerprint=fingerprint) if form else shard
