"""Sources: what is written with other people's tools is read back equal, and hostile bytes only ever break a shard."""

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import re
import tarfile
from pathlib import Path
from uuid import uuid4

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curate.core.contracts import RECORD_SCHEMA, ROW_GROUP, Shard, ShardBreak
from curate.core.errors import InputError
from curate.sources import folder as folder_source
from curate.sources.listing import list_shards
from curate.sources.opening import images, open_shard, read
from curate.sources.records import ERRORS, MAX_TEXT
from curate.sources.source import Columns
from curate.sources.tar import unpacked
from curate.sources.tar.members import members
from curate.sources.tar.records import records
from tests.running import curate, jpeg, make_tar

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def tar_bytes(files, format=tarfile.GNU_FORMAT):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format, encoding="utf-8", errors="surrogateescape") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def pairs(count):
    for i in range(count):
        yield f"{i:05d}.jpg", b"image %d" % i
        yield f"{i:05d}.txt", b"text %d" % i
        yield f"{i:05d}.json", json.dumps({"url": f"http://e.org/{i}"}).encode()


def rows_of(shard):
    """Return the records of a shard as dicts, and its break; checks what holds for every batch."""
    rows, broken = [], None
    batches = read(shard)
    while True:
        try:
            batch = next(batches, None)
        except ShardBreak as error:
            broken = str(error)
            break
        if batch is None:
            break
        batch.validate(full=True)
        assert batch.schema == RECORD_SCHEMA and 0 < batch.num_rows <= ROW_GROUP
        rows += batch.to_pylist()
    assert [row["row"] for row in rows] == list(range(len(rows)))
    assert {code for row in rows if row["error"] for code in row["error"].split(",")} <= set(ERRORS)
    return rows, broken


def one(path, columns=None):
    """Return the records of the only shard of `path`."""
    (shard,) = list_shards([str(path)], {} if columns is None else columns)
    rows, broken = rows_of(shard)
    assert broken is None
    return shard, rows


def tar_rows(tmp_path, files):
    path = tmp_path / "a.tar"
    path.write_bytes(files if isinstance(files, bytes) else tar_bytes(files))
    (shard,) = list_shards([str(path)], {})
    return rows_of(shard)


def again(shard, rows):
    """Return what images() says of all rows."""
    sizes = [None if row["image"] is None else len(row["image"]) for row in rows]
    table = pa.table(
        {
            "row": pa.array([row["row"] for row in rows], pa.int64()),
            "offset": pa.array([row["offset"] for row in rows], pa.int64()),
            "bytes": pa.array(sizes, pa.int64()),
        }
    )
    return list(images(shard, table))


# Tars

NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=60)
PATHS = st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=4).map("/".join)


def whole(files):
    return [(name, data) for name, data in files if not name.endswith("/")]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.tuples(PATHS, st.binary(max_size=1500)), max_size=6), st.sampled_from(sorted(FORMATS)))
def test_members_equal_what_tarfile_wrote(files, format):
    if format == "ustar":  # its names are bounded
        files = [(name, data) for name, data in files if len(name.encode()) < 100]
    raw = io.BytesIO(tar_bytes(files, FORMATS[format]))
    got = [(member.name.decode(), raw.getvalue()[member.offset : member.offset + member.size]) for member in members(raw)]
    assert got == files


@pytest.mark.parametrize("format", FORMATS)
def test_long_and_split_names(format):
    name = "/".join(["folder" * 6] * 5) + "/0001.jpg"
    raw = io.BytesIO(tar_bytes([(name, b"x"), ("b.jpg", b"yy")], FORMATS[format]))
    assert [member.name.decode() for member in members(raw)] == [name, "b.jpg"]


def test_base_256_size_and_v7_headers(tmp_path):
    raw = bytearray(tar_bytes([("a.jpg", b"image"), ("a.txt", b"text")]))
    raw[124:136] = b"\x80" + (5).to_bytes(11, "big")
    raw[1024 + 257 : 1024 + 265] = bytes(8)  # no magic: v7
    for at in (0, 1024):
        raw[at + 148 : at + 156] = b" " * 8
        raw[at + 148 : at + 156] = b"%06o\0 " % sum(raw[at : at + 512])
    rows, broken = tar_rows(tmp_path, bytes(raw))
    assert broken is None and [(row["image"], row["text"]) for row in rows] == [(b"image", "text")]


def test_records_of_a_tar(tmp_path):
    rows, broken = tar_rows(tmp_path, pairs(3))
    assert broken is None and len(rows) == 3
    assert rows[1] | {"offset": None} == {
        "row": 1,
        "key": "00001",
        "url": "http://e.org/1",
        "text": "text 1",
        "error": None,
        "image": b"image 1",
        "offset": None,
        "given_sha256": None,
        "earlier_texts": None,
        "more_texts": None,
        "input": None,
    }
    (shard,) = list_shards([str(tmp_path / "a.tar")], {})
    assert again(shard, rows) == [row["image"] for row in rows]
    assert again(shard, [rows[2] | {"offset": None}, rows[2] | {"offset": 10**9}]) == [None, None]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.integers(0, 40_000))
def test_a_cut_off_tar_yields_a_prefix_of_whole_records(end):
    raw = tar_bytes(pairs(4), tarfile.PAX_FORMAT)
    good = list(records(io.BytesIO(raw)))
    cut = raw[: min(end, len(raw))]
    got, message = [], None
    try:
        for record in records(io.BytesIO(cut)):
            got.append(record)
    except ShardBreak as error:
        message = str(error)
    if message is None:
        assert len(cut) > 4 * 3072 and got == good
    elif len(got) == 1 and "no end mark" in message:  # its JSON may be cut off: there is no other record to tell
        assert got[0].image == good[0].image and got[0].text == good[0].text
    else:
        assert got == good[: len(got)]
        assert f"at byte {len(cut)}" in message or "no tar" in message or "not a tar" in message or "after" in message
    assert len(got) >= min(4, max(0, len(cut) - 512) // 3072)  # three headers, three data blocks a record


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 6000), st.binary(min_size=1, max_size=600))
def test_damaged_bytes_only_break_the_shard(at, noise):
    raw = bytearray(tar_bytes(pairs(3), tarfile.PAX_FORMAT))
    raw[at : at + len(noise)] = noise
    try:
        assert len(list(records(io.BytesIO(bytes(raw))))) <= 4
    except ShardBreak as error:
        assert "\n" not in str(error)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.binary(max_size=2000))
