"""Our own tars as input: each sample keeps the first key, the url, and the texts with their scores, over any number of runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.passes import removed
from curate.passes.removed import Tombstone
from curate.sources.own import EARLIER_BYTES, own
from curate.sources.records import MAX_TEXT
from curate.storage.backend import storage
from curate.storage.store import Store
from tests.running import KEEP_ALL, Setup, decisions, jpeg, make_tar, run_job, written
from tests.test_add import COUNTED, fresh
from tests.test_capfilt import samples
from tests.test_remove import DATE, holds, remove

CAPFILT = """
captions: {model: fake, min_tokens: 3, per_image: 2}
filters:
  caption_words: {min_words: 3}
  unreadable:
  caption_match: {matcher: fake}
output: {samples_per_shard: 4, block_shards: 2}
"""
MORE_CAPTIONS = CAPFILT.replace("min_tokens: 3", "min_tokens: 5")

Sample = dict[str, Any]


def inputs(folder: Path, number: int = 12) -> list[Path]:
    """Return a tar whose records have a key, a url, and a text; that of every third is too short for CAPFILT."""
    members: list[tuple[str, bytes]] = []
    for seed in range(number):
        text = "too short" if seed % 3 == 0 else f"a größe picture of thing {seed}"
        members += [(f"first/{seed:03d}.jpg", jpeg(seed)), (f"first/{seed:03d}.txt", text.encode())]
        members.append((f"first/{seed:03d}.json", json.dumps({"url": f"https://example.org/{seed}.jpg"}).encode()))
    return [make_tar(folder / "pairs.tar", members)]


def tars(out: Path) -> list[Path]:
    return sorted((out / "shards").glob("*.tar"))


def curated(recipe: str, given: list[Path], out: Path, *overrides: str) -> Path:
    """Run a recipe, which must not fail, and return its output."""
    assert run_job(Setup(recipe, given, overrides), out).failed == []
    return out


def by_key(out: Path) -> dict[str, Sample]:
    """Return key.json of every sample, with key.txt as `txt`, by original key; the index must name the same ones."""
    found = {sample["key"]: {**sample, "sample_key": name} for name, sample in samples(out).items()}
    index = [row for path in sorted((out / "index").glob("*")) for row in pq.read_table(path).to_pylist()]
    assert {row["key"]: row["original_key"] for row in index} == {one["sample_key"]: key for key, one in found.items()}
    assert {row["key"] for row in decisions(out) if row["sample_key"]} == found.keys()
    return found


def carried(sample: Sample) -> list[Sample]:
    """Return the texts of a sample as the next run's sample carries them."""
    return [{name: value for name, value in text.items() if name != "text_no"} for text in sample["texts"]]


