"""A decoder that dies, hangs or raises at images that carry a word: spawned workers import it from here."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pyarrow as pa

from curate.errors import OutOfDeviceMemory
from curate.stages.decode import DecodeStage, Picture

SEGFAULT, LEAVE, KILLED, HANG, RAISE = b"please-segfault", b"please-leave", b"please-be-killed", b"please-hang", b"please-raise"


@dataclass(frozen=True)
class DangerousDecode(DecodeStage):
    """DecodeStage but for marked images."""

    def _decode(self, image: pa.BinaryScalar, form: str) -> Picture:
        data = image.as_py()
        if SEGFAULT in data:
            os.kill(os.getpid(), signal.SIGSEGV)
        if LEAVE in data:
            os._exit(3)
        if KILLED in data:  # as the kernel does when memory runs out
            os.kill(os.getpid(), signal.SIGKILL)
        if HANG in data:
            _forever()
        if RAISE in data:
            raise ZeroDivisionError("a bug of ours")
        return super()._decode(image, form)


def _forever() -> NoReturn:
    while True:
        pass


@dataclass(frozen=True)
class KilledOnce(DecodeStage):
    """DecodeStage whose worker is killed from outside, once: `flag` says that it happened."""

    flag: str = ""

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        try:
            Path(self.flag).touch(exist_ok=False)
        except FileExistsError:
            return super().__call__(batch)
        os.kill(os.getpid(), signal.SIGKILL)
        return batch


def full(item: int) -> int:
    """Fail as a model does whose batch does not fit."""
    if item == 1:
        raise OutOfDeviceMemory("1 image a call does not fit")
    return item


def worker_of(item: int) -> tuple[int, int]:
    """Return the item and the process that got it."""
    return item, os.getpid()
