"""The core on systems without POSIX: in a process from which what they lack is removed before curate is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.dangerous import HANG
from tests.running import KEEP_ALL, Setup, make_tar, pairs, run_job, written

ROOT = Path(__file__).parents[1]

REMOVE = """
import multiprocessing.connection, os, select, signal, sys, types  # before anything is removed: they adapt to what there is
import pebble
held = []

def locking(descriptor, mode, size):
    where = os.lseek(descriptor, 0, os.SEEK_CUR)
    if (where, os.fstat(descriptor).st_ino) in held:
        raise PermissionError
    held.append((where, os.fstat(descriptor).st_ino))

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
for module, names in (
    (signal, ("setitimer", "getitimer", "ITIMER_REAL", "SIGALRM", "alarm", "SIGKILL", "pause")),
    (os, ("sched_getaffinity", "getuid", "geteuid", "fork", "killpg", "getpgid", "setsid")),
):
    for name in names:
        delattr(module, name)
"""


def without_posix(code: str, *arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a process that has lost what Windows lacks, and so have the processes that it spawns."""
    (folder / "site").mkdir(exist_ok=True)
    (folder / "site" / "sitecustomize.py").write_text(REMOVE)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "site"), str(ROOT)])}
    line = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120, cwd=ROOT)


RUN = """
import sys
from pathlib import Path
import os, signal
assert not hasattr(signal, "setitimer") and not hasattr(os, "sched_getaffinity")
from curate.core.platform import cores
from tests.running import KEEP_ALL, Setup, run_job
assert cores() == os.cpu_count()
outcome = run_job(Setup(KEEP_ALL, [Path(sys.argv[1])]), Path(sys.argv[2]))
assert outcome.failed == [] and outcome.kept == 4, outcome
"""


def test_a_run_without_posix_writes_the_same_bytes(tmp_path: Path, curate_cache: Path) -> None:
    tar = make_tar(tmp_path / "0.tar", pairs(range(4)))
    done = without_posix(RUN, tar, tmp_path / "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    run_job(Setup(KEEP_ALL, [tar]), tmp_path / "here" / "out")
    assert written(tmp_path / "out") == written(tmp_path / "here" / "out")


LOCAL = """
import sys
from pathlib import Path
from curate.core.contracts import Needs
from curate.passes.isolate import FindCrashes, crashing_rows
from curate.runners.local.runner import LocalRunner
from curate.sources.listing import list_shards
from curate.storage.backend import storage
from curate.storage.store import Store
from tests.dangerous import DangerousDecode, worker_of
from tests.running import KEEP_ALL, Setup, run_job

if __name__ == "__main__":
    tar, out = map(Path, sys.argv[1:])
    with LocalRunner(2) as runner:
        assert sorted(item for item, _ in runner.map(worker_of, range(4), Needs())) == [0, 1, 2, 3]
        run_job(Setup(KEEP_ALL, [tar]), out, runner)
    store, [shard] = Store(storage(out)), list_shards([str(tar)], {})
    base = next((out / "facts").glob("base-*")).name
    assert FindCrashes(store, base, DangerousDecode(), (), 2.0)(shard).counts == {"crashing_rows": 1}
    assert crashing_rows(store, shard) == {1: "timeout"}
"""


def test_workers_without_posix_run_and_a_row_that_hangs_is_found(tmp_path: Path, curate_cache: Path) -> None:
    tar = make_tar(tmp_path / "0.tar", pairs(range(3), {1: HANG}))
    done = without_posix(LOCAL, tar, tmp_path / "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr


LOCKED = """
import sys
from pathlib import Path
from curate.core.errors import OutputError
from curate.storage.backend import storage
from curate.storage.local_copies import own_folder
from curate.storage.store import Store
store = Store(storage(Path(sys.argv[1])))
with store.locked():
    try:
        with store.locked():
            raise AssertionError
    except OutputError as error:
        assert "is in use by process" in str(error), error
assert own_folder("x", Path(sys.argv[1])).name == "curate-x"
"""


def test_an_output_has_one_writer_without_posix(tmp_path: Path) -> None:
    done = without_posix(LOCKED, tmp_path / "out", folder=tmp_path)
    assert done.returncode == 0, done.stderr
