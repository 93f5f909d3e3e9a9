"""The records of two outputs side by side, as SQL: what joins them, and what of each is compared.

Records are joined on the fingerprint of their shard and their row, where both outputs are of that shard; the others on the
image's sha256 (of an image that was never fetched, on its url) and the web text. Of several with the same content, the n-th of
one output is joined to the n-th of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from curate.report.attrition import COLUMNS
from curate.report.query import FRACTIONS, WHOLE, connected, create_view, parquet_files, quoted
from curate.storage.backend import Storage
from curate.storage.manifest import shard_list

if TYPE_CHECKING:
    import duckdb

SIDES = ("a", "b")
KEPT = "kept"
UNNAMED = "unknown"
"""Verdict of a record that is not in the tars although nothing dropped it: the decisions are damaged."""

_READ = {**COLUMNS, "shard": "VARCHAR", "key": "VARCHAR", "url": "VARCHAR", "sha256": "VARCHAR"}
_CONTENT = "(1::UBIGINT << 63)"  # keys above it are hashes of contents, those below numbers of shards

_VERDICT = f"(CASE WHEN d.sample_key IS NOT NULL THEN '{KEPT}' ELSE coalesce(d.dropped_by, '{UNNAMED}') END)::verdict"

JOIN = "ON a.key1 = b.key1 AND a.key2 = b.key2"
BY_CONTENT = f"coalesce(a.key1 >= {_CONTENT}, false)"
RANK = "hash(a.key1, a.key2)"
"""The order in which examples and pictures are chosen, and what names a joined record."""

TEXT = 300
"""Characters of a text that is shown."""

Place = tuple[int, int]
"""Number of a shard in an output, and row."""


@dataclass(frozen=True)
class Totals:
    """Decisions of an output, one a text: all, synthetic ones, and kept ones."""

    texts: int
    synthetic: int
    kept: int


@dataclass(frozen=True)
class Record:
    """A record in both: its decisions, the web text's first."""

    a: list[dict[str, Any]]
    b: list[dict[str, Any]]


