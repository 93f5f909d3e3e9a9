"""WebDataset tars: KEY.jpg (or .png, .webp), KEY.json, KEY.txt, adjacent and in this order."""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from curate.storage.samples.contract import Packed
from curate.storage.tar import member_header

SUFFIX = ".tar"


@dataclass(frozen=True)
class TarKind:
    """Tars."""

    suffix: str = SUFFIX

    def writer(self, path: Path) -> TarSampleWriter:
        """Begin a tar."""
        return TarSampleWriter(path)


class TarSampleWriter:
    """Writes a tar, and hashes it on the way."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=1 << 20)
        self._hash, self._offset = hashlib.sha256(), 0

    def __enter__(self) -> TarSampleWriter:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def add(self, sample: Packed) -> int:
        """Append a sample; return where the bytes of its image begin."""
        offset = self._offset + 512
        for extension, body in ((sample.extension, sample.image), ("json", sample.about), ("txt", sample.text)):
            self._put(member_header(f"{sample.key}.{extension}", len(body)))
            self._put(body)
            self._put(bytes(-len(body) % 512))
        return offset

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self._offset += len(data)

    def close(self) -> str:
        """End the tar; return its sha256."""
        self._put(bytes(1024))
        self._file.close()
        return self._hash.hexdigest()


class TarSampleReader:
    """Reads one of our own tars."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("rb")

    def __enter__(self) -> TarSampleReader:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def image(self, place: int, size: int) -> bytes:
        """Return the bytes at a place."""
        self._file.seek(place)
        return self._file.read(size)

    def about(self, place: int, size: int) -> bytes:
        """Return key.json, which comes behind the image."""
        end = place + size
        self._file.seek(end + -end % 512)
        about = tarfile.TarInfo.frombuf(self._file.read(512), "utf-8", "surrogateescape")
        return self._file.read(about.size)

    def __iter__(self) -> Iterator[Packed]:
        """Yield all samples in order."""
        members: dict[str, bytes] = {}
        with tarfile.open(self._path, "r:") as tar:
            for member in tar:
                key, _, extension = member.name.partition(".")
                file = tar.extractfile(member)
                members[extension] = b"" if file is None else file.read()
                if extension == "txt":  # the last of a sample
                    about, text = members.pop("json"), members.pop("txt")
                    [(extension, image)] = members.items()
                    yield Packed(key, extension, image, about, text)
                    members = {}
