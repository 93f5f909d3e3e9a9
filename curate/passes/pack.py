"""Pack: the kept samples of a block of consecutive input shards into WebDataset tars or parquet files, original bytes untouched.

These are numbered without gaps over the whole output: the verdicts say how many the blocks before a block fill. Beside
`shards/N.tar`, `index/N.parquet` says where its images are.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from curate.core.contracts import Report, Shard
from curate.core.timing import Activities
from curate.fetch.image_log import base_batches, open_images
from curate.passes.pictures import Picture, extension_of, told_of, written
from curate.passes.sample_files import STAGED, Names, PackedSamples, Sample, SampleFiles, kind_of
from curate.planning.plan import Plan
from curate.sources.own import FIELDS
from curate.storage.marks import Mark
from curate.storage.samples import Packed
from curate.storage.store import Store


class Carried(NamedTuple):
    """What a record brings along from its input, as JSON: texts of earlier runs, and further fields."""

    earlier_texts: str | None = None
    input: str | None = None


_CARRIED = Carried._fields


@dataclass(frozen=True)
class Block:
    """Consecutive judged shards that are packed together."""

    index: int
    shards: tuple[Shard, ...]
    first_tar: int | None  # number of its first tar; None: tars are staged, since other blocks have their numbers still


@dataclass(frozen=True)
class Pack:
    """The task: writes a block's tars and its index."""

    store: Store
    plan: Plan
    base: str
    run: str
    judged: str  # the folder of the marks of the verdicts

    def made_with(self) -> str:
        """Return everything but its shards that determines the bytes of a block: output settings, and which verdicts are used."""
        return f"{self._settings()}/{self.judged}"

    def _settings(self) -> str:
        return xxhash.xxh3_64_hexdigest(json.dumps(self.plan.recipe.output.described(), sort_keys=True).encode())

    def __call__(self, block: Block) -> Report:
        """Pack one block. Its mark includes the marks of its shards, which then need not be read one by one.

        A block that was packed before with other verdicts is written again only where these change its samples, and from its
        own tars: the input need not be there for what it holds already.
        """
        activities = Activities()
        verdicts = {f"{shard.index:06d}": self._verdict(shard) for shard in block.shards}
        before = self._before(block)
        if before is not None and _kept(before.parts) == _kept(verdicts):
            files, samples, counts = before.files, 0, before.counts
        else:
            size = self.plan.recipe.output.samples_per_shard
            names = staged(block.index, verdicts) if block.first_tar is None else Names(block.first_tar, "")
            packed = PackedSamples(self.store, before)
            with activities.doing("pack"), packed, SampleFiles(self.store, names, size, kind_of(self.plan)) as tars:
                for shard in block.shards:
                    for sample in self._samples(shard, packed):
                        tars.add(sample)
                tars.close()
            files, samples, counts = tars.files, tars.samples, tars.modes
        self.store.commit(self.run, mark_of(block.index), Mark(files, counts, made_with=self.made_with(), parts=verdicts))
        return Report(block.index, samples, activities.seconds, {"pack": samples})

    def _before(self, block: Block) -> Mark | None:
        """Return the mark of an earlier packing of a block with the same settings, if there is one."""
        mark = self.store.mark(self.run, mark_of(block.index))
        same = mark is not None and (mark.made_with or "").partition("/")[0] == self._settings()
        return mark if same else None

    def tars(self, samples: int) -> int:
        """Return how many tars these samples of a block fill."""
        return -(-samples // self.plan.recipe.output.samples_per_shard)

    def _verdict(self, shard: Shard) -> Mark:
        """Return the mark of a shard's verdicts. Raises RuntimeError when it is gone."""
        mark = self.store.mark(self.run, f"{self.judged}/{shard.index:06d}")
        if mark is None:
            raise RuntimeError(f"shard {shard.index} was not judged")
        return mark

    def _samples(self, shard: Shard, packed: PackedSamples) -> Iterator[Sample]:
        """Yield the kept records of a shard, one image of it in memory."""
        name = self.store.facts(self.base, shard.fingerprint)
        if name is None:
            raise RuntimeError(f"shard {shard.index} was not scanned")
        reading = self.store.storage.reading
        decided = reading(f"decisions/{shard.index:06d}.parquet")
        with reading(name) as base, decided as verdicts, open_images(self.store, shard) as opened:
            records = _kept_records(verdicts)
            coming = next(records, None)
            for facts in base_batches(opened, base, columns=("row", "offset", "bytes", *_CARRIED)):
                if coming is None:
                    return
                located = pa.Table.from_batches([facts])
                last, found = located["row"][-1].as_py(), []
                while coming is not None and coming[0]["row"] <= last:
                    found.append(coming)
                    coming = next(records, None)
                new = [texts[0]["row"] for texts in found if texts[0]["sample_key"] not in packed]
                if new:
                    images = opened.images(located.filter(pc.is_in(located["row"], value_set=pa.array(new, pa.int64()))))
                carried = _carried(located)
                for texts in found:
                    record, key = texts[0], texts[0]["sample_key"]
                    image = packed.image(key) if key in packed else self._image(record, next(images))
                    yield self._sample(texts, carried.get(record["row"], Carried()), image)

    def _image(self, record: dict[str, Any], image: bytes | None) -> Picture:
        """Return an image of the input as it goes into a tar. Raises RuntimeError if it is another one now."""
        if image is None or hashlib.sha256(image).hexdigest() != record["sha256"]:
            raise RuntimeError(f"{record['shard']} has changed since it was scanned: row {record['row']} is another image now")
        return written(record, image, self.plan.recipe.output)

    def _sample(self, texts: list[dict[str, Any]], carried: Carried, image: Picture) -> Sample:
        """Return a record's sample: its image, its best kept text, all of its kept texts, and what it carries."""
        record = texts[0]
        facts, more = told_of(record, image)
        described = self._described(texts, json.loads(carried.earlier_texts or "[]"), facts) | more | self._kept(carried)
        text = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
        caption = (self._best(texts)["text"] or "").encode("utf-8", "replace")
        extension = extension_of(facts["format"], self.plan.recipe.output)
        packed = Packed(record["sample_key"], extension, image.body, text, caption)
        return Sample(packed, record["key"], image.sha256, more.get("mode"))

    def _kept(self, carried: Carried) -> dict[str, Any]:
        """Return the further fields of the input that the recipe keeps: under their names, where these are none of ours."""
        fields: dict[str, Any] = json.loads(carried.input or "{}")
        wanted = self.plan.recipe.output.keep
        found = fields if wanted is None else {name: fields[name] for name in wanted if name in fields}
        below = {name: value for name, value in found.items() if name in FIELDS}
        return {**{name: value for name, value in found.items() if name not in below}, **({"input": below} if below else {})}

    def _described(self, texts: list[dict[str, Any]], earlier: list[dict[str, Any]], facts: dict[str, Any]) -> dict[str, Any]:
        """Return key.json: scores of a text stand with the text, `facts` are the image's, everything else the record's."""
        record = texts[0]
        scores = [step.name for step in self.plan.steps if step.rule.per_text]
        listed = [
            {
                "text_no": text["text_no"],
                "source": _source(text, earlier),
                "text": text["text"],
                **{name: _number(text[name]) for name in scores},
            }
            for text in texts
        ]
        return {
            "url": record["url"],
            "key": record["key"],
            "shard": record["shard"],
            "row": record["row"],
            "texts": listed,
            **({"earlier_texts": earlier} if earlier else {}),
            **facts,
            "language": record["language"],
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


def staged(block: int, verdicts: Mapping[str, Mark]) -> Names:
    """Return where the tars of a block wait for their places: other samples wait elsewhere."""
    digest = xxhash.xxh3_64_hexdigest(json.dumps(_kept(verdicts), sort_keys=True).encode())
    return Names(0, f"{STAGED}/{block:05d}-{digest}/")


def _kept(verdicts: Mapping[str, Mark]) -> dict[str, str | None]:
    """Return a hash of the kept texts of each shard."""
    return {name: mark.made_with for name, mark in verdicts.items()}


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


def _carried(located: pa.Table) -> dict[int, Carried]:
    """Return what records carry by row, of rows that carry anything."""
    found = located.filter(pc.or_(*(pc.is_valid(located[name]) for name in _CARRIED)))
    columns = (found[name].to_pylist() for name in _CARRIED)
    return dict(zip(found["row"].to_pylist(), map(Carried, *columns), strict=True))


def _source(text: dict[str, Any], earlier: list[dict[str, Any]]) -> str:
    """Return whose a text is: of a record that had only synthetic ones, one is the record's text in the next run."""
    said = {one["source"] for one in earlier if one["text"] == text["text"]}
    source: str = text["source"]
    return "synthetic" if source == "web" and said == {"synthetic"} else source


def _number(value: Any) -> Any:
    """Return evidence as JSON can hold it: floats short, not-a-number null."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
