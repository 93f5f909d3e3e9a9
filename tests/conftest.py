"""Fixtures of the whole suite: where data lies, the pool made from ../shared, and a cache that is not the user's."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from curate import filters
from curate.core import facts
from curate.models import registry as models
from curate.sources import registry as sources
from tests.engines import cluster, engine, line, runner, setup, undisturbed
from tests.limits import pytest_collection_modifyitems, pytest_timeout_cancel_timer, pytest_timeout_set_timer
from tests.s3 import bucket, s3_server

__all__ = ["bucket", "cluster", "engine", "line", "runner", "s3_server", "setup", "undisturbed"]  # fixtures of every test
__all__ += ["pytest_collection_modifyitems", "pytest_timeout_cancel_timer", "pytest_timeout_set_timer"]  # and their limits

ROOT = Path(__file__).parents[1]

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells let what they start with & ignore it, and so would every child
SHARED = ROOT.parent / "shared"


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all workers of this test session share, and no other session."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session", autouse=True)
def curate_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Point CURATE_CACHE to a folder of this session, also for the processes that tests start."""
    folder = session_folder(tmp_path_factory) / "curate-cache"
    folder.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CURATE_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return ../shared, the data that is not in the repository; skip where it does not exist."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared")
    return SHARED


@pytest.fixture(scope="session")
def demo() -> Path:
    """Return tests/data/demo: pairs/*.tar, eval/*.jpg, truth.jsonl (see tests/make_demo_data.py)."""
    return ROOT / "tests" / "data" / "demo"


@pytest.fixture(scope="session")
def pool(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with pool/*.tar (6,000 pairs), eval/*.jpg and truth.parquet; made once for all workers."""
    folder = session_folder(tmp_path_factory)
    ready = folder / "pool"
    with (folder / "pool.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not ready.is_dir():
            make_pool(shared, folder / "pool.partial")
            (folder / "pool.partial").rename(ready)
    return ready


def make_pool(shared: Path, out: Path) -> None:
    """Run shared/tools/make_pool.py into `out`."""
    data = shared / "data"
    command = [sys.executable, str(shared / "tools" / "make_pool.py"), "--eval", str(data / "imagenet_sample")]
    command += ["--out", str(out), "--clean", str(data / "flickr8k_train"), str(data / "coco_mini_ccby")]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture(autouse=True)
def _without_plugins_of_other_tests() -> Iterator[None]:
    """Forget the plug-ins that a test loads: a process of curate has those of one recipe, a process of tests of many."""
    tables: list[dict[str, Any]] = [filters._registered, facts.FACTS, facts.PROVIDERS, sources._added, models._REGISTERED]
    before = [dict(table) for table in tables]
    yield
    for table, known in zip(tables, before, strict=True):
        if table != known:
            table.clear()
            table.update(known)
    sources._by_suffix.cache_clear()
