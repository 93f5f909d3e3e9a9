"""A storage on a real S3 protocol server."""

from __future__ import annotations

import pytest

from curate.storage.backend import Found, storage
from tests.proxy import Forwarding, proxy

S3FileSystem = pytest.importorskip("s3fs").S3FileSystem


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


def test_a_small_file_is_one_request_whether_it_is_there_or_not(
    s3_server: str, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage(f"{bucket}/out").write("a/b", b"one")
    with proxy(s3_server, Forwarding) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        S3FileSystem.clear_instance_cache()
        out = storage(f"{bucket}/out")
        assert (out.read("a/b"), out.read("a/x")) == (b"one", None)
        assert [(one.method, one.path.rpartition("/")[2]) for one in server.asked] == [("GET", "b"), ("GET", "x")]
    S3FileSystem.clear_instance_cache()