def owners(out: Path) -> dict[str, list[str]]:
    """Return the keys of the samples that have a text, for every text that is not the first of its sample."""
    found: dict[str, list[str]] = {}
    for key, sample in by_key(out).items():
        for text in sample["texts"][1:]:
            found.setdefault(text["text"], []).append(key)
    return found


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output of a first run, with captions; some of its samples have no web text."""
    folder = tmp_path_factory.mktemp("first")
    out = curated(CAPFILT, inputs(folder), folder / "out")
    sources = [{text["source"] for text in sample["texts"]} for sample in by_key(out).values()]
    assert {"synthetic"} in sources and {"web", "synthetic"} in sources
    return out


def test_pairs_keep_key_url_and_text_over_three_runs(tmp_path: Path) -> None:
    outs = [curated(KEEP_ALL, inputs(tmp_path), tmp_path / "1" / "out")]
    for number in ("2", "3"):
        outs.append(curated(KEEP_ALL, tars(outs[-1]), tmp_path / number / "out"))
    one, two, three = map(by_key, outs)
    assert set(one) == {f"first/{seed:03d}" for seed in range(12)}
    for key, sample in one.items():
        assert "earlier_texts" not in sample
        for later in (two[key], three[key]):
            assert {name: later[name] for name in ("url", "texts", "txt", "sha256")} == {
                name: sample[name] for name in ("url", "texts", "txt", "sha256")
            }
            assert later["earlier_texts"] == carried(sample)


def test_captions_keep_their_source_and_scores_over_three_runs(first: Path, tmp_path: Path) -> None:
    second = curated(KEEP_ALL, tars(first), tmp_path / "2" / "out")
    third = curated(MORE_CAPTIONS, tars(second), tmp_path / "3" / "out")
    one, two, three = by_key(first), by_key(second), by_key(third)
    assert set(one) == set(two)
    assert set(three) <= set(two)
    assert len(three) > 6
    for key, sample in two.items():
        assert sample["earlier_texts"] == carried(one[key])
        assert all(text["caption_match"] >= 0.5 for text in sample["earlier_texts"])
        kept = one[key]["texts"][0]  # the web text where it was kept
        assert sample["txt"] == kept["text"]
        assert sample["texts"] == [{"text_no": 0, "source": kept["source"], "text": kept["text"]}]
    for key, sample in three.items():
        assert (sample["url"], sample["earlier_texts"]) == (one[key]["url"], two[key]["earlier_texts"])


def test_texts_of_two_runs_are_carried_together(first: Path, tmp_path: Path) -> None:
    second = curated(MORE_CAPTIONS, tars(first), tmp_path / "2" / "out")
    third = curated(KEEP_ALL, tars(second), tmp_path / "3" / "out")
    two, three = by_key(second), by_key(third)
    for key, sample in three.items():
        before = two[key]["earlier_texts"]
        new = [text for text in carried(two[key]) if text["text"] not in {one["text"] for one in before}]
        assert sample["earlier_texts"] == before + new
    assert any(len(sample["earlier_texts"]) > len(two[key]["earlier_texts"]) for key, sample in three.items())


def test_the_web_text_is_the_records_text_whatever_was_written_as_the_caption(tmp_path: Path) -> None:
    one = curated(CAPFILT, inputs(tmp_path), tmp_path / "1" / "out", "output.text=best_score")
    two = by_key(curated(KEEP_ALL, tars(one), tmp_path / "2" / "out"))
    found = by_key(one)
    with_web = {key: sample["texts"][0]["text"] for key, sample in found.items() if sample["texts"][0]["source"] == "web"}
    assert any(found[key]["txt"] != text for key, text in with_web.items())
    assert {key: two[key]["txt"] for key in with_web} == with_web


def test_a_block_packed_again_keeps_them_without_the_input(first: Path, tmp_path: Path) -> None:
    given = shutil.copytree(first / "shards", tmp_path / "given")
    text, more = by_key(first)["first/000"]["txt"], list[tuple[str, bytes]]()
    for seed in range(100, 105):
        more += [(f"{seed}.jpg", jpeg(seed)), (f"{seed}.txt", text.encode())]
    added = make_tar(tmp_path / "zz.tar", more)
    out, old = tmp_path / "out", sorted(given.glob("*.tar"))
    wanted = fresh(Setup(COUNTED, [*old, added]), tmp_path / "fresh" / "out")
    before = by_key(curated(COUNTED, old, out))
    shutil.rmtree(given)
    assert run_job(Setup(COUNTED, [added], into="add"), out).failed == []
    assert written(out) == wanted
    after = by_key(out)
    assert 0 < len(after.keys() & before.keys()) < len(before)  # the text of one is too frequent now
    assert all(after[key] == sample for key, sample in before.items() if key in after)


def test_a_record_goes_with_its_earlier_texts_and_by_them(first: Path, tmp_path: Path) -> None:
    setup = Setup(KEEP_ALL, tars(first))
    run_job(setup, tmp_path / "out")
    before = by_key(tmp_path / "out")
    texts = {key: [text["text"] for text in sample["earlier_texts"]] for key, sample in before.items()}
    key, text = next((key, several[-1]) for key, several in texts.items() if len(several) > 1)
    alike = {other for other, several in texts.items() if text in several}
    assert not any(row["text"] == text for row in decisions(tmp_path / "out"))
    assert remove(tmp_path / "out", texts=[text.upper()]) == len(alike)
    assert holds(tmp_path / "out", text.encode(), f'"key":"{key}"'.encode()) == []
    assert by_key(tmp_path / "out").keys() == before.keys() - alike
    assert run_job(replace(setup, overrides=("unreadable.max_decoded_bytes=1000000",)), tmp_path / "out").failed == []
    assert by_key(tmp_path / "out").keys() == before.keys() - alike


def test_a_text_that_was_taken_out_before_does_not_come_back_as_an_earlier_one(first: Path, tmp_path: Path) -> None:
    [key, *_], text = next((several, text) for text, several in owners(first).items() if len(several) == 1)
    with Store(storage(tmp_path / "out")).locked() as store:
        removed.add(store, [Tombstone("text", removed.text_value(text), DATE)])
    out = curated(KEEP_ALL, tars(first), tmp_path / "out")
    assert by_key(out).keys() == by_key(first).keys() - {key}
    assert holds(out, text.encode()) == []


# Whose JSON it is ----------------------------------------------------------------------------------------------------

OURS: dict[str, Any] = {
    "url": "https://example.org/1.jpg", "key": "first", "shard": "0.tar", "row": 3,
    "texts": [{"text_no": 0, "source": "web", "text": "a dog", "score": 0.75},
              {"text_no": 2, "source": "synthetic", "text": "b"}],
    "sha256": "ab" * 32, "width": 8, "height": 8, "format": "jpeg", "language": None, "language_score": None, "phash": None,
    "evidence": {},
}  # fmt: skip


def test_what_is_said_first_of_a_text_counts() -> None:
    earlier = [{"source": "web", "text": "a dog", "score": 0.5, "other": None}, {"source": "synthetic", "text": "a dog"}]
    texts = [
        {**OURS["texts"][0], "other": 0.25, "third": True},
        *OURS["texts"][1:],
        {"text_no": 3, "source": "web", "text": None},
    ]
    found = own({**OURS, "earlier_texts": earlier, "texts": texts})
    assert found is not None
    assert json.loads(found.earlier_texts or "") == [
        {"source": "web", "text": "a dog", "score": 0.5, "other": 0.25, "third": True},
        {"source": "synthetic", "text": "a dog"},
        {"source": "synthetic", "text": "b"},
    ]


@pytest.mark.parametrize(
    ("written", "text"),
    [("a dog", "a dog"), ("b", "a dog"), (None, "a dog"), ("my own words", "my own words"), ("", "")],
)
def test_a_caption_that_was_changed_since_is_the_records_text(written: str | None, text: str) -> None:
    found = own(OURS)
    assert found is not None
    assert next(iter(found.web_texts(written)), None) == text


def test_texts_beyond_the_bound_are_left_out() -> None:
    long = {"text_no": 0, "source": "synthetic", "text": "ß" * MAX_TEXT}
    found = own({**OURS, "texts": [long, *OURS["texts"]]})
    assert found is not None
    assert [one["text"] for one in json.loads(found.earlier_texts or "")] == ["a dog", "b"]
    many = own({**OURS, "texts": [{**OURS["texts"][0], "text": f"text {n}"} for n in range(5000)]})
    assert many is not None
    assert 0.99 * EARLIER_BYTES < len((many.earlier_texts or "").encode()) <= EARLIER_BYTES


HOSTILE: list[dict[str, Any]] = [
    {"key": None}, {"key": ["first"]}, {"key": "../first"}, {"key": "\ud800"}, {"sha256": "zz"}, {"sha256": 7}, {"shard": 1},
    {"row": "3"}, {"row": True}, {"evidence": []}, {"texts": {}}, {"texts": "abc"}, {"texts": [1]}, {"texts": [{}]},
    {"texts": [{"source": [], "text": "a"}]}, {"texts": [{"source": "web"}, None]}, {"texts": [{"source": "web", "text": {}}]},
    {"texts": [{"source": "web", "text": "\udc80"}]}, {"texts": [{"source": "web", "text": "a", "score": float("nan")}]},
    {"texts": [{"source": "web", "text": "a", "\ud800": 1}]}, {"earlier_texts": None}, {"earlier_texts": [[]]},
]  # fmt: skip


@pytest.mark.parametrize("change", HOSTILE, ids=ascii)
def test_hostile_json_is_that_of_a_foreign_tar(change: dict[str, Any]) -> None:
    assert own({**OURS, **change}) is None


@pytest.mark.parametrize("name", sorted(OURS))
def test_json_that_lacks_a_field_is_foreign(name: str) -> None:
    assert own({field: value for field, value in OURS.items() if field != name}) is None


def test_hostile_json_fails_no_shard(tmp_path: Path) -> None:
    members: list[tuple[str, bytes]] = []
    bodies = [json.dumps({**OURS, **change}).encode() for change in [*HOSTILE, {}]]
    bodies += [bodies[-1].replace(b"0.75", b"[" * 500 + b"]" * 500), bodies[-1][:-9], b"[" * 100_000]
    for number, body in enumerate(bodies):
        members += [(f"{number:02d}.jpg", jpeg(number)), (f"{number:02d}.txt", b"some text"), (f"{number:02d}.json", body)]
    out = curated(KEEP_ALL, [make_tar(tmp_path / "0.tar", members)], tmp_path / "out")
    found = {sample["row"]: sample for sample in samples(out).values()}
    for row in range(len(HOSTILE)):
        assert (found[row]["key"], found[row]["txt"]) == (f"{row:02d}", "some text")
        assert "earlier_texts" not in found[row]
    assert [found[row]["key"] for row in range(len(HOSTILE), len(bodies))] == ["first", "first", "24", "25"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["source", "text", "x"]), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.dictionaries(st.sampled_from([*OURS, "earlier_texts"]), JSON, max_size=3))
def test_any_json_is_ours_or_foreign(changes: dict[str, Any]) -> None:
    found = own({**OURS, **changes})
    if found is not None:
        found.key.encode()
        for one in json.loads(found.earlier_texts or "[]"):
            assert one["source"] in ("web", "synthetic")
            assert isinstance(one["text"], str)
