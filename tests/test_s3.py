"""A storage on a real S3 protocol server."""

from __future__ import annotations

import pytest

from curate.storage.backend import Found, storage


def test_a_storage_on_s3_keeps_what_it_is_given(bucket: str) -> None:
    out = storage(f"{bucket}/some/out")
    assert out.read("a/b") is None
    out.write("a/b", b"one")
    with out.writing("a/c") as path:
        path.write_bytes(b"three")
    assert sorted(out.listing("a")) == [Found("b", 3), Found("c", 5)]
    assert (out.folders(""), list(out.listing(""))) == (["a"], [])
    assert (out.create("a/d", b"first"), out.create("a/d", b"second"), out.read("a/d")) == (True, False, b"first")
    with out.reading("a/c") as path:
        assert path.read_bytes() == b"three"
    with pytest.raises(FileNotFoundError), out.reading("a/x"):
        pass
    out.remove(["a/b", "a/x"])
    out.remove_folder("a")
    assert list(out.listing("a")) == []
