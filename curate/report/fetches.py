"""Summarises fetching: downloads saved by earlier filters, images fetched, and causes of failure."""

from __future__ import annotations

from dataclasses import dataclass

from curate.report.attrition import percent
from curate.report.query import opened, parquet_files
from curate.storage.backend import Storage


@dataclass(frozen=True)
class Fetches:
    """Counts of records with an image URL: all, those whose image was requested, and those whose image was fetched."""

    records: int
    asked: int  # requested; `--json` has these names
    came: int
    causes: dict[str, int]  # of failures, most frequent first

    @property
    def saved(self) -> int:
        """Number of images that did not have to be requested."""
        return self.records - self.asked

    def sentence(self) -> str:
        """Return the summary in one line.

        >>> Fetches(10, 4, 3, {"http_404": 1}).sentence()
        'fetched 3 of 4 images; the filters before saved 6 of 10 downloads (60.0%); not fetched: http_404 1'
        """
        causes = "; not fetched: " + ", ".join(f"{cause} {rows:,}" for cause, rows in self.causes.items()) if self.causes else ""
        saved = f"the filters before saved {self.saved:,} of {self.records:,} downloads ({percent(self.saved, self.records)})"
        return f"fetched {self.came:,} of {self.asked:,} images; {saved}{causes}"


def fetches(out: Storage) -> Fetches | None:
    """Summarise fetching in an output; None if no record has an image URL. Raises OutputError, OSError."""
    with opened(parquet_files(out, "decisions"), {"fetch": "VARCHAR", "text_no": "SMALLINT"}) as view:
        sql = 'SELECT "fetch" AS cause, count(*) AS n FROM data WHERE text_no = 0 GROUP BY cause ORDER BY n DESC, cause'
        found = view.rows(sql)
    rows = {cause: n for cause, n in found if cause != "here"}
    records, not_requested, fetched = sum(rows.values()), rows.pop(None, 0), rows.pop("ok", 0)
    return Fetches(records, records - not_requested, fetched, rows) if records else None
