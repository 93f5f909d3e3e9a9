"""Where the images of an archive are, by URL."""

from __future__ import annotations

from dataclasses import dataclass, field

import xxhash

from curate.sources.webarchive import warc
from curate.sources.webarchive.urls import resolve


@dataclass
class ImageIndex:
    """The records with images of an archive by URL, id and digest, all as 64-bit hashes; and revisits that refer to them."""

    offsets: dict[int, int] = field(default_factory=dict)  # in the file, by the number of the record

    urls: dict[int, int] = field(default_factory=dict)
    records: dict[int, int] = field(default_factory=dict)
    digests: dict[int, int] = field(default_factory=dict)
    revisits: dict[int, tuple[int, int, int]] = field(default_factory=dict)  # by URL: record, digest, URL of the original

    def note(self, record: warc.Record) -> None:
        """Add a record with an image, or a revisit of an earlier one."""
        url = _url(record.header("WARC-Target-URI"))
        if url is None:
            return
        digest = _hash(record.header("WARC-Payload-Digest"))
        if record.kind == "revisit":
            original = _url(record.header("WARC-Refers-To-Target-URI")) or 0
            self.revisits.setdefault(url, (_hash(record.header("WARC-Refers-To")), digest, original))
            return
        self.offsets[record.number] = record.offset
        self.urls.setdefault(url, record.number)
        for index, key in ((self.records, _hash(record.header("WARC-Record-ID"))), (self.digests, digest)):
            if key:
                index.setdefault(key, record.number)

    def find(self, url: str) -> int | None:
        """Return the number of the record with the image of a URL, None where there is none in the file."""
        key = _hash(url)
        if (found := self.urls.get(key)) is not None or key not in self.revisits:
            return found
        record, digest, original = self.revisits[key]
        places = (self.records.get(record), self.digests.get(digest), self.urls.get(original))
        return next((place for place in places if place is not None), None)


def _hash(text: str | None) -> int:
    """Return 64 bits of a text, 0 for none."""
    return xxhash.xxh3_64_intdigest(text.encode(errors="replace")) if text else 0


def _url(text: str | None) -> int | None:
    found = resolve(None, text.strip("<> ")) if text else None
    return None if found is None else _hash(found)
