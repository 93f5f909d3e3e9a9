"""A file of addresses of images, one a line: the plainest input there is. Its records have no text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import islice

import pyarrow as pa

from curate.core.contracts import Batch, Shard, ShardBreak
from curate.core.errors import InputError
from curate.sources.lines import SAMPLE_LINES, lines_of
from curate.sources.packed import is_packed, unpacked, with_packed
from curate.sources.records import Record, as_text, batches, join
from curate.sources.source import OpenShard, Source, shard_of
from curate.sources.tables.columns import role_of
from curate.sources.tables.cutting import Parts, cut, line_start, resized
from curate.sources.tables.detect import is_address
from curate.sources.tables.reader import DAMAGE, broken, stem
from curate.storage.input_file import InputFile
from curate.storage.paths import Entry


@dataclass
class AddressList:
    """Lines that are addresses as they are, commas and all; blank ones and those that begin with # are skipped."""

    shard: Shard
    file: InputFile

    def read(self) -> Iterator[Batch]:
        """Yield batches of RECORD_SCHEMA."""
        if self.shard.part is None:
            self.file.path()
        lines = _addresses(self.shard.url, self.file, self.shard.part)
        name = stem(self.shard)
        yield from batches(islice((_record(line, f"{name}/{i}") for i, line in enumerate(lines)), self.shard.limit))

    def images(self, rows: pa.Table) -> Iterator[bytes | None]:
        """Yield None for each row: the images are on the web."""
        yield from [None] * rows.num_rows


def _record(line: bytes | None, key: str) -> Record:
    codes: list[str] = [] if line is not None else ["missing_url"]
    url = as_text(line, codes)
    return Record(key, url, None, join(["missing_text", *codes]), None)


def _addresses(url: str, file: InputFile, part: tuple[int, int] | None) -> Iterator[bytes | None]:
    begin, end = part or (0, None)
    try:
        with unpacked(url, file.stream) as opened:
            for line in lines_of(opened, begin, end):
                line = None if line is None else line.strip()
                if line is None or not line.startswith(b"#"):
                    yield line
    except DAMAGE as error:
        raise broken(url, error) from None


def _list(entry: Entry, columns: Mapping[str, str]) -> Iterable[Shard]:
    if absent := sorted({role for role in columns if role_of(role) != "url"}):
        raise InputError(f"{entry.url}: a .txt is a list of addresses, without a column for {', '.join(absent)}")
    first: list[bytes | None] = []
    with InputFile(entry.url, entry.size) as file:
        with suppress(ShardBreak):  # which the run will report
            first += islice(_addresses(entry.url, file, None), SAMPLE_LINES)
        if first and not any(line is not None and is_address(line.decode(errors="replace")) for line in first):
            raise InputError(f"{entry.url}: a .txt is a list of addresses (http://...), one a line; its first lines have none")
        parts: Parts = [None] if is_packed(entry.url) else cut(file, entry.size, line_start)
    return [resized(shard_of(entry, SOURCE.kind, part, {"url": "0"}, on_the_web=True)) for part in parts]


@contextmanager
def _open(shard: Shard) -> Iterator[OpenShard]:
    with InputFile(shard.url) as file:
        yield AddressList(shard, file)


SOURCE = Source("addresses", with_packed(".txt"), _open, _list, beside=True)
"""A list of addresses of images; in a folder, a text is mostly the caption of an image, or says something of other files."""
