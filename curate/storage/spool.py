"""Marks in a temporary file of this machine: what a run needs more than once, it reads from OUT once."""

from __future__ import annotations

import pickle
import weakref
from tempfile import TemporaryFile

from curate.storage.marks import Mark


class Spool:
    """Marks by block, of which memory holds only where they are. The file goes with the spool, or with the process."""

    def __init__(self) -> None:
        self._file = TemporaryFile(prefix="curate-marks-")  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._at: dict[int, int] = {}
        self._size = 0

    def __setitem__(self, block: int, mark: Mark) -> None:
        self._go(self._size)
        self._at[block] = self._size
        self._size += self._file.write(pickle.dumps(mark, pickle.HIGHEST_PROTOCOL))

    def __getitem__(self, block: int) -> Mark:
        self._go(self._at[block])
        mark: Mark = pickle.load(self._file)  # no other process can open this file
        return mark

    def _go(self, place: int) -> None:
        if self._file.tell() != place:  # a seek empties the buffer
            self._file.seek(place)
