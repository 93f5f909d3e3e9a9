"""Pack: the kept samples of a block of consecutive input shards into WebDataset tars, original bytes untouched."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from curate.core.contracts import Report, Shard
from curate.core.hashing import file_sha256
from curate.core.timing import Activities
from curate.fetch.image_log import base_batches, open_images
from curate.images.thumbnails import reencode
from curate.planning.plan import Plan
from curate.storage.marks import File, Mark
from curate.storage.parquet import ParquetWriter
from curate.storage.store import Store
from curate.storage.tar import member_header

INDEX_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("original_key", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),  # of the image's bytes in the tar
        ("size", pa.int64()),
        ("sha256", pa.string()),  # of the image's bytes in the tar
    ]
)

EXTENSIONS = {"jpeg": "jpg", "png": "png", "webp": "webp"}
"""Formats that trainers read (open_clip's loader); the others are re-encoded to JPEG."""


@dataclass(frozen=True)
class Block:
    """Consecutive judged shards that are packed together."""

    index: int
    shards: tuple[Shard, ...]


@dataclass(frozen=True)
class Pack:
    """The task: writes a block's tars and its index."""

    store: Store
    plan: Plan
    base: str
    run: str
    judged: str  # the folder of the marks of the verdicts

    def made_with(self) -> str:
        """Return a hash of everything but its shards that determines the bytes of a block."""
        described = json.dumps([self.judged, dataclasses.asdict(self.plan.recipe.output)], sort_keys=True)
        return xxhash.xxh3_64_hexdigest(described.encode())

    def __call__(self, block: Block) -> Report:
        """Pack one block. Its mark includes the marks of its shards, which then need not be read one by one."""
        activities = Activities()
        name = f"{block.index:05d}.parquet"
        size = self.plan.recipe.output.samples_per_shard
        with activities.doing("pack"), self.store.writing(f"index/{name}") as path, _Tars(self.store, block.index, size) as tars:
            writer = ParquetWriter(path, INDEX_SCHEMA)
            for shard in block.shards:
                for samples in self._samples(shard):
                    writer.write(pa.Table.from_pylist([tars.add(sample) for sample in samples], schema=INDEX_SCHEMA))
            tars.close()
            writer.close()
            samples_written = sum(tar.samples or 0 for tar in tars.written.values())
            index = File(path.stat().st_size, file_sha256(path), samples_written)
        files = {**{f"shards/{tar}": file for tar, file in tars.written.items()}, f"index/{name}": index}
        verdicts = {f"{shard.index:06d}": self._verdict(shard) for shard in block.shards}
        self.store.commit(self.run, mark_of(block.index), Mark(files, made_with=self.made_with(), parts=verdicts))
        return Report(block.index, samples_written, activities.seconds, {"pack": samples_written})

    def _verdict(self, shard: Shard) -> Mark:
        """Return the mark of a shard's verdicts. Raises RuntimeError when it is gone."""
        mark = self.store.mark(self.run, f"{self.judged}/{shard.index:06d}")
        if mark is None:
            raise RuntimeError(f"shard {shard.index} was not judged")
        return mark

    def _samples(self, shard: Shard) -> Iterator[Iterator[Sample]]:
        """Yield the kept records of a shard, a row group of its base facts at a time, one image of it in memory."""
        name = self.store.facts(self.base, shard.fingerprint)
        if name is None:
            raise RuntimeError(f"shard {shard.index} was not scanned")
        reading = self.store.storage.reading
        decided = reading(f"decisions/{shard.index:06d}.parquet")
        with reading(name) as base, decided as verdicts, open_images(self.store, shard) as opened:
            records = _kept_records(verdicts)
            coming = next(records, None)
            for facts in base_batches(opened, base, columns=("row", "offset", "bytes")):
                if coming is None:
                    return
                located = pa.Table.from_batches([facts])
                last, found = located["row"][-1].as_py(), []
                while coming is not None and coming[0]["row"] <= last:
                    found.append(coming)
                    coming = next(records, None)
                if found:
                    rows = pa.array([texts[0]["row"] for texts in found], pa.int64())
                    images = opened.images(located.filter(pc.is_in(located["row"], value_set=rows)))
                    yield (self._sample(texts, image) for texts, image in zip(found, images, strict=True))

    def _sample(self, texts: list[dict[str, Any]], image: bytes | None) -> Sample:
        """Return a record's sample: its image, its best kept text, and all of its kept texts."""
        record = texts[0]
        digest = None if image is None else hashlib.sha256(image).hexdigest()
        if image is None or digest != record["sha256"]:
            raise RuntimeError(f"{record['shard']} has changed since it was scanned: row {record['row']} is another image now")
        output = self.plan.recipe.output
        longest = max(record["width"], record["height"])
        again = record["format"] not in EXTENSIONS or (output.longest_side is not None and longest > output.longest_side)
        made = reencode(image, output.longest_side, output.quality) if again else None
        body, extension = (image, EXTENSIONS.get(record["format"], record["format"])) if made is None else (made, "jpg")
        described = self._described(texts)
        if made is not None:
            described["reencoded"] = True
            digest = hashlib.sha256(made).hexdigest()
        text = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        caption = (self._best(texts)["text"] or "").encode("utf-8", "replace")
        return Sample(record["sample_key"], record["key"], extension, body, digest, {"json": text, "txt": caption})

    def _described(self, texts: list[dict[str, Any]]) -> dict[str, Any]:
        """Return key.json: scores of a text stand with the text, everything else is the record's."""
        record = texts[0]
        scores = [step.name for step in self.plan.steps if step.rule.per_text]
        listed = [
            {**{name: text[name] for name in ("text_no", "source", "text")}, **{name: _number(text[name]) for name in scores}}
            for text in texts
        ]
        return {
            "url": record["url"],
            "key": record["key"],
            "shard": record["shard"],
            "row": record["row"],
            "texts": listed,
            **{name: record[name] for name in ("sha256", "width", "height", "format", "language")},
            "language_score": _number(record["language_score"]),
            "phash": None if record["phash"] is None else f"{record['phash']:016x}",
            "evidence": {step.name: _number(record[step.name]) for step in self.plan.steps if step.name not in scores},
        }

    def _best(self, texts: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the text that becomes key.txt: the first, or the one that the first filter of all texts scores highest."""
        score = next((step.name for step in self.plan.steps if step.rule.per_text), None)
        if self.plan.recipe.output.text == "web_first" or score is None:
            return texts[0]
        return max(texts, key=lambda text: (text[score] is not None, text[score], -text["text_no"]))


def packed(mark: Mark, made_with: str, indexes: Iterable[int]) -> bool:
    """Return whether a block's mark is up to date: same settings, and exactly the shards of these indexes."""
    return mark.made_with == made_with and set(mark.parts) == {f"{index:06d}" for index in indexes}


def mark_of(block: int) -> str:
    """Return the name of a block's mark."""
    return f"pack/{block:05d}"


def _kept_records(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the kept texts of each record of a decisions file that has any."""
    file = pq.ParquetFile(path)

    def texts() -> Iterator[dict[str, Any]]:
        for group in range(file.num_row_groups):
            kept = file.read_row_group(group, columns=["dropped_by"])["dropped_by"].is_null()
            if pc.any(kept).as_py():
                yield from file.read_row_group(group).filter(kept).to_pylist()

    for _, several in groupby(texts(), key=lambda text: text["row"]):
        yield list(several)


@dataclass(frozen=True)
class Sample:
    """One sample as it goes into a tar."""

    key: str
    original_key: str
    extension: str
    image: bytes
    sha256: str | None  # of `image`
    sidecars: dict[str, bytes]


def _number(value: Any) -> Any:
    """Return evidence as JSON can hold it: floats short, not-a-number null."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


class _Tars:
    """Writes samples into tars of N; a tar gets its name when it is whole."""

    def __init__(self, store: Store, block: int, size: int) -> None:
        self._store, self._block, self._size = store, block, size
        self._file: BinaryIO | None = None
        self._held = ExitStack()
        self._samples = 0
        self.written: dict[str, File] = {}

    def __enter__(self) -> _Tars:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._held.__exit__(kind, value, trace)  # only an error leaves a tar open

    def add(self, sample: Sample) -> dict[str, Any]:
        """Write one sample and return its row of the index."""
        if self._file is None:
            path = self._held.enter_context(self._store.writing(f"shards/{self._name()}"))
            self._file = self._held.enter_context(path.open("wb", buffering=1 << 20))
            self._hash = hashlib.sha256()
            self._offset = 0
        offset = self._offset + 512
        self._member(f"{sample.key}.{sample.extension}", sample.image)
        for extension, body in sample.sidecars.items():
            self._member(f"{sample.key}.{extension}", body)
        self._samples += 1
        row = {
            "key": sample.key,
            "original_key": sample.original_key,
            "shard": self._name(),
            "offset": offset,
            "size": len(sample.image),
            "sha256": sample.sha256,
        }
        if self._samples == self._size:
            self.close()
        return row

    def _name(self) -> str:
        return f"{self._block:05d}-{len(self.written):05d}.tar"

    def _member(self, name: str, body: bytes) -> None:
        self._put(member_header(name, len(body)))
        self._put(body)
        self._put(bytes(-len(body) % 512))

    def _put(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)
        self._hash.update(data)
        self._offset += len(data)

    def close(self) -> None:
        """End the current tar, if one is open."""
        if self._file is None:
            return
        self._put(bytes(1024))
        self._held.close()
        self.written[self._name()] = File(self._offset, self._hash.hexdigest(), self._samples)
        self._file, self._samples = None, 0


__all__ = ["Block", "Pack", "Sample", "mark_of", "member_header", "packed"]
