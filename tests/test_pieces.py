"""Pieces of remote files: which ranges are requested, in which order pieces come, what is bounded."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from curate.core.errors import StorageError
from curate.storage import retry
from curate.storage.input_file import InputFile
from curate.storage.ranges import AT_ONCE, GAP, RANGE, RangeFile, read_pieces, read_range
from tests.remote_files import Asking, asking, gets

MIB = 1 << 20
URL = "asking://in/file"


@pytest.fixture
def fs() -> Iterator[Asking]:
    with asking() as found:
        yield found


def put(fs: Asking, size: int) -> bytes:
    data = random.Random(size).randbytes(size)
    fs.pipe_file("/in/file", data)
    return data


def test_neighbours_are_one_request_and_strangers_are_not(fs: Asking) -> None:
    data = put(fs, 12 * MIB)
    places = [(10, 100), (10 + 100 + GAP, 50), None, (4 * MIB, 10), (4 * MIB + 10 + GAP + 1, 7), (9 * MIB, 0), (11 * MIB, 3)]
    found = list(read_pieces(URL, places))
    assert found == [None if place is None else data[place[0] : sum(place)] for place in places]
    asked = gets(fs)
    assert sorted((one.start, one.size) for one in asked) == [
        (10, 150 + GAP),
        (4 * MIB, 10),
        (4 * MIB + 11 + GAP, 7),
        (11 * MIB, 3),
    ]


def test_dense_pieces_come_in_requests_of_bounded_size(fs: Asking) -> None:
    data = put(fs, 30 * MIB)
    places = [(start, 70_000) for start in range(0, 29 * MIB, 73_000)]
    assert list(read_pieces(URL, places)) == [data[start : start + 70_000] for start, _ in places]
    asked = gets(fs)
    assert len(asked) == 4 and max(one.size for one in asked) <= RANGE
    assert sum(one.size for one in asked) <= 29 * MIB + 70_000


def test_a_piece_that_is_larger_than_a_request_is_one_of_its_own(fs: Asking) -> None:
    data = put(fs, 12 * MIB)
    places = [(0, 5), (100, RANGE + 5), (200 + RANGE, 5)]
    assert list(read_pieces(URL, places)) == [data[start : start + size] for start, size in places]
    assert sorted(one.size for one in gets(fs)) == [5, 5, RANGE + 5]


def test_pieces_past_the_end_or_out_of_order(fs: Asking) -> None:
    data = put(fs, 3 * MIB)
    places = [(2 * MIB, 10), (0, 10), (3 * MIB - 5, 10), (9 * MIB, 10)]
    assert list(read_pieces(URL, places)) == [data[2 * MIB : 2 * MIB + 10], data[:10], None, None]
    assert list(read_pieces(URL, [])) == []
    with pytest.raises(FileNotFoundError):
        list(read_pieces("asking://in/nowhere", [(0, 1)]))


class Meeting(Asking):
    """Answers only when AT_ONCE requests wait for their answers."""

    barrier = threading.Barrier(AT_ONCE, timeout=30)
    now: ClassVar[int] = 0
    most: ClassVar[int] = 0

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        with self.lock:
            Meeting.now += 1
            Meeting.most = max(Meeting.most, Meeting.now)
        self.barrier.wait()
        try:
            return bytes(MemoryFileSystem.cat_file(self, path, start, end, **options))
        finally:
            with self.lock:
                Meeting.now -= 1


def test_several_requests_are_under_way_and_no_more_than_that(fs: Asking) -> None:
    data = put(fs, (2 * AT_ONCE + 1) * 2 * MIB)
    fsspec.register_implementation("asking", Meeting, clobber=True)
    places = [(start * 2 * MIB, 10) for start in range(2 * AT_ONCE)]
    assert [*read_pieces(URL, places)] == [data[start : start + 10] for start, _ in places]
    assert Meeting.most == AT_ONCE


def test_readers_that_stop_early_leave_nothing_behind(fs: Asking) -> None:
    put(fs, 40 * MIB)
    before = threading.active_count()
    pieces = read_pieces(URL, [(start * 2 * MIB, 10) for start in range(19)])
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before
    assert len(gets(fs)) <= AT_ONCE + 1


class Wobbly:
    """Sends each range at the third time only; never those from byte 100 on."""

    def __init__(self) -> None:
        self.times = 0

    def cat_file(self, path: str, start: int, end: int) -> bytes:
        self.times += 1
        if start >= 200:
            raise OSError(22, "The requested range is not satisfiable")
        if start >= 100 or self.times % 3:
            raise ConnectionError("503")
        return b"0123456789"[start:end]


def test_what_a_store_refuses_for_the_moment_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "_FIRST_WAIT", 0.0)
    store = Wobbly()
    assert (read_range(store, "x", 2, 5), store.times) == (b"234", 3)
    assert read_range(store, "x", 200, 205) == b""
    with pytest.raises(StorageError, match="503"):
        read_range(store, "x", 100, 105)


class NoRanges:
    def cat_file(self, path: str, start: int, end: int) -> bytes:
        return b"0123456789"


def test_a_web_server_that_knows_no_ranges() -> None:
    assert read_range(NoRanges(), "x", 2, 5) == b"234"


def test_a_file_that_is_read_at_random(fs: Asking) -> None:
    data = put(fs, 20 * MIB)
    file = RangeFile(URL)
    assert (file.seek(-5, io.SEEK_END), file.read(), file.read(3)) == (20 * MIB - 5, data[-5:], b"")
    file.seek(3)
    assert (file.read(4), file.tell(), file.seek(2, io.SEEK_CUR)) == (data[3:7], 7, 9)
    gets(fs)
    assert file.read(17 * MIB) == data[9 : 9 + 17 * MIB]
    assert sorted(one.size for one in gets(fs)) == [MIB, RANGE, RANGE]
    assert io.BufferedReader(RangeFile(URL, 7), 4).read(100) == data[:7]


def test_an_input_file_is_copied_once_and_only_when_its_path_is_needed(fs: Asking) -> None:
    data = put(fs, 5000)
    with InputFile(URL) as file:
        assert list(file.pieces([(1, 2), None])) == [data[1:3], None]
        assert isinstance(file.source(), RangeFile)
        with file.stream() as stream:
            assert stream.read() == data
        gets(fs)
        path = file.path()
        assert (file.path(), file.source()) == (path, path)
        assert list(file.pieces([(1, 2), (4999, 2), None])) == [data[1:3], None, None]
        assert [(one.start, one.size) for one in gets(fs)] == [(None, 5000)]


@pytest.mark.parametrize(("size", "copied"), [(RANGE, True), (RANGE + 1, False)])
def test_a_file_that_one_request_can_read_is_read_once(fs: Asking, size: int, copied: bool) -> None:
    data = put(fs, size)
    with InputFile(URL, size) as file:
        for _ in range(2):
            assert list(file.pieces([(5, 10)])) == [data[5:15]]
        assert [one.size for one in gets(fs)] == ([size] if copied else [10, 10])