def test_arbitrary_bytes_are_no_tar(noise):
    try:
        assert list(records(io.BytesIO(noise))) == []
    except ShardBreak as error:
        assert "at byte" in str(error)


def patched(raw, at, field, value):
    """Return `raw` with a header field changed and the checksum made right again."""
    raw = bytearray(raw)
    raw[at + field : at + field + len(value)] = value
    raw[at + 148 : at + 156] = b" " * 8
    raw[at + 148 : at + 156] = b"%06o\0 " % sum(raw[at : at + 512])
    return bytes(raw)


@pytest.mark.parametrize("size", [b"77777777777\0", b"\x80" + b"\x7f" * 11, b"\xff" * 12, b"-0000000012\0", b"zzzzzzzzzzz\0"])
def test_absurd_sizes_break_the_shard(tmp_path, size):
    raw = patched(tar_bytes(pairs(2)), 3072, 124, size)
    rows, broken = tar_rows(tmp_path, raw)
    assert [row["key"] for row in rows] == ["00000"] and "00001.jpg" in broken


def test_breaks_say_where(tmp_path):
    raw = tar_bytes(pairs(2))
    rows, broken = tar_rows(tmp_path, raw[: 3072 + 512 + 3])
    assert len(rows) == 1 and broken == "cut off at byte 3587, in member 00001.jpg"
    rows, broken = tar_rows(tmp_path, raw[: 3072 + 1024 + 512 + 3])  # the image is whole, its text is not
    assert len(rows) == 1 and broken.endswith("in member 00001.txt")
    rows, broken = tar_rows(tmp_path, raw[:3072] + b"\1" * 512 + raw[3584:])
    assert len(rows) == 1 and broken == "wrong header checksum at byte 3072"
    rows, broken = tar_rows(tmp_path, b"this is no tar" * 100)
    assert rows == [] and broken == "not a tar, at byte 0"
    rows, broken = tar_rows(tmp_path, raw[:3072] + bytes(512) + raw[3584:])
    assert len(rows) <= 1 and "after the end mark" in broken


@pytest.mark.parametrize("place", [0, 60, 124, 345, 511])
def test_one_wrong_byte_in_a_header_is_noticed(tmp_path, place):
    raw = bytearray(tar_bytes(pairs(2)))
    raw[3072 + place] ^= 1
    rows, broken = tar_rows(tmp_path, bytes(raw))
    assert len(rows) == 1 and broken == "wrong header checksum at byte 3072"


def test_checksums_of_signed_bytes_as_old_tars_wrote_them(tmp_path):
    raw = bytearray(tar_bytes([("\u00e9.jpg", b"image")]))
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(byte - 256 * (byte > 127) for byte in raw[:512])
    rows, broken = tar_rows(tmp_path, bytes(raw))
    assert broken is None and rows[0]["key"] == "\u00e9"


def test_tars_that_are_empty_or_without_end(tmp_path):
    assert tar_rows(tmp_path, []) == ([], None)
    assert tar_rows(tmp_path, b"") == ([], "empty: no tar, at byte 0")
    raw = tar_bytes(pairs(2))
    assert [len(tar_rows(tmp_path, raw[: 6144 + end])[0]) for end in (512, 1024)] == [2, 2]
    for end, whole in ((6144, 2), (5120, 1), (4096, 1), (3072, 1), (1024, 0)):  # of a pair that lacks a member nothing is kept
        rows, broken = tar_rows(tmp_path, raw[:end])
        assert len(rows) == whole and broken == f"cut off at byte {end}, after a member: there is no end mark"


PACK = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
}


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.tar.zst"])
def test_packed_tars_are_known_by_their_first_bytes(tmp_path, packed, name):
    raw = tar_bytes([(f"{i}.{kind}", os.urandom(5000)) for i in range(9) for kind in ("jpg", "npy")] + [("a.txt", b"t")])
    data = PACK[packed](raw)
    (tmp_path / name).write_bytes(data)
    shard, rows = one(tmp_path / name)
    assert [row["image"] for row in rows] == [record.image for record in records(io.BytesIO(raw))]
    assert again(shard, rows) == [row["image"] for row in rows]
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    (shard,) = list_shards([str(tmp_path / name)], {})
    kept, broken = rows_of(shard)
    assert kept == rows[: len(kept)] and f"{packed} data is damaged or cut off" in broken
    assert packed in (".bz2", ".zst") or len(kept) >= 3  # those two unpack whole blocks
    assert again(shard, kept) == [row["image"] for row in kept]


def test_what_unpacks_to_too_much_is_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(unpacked, "SPARE", 4096)
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(tar_bytes([("a.jpg", b"i"), ("a.txt", b"t"), ("b.jpg", bytes(1 << 20))])))
    (shard,) = list_shards([str(tmp_path / "a.tar.gz")], {})
    rows, broken = rows_of(shard)
    assert [row["key"] for row in rows] in ([], ["a"]) and broken.startswith("unpacks to more than")
    (tmp_path / "a.tar").write_bytes(tar_bytes([("BZh1.jpg", b"i"), ("BZh1.txt", b"t")]))
    assert [row["key"] for row in one(tmp_path / "a.tar")[1]] == ["BZh1"]


