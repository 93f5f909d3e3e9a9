"""A server of the real S3 protocol on loopback, moto in a process of its own: for tests of inputs and outputs on s3://."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

_SERVE = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print("http://{}:{}".format(*server.get_host_and_port()), flush=True)
sys.stdin.read()  # until the tests are gone, however they end
server.stop()
"""


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a server that this test session shares; return its url. Skips where moto or s3fs is not installed."""
    if any(importlib.util.find_spec(name) is None for name in ("moto", "flask", "s3fs")):
        pytest.skip("needs moto[server,s3] and s3fs (extra dev)")
    log = tmp_path_factory.mktemp("s3") / "server.log"
    pipe = subprocess.PIPE
    with (
        log.open("w") as file,
        subprocess.Popen([sys.executable, "-c", _SERVE], stdin=pipe, stdout=pipe, stderr=file, text=True) as server,
    ):
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        assert url, log.read_text()
        yield url
        server.communicate()  # closes its standard input


def environment_of(server: str) -> dict[str, str]:
    """Return what a process needs in its environment to reach the server."""
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
    return {"AWS_ENDPOINT_URL": server, **keys, "NO_PROXY": "127.0.0.1"}


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the s3:// url of an empty bucket, which this process and those that it starts reach."""
    from s3fs import S3FileSystem

    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment_of(s3_server).items():
        monkeypatch.setenv(name, value)
    S3FileSystem.clear_instance_cache()  # one that another test made has another endpoint
    name = f"bucket-{uuid.uuid4().hex}"
    S3FileSystem().mkdir(name)
    return f"s3://{name}"


def upload(folder: Path, url: str) -> str:
    """Copy a folder of this disk to `url`, which it returns."""
    from s3fs import S3FileSystem

    S3FileSystem().put(f"{folder}/", url, recursive=True)
    return url


def download(url: str, folder: Path) -> Path:
    """Copy what lies at `url` to a folder of this disk, which it returns."""
    from s3fs import S3FileSystem

    S3FileSystem(use_listings_cache=False).get(url, str(folder), recursive=True)
    return folder
