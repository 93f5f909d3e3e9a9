"""The shards of an input as columns: the same shards come out, one by one or some of them."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.core.contracts import Shard
from curate.core.shards import Shards, listed

PARTS = st.one_of(st.none(), st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)))
COLUMNS = st.sampled_from([(), (("image", "jpg"), ("text", "alt")), (("url", "link"),)])
SHARDS = st.lists(
    st.builds(
        Shard,
        index=st.just(0),
        url=st.text(st.characters(), max_size=20),
        kind=st.sampled_from(["tar", "parquet", "folder"]),
        size=st.integers(0, 1 << 50),
        fingerprint=st.integers(0, (1 << 64) - 1).map("{:016x}".format),
        part=PARTS,
        columns=COLUMNS,
        limit=st.one_of(st.none(), st.integers(0, 10)),
        form=st.sampled_from(["", "delimiter=tab", "delimiter=comma"]),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(given=SHARDS)
def test_what_goes_in_comes_out_numbered(given: list[Shard]) -> None:
    shards, expected = Shards(given), [replace(shard, index=place) for place, shard in enumerate(given)]
    assert list(shards) == expected
    assert [shards[place] for place in range(len(shards))] == expected
    assert shards[-3:] == expected[-3:]
    odd = np.arange(1, len(given), 2)
    assert list(shards.at(odd)) == expected[1::2]
    assert shards.bytes() == sum(shard.size for shard in given)
    assert [f"{one:016x}" for one in shards.fingerprints.tolist()] == [shard.fingerprint for shard in given]
    assert list(pickle.loads(pickle.dumps(shards))) == expected
    assert list(listed(shards.batches())) == expected


def test_forms_are_counted_by_file() -> None:
    shard = Shard(0, "a.csv", "csv", 1, f"{1:016x}", form="delimiter=tab")
    parts = [replace(shard, url="b.csv", part=part) for part in ((0, 10), (10, 20))]
    assert Shards([shard, *parts, replace(shard, form="")]).forms() == {"delimiter=tab": 2}


def test_a_list_of_an_earlier_version_has_no_forms() -> None:
    shard = Shard(0, "a.csv", "csv", 1, f"{1:016x}", form="delimiter=tab")
    assert list(listed(batch.drop_columns(["form"]) for batch in Shards([shard]).batches())) == [replace(shard, form="")]


def test_many_chunks_are_one_sequence() -> None:
    shards = Shards(Shard(0, f"{n}.tar", "tar", n, f"{n:016x}") for n in range(20_000))
    assert len(shards) == 20_000
    assert [shard.url for shard in shards.at(np.array([0, 8191, 8192, 19_999]))] == ["0.tar", "8191.tar", "8192.tar", "19999.tar"]
    assert shards[16_384].index == 16_384
    with pytest.raises(IndexError):
        shards[20_000]


def test_the_digest_is_of_the_content_and_its_order() -> None:
    first, second = Shard(0, "a", "tar", 1, f"{1:016x}"), Shard(0, "b", "tar", 1, f"{2:016x}")
    assert Shards([first, second]).digest == Shards([replace(first, url="z"), second]).digest
    assert Shards([first, second]).digest != Shards([second, first]).digest