def test_a_packed_tar_behind_a_url(memory):
    url, fs = memory
    fs.pipe(url.removeprefix("memory:/") + "/a.tar.gz", gzip.compress(tar_bytes(pairs(3))))
    shard, rows = one(url + "/a.tar.gz")
    assert len(rows) == 3 and again(shard, rows) == [row["image"] for row in rows]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([("a.txt", b"t")], [("a", "t", None, "missing_image")]),
        ([("a.jpg", b"i")], [("a", None, b"i", "missing_text")]),
        ([("a.jpg", b""), ("a.txt", b"")], [("a", "", b"", None)]),
        ([("a.JPG", b"i"), ("a.TXT", b"t")], [("a", "t", b"i", None)]),
        ([("a.jpg", b"i"), ("a.txt", b"\xff\0t")], [("a", "\ufffd\0t", b"i", "text_not_utf8")]),
        ([("a.jpg", b"i"), ("a.txt", b"\xef\xbb\xbft")], [("a", "t", b"i", None)]),
        ([("a.jpg", b"i"), ("a.json", b'{"caption": "c"}')], [("a", "c", b"i", None)]),
        ([("a.jpg", b"i"), ("a.json", b'{"caption": null, "text": ["c", "d"]}')], [("a", "c", b"i", None)]),
        ([("a.jpg", b"i"), ("a.json", b'{"caption": 7, "url": {}}')], [("a", "7", b"i", None)]),
        ([("a.jpg", b"i"), ("a.json", b'{"caption": "\\ud800x"}')], [("a", "\ufffdx", b"i", "text_not_utf8")]),
        ([("a.jpg", b"i"), ("a.json", b"{"), ("a.txt", b"t")], [("a", "t", b"i", "bad_json")]),
        ([("a.jpg", b"i"), ("a.json", b"[" * 100_000), ("a.txt", b"t")], [("a", "t", b"i", "bad_json")]),
        ([("a.jpg", b"i"), ("a.json", b" " * (2 << 20)), ("a.txt", b"t")], [("a", "t", b"i", "bad_json")]),
        ([("a.jpg", b"i"), ("a.b.txt", b"t")], [("a", "t", b"i", None)]),
        ([("a.jpg", b"i"), ("a.npy", b"n"), ("b", b"n"), (".c.jpg", b"n"), ("a.txt", b"t")], [("a", "t", b"i", None)]),
        (
            [("a.jpg", b"i"), ("a.png", b"j"), ("a.txt", b"t")],
            [("a.jpg", "t", b"i", None), ("a.png", "t", b"j", None)],
        ),
        (
            [("a.left.jpg", b"i"), ("a.right.jpg", b"j"), ("a.txt", b"t"), ("b.jpg", b"k"), ("b.txt", b"u")],
            [("a.left", "t", b"i", None), ("a.right", "t", b"j", None), ("b", "u", b"k", None)],
        ),
        (
            [("a.txt", b"t"), ("a.jpg", b"i"), ("a.2.jpg", b"j"), ("a.2.json", b"{}"), ("a.3.jpg", b"k"), ("a.3.txt", b"u")],
            [("a", "t", b"i", None), ("a.2", "t", b"j", None), ("a.3", "u", b"k", None)],
        ),
        (
            [(f"2024.05.{i}.{kind}", b"%d" % i) for i in range(3) for kind in ("jpg", "txt")],
            [(f"2024.05.{i}", str(i), b"%d" % i, None) for i in range(3)],
        ),
        (
            [(f"{i}.jpg", b"%d" % i) for i in range(3)] + [(f"{i}.txt", b"%d" % i) for i in (2, 0, 1)],
            [(str(i), str(i), b"%d" % i, None) for i in range(3)],
        ),
        (
            [("0.txt", b"t"), ("1.json", b'{"text": "u"}'), ("2.txt", b"v"), ("1.jpg", b"j"), ("0.jpg", b"i"), ("1.jpg", b"k")],
            [
                ("0", "t", b"i", None),
                ("1", "u", b"j", None),
                ("2", "v", None, "missing_image"),
                ("1", None, b"k", "duplicate_key,missing_text"),
            ],
        ),
        (
            [("a.txt", b"t"), ("a.jpg", b"i"), ("b.txt", b"u"), ("b.jpg", b"j"), ("a.txt", b"v"), ("a.jpg", b"k")],
            [("a", "t", b"i", None), ("b", "u", b"j", None), ("a", "v", b"k", "duplicate_key")],
        ),
        (
            [("a.txt", b"t"), ("a.jpg", b"i"), ("a.txt", b"v"), ("a.jpg", b"k")],
            [("a", "t", b"i", None), ("a", "v", b"k", "duplicate_key")],
        ),
        ([("../a.jpg", b"i"), ("../a.txt", b"t")], [("../a", "t", b"i", "unsafe_key")]),
        ([("/etc/a.jpg", b"i"), ("/etc/a.txt", b"t")], [("/etc/a", "t", b"i", "unsafe_key")]),
        ([("a\\b.jpg", b"i"), ("a\\b.txt", b"t")], [("a\\b", "t", b"i", "unsafe_key")]),
        ([("d/a.jpg", b"i"), ("d/a.txt", b"t")], [("d/a", "t", b"i", None)]),
        ([("\udcff.jpg", b"i"), ("\udcff.txt", b"t")], [("\ufffd", "t", b"i", "key_not_utf8")]),
    ],
)
def test_odd_records(tmp_path, files, expected):
    rows, broken = tar_rows(tmp_path, files)
    assert broken is None
    assert [(row["key"], row["text"], row["image"], row["error"]) for row in rows] == expected


@pytest.mark.parametrize(
    "order",
    [
        ("jpg,txt", "json"), ("jpg,json", "txt"), ("txt,json", "jpg"), ("jpg", "txt,json"), ("txt", "jpg,json"), 
        ("json", "jpg,txt"), ("jpg", "txt", "json"), ("json", "txt", "jpg"), ("jpg,txt,json",),
    ],
)  # fmt: skip
@pytest.mark.parametrize("count", [1, 3])
def test_members_of_a_record_may_stand_in_any_order(tmp_path, order, count):
    data = {"jpg": b"picture %d", "txt": b"text %d", "json": b'{"url": "https://a.example/%d"}'}
    files = [(f"{row}.{kind}", data[kind] % row) for run in order for row in range(count) for kind in run.split(",")]
    rows, broken = tar_rows(tmp_path, files)
    assert broken is None and [(row["key"], row["image"], row["text"], row["url"], row["error"]) for row in rows] == [
        (str(row), b"picture %d" % row, f"text {row}", f"https://a.example/{row}", None) for row in range(count)
    ]


def test_members_of_own_extensions_may_stand_apart(tmp_path: Path) -> None:
    files = [(f"{row}.{kind}", data) for row in range(3) for kind, data in (("img", jpeg(row)), ("cap", b"a text"))]
    files += [(f"{row}.meta", b'{"url": "https://a.example/%d"}' % row) for row in range(3)]
    path = make_tar(tmp_path / "own.tar", files)
    _, rows = one(path, Columns({}, members={"img": "image", "cap": "text", "meta": "json"}))
    assert [(row["key"], row["url"], row["error"]) for row in rows] == [
        (str(row), f"https://a.example/{row}", None) for row in range(3)
    ]


