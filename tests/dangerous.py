"""A decoder that dies, hangs or raises at images that carry a word: spawned workers import it from here."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from typing import NoReturn

import pyarrow as pa

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
