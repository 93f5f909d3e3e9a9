"""Where an output lives: the same promises on a disk, in memory behind fsspec, and on a real S3 server."""

from __future__ import annotations

import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from curate.core.errors import InputError, OutputError
from curate.storage.backend import Disk, Found, Remote, Storage, storage
from curate.storage.lease import FOLDER, Lease, superseded
from curate.storage.local_copies import local_copy, own_folder
from curate.storage.marks import Mark
from curate.storage.store import Store

PLACES = ["disk", "memory", "s3"]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    if request.param == "disk":
        yield storage(tmp_path / "out")
    elif request.param == "memory":
        yield storage(f"memory://{tmp_path}/out")
        fsspec.filesystem("memory").store.clear()
    else:
        yield storage(request.getfixturevalue("bucket") + "/some/out")


def test_what_is_written_is_read_and_listed(place: Storage) -> None:
    assert place.read("a/b.json") is None
    assert place.size("a/b.json") is None
    assert list(place.listing("a")) == []
    place.write("a/b.json", b"{}")
    place.write("a/b.json", b"[1]")
    place.write("a/deep/c.json", b"")
    assert place.read("a/b.json") == b"[1]"
    assert place.size("a/b.json") == 3
    assert list(place.listing("a")) == [Found("b.json", 3)]
    assert place.folders("a") == ["deep"]
    assert place.folders("") == ["a"]
    assert place.url("a/b.json") == f"{place.root}/a/b.json"


def test_a_file_appears_when_its_block_ends_and_not_when_it_raises(place: Storage) -> None:
    with place.writing("tars/1.tar") as path:
        path.write_bytes(b"whole")
        assert place.read("tars/1.tar") is None
    with place.reading("tars/1.tar") as path:
        assert path.read_bytes() == b"whole"
    with pytest.raises(ZeroDivisionError), place.writing("tars/2.tar") as path:
        path.write_bytes(b"half")
        raise ZeroDivisionError
    assert [found.name for found in place.listing("tars")] == ["1.tar"]
    with pytest.raises(FileNotFoundError), place.reading("tars/2.tar"):
        pass


def test_of_several_that_create_a_file_one_succeeds(place: Storage) -> None:
    place.write("other", b"")
    barrier, answers = threading.Barrier(4), []

    def create(number: int) -> None:
        barrier.wait()
        answers.append((place.create("lease/1", b"%d" % number), b"%d" % number))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [winner] = [content for made, content in answers if made]
    assert place.read("lease/1") == winner


def test_what_is_removed_is_gone_and_may_be_removed_again(place: Storage) -> None:
    for name in ("a/1", "a/2", "b/c/3", "b/4"):
        place.write(name, b"x")
    place.remove(["a/1", "a/never"])
    place.remove(["a/1"])
    place.remove([])
    assert [found.name for found in place.listing("a")] == ["2"]
    place.remove_folder("b")
    place.remove_folder("b")
    assert place.folders("") == ["a"]


def test_a_storage_travels_to_another_process(place: Storage) -> None:
    place.write("x", b"1")
    there = pickle.loads(pickle.dumps(place))
    assert there == place
    assert there.read("x") == b"1"


def test_a_copy_on_this_disk_is_made_once(place: Storage, tmp_path: Path) -> None:
    place.write("counts/one/keys", b"k" * 100)
    first = local_copy(place, "counts/one", ["keys"])
    assert (first / "keys").read_bytes() == b"k" * 100
    if not isinstance(place, Disk):
        place.remove_folder("counts/one")
    assert local_copy(place, "counts/one", ["keys"]) == first


def test_a_path_or_url_names_its_storage(tmp_path: Path) -> None:
    assert storage(f"file://{tmp_path}/out") == Disk(f"{tmp_path}/out") == storage(tmp_path / "out")
    assert storage("memory://bucket/out/") == Remote("memory://bucket/out")
    with pytest.raises(InputError, match="nosuch"):
        storage("nosuch://bucket/out")


class Busy(MemoryFileSystem):
    """A store that answers each request only when it is asked for the third time, as one that returns 503 for a while."""

    protocol = "busy"
    cachable = False
    asked: ClassVar[dict[Any, int]] = {}

    def _ask(self, *what: Any) -> None:
        self.asked[what] = self.asked.get(what, 0) + 1
        if self.asked[what] % 3:
            raise OSError(f"503 slow down {what}")

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **more: Any) -> bytes:
        self._ask("cat", path)
        return bytes(super().cat_file(path, start, end, **more))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
        self._ask("pipe", path)
        super().pipe_file(path, value, mode, **more)

    def put_file(self, lpath: str, rpath: str, **more: Any) -> None:
        self._ask("put", rpath)
        super().put_file(lpath, rpath, **more)

    def ls(self, path: str, detail: bool = True, **more: Any) -> Any:
        self._ask("ls", path)
        return super().ls(path, detail, **more)


