"""A decoder that dies, hangs or raises at images that carry a word: spawned workers import it from here."""

from __future__ import annotations

import os
import signal
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pyarrow as pa

from curate.core import watchdog
from curate.core.contracts import Shard
from curate.core.errors import OutOfDeviceMemory
from curate.images.picture import Picture
from curate.stages.blocklist import BlocklistStage
from curate.stages.decode import DecodeStage
from curate.stages.language import LanguageStage

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
        if _first(self.flag):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


@dataclass(frozen=True)
class HungOnce(DecodeStage):
    """DecodeStage that never returns, once: `flag` says that it happened, and holds the process."""

    flag: str = ""

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if _first(self.flag):
            _forever()
        return super().__call__(batch)


def _first(flag: str) -> bool:
    """Return whether this is the first to ask; write the process into the flag."""
    try:
        with Path(flag).open("x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return False
    return True


@dataclass(frozen=True)
class HangingAt:
    """Answer items, but never one of them; `flag` holds the process that hangs."""

    item: int
    flag: str

    def __call__(self, item: int) -> int:
        if item == self.item:
            _first(self.flag)
            _forever()
        return item


@dataclass(frozen=True)
class EndingItsParent:
    """Answer items, but kill the process that runs this one at an item: once, or with no flag always."""

    item: int
    flag: str = ""

    def __call__(self, item: int) -> int:
        if item == self.item and (not self.flag or _first(self.flag)):
            os.kill(os.getppid(), signal.SIGKILL)
            _forever()
        return item


def devices(item: int) -> str:
    """Return what CUDA would see."""
    return os.environ["CUDA_VISIBLE_DEVICES"]


@dataclass(frozen=True)
class KilledOnceInside(DecodeStage):
    """DecodeStage that is killed once while an image is in it: `flag` says that it happened."""

    flag: str = ""

    def _decode(self, image: pa.BinaryScalar, form: str) -> Picture:
        try:
            Path(self.flag).touch(exist_ok=False)
        except FileExistsError:
            return super()._decode(image, form)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def full(item: int) -> int:
    """Fail as a model does whose batch does not fit."""
    if item == 1:
        raise OutOfDeviceMemory("1 image a call does not fit")
    return item


def called(item: Shard) -> str:
    """Return what Ray calls the work on an item; elsewhere, and in workers that know nothing of it, an empty string."""
    import ray

    return str(ray.get_runtime_context().get_task_name() or "") if ray.is_initialized() else ""


def worker_of(item: int) -> tuple[int, int]:
    """Return the item and the process that got it."""
    return item, os.getpid()


@dataclass(frozen=True)
class DeadlyLanguage(LanguageStage):
    """LanguageStage whose worker always dies of a text; every try leaves a file in `folder`."""

    text: str = ""
    folder: str = ""

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if self.text in batch["text"].to_pylist():
            (Path(self.folder) / uuid.uuid4().hex).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(batch)


@dataclass(frozen=True)
class FaultyLanguage(LanguageStage):
    """LanguageStage that always raises at a text; every try leaves a file in `folder`."""

    text: str = ""
    folder: str = ""

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if self.text in batch["text"].to_pylist():
            (Path(self.folder) / uuid.uuid4().hex).touch()
            raise ZeroDivisionError("a bug of ours")
        return super().__call__(batch)


@dataclass(frozen=True)
class DangerousHashes(BlocklistStage):
    """BlocklistStage, with a decode of its own, that dies or hangs at marked images."""

    def __call__(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        for row, image in zip(batch["row"], batch["image"], strict=True):
            with watchdog.row(row.as_py()):
                if SEGFAULT in image.as_py():
                    os.kill(os.getpid(), signal.SIGSEGV)
                if HANG in image.as_py():
                    _forever()
        return batch
