"""Locks: one process at a time, also where there is no fcntl."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

FAKE = """
# what Windows has instead of fcntl: a lock of one byte of a file, which other handles cannot take
LK_LOCK, LK_NBLCK, LK_UNLCK = 1, 2, 0
held = {}
waited = []

def locking(descriptor, mode, size):
    import os
    status = os.fstat(descriptor)
    place = status.st_dev, status.st_ino, os.lseek(descriptor, 0, os.SEEK_CUR)
    if mode == LK_UNLCK:
        del held[place]
    elif place in held:
        if mode == LK_LOCK:
            waited.append(place)
            if len(waited) == 3:
                del held[place]
        raise OSError(36, "Resource deadlock avoided")
    else:
        held[place] = size
"""

WITHOUT_FCNTL = """
import os, subprocess, sys  # subprocess takes a system with msvcrt for Windows: before there is one
sys.modules["fcntl"] = None
sys.path += sys.argv[2:]
from pathlib import Path
from curate.core.errors import OutputError
from curate.storage.backend import storage
from curate.storage.local_copies import local_copy
from curate.storage.locks import locked
from curate.storage.store import Store

out = Path(sys.argv[1])
store = Store(storage(out))
try:
    with store.locked():
        assert (out / ".lock").read_text() == f"process {os.getpid()}"
        try:
            with store.locked():
                raise AssertionError
        except OutputError as error:
            print(error)
    with store.locked():
        print("free again")
except OutputError as error:
    print(error)
    sys.exit()
import msvcrt
assert not msvcrt.held
storage("memory://counts").write("one/keys", b"k")
print((local_copy(storage("memory://counts"), "one", ["keys"]) / "keys").read_bytes(), msvcrt.held)
with open(out / "waiting", "w+b") as first, open(out / "waiting", "rb") as second:
    with locked(first, wait=True):
        with locked(second, wait=True):
            first.write(b"a position is kept")
        print(len(msvcrt.waited), msvcrt.held)
        msvcrt.held[os.fstat(first.fileno()).st_dev, os.fstat(first.fileno()).st_ino, 1 << 30] = 1
"""


def run(tmp_path: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", WITHOUT_FCNTL, str(tmp_path / "out"), *map(str, paths)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_one_process_at_a_time_where_there_is_no_fcntl(tmp_path: Path) -> None:
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "msvcrt.py").write_text(FAKE)
    done = run(tmp_path, tmp_path / "fake")
    assert done.stderr == ""
    refused, again, copied, waited = done.stdout.splitlines()
    assert refused.startswith(f"{tmp_path / 'out'} is in use by process ")
    assert (again, copied, waited) == ("free again", "b'k' {}", "3 {}")


def test_where_there_are_no_locks_at_all_it_is_said_in_one_line(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.stderr == ""
    assert done.stdout == f"{tmp_path / 'out' / '.lock'} cannot be locked: Python has neither fcntl nor msvcrt on this system\n"
