"""hf://: files of a hub's data sets, from a server of our own that answers as the hub does."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.tables import IMAGES, TEXTS

pytest.importorskip("huggingface_hub")

REPO = "owner/name"
SHA = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks for to list and read a data set."""

    protocol_version = "HTTP/1.1"
    files: ClassVar[dict[str, bytes]] = {}

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path in (f"/api/datasets/{REPO}", f"/api/datasets/{REPO}/revision/main"):
            self.say({"id": REPO, "sha": SHA, "siblings": [], "tags": [], "private": False, "downloads": 0, "likes": 0})
        elif found := re.fullmatch(f"/api/datasets/{REPO}/tree/[^/]+/?(.*)", path):
            self.tree(found[1])
        elif (found := re.fullmatch(f"/datasets/{REPO}/resolve/[^/]+/(.*)", path)) and found[1] in self.files:
            self.content(self.files[found[1]])
        else:
            self.missing(path)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        names = [name for name in asked["paths"] if name in self.files]
        folders = [name for name in asked["paths"] if any(file.startswith(name + "/") for file in self.files)]
        self.say([self.entry(name) for name in names] + [{"type": "directory", "path": name, "oid": SHA} for name in folders])

    def tree(self, folder: str) -> None:
        below = [name for name in self.files if not folder or name.startswith(folder + "/")]
        folders = {str(parent) for name in below for parent in Path(name).parents} - {".", folder}
        if folder and not below:
            self.missing(folder)
        else:
            self.say(
                [self.entry(name) for name in below]
                + [{"type": "directory", "path": name, "oid": SHA} for name in sorted(folders)]
            )

    def entry(self, name: str) -> dict[str, object]:
        return {"type": "file", "path": name, "size": len(self.files[name]), "oid": f"{len(self.files[name]):040x}"}

    def content(self, data: bytes) -> None:
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        begin, end = (int(part[1]), int(part[2] or len(data) - 1) + 1) if part else (0, len(data))
        self.send_response(206 if part else 200)
        self.send_header("ETag", f'"{len(data):040x}"')
        self.send_header("X-Repo-Commit", SHA)
        self.send_header("Accept-Ranges", "bytes")
        if part:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(data)}")
        self.body(data[begin:end])

    def say(self, value: object) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.body(json.dumps(value).encode())

    def missing(self, path: str) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "EntryNotFound" if REPO in path else "RepoNotFound")
        self.body(b"{}")

    def body(self, data: bytes) -> None:
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def hub(files: dict[str, bytes]) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OneHub", (Hub,), {"files": files}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


READ = """
import json, sys
from curate.sources.listing import list_shards
from curate.sources.opening import images, read
for url in sys.argv[1:]:
    for shard in list_shards([url], {}):
        rows = [row for batch in read(shard) for row in batch.to_pylist()]
        import pyarrow as pa
        table = pa.table({"row": [r["row"] for r in rows], "offset": [None] * len(rows), "bytes": [None] * len(rows)})
        same = list(images(shard, table)) == [row["image"] for row in rows]
        print(json.dumps([shard.url, [row["text"] for row in rows], same]))
"""


def child(endpoint: str, home: Path, *command: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run Python with a hub at `endpoint`."""
    env = {**os.environ, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1", **more}
    return subprocess.run([sys.executable, *command], env=env, capture_output=True, text=True, timeout=100, check=False)


def test_files_folders_and_globs_of_a_data_set(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": IMAGES, "text": TEXTS}), tmp_path / "t.parquet")
    table = (tmp_path / "t.parquet").read_bytes()
    pairs = json.dumps([{"url": "http://e.org", "caption": "t"}]).encode()
    urls = [f"hf://datasets/{REPO}@main/data/a.parquet", f"hf://datasets/{REPO}/data/*.parquet", f"hf://datasets/{REPO}/more"]
    with hub({"data/a.parquet": table, "data/b.parquet": table, "more/t.json": pairs, "README.md": b"#"}) as endpoint:
        done = child(endpoint, tmp_path, "-c", READ, *urls)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one[0].rpartition("/")[2] for one in found] == ["a.parquet", "a.parquet", "b.parquet", "t.json"]
    assert [one[1:] for one in found] == [[TEXTS, True]] * 3 + [[["t"], True]]
    assert all(one[0].startswith("hf://datasets/owner/name") for one in found)


LIST = """
import sys
from curate.core.errors import InputError
from curate.sources.listing import list_shards
for url in sys.argv[1:]:
    try:
        print(list(list_shards([url], {})))
    except InputError as error:
        print(error)
"""


def test_what_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    wanted = {
        f"hf://datasets/{REPO}/no.parquet": "no such file",
        "hf://datasets/other/none/a.parquet": "no such file",
        f"hf://datasets/{REPO}/*.parquet": "nothing matches",
        "hf://nothing": "Repository id must be",
    }
    with hub({"README.md": b"#"}) as endpoint:
        done = child(endpoint, tmp_path, "-c", LIST, *wanted)
    assert done.returncode == 0, done.stderr
    for line, (url, message) in zip(done.stdout.splitlines(), wanted.items(), strict=True):
        assert line.startswith(f"{url}: {message}") and line.count("hf://") == 1


@pytest.mark.parametrize(
    ("environment", "message"),
    [({"HF_HUB_OFFLINE": "1"}, "offline mode is enabled"), ({}, "a store gives no answer: ConnectError")],
)
def test_a_hub_that_cannot_be_reached_is_one_line(environment: dict[str, str], message: str, tmp_path: Path) -> None:
    asked = ("plan", "fetch", f"hf://datasets/{REPO}/a.parquet", "--set", "fetch.contact=https://e.org")
    done = child("http://127.0.0.1:9", tmp_path, "-m", "curate", *asked, **environment)
    assert done.returncode == 1 and done.stdout == ""
    assert message in done.stderr and len(done.stderr.strip().splitlines()) == 1 and done.stderr.count("hf://") == 1