def test_a_second_image_of_a_key_is_no_rest_of_the_first(tmp_path):
    files = [
        ("a.jpg", b"1"),
        ("a.txt", b"t"),
        ("b.jpg", b"2"),
        ("b.txt", b"u"),
        ("a.png", b"3"),
        ("a.json", b"{}"),
        ("b.json", b"{}"),
    ]
    rows, broken = tar_rows(tmp_path, files)
    assert broken is None and [(row["key"], row["image"], row["text"], row["error"]) for row in rows] == [
        ("a", b"1", "t", None), ("b", b"2", "u", None), ("a", b"3", None, "duplicate_key,missing_text"),
    ]  # fmt: skip


def test_extensions_that_are_not_known_are_named(tmp_path):
    rows, broken = tar_rows(tmp_path, [(f"{i}.{kind}", b"x") for i in range(3) for kind in ("img", "cap")])
    assert rows == [] and broken == (
        "no image among its members; their extensions are not known: .img (3), .cap (3);"
        " say which are images with --member image=EXTENSION"
    )
    rows, broken = tar_rows(tmp_path, [("0.img", b"i"), ("0.txt", b"t")])
    assert len(rows) == 1 and ": .img (1); " in broken
    assert tar_rows(tmp_path, [("0.jpg", b"i"), ("0.txt", b"t"), ("0.npy", b"n")])[1] is None


def test_a_name_with_nul_in_a_pax_header(tmp_path):
    info = tarfile.TarInfo("a.jpg")
    info.pax_headers = {"path": "x\0y.jpg"}
    rows, broken = tar_rows(tmp_path, info.tobuf(tarfile.PAX_FORMAT) + bytes(1024))
    assert broken is None and [(row["key"], row["error"]) for row in rows] == [("x\0y", "missing_text,unsafe_key")]


@pytest.mark.parametrize("letter", ["x", "\u00e9"])
def test_long_texts_are_cut(tmp_path, letter):
    files = [
        ("a.jpg", b"i"),
        ("a.txt", (letter * 1_000_000).encode()),
        ("b.jpg", b"i"),
        ("b.txt", (letter * MAX_TEXT).encode()),
    ]
    rows, _ = tar_rows(tmp_path, files)
    assert [row["error"] for row in rows] == ["text_too_long", None]
    assert [row["text"] for row in rows] == [letter * MAX_TEXT] * 2


def test_links_folders_and_devices_are_skipped(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number, kind in enumerate([tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]):
            info = tarfile.TarInfo(f"{number}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        info = tarfile.TarInfo("a.jpg")
        tar.addfile(info)
    rows, broken = tar_rows(tmp_path, buffer.getvalue())
    assert broken is None and [row["key"] for row in rows] == ["a"]


def test_a_file_above_the_bound_is_not_read(tmp_path):
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("a.jpg")
    info.size = (256 << 20) + 1
    after = tar_bytes([("a.txt", b"t")])
    with path.open("wb") as file:
        file.write(info.tobuf())
        file.seek(512 + (info.size + 511) // 512 * 512)
        file.write(after)
    _, rows = one(path)
    assert [(row["image"], row["text"], row["error"]) for row in rows] == [(None, "t", "image_too_large")]


def test_batches_are_bounded_and_limits_hold(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([(f"{i}.jpg", b"i" * (3 << 20)) for i in range(3)]))
    (shard,) = list_shards([str(path)], {})
    assert [batch.num_rows for batch in read(shard)] == [2, 1]
    limited = Shard(**{**vars(shard), "limit": 1})
    assert [batch.num_rows for batch in read(limited)] == [1]


# Tables


def test_parquet_with_bytes_and_odd_types(tmp_path):
    table = pa.table(
        {
            "IMAGE": pa.array([b"a", None, b"c"], pa.large_binary()),
            "Caption": pa.array([1, None, 3]),
            "URL": ["u", None, "w"],
            "id": ["k", None, "../x"],
        }
    )
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=2)
    shard, rows = one(tmp_path / "t.parquet")
    assert [(r["key"], r["url"], r["text"], r["image"], r["error"]) for r in rows] == [
        ("k", "u", "1", b"a", None),
        ("t/1", None, None, None, "missing_image,missing_text"),
        ("../x", "w", "3", b"c", "unsafe_key"),
    ]
    assert again(shard, rows) == [b"a", None, b"c"] and again(shard, rows[2:]) == [b"c"]


def test_parquet_text_that_is_not_text(tmp_path):
    texts = pa.array([b"ok", b"\xff!", b"y" * 70_000], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"image": [b"i"] * 3, "text": texts}), tmp_path / "t.parquet")
    _, rows = one(tmp_path / "t.parquet")
    assert [(row["text"][:2], row["error"]) for row in rows] == [
        ("ok", None),
        ("\ufffd!", "text_not_utf8"),
        ("yy", "text_too_long"),
    ]
    pq.write_table(pa.table({"image": [b"i"], "text": [["first", "second"]]}), tmp_path / "t.parquet")
    assert one(tmp_path / "t.parquet")[1][0]["text"] == "first"


def test_long_texts_of_tables_are_cut(tmp_path):
    texts = ["\u00e9" * (MAX_TEXT + 1), "\u00e9" * MAX_TEXT, None]
    pq.write_table(pa.table({"image": [b"i"] * 3, "text": texts}), tmp_path / "t.parquet")
    _, rows = one(tmp_path / "t.parquet")
    assert [row["error"] for row in rows] == ["text_too_long", None, "missing_text"]
    assert [row["text"] for row in rows] == ["\u00e9" * MAX_TEXT] * 2 + [None]


def test_parquet_as_hf_datasets_write_it(tmp_path):
    (tmp_path / "p.jpg").write_bytes(b"from path")
    cells = [
        {"bytes": b"inside", "path": "x.jpg"},
        {"bytes": None, "path": "p.jpg"},
        {"bytes": None, "path": None},
        None,
    ]
    table = pa.table({"image": cells, "text": list("abcd")})
    pq.write_table(table, tmp_path / "t.parquet")
    shard, rows = one(tmp_path / "t.parquet")
    assert [row["image"] for row in rows] == [b"inside", b"from path", None, None] == again(shard, rows)
    assert [row["error"] for row in rows] == [None, None, "missing_image", "missing_image"]