def test_what_a_store_refuses_for_the_moment_is_asked_again() -> None:
    fsspec.register_implementation("busy", Busy, clobber=True)
    place = storage("busy://bucket/out")
    place.write("a", b"1")
    assert place.read("a") == b"1"
    with place.writing("tar") as path:
        path.write_bytes(b"2")
    assert {found.name for found in place.listing("")} == {"a", "tar"}


# The lease -----------------------------------------------------------------------------------------------------------

BEAT = 0.05


def test_one_run_at_a_time_and_the_next_after_it(place: Storage) -> None:
    first, second, third = Lease(place, BEAT), Lease(place, BEAT), Lease(place, 3600)
    first.acquire()
    with first:
        with pytest.raises(OutputError, match="is in use by process"):
            second.acquire()
        assert not superseded(place, first.epoch)
    third.acquire()  # given back: nobody waits
    with third:
        assert third.epoch == first.epoch + 1


def test_the_lease_of_a_run_that_is_gone_runs_out(place: Storage) -> None:
    place.write(f"{FOLDER}/{7:08d}", b'{"holder": "a process that was killed", "beat": 3}')
    lease = Lease(place, BEAT)
    lease.acquire()
    with lease:
        assert lease.epoch == 8
        assert superseded(place, 7)


def test_what_is_left_of_a_run_that_lost_its_lease_commits_nothing(tmp_path: Path) -> None:
    place = storage(f"memory://{tmp_path}/out")
    with Store(place, beat=BEAT).locked() as zombie:
        place.create(f"{FOLDER}/{2:08d}", b"{}")  # cut off from the store for a while: another run took over
        with pytest.raises(OutputError, match="was taken over"):
            zombie.commit("run", "judge-x/000000", Mark())
        with pytest.raises(OutputError, match="was taken over"), zombie.writing("shards/00000.tar") as path:
            path.write_bytes(b"")
        assert place.folders("") == [FOLDER]


def test_a_bucket_of_others_is_refused(tmp_path: Path) -> None:
    place = storage(f"memory://{tmp_path}/out")
    place.write("thesis.txt", b"precious")
    with pytest.raises(OutputError, match="not empty and not an output"), Store(place).locked():
        pass
    assert [found.name for found in place.listing("")] == ["thesis.txt"]


class Full(MemoryFileSystem):
    """A store that takes nothing any more once it is told so."""

    protocol = "full"
    full: ClassVar[bool] = False

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> None:
        if self.full:
            raise PermissionError("quota exceeded")
        super().pipe_file(path, value, mode, **more)


def test_a_lease_that_cannot_be_given_back_spoils_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("full", Full, clobber=True)
    with Store(storage(f"full://{tmp_path}/out")).locked():
        monkeypatch.setattr(Full, "full", True)


def test_what_a_kill_left_among_the_facts_is_swept(tmp_path: Path) -> None:
    store, folder = Store(storage(tmp_path)), tmp_path / "facts" / "words-v1"
    for fingerprint in (f"{1:016x}", f"{2:016x}"):
        with store.writing_facts("words-v1", fingerprint) as path:
            path.write_bytes(b"facts")
    kept = sorted(path.name for path in folder.iterdir())
    attempts = (f"{1:016x}.0badcafe.parquet", f"{3:016x}.0badcafe.parquet", f".{2:016x}.0badcafe.parquet.1234abcd")
    for left in (*attempts, "thesis.txt"):
        (folder / left).write_bytes(b"left")
    assert store.committed("words-v1").holds(np.array([1, 2, 3], np.uint64)).tolist() == [True, True, False]
    store.sweep()
    assert sorted(path.name for path in folder.iterdir()) == kept
    with store.storage.reading(store.facts("words-v1", f"{1:016x}") or "") as path:
        assert path.read_bytes() == b"facts"


def test_the_folder_that_a_users_processes_share_is_nobody_elses(tmp_path: Path) -> None:
    assert own_folder("x", tmp_path).stat().st_mode & 0o777 == 0o700
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"curate-y-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PermissionError, match="another user"):
        own_folder("y", tmp_path)
