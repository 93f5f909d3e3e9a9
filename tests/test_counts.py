"""Corpus counts equal what a dictionary in memory says, over any cut of the corpus into shards."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from curate.core.contracts import Batch
from curate.core.counting import CorpusCount
from curate.counts.first_seen import FirstImage, FirstPair
from curate.counts.images_per_text import ImagesPerText
from curate.counts.lookup import Lookup
from curate.counts.merge import Engine, Scanned, merge
from curate.counts.ngrams import RarestNgram
from curate.counts.partial import Partial, partial_name
from curate.counts.texts_per_image import TextsPerImage
from curate.passes.scan import BASE_SCHEMA, base_facts
from curate.stages.text import TextStage, normalise, normalised, tokens
from curate.storage.backend import storage
from curate.storage.store import Store
from tests import outside_counts
from tests.outside_counts import expected, run_with_counts, tables
from tests.running import InProcess, decisions

Record = tuple[int | None, str | None, str | None]  # image, url, text

WORDS = ["a", "b", "c", "D", "É", "ß"]
RECORDS = st.tuples(
    st.one_of(st.none(), st.integers(0, 4)),
    st.sampled_from([None, "u1", "u2", "u3"]),
    st.one_of(st.none(), st.lists(st.sampled_from(WORDS), max_size=3).map(" ".join)),
)
CORPORA = st.lists(st.lists(RECORDS, max_size=20), min_size=1, max_size=4)
ENGINE = Engine(InProcess(), 200_000_000)


def facts(rows: list[Record]) -> tuple[Batch, pa.Array]:
    found: list[dict[str, Any]] = []
    for place, (image, url, text) in enumerate(rows):
        digest = None if image is None else hashlib.sha256(bytes([image])).hexdigest()
        found.append({"row": place, "key": str(place), "url": url, "text": text, "sha256": digest, "header": "ok"})
    names = [name for name in BASE_SCHEMA.names if name not in ("words", "characters") and not name.endswith("_key")]
    batch = pa.RecordBatch.from_pylist(found, schema=pa.schema([BASE_SCHEMA.field(name) for name in names]))
    normal = normalised(batch["text"])
    return base_facts(batch, normal, TextStage()), normal


def first_shards(count: int) -> Scanned:
    """Return the shards 0 to `count`, whose fingerprints are their numbers."""
    return Scanned(np.arange(count, dtype=np.uint64), np.arange(count))


def merged(store: Store, corpus: list[list[Record]], counts: list[CorpusCount]) -> dict[str, Lookup]:
    for shard, rows in enumerate(corpus):
        batch, normal = facts(rows)
        for count in counts:
            if store.facts(partial_name(count), f"{shard:016x}") is None:
                with store.writing_facts(partial_name(count), f"{shard:016x}") as path:
                    partial = Partial(count, path)
                    partial.add(batch, tokens(normal))
                    partial.close()
    return merge(store, counts, first_shards(len(corpus)), ENGINE)


def looked_up(
    corpus: list[list[Record]], lookups: dict[str, Lookup], count: CorpusCount
) -> Iterator[tuple[int, int, Record, Any]]:
    for shard, rows in enumerate(corpus):
        batch, normal = facts(rows)
        values = count.look_up(lookups[count.fact], batch, tokens(normal), shard).to_pylist()
        for place, (record, value) in enumerate(zip(rows, values, strict=True)):
            yield shard, place, record, value


def image_of(record: Record, identity: str) -> Any:
    image, url, _ = record
    return ("url", url) if identity == "url" and url is not None else None if image is None else ("content", image)


def grams(text: str | None) -> list[Any]:
    words = normalise(text or "").split()
    return [*words, *pairwise(words)]


def within(tmp: Any) -> Store:
    return Store(storage(tmp.mktemp("store")))


relaxed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@relaxed
@given(corpus=CORPORA, identity=st.sampled_from(["url", "content"]), floor=st.integers(2, 3))
def test_pairs_are_counted_once_each(tmp_path_factory: Any, corpus: list[list[Record]], identity: Any, floor: int) -> None:
    texts = TextsPerImage(identity, floor)
    images = ImagesPerText(identity, floor)
    lookups = merged(within(tmp_path_factory), corpus, [texts, images])
    records = [record for rows in corpus for record in rows]
    pairs = {(image_of(r, identity), normalise(r[2])) for r in records if image_of(r, identity) and r[2] is not None}
    for count, own, at in ((texts, lambda r: image_of(r, identity), 0), (images, lambda r: r[2] and normalise(r[2]), 1)):
        numbers: dict[Any, int] = defaultdict(int)
        for pair in pairs:
            numbers[pair[at]] += 1
        for _, _, record, value in looked_up(corpus, lookups, count):
            key = own(record)
            expected = numbers[key] if key is not None else 0
            assert value == (expected if expected >= floor else None)


@relaxed
@given(corpus=CORPORA, floor=st.integers(2, 5))
def test_the_rarest_ngram_is_the_rarest(tmp_path_factory: Any, corpus: list[list[Record]], floor: int) -> None:
    count = RarestNgram(floor)
    numbers: dict[Any, int] = defaultdict(int)
    for gram in (gram for rows in corpus for record in rows for gram in grams(record[2])):
        numbers[gram] += 1
    for _, _, record, value in looked_up(corpus, merged(within(tmp_path_factory), corpus, [count]), count):
        rarest = min((numbers[gram] for gram in grams(record[2])), default=None)
        below = 1 if floor == 2 else 0
        assert value == (None if rarest is None else rarest if rarest >= floor else below)


@relaxed
@given(corpus=CORPORA, size=st.integers(1, 25))
def test_a_vocabulary_is_never_cut_through_ties(tmp_path_factory: Any, corpus: list[list[Record]], size: int) -> None:
    count = RarestNgram(vocabulary=size)
    numbers: dict[Any, int] = defaultdict(int)
    for gram in (gram for rows in corpus for record in rows for gram in grams(record[2])):
        numbers[gram] += 1
    allowed = min((c for c in range(1, 200) if sum(n >= c for n in numbers.values()) <= size), default=200)
    for _, _, record, value in looked_up(corpus, merged(within(tmp_path_factory), corpus, [count]), count):
        if value is not None:
            assert (value >= 1) == all(numbers[gram] >= allowed for gram in grams(record[2]))


@relaxed
@given(corpus=CORPORA, identity=st.sampled_from(["url", "content"]))
def test_the_first_of_its_like_is_named_to_the_others(tmp_path_factory: Any, corpus: list[list[Record]], identity: Any) -> None:
    pair, image = FirstPair(identity), FirstImage(identity)
    lookups = merged(within(tmp_path_factory), corpus, [pair, image])
    for count in (pair, image):
        first: dict[Any, str] = {}
        for shard, place, record, value in looked_up(corpus, lookups, count):
            own = image_of(record, identity)
            text = None if record[2] is None else normalise(record[2])
            key = own if count is image else (own, text)
            none = own is None or (count is pair and text is None)
            here = f"{shard}/{place}"
            expected = None if none or first.setdefault(key, here) == here else first[key]
            assert value == expected


def test_a_merge_is_made_once_and_again_when_a_shard_comes(tmp_path: Path) -> None:
    store, count = Store(storage(tmp_path)), RarestNgram()
    corpus: list[list[Record]] = [[(1, None, "a b")], [(2, None, "a b")]]
    first = merged(store, corpus, [count])["rarest_ngram"]
    stamp = (tmp_path / "counts" / first.name / "keys.u64").stat().st_mtime_ns
    assert merged(store, corpus, [count])["rarest_ngram"] == first
    assert (tmp_path / "counts" / first.name / "keys.u64").stat().st_mtime_ns == stamp
    grown = merged(store, [*corpus, [(3, None, "a b")]], [count])["rarest_ngram"]
    assert grown.name != first.name
    assert np.fromfile(tmp_path / "counts" / grown.name / "values.i64", np.int64).tolist() == [3, 3, 3]


def test_a_merge_spills_within_its_memory(tmp_path: Path) -> None:
    store, count = Store(storage(tmp_path)), TextsPerImage()
    size = 300_000
    keys = np.arange(size, dtype=np.uint64) % np.uint64(1000)
    batch = pa.record_batch({"url_key": keys, "content_key": keys, "text_key": np.arange(size, dtype=np.uint64)})
    with store.writing_facts(partial_name(count), f"{0:016x}") as path:
        partial = Partial(count, path)
        partial.add(batch, tokens(pa.array([], pa.string())))
        partial.close()
    lookup = merge(store, [count], first_shards(1), Engine(InProcess(), 100_000_000))["texts_per_image"]
    assert lookup.values(np.array([0, 999, 1000], np.uint64)).tolist() == [300, 300, 0]
    assert not (tmp_path / "work" / "merge").exists()


def test_a_count_from_outside_the_package_runs(tmp_path: Path, curate_cache: Path) -> None:
    run_with_counts(tables(tmp_path / "in"), tmp_path / "out", InProcess())
    rows = [(row["host_images"], row["host_words"], row["dropped_by"]) for row in decisions(tmp_path / "out")]
    assert rows == list(expected())
    partials = {path.name for path in (tmp_path / "out" / "facts").glob("partial_*")}
    code = hashlib.sha256(Path(outside_counts.__file__).read_bytes()).hexdigest()[:12]  # whose change counts as a version
    assert partials == {f"partial_hosts-v1.1-{code}", f"partial_host_words-v1.1-{code}"}


def test_counts_of_pairs_share_their_partials_and_no_others_do() -> None:
    of_url = {partial_name(count) for count in (TextsPerImage(), TextsPerImage(record_from=9), ImagesPerText())}
    others = [TextsPerImage("content"), FirstPair(), FirstPair("content"), FirstImage(), RarestNgram()]
    assert len(of_url) == 1
    assert len({*of_url, *map(partial_name, others)}) == 1 + len(others)


def test_the_names_on_disk_are_those_of_earlier_versions(tmp_path: Path) -> None:
    """Counts that an earlier version merged are found again."""
    counts = [TextsPerImage("url", 30), ImagesPerText("content", 10), RarestNgram(5), RarestNgram(vocabulary=50), FirstImage()]
    names = [merged(Store(storage(tmp_path)), [[]], [count])[count.fact].name for count in counts]
    pairs = ["partial_pairs-url-v2.1", "partial_pairs-content-v2.1"]
    assert list(map(partial_name, counts)) == [*pairs, *2 * ["partial_ngrams-any-v2.1"], "partial_first_image-url-v2.1"]
    assert names == [
        "texts_per_image-c701f24087af1a28",
        "images_per_text-915726d8ebad0c2b",
        "rarest_ngram-2aecdc31fe8b1e7d",
        "rarest_ngram-bd782d0652145082",
        "first_image-03dc10f3302249b9",
    ]