def test_a_column_of_nulls_is_columnar_and_keeps_its_rows(tmp_path):
    count = 20_000
    table = pa.table({"text": ["t"] * count, "url": ["u"] * count, "image": pa.nulls(count)})
    pq.write_table(table, tmp_path / "t.parquet")
    (shard,) = list_shards([str(tmp_path / "t.parquet")], {})
    batches = list(read(Shard(**{**vars(shard), "limit": 9000})))
    assert [batch.num_rows for batch in batches] == [ROW_GROUP, 9000 - ROW_GROUP]
    assert set(batches[0].column("error").to_pylist()) == {"missing_image"}


def test_parquet_is_cut_by_row_groups(tmp_path):
    count = 600_000
    table = pa.table({"text": pa.array(range(count)).cast(pa.string()), "image": pa.nulls(count, pa.binary())})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=100_000)
    shards = list_shards([str(tmp_path / "t.parquet")], {})
    assert [shard.part for shard in shards] == [(0, 3), (3, 6)] and [shard.index for shard in shards] == [0, 1]
    assert len({shard.fingerprint for shard in shards}) == 2
    first = next(read(shards[1]))
    assert first.column("text")[0].as_py() == "300000" and first.column("row")[0].as_py() == 0
    assert first.column("key")[0].as_py() == "t/3/0"


def test_large_images_in_parquet_come_in_small_batches(tmp_path):
    data = [bytes([i]) * (10 << 20) for i in range(8)]
    pq.write_table(pa.table({"image": data, "text": ["t"] * 8}), tmp_path / "t.parquet")
    shard, rows = one(tmp_path / "t.parquet")
    assert [row["image"] for row in rows] == data
    assert max(batch.nbytes for batch in read(shard)) < 66 << 20


def test_local_paths_never_leave_the_folder(tmp_path):
    inside = tmp_path / "in"
    (inside / "sub").mkdir(parents=True)
    (inside / "sub/a.jpg").write_bytes(b"a")
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (inside / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    os.mkfifo(inside / "fifo")
    names = {
        "sub/a.jpg": None,
        str(inside / "sub/a.jpg"): None,
        "../secret.jpg": "unsafe_path",
        str(tmp_path / "secret.jpg"): "unsafe_path",
        "link.jpg": "unsafe_path",
        "sub/../../secret.jpg": "unsafe_path",
        "none.jpg": "image_not_found",
        "sub": "image_not_found",
        "fifo": "image_not_found",
        "x" * 5000: "image_not_found",
        "a\0b": "unsafe_path",
        "http://e.org/a.jpg": "image_is_url",
        "": "missing_image",
    }
    pq.write_table(pa.table({"path": list(names), "text": ["t"] * len(names)}), inside / "t.parquet")
    shard, rows = one(inside / "t.parquet")
    assert {name: row["error"] for name, row in zip(names, rows, strict=True)} == names
    assert again(shard, rows) == [row["image"] for row in rows] == [b"a", b"a"] + [None] * (len(names) - 2)


def test_csv_with_newlines_bad_rows_and_bytes_that_are_no_text(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    (tmp_path / "bé.jpg").write_bytes(b"b")
    lines = [b"\xef\xbb\xbffile_name,caption,\xc3\xbcURL", b'a.jpg,"two\nlines, ""quoted""",u', b"\xff,two", b"a.jpg,\xff,"]
    lines.append("bé.jpg,日本,u".encode())
    (tmp_path / "t.csv").write_bytes(b"\n".join(lines))
    shard, rows = one(tmp_path / "t.csv", {"url": "üURL"})
    assert [(r["key"], r["url"], r["text"], r["image"], r["error"]) for r in rows] == [
        ("t/0", "u", 'two\nlines, "quoted"', b"a", None),
        ("t/1", None, "\ufffd", b"a", "text_not_utf8"),
        ("t/2", "u", "日本", b"b", None),
        ("t/bad/0", None, None, None, "bad_row"),
    ]
    assert again(shard, rows) == [b"a", b"a", b"b", None]


def test_tsv_with_base64(tmp_path):
    good = base64.b64encode(b"image").decode()
    (tmp_path / "t.tsv").write_text(f"image_base64\ttext\n{good}\ta\n{good[:-2]}\tb\ndata:image/png;base64,{good}\tc\n")
    shard, rows = one(tmp_path / "t.tsv")
    assert [(row["image"], row["error"]) for row in rows] == [(b"image", None), (None, "bad_base64"), (b"image", None)]
    assert again(shard, rows[1:]) == [None, b"image"]


def test_jsonl_with_bad_lines(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"a")
    lines = [
        '{"image": "a.jpg", "text": "t", "url": "u", "key": 5}',
        "{",
        "",
        "[1]",
        '{"image": 3, "text": 7, "key": "/x"}',
        "{}",
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    shard, rows = one(tmp_path / "t.jsonl")
    assert [(r["key"], r["url"], r["text"], r["image"], r["error"]) for r in rows] == [
        ("5", "u", "t", b"a", None),
        ("t/1", None, None, None, "bad_json"),
        ("t/2", None, None, None, "bad_json"),
        ("/x", None, "7", None, "unsafe_path,unsafe_key"),
        ("t/4", None, None, None, "missing_image,missing_text"),
    ]
    assert again(shard, rows) == [b"a", None, None, None, None] and again(shard, rows[:1]) == [b"a"]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(raw=st.binary(max_size=300))
@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_arbitrary_bytes_as_tables(tmp_path_factory, kind, raw):
    path = tmp_path_factory.getbasetemp() / f"noise.{kind}"
    path.write_bytes({"jsonl": b'{"image":"a","text":"b"}\n', "csv": b"image,text\n", "parquet": b"PAR1"}[kind] + raw)
    for shard in list_shards([str(path)], {}):
        rows_of(shard)


def test_a_corrupt_parquet_breaks_after_its_good_rows(tmp_path):
    path = tmp_path / "t.parquet"
    table = pa.table({"text": [f"text {i}" * 9 for i in range(5000)], "image": pa.nulls(5000)})
    pq.write_table(table, path, row_group_size=1000, compression="zstd", use_dictionary=False)
    place = pq.ParquetFile(path).metadata.row_group(3).column(0).data_page_offset
    raw = bytearray(path.read_bytes())
    raw[place : place + 200] = b"\xff" * 200
    path.write_bytes(raw)
    (shard,) = list_shards([str(path)], {})
    rows, broken = rows_of(shard)
    assert len(rows) == 3000 and "t.parquet" in broken
    path.write_bytes(raw[:-9])
    assert rows_of(list_shards([str(path)], {})[0])[0] == []


@settings(max_examples=60, deadline=None, derandomize=True)
@given(changes=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 255)), min_size=1, max_size=3))
def test_damaged_parquet_only_breaks_the_shard(tmp_path_factory, changes):
    path = tmp_path_factory.getbasetemp() / "damaged.parquet"
    pq.write_table(pa.table({"image": [b"%d" % i for i in range(99)], "text": ["t"] * 99}), path, row_group_size=33)
    raw = bytearray(path.read_bytes())
    for place, value in changes:
        raw[place % len(raw)] = value
    path.write_bytes(raw)
    try:
        for shard in list_shards([str(path)], {}):
            rows_of(shard)
    except InputError as error:
        assert "\n" not in str(error)