class Pair:
    """Two outputs in one connection: the views data_a and data_b (decisions), records_a and records_b (what is compared)."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, a: Storage, b: Storage) -> None:
        """Open both. Raises OSError, and duckdb's errors, which `opened` translates."""
        self._connection = connection
        outs = dict(zip(SIDES, (a, b), strict=True))
        self.types = {
            side: create_view(connection, f"data_{side}", parquet_files(outs[side], "decisions"), _READ) for side in SIDES
        }
        self._places(outs)
        counted = "count(*), count(*) FILTER (source = 'synthetic'), count(*) FILTER (dropped_by IS NULL)"
        self.totals = {side: Totals(*self.rows(f"SELECT {counted} FROM data_{side}")[0]) for side in SIDES}
        self.several = any(self.rows(f"SELECT bool_or(text_no > 0) FROM data_{side}")[0][0] for side in SIDES)

    def rows(self, sql: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run a query and return all rows."""
        found: list[tuple[Any, ...]] = self._connection.execute(sql, list(parameters)).fetchall()
        return found

    def comparable(self, names: Sequence[str]) -> list[str]:
        """Return the columns that both decisions have."""
        return [name for name in names if all(name in self.types[side] for side in SIDES)]

    def numeric(self, name: str) -> bool:
        """Return whether a column holds numbers in both."""
        return all(self.types[side][name].startswith((*WHOLE, *FRACTIONS)) for side in SIDES)

    def records(self, ranks: Sequence[int], evidence: Iterable[str]) -> dict[int, Record]:
        """Return the decisions of a few joined records by rank, in the order of their texts; evidence is text, texts are cut."""
        if not ranks:
            return {}
        listed = ", ".join(f"{rank:d}::UBIGINT" for rank in sorted(set(ranks)))
        a, b = (f"(SELECT * FROM keys_{side} WHERE hash(key1, key2) IN ({listed}))" for side in SIDES)  # no join of all
        found = self.rows(f"SELECT {RANK}, a.shard, a.row, b.shard, b.row FROM {a} a JOIN {b} b {JOIN}")
        places = {rank: ((a, row), (b, other)) for rank, a, row, b, other in found}
        names = list(evidence)
        one, other = (self._decisions(side, [pair[n] for pair in places.values()], names) for n, side in enumerate(SIDES))
        return {rank: Record(one[a], other[b]) for rank, (a, b) in places.items()}

    def _decisions(self, side: str, places: Sequence[Place], evidence: Sequence[str]) -> dict[Place, list[dict[str, Any]]]:
        listed = ", ".join(f"({shard:d}, {row:d})" for shard, row in sorted(places))
        names = ["shard_index", "row", "text_no", "shard", "key", "source", "text", "dropped_by", "failed"]
        columns = [f"left(text, {TEXT}) AS text" if name == "text" else name for name in names]
        shown = [name for name in evidence if name in self.types[side]]
        columns += [f"left({quoted(name)}::VARCHAR, {TEXT}) AS e{number}" for number, name in enumerate(shown)]
        found: dict[Place, list[dict[str, Any]]] = {}
        for values in self.rows(
            f"SELECT {', '.join(columns)} FROM data_{side} d SEMI JOIN (VALUES {listed}) w(shard, number)"
            " ON d.shard_index = w.shard AND d.row = w.number ORDER BY shard_index, row, text_no"
        ):
            row = dict(zip([*names, *shown], values, strict=True))
            found.setdefault((row["shard_index"], row["row"]), []).append(row)
        return found

    def create_view(self, name: str, files: Sequence[str], columns: Mapping[str, str]) -> None:
        """Create a view of further parquet files of one of the outputs, as curate.report.query.create_view."""
        create_view(self._connection, name, files, columns)

    def create_table(self, name: str, sql: str) -> None:
        """Create a table of what a query returns."""
        self._connection.execute(f"CREATE TEMP TABLE {name} AS {sql}")

    def create_records(self, evidence: Mapping[str, str]) -> None:
        """Create the views of records, and of their keys, places and verdicts alone (keys_a and keys_b).

        `evidence` maps the columns to be compared to their names there.
        """
        found = (f"SELECT DISTINCT dropped_by FROM data_{side} WHERE dropped_by IS NOT NULL" for side in SIDES)
        names = {KEPT, UNNAMED, *(name for sql in found for (name,) in self.rows(sql))}
        listed = ", ".join("'" + name.replace("'", "''") + "'" for name in sorted(names))
        self._connection.execute(f"CREATE TYPE verdict AS ENUM ({listed})")
        known = {side: self._shards(side, "SEMI") for side in SIDES}
        others = {side: self._shards(side, "ANTI") for side in SIDES}
        search = all(others.values())
        for side in SIDES:
            if search:
                self._hash_contents(side)
            parts = [self._known(side, evidence)] if known[side] else []
            keys = list(parts)
            if others[side]:
                parts.append(self._others(side, evidence, search=search))
                keys.append(self._keys_of_contents(side) if search else parts[-1])
            empty = [f"{self._known(side, evidence)} WHERE false"]
            self._union(f"records_{side}", parts or empty)
            self._union(f"keys_{side}", [f"SELECT key1, key2, shard, row, verdict FROM ({part})" for part in keys or empty])

    def _union(self, name: str, parts: Sequence[str]) -> None:
        self._connection.execute(f"CREATE VIEW {name} AS {' UNION ALL '.join(parts)}")

    def _places(self, outs: Mapping[str, Storage]) -> None:
        """Create the table of the shards that both are made of: their numbers in each."""
        names = {side: shard_list(out) for side, out in outs.items()}
        self._connection.execute("CREATE TABLE places (a INTEGER, b INTEGER)")
        if None in names.values():
            return
        for side, name in names.items():
            self._connection.read_parquet(outs[side].url(str(name)), file_row_number=True).create_view(f"list_{side}")
        nth = "row_number() OVER (PARTITION BY fingerprint ORDER BY file_row_number)"
        a, b = (f"(SELECT fingerprint, file_row_number AS shard, {nth} AS nth FROM list_{side})" for side in SIDES)
        self._connection.execute(f"INSERT INTO places SELECT a.shard, b.shard FROM {a} a JOIN {b} b USING (fingerprint, nth)")

    def _shards(self, side: str, join: str) -> int:
        sql = f"SELECT count(DISTINCT d.shard_index) FROM data_{side} d {join} JOIN places ON places.{side} = d.shard_index"
        return int(self.rows(sql)[0][0])

    def _known(self, side: str, evidence: Mapping[str, str]) -> str:
        """Return the query of the records in shards of both, whose common name is their number in A."""
        columns = "places.a::UBIGINT AS key1, d.row::UBIGINT AS key2, " + self._columns(evidence)
        return f"SELECT {columns} FROM {self._web(side)} d JOIN places ON places.{side} = d.shard_index{self._captions(side)}"

    def _others(self, side: str, evidence: Mapping[str, str], *, search: bool) -> str:
        """Return the query of the records in shards of one; without `search`, none of them is in the other."""
        key1, key2 = (self._content(), "coalesce(t.nth, 1)::UBIGINT") if search else ("NULL::UBIGINT", "0::UBIGINT")
        doubles = f" LEFT JOIN doubles_{side} t ON t.shard = d.shard_index AND t.row = d.row" if search else ""
        columns = f"{key1} AS key1, {key2} AS key2, {self._columns(evidence)}"
        return f"SELECT {columns} FROM {self._unknown(side)}{doubles}{self._captions(side)}"

    def _hash_contents(self, side: str) -> None:
        """Create the table of the records in shards of one, with a hash of their contents, which are read once for this.

        Then that of records whose content occurs several times, with their numbers among those of that content. They are few:
        to number all records would be to sort them.
        """
        places = f"d.shard_index AS shard, d.row AS row, {_VERDICT} AS verdict"
        self.create_table(f"contents_{side}", f"SELECT {self._content()} AS key1, {places} FROM {self._unknown(side)}")
        several = f"SELECT key1 FROM contents_{side} GROUP BY key1 HAVING count(*) > 1"
        numbered = "SELECT shard, row, row_number() OVER (PARTITION BY key1 ORDER BY shard, row) AS nth"
        self.create_table(f"doubles_{side}", f"{numbered} FROM contents_{side} SEMI JOIN ({several}) USING (key1)")

    def _keys_of_contents(self, side: str) -> str:
        columns = "c.key1 AS key1, coalesce(t.nth, 1)::UBIGINT AS key2, c.shard AS shard, c.row AS row, c.verdict AS verdict"
        return f"SELECT {columns} FROM contents_{side} c LEFT JOIN doubles_{side} t ON t.shard = c.shard AND t.row = c.row"

    def _content(self) -> str:
        return f"CASE WHEN coalesce(d.sha256, d.url) IS NOT NULL THEN hash(coalesce(d.sha256, d.url), d.text) | {_CONTENT} END"

    def _unknown(self, side: str) -> str:
        return f"{self._web(side)} d ANTI JOIN places ON places.{side} = d.shard_index"

    def _columns(self, evidence: Mapping[str, str]) -> str:
        """Return the columns of a record: place, verdict, hashes of its texts, evidence."""
        web = "CASE WHEN d.dropped_by IS NULL THEN hash(d.text) END"
        kept = f"coalesce({web}, 0)::HUGEINT + coalesce(c.kept, 0)" if self.several else web
        columns = ["d.shard_index AS shard", "d.row AS row", f"{_VERDICT} AS verdict", f"{kept} AS kept"]
        columns.append("c.written AS written" if self.several else "NULL::HUGEINT AS written")
        return ", ".join(columns + [f"d.{quoted(column)} AS {name}" for column, name in evidence.items()])

    def _web(self, side: str) -> str:
        return f"(SELECT * FROM data_{side} WHERE coalesce(text_no, 0) = 0)"

    def _captions(self, side: str) -> str:
        """Return the join with sums of hashes of the other texts, which do not depend on the order: synthetic ones, kept ones."""
        if not self.several:
            return ""
        written = "sum(hash(text)::HUGEINT) FILTER (source = 'synthetic') AS written"
        sums = f"{written}, sum(hash(text)::HUGEINT) FILTER (dropped_by IS NULL) AS kept"
        return (
            f" LEFT JOIN (SELECT shard_index, row, {sums} FROM data_{side} WHERE text_no > 0 GROUP BY ALL) c"
            " ON c.shard_index = d.shard_index AND c.row = d.row"
        )


@contextmanager
def paired(a: Storage, b: Storage) -> Iterator[Pair]:
    """Open two outputs together. Raises OutputError if a file cannot be read, also inside the block, and OSError."""
    with connected([a.root, b.root]) as connection:
        yield Pair(connection, a, b)