# Folders


def test_a_folder_of_images(tmp_path, monkeypatch):
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(b"secret")
    (root / "e.jpg").symlink_to(tmp_path / "secret.jpg")
    for name in ("a.jpg", "b.png", "c.webp", "d.gif", "sub/f.jpg", "sub/f.png"):
        (root / name).write_bytes(name.encode())
    (root / "a.txt").write_text("sidecar")
    (root / "b.json").write_text('{"caption": "json", "url": "u"}')
    (root / "c.json").write_text("{")
    lines = [
        {"file_name": "d.gif", "text": "listed"},
        {"file_name": "../secret.jpg", "text": "x"},
        {"image": "sub/f.jpg", "captions": ["one"]},
    ]
    (root / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    shard, rows = one(root)
    assert [(row["key"], row["url"], row["text"], row["error"]) for row in rows] == [
        ("a", None, "sidecar", None),
        ("b", "u", "json", None),
        ("c", None, None, "bad_json,missing_text"),
        ("d", None, "listed", None),
        ("e", None, None, "missing_text"),
        ("sub/f", None, "one", None),
        ("sub/f", None, None, "missing_text,duplicate_key"),
    ]
    assert rows[4]["image"] == b"secret" and again(shard, rows) == [row["image"] for row in rows]
    monkeypatch.setattr(folder_source, "SHARD_IMAGES", 3)
    shards = list_shards([str(root)], {})
    assert [shard.part for shard in shards] == [(0, 3), (3, 6), (6, 7)]
    assert [row["key"] for shard in shards for row in rows_of(shard)[0]] == [row["key"] for row in rows]


def test_links_in_folders_are_followed_once(tmp_path):
    for name in ("in/a/0.tar", "elsewhere/1.tar"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(tar_bytes(pairs(1)))
    for name, target in (
        ("b", "../elsewhere"),
        ("a/loop", "../../in"),
        ("again", "a"),
        ("gone", "nowhere"),
        ("c.tar", "a/0.tar"),
    ):
        (tmp_path / "in" / name).symlink_to(target)
    names = [Path(shard.url).relative_to(tmp_path / "in").as_posix() for shard in list_shards([str(tmp_path / "in")], {})]
    assert names == ["a/0.tar", "b/1.tar", "c.tar"]


def test_images_that_img2dataset_wrote_as_files(tmp_path):
    table = {"url": ["http://e.org/0"], "caption": ["t"], "key": ["000000000"], "status": ["success"]}
    pq.write_table(pa.table(table), tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text("{}")
    (tmp_path / "00000").mkdir()
    for kind, data in (("jpg", b"i"), ("txt", b"t"), ("json", b'{"url": "http://e.org/0"}')):
        (tmp_path / f"00000/000000000.{kind}").write_bytes(data)
    shard, rows = one(tmp_path)
    assert not shard.on_the_web and [(row["key"], row["url"], row["text"], row["image"]) for row in rows] == [
        ("00000/000000000", "http://e.org/0", "t", b"i")
    ]


# Listing


def test_inputs_are_listed_in_order(tmp_path):
    for name in ("sub/b.tar", "a.tar", "c.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(tar_bytes(pairs(1)))
    pq.write_table(pa.table({"url": ["u"], "caption": ["c"]}), tmp_path / "a.parquet")  # beside a tar: its metadata
    names = lambda inputs: [(s.index, Path(s.url).name) for s in list_shards(inputs, {})]  # noqa: E731
    assert names([str(tmp_path)]) == [(0, "a.tar"), (1, "c.tar"), (2, "b.tar")]
    assert names([str(tmp_path / "c.tar"), str(tmp_path / "*.tar"), f"file://{tmp_path}/sub"]) == [
        (0, "c.tar"),
        (1, "a.tar"),
        (2, "b.tar"),
    ]


def test_brace_lists_and_lists_of_inputs(tmp_path):
    for name in ("00008.tar", "00009.tar", "00010.tar", "{x,y}.tar", "sub/a.tar", "sub/b.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(tar_bytes(pairs(1)))
    names = lambda *inputs: [Path(s.url).name for s in list_shards([str(tmp_path / one) for one in inputs], {})]  # noqa: E731
    numbered = ["00008.tar", "00009.tar", "00010.tar"]
    assert names("{00008..00010}.tar") == numbered and names("{00010..00008..2}.tar") == ["00010.tar", "00008.tar"]
    assert names("{x,y}.tar") == ["{x,y}.tar"]  # a file of this very name
    assert names("{000{08..09},sub/{a,b}}.tar") == ["00008.tar", "00009.tar", "a.tar", "b.tar"]
    assert names("{sub,.}/*.tar") == ["a.tar", "b.tar", *numbered, "{x,y}.tar"]
    for missing in ("{00008..99999}.tar", "{00008,00011}.tar"):
        with pytest.raises(InputError, match=r"/00011\.tar: no such file"):
            names(missing)
    (tmp_path / "sub/list.txt").write_text(f"# ours\n\nb.tar\n../{{00008..00009}}.tar\n{tmp_path}/0001?.tar\n@more.txt\n")
    (tmp_path / "sub/more.txt").write_text("a.tar\nb.tar\n")
    found = [Path(s.url).name for s in list_shards([f"@{tmp_path}/sub/list.txt"], {})]
    assert found == ["b.tar", *numbered, "a.tar"]
    (tmp_path / "sub/more.txt").write_text("@list.txt")
    (tmp_path / "empty.txt").write_text("# none")
    for name, message in (("sub/list.txt", "circle"), ("empty.txt", "names no input"), ("no.txt", "No such file")):
        with pytest.raises(InputError, match=message):
            list_shards([f"@{tmp_path}/{name}"], {})


def test_brace_lists_of_remote_files(memory):
    url, fs = memory
    folder = url.removeprefix("memory:/")
    for number in range(3):
        fs.pipe(f"{folder}/{number:03d}.tar", tar_bytes(pairs(1)))
    fs.pipe(f"{folder}/list.txt", b"{000..001}.tar")
    names = lambda name: [s.url.rpartition("/")[2] for s in list_shards([name], {})]  # noqa: E731
    assert names(f"{url}/{{000..002}}.tar") == ["000.tar", "001.tar", "002.tar"]
    assert names(f"@{url}/list.txt") == ["000.tar", "001.tar"]
    with pytest.raises(InputError, match=r"003\.tar: no such file"):
        names(f"{url}/{{000..003}}.tar")


def test_a_fingerprint_follows_the_content(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(pairs(1)))
    before = list_shards([str(path)], {})[0].fingerprint
    assert re.fullmatch("[0-9a-f]{16}", before) and list_shards([str(path)], {})[0].fingerprint == before
    os.utime(path, (1, 1))
    assert list_shards([str(path)], {})[0].fingerprint != before


def test_the_output_of_a_run_is_its_tars(tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/0.tar").write_bytes(tar_bytes(pairs(1)))
    (tmp_path / "manifest.json").write_text("{}")
    pq.write_table(pa.table({"x": [1]}), tmp_path / "decisions.parquet")
    assert [Path(shard.url).name for shard in list_shards([str(tmp_path)], {})] == ["0.tar"]


def file_of(path, content):
    """Write bytes, or columns as parquet."""
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pq.write_table(pa.table(content), path)
    return path


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.parquet", {"a": [1], "b": [2]}, "no image or url column among a, b"),
        ("t.parquet", {"image": [b"1"], "b": [2]}, "no text column"),
        ("t.parquet", {"image": [1], "text": ["t"]}, "cannot hold images"),
        ("a.doc", b"", "unknown kind of file"),
    ],
)
def test_inputs_that_cannot_be_used(tmp_path, name, content, message):
    path = file_of(tmp_path / name, content)
    with pytest.raises(InputError, match=message) as error:
        list_shards([str(path)], {})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("t.parquet", {"URL": ["http://a", None], "TEXT": ["t", "u"]}, {"url": "URL", "text": "TEXT"}),
        ("t.parquet", {"image": ["https://a", None], "text": ["t", "u"]}, {"url": "image", "text": "text"}),
        ("t.jsonl", b'{"image": "http://a", "text": "t"}\n{"text": "u"}\n', {"url": "image", "text": "text"}),
        ("t.csv", b"image_url,caption\nhttp://a,t\n,u\n", {"url": "image_url", "text": "caption"}),
    ],
)
def test_a_table_of_urls(tmp_path, name, content, columns):
    path = file_of(tmp_path / name, content)
    shard, rows = one(path)
    assert shard.on_the_web and dict(shard.columns) == columns
    assert [row["text"] for row in rows] == ["t", "u"] and [row["image"] for row in rows] == [None, None]
    assert rows[0]["url"].endswith("://a") and rows[0]["error"] is None
    assert rows[1]["url"] is None and rows[1]["error"] == "missing_url"


def test_the_sha256_that_a_table_gives(tmp_path):
    pq.write_table(pa.table({"url": ["http://a"], "text": ["t"], "sha256": ["AB" * 32]}), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text(json.dumps({"url": "http://a", "text": "t", "sha256": "AB" * 32}) + "\n")
    for name in ("t.parquet", "t.jsonl"):
        assert one(tmp_path / name)[1][0]["given_sha256"] == "ab" * 32


def test_inputs_that_are_not_there(tmp_path):
    for inputs in (
        [],
        [str(tmp_path / "no.tar")],
        [str(tmp_path / "*.tar")],
        [str(tmp_path)],
        ["memory://no/such.tar"],
        ["nope://x"],
    ):
        with pytest.raises(InputError):
            list_shards(inputs, {})


def test_a_missing_backend_names_the_extra():
    if "s3fs" in {name.partition(".")[0] for name in __import__("sys").modules} or __import__("importlib.util").util.find_spec(
        "s3fs"
    ):
        pytest.skip("s3fs is installed")
    with pytest.raises(InputError, match=r'pip install "curate-image-text\[s3\]"'):
        list_shards(["s3://bucket/a.tar"], {})


def test_columns_can_be_named(tmp_path):
    pq.write_table(pa.table({"x": [b"i"], "y": ["t"], "text": ["no"]}), tmp_path / "t.parquet")
    _, rows = one(tmp_path / "t.parquet", {"image": "x", "text": "y"})
    assert (rows[0]["image"], rows[0]["text"]) == (b"i", "t")
    for wrong in ({"image": "z"}, {"picture": "x"}):
        with pytest.raises(InputError):
            list_shards([str(tmp_path / "t.parquet")], wrong)


@pytest.fixture
def memory():
    """Return the url of an empty folder behind fsspec."""
    fs = fsspec.filesystem("memory")
    folder = f"/{uuid4().hex}"
    fs.mkdir(folder)
    yield "memory:/" + folder, fs
    fs.rm(folder, recursive=True)


def test_remote_files(memory):
    url, fs = memory
    fs.pipe(f"{url}/a.tar", tar_bytes(pairs(2)))
    fs.pipe(f"{url}/img/x.jpg", b"x")
    fs.pipe(
        f"{url}/t.jsonl",
        b'{"path": "img/x.jpg", "text": "t"}\n{"path": "../x.jpg", "text": "t"}\n{"path": "no", "text": "t"}\n',
    )
    for inputs in ([url], [f"{url}/*.tar", f"{url}/t.jsonl"]):
        tar, table = list_shards(inputs, {})
        with open_shard(tar) as opened:
            rows = [row for batch in opened.read() for row in batch.to_pylist()]
        assert [row["image"] for row in rows] == [b"image 0", b"image 1"] == again(tar, rows)
        rows, _ = rows_of(table)
        assert [(row["image"], row["error"]) for row in rows] == [
            (b"x", None),
            (None, "unsafe_path"),
            (None, "image_not_found"),
        ]


def test_a_remote_folder_of_images(memory):
    url, fs = memory
    fs.pipe(f"{url}/a.jpg", b"a")
    fs.pipe(f"{url}/a.txt", b"text")
    fs.pipe(f"{url}/captions.jsonl", b'{"file_name": "sub/b.png", "caption": "listed"}\n')
    fs.pipe(f"{url}/sub/b.png", b"b")
    shard, rows = one(url)
    assert [(row["key"], row["text"], row["image"], row["error"]) for row in rows] == [
        ("a", "text", b"a", None),
        ("sub/b", "listed", b"b", None),
    ]
    assert again(shard, rows[1:]) == [b"b"]


def test_members_with_extensions_of_their_own(tmp_path: Path) -> None:
    path = make_tar(
        tmp_path / "own.tar", [("1.img", jpeg(1)), ("1.cap", b"a text"), ("1.meta", b'{"url": "https://a.example/1"}')]
    )
    (shard,) = list_shards([str(path)], {})
    with pytest.raises(ShardBreak, match=r"\.img \(1\).*--member image=EXTENSION"):
        list(read(shard))
    told = Columns({}, members={"img": "image", "cap": "text", "meta": "json"})
    shard, rows = one(path, told)
    assert [(row["key"], row["image"], row["text"], row["url"]) for row in rows] == [
        ("1", jpeg(1), "a text", "https://a.example/1")
    ]
    assert again(shard, rows) == [jpeg(1)]
    assert shard.fingerprint != list_shards([str(path)], {})[0].fingerprint  # it is another input


@pytest.mark.parametrize("kind", ["tar", "folder"])
def test_a_large_json_is_read_where_that_is_said(kind: str, tmp_path: Path) -> None:
    large = json.dumps({"url": "https://a.example/1", "notes": ["x" * 1000] * 1100}).encode()
    files = [("1.jpg", jpeg(1)), ("1.json", large), ("1.txt", b"a text")]
    path = make_tar(tmp_path / "large.tar", files)
    if kind == "folder":
        path = tmp_path / "in"
        path.mkdir()
        for name, data in files:
            (path / name).write_bytes(data)
    for said, expected in ((None, (None, "bad_json")), (len(large), ("https://a.example/1", None))):
        _, [row] = one(path, Columns({}, max_json=said))
        assert (row["url"], row["error"]) == expected


@pytest.mark.parametrize(
    ("size", "said"), [("big", "'big' is not a size; write 500MB or 2GB"), ("2GB", "--max-json 2GB: must be"), ("0MB", "must be")]
)
def test_a_bound_of_json_must_be_a_size(size: str, said: str, tmp_path: Path) -> None:
    told = curate("stats", make_tar(tmp_path / "a.tar", [("1.jpg", jpeg(1))]), "--max-json", size)
    assert told.returncode == 2 and said in told.stderr and len(told.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("img", "ROLE=EXTENSION"),
        ("picture=img", "a role of image, text, json"),
        ("image=.a.b", "ROLE=EXTENSION"),
        ("text=", "ROLE"),
    ],
)
def test_what_is_said_of_members_must_mean_something(option: str, said: str, tmp_path: Path) -> None:
    path = make_tar(tmp_path / "own.tar", [("1.img", jpeg(1))])
    told = curate("stats", path, "--member", option)
    assert told.returncode == 2 and said in told.stderr and len(told.stderr.splitlines()) == 1
    table = tmp_path / "a.csv"
    table.write_text("url,text\nhttps://a.example/1.jpg,one\n")
    assert "no tar" in curate("stats", table, "--member", "image=img").stderr


def test_pictures_are_not_hidden_by_a_table_that_is_not_theirs(tmp_path: Path) -> None:
    for seed in range(3):
        (tmp_path / f"{seed}.jpg").write_bytes(jpeg(seed))
        (tmp_path / f"{seed}.txt").write_text(f"a picture {seed}")
    (tmp_path / "notes.csv").write_text("name,grade\nx,1\n")
    (tmp_path / "log.csv").write_text("url,text\nhttps://a.example/1.jpg,one\n")
    shards = list_shards([str(tmp_path)], {})
    assert [shard.kind for shard in shards] == ["folder"]
    assert [re.sub(r".*/(\w+\.csv).*", r"\1", line) for line in shards.left_aside] == ["log.csv", "notes.csv"]
    told = curate("stats", tmp_path)
    assert told.returncode == 0 and "no image or url column among name, grade" in told.stderr
    assert [shard.kind for shard in list_shards([str(tmp_path)], {"url": "url"})] == ["csv"]  # for that is said


def test_a_table_that_stands_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"url,text\nhttps://a.example/1.jpg,one\n"))
    (tmp_path / "a.jsonl").write_text('{"url": "https://a.example/1.jpg", "text": "one"}\n')
    (tmp_path / "a.b.jsonl").write_text('{"url": "https://a.example/2.jpg", "text": "two"}\n')
    (tmp_path / "notes.csv").write_text("name,grade\nx,1\n")
    shards = list_shards([str(tmp_path)], {})
    assert [shard.url.rpartition("/")[2] for shard in shards] == ["a.b.jsonl", "a.jsonl"]
    assert len(shards.left_aside) == 2 and "a.csv.gz is not read: a.jsonl beside it" in shards.left_aside[0]


def test_a_folder_of_tables_that_cannot_be_used_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("name,grade\nx,1\n")
    with pytest.raises(InputError, match="no image or url column among name, grade"):
        list_shards([str(tmp_path)], {})


def test_what_img2dataset_writes_beside_packed_tars_is_no_input(tmp_path: Path) -> None:
    (tmp_path / "00000.tar.gz").write_bytes(gzip.compress(tar_bytes(pairs(2))))
    pq.write_table(pa.table({"url": ["https://a.example/1.jpg"], "caption": ["one"]}), tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text("{}")
    assert [shard.kind for shard in list_shards([str(tmp_path)], {})] == ["tar"]
