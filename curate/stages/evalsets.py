"""Evaluation sets: folders or tars of images, read once into signatures that stages compare with.

A set is known by its content: the digest covers the name and the sha256 of every image, so that the same images found
in another place, or by another run, use the same signatures. They lie in a folder of the cache:

    <digest>-<what they are made with>/
        signatures.npy   float32 [n, dim] or uint64 [n], for memory mapping
        images.parquet   name and thumb (a JPEG of at most 160 pixels a side) of the same n images
        unreadable.json  the names of images that do not decode
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from curate.core.contracts import Batch
from curate.core.errors import InputError
from curate.stages.pixels import pixels_of
from curate.storage.backend import Storage
from curate.storage.local_copies import at_hand

Kind = Literal["embedding", "hash"]

VERSION = 1
SEARCH_VERSION = 1  # of the stages that search the signatures: curate.stages.eval_overlap
"""Counted up when signatures of the same content change."""

THUMB_SIDE = 160
_ROWS = 64  # images that are decoded at once: 13 MB of pixels
_IMAGES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"})
_SCHEMA = pa.schema([("name", pa.string()), ("thumb", pa.binary())])


class Member(NamedTuple):
    """An image of a set: its name in the set and its bytes."""

    name: str
    data: bytes


def default_cache() -> Path:
    """Return $CURATE_CACHE, else ~/.cache/curate."""
    return Path(os.environ.get("CURATE_CACHE") or Path.home() / ".cache" / "curate")


def signatures(path: str, kind: Kind, embedder: str, cache: Path) -> EvalSetRef:
    """Return the set at `path` with its signatures made, or found in `cache`; `embedder` matters for embeddings only.

    Raises InputError where there is no set, or none of its images decodes; ModelError where the embedder cannot be had.
    Images that do not decode are named in `unreadable`: they are compared with nothing.
    """
    digest = _digest(path)
    folder = cache / "evalsets" / f"{digest[:32]}-{_made_with(kind, embedder)}"
    if not folder.is_dir():
        _write(folder, path, kind, embedder)
    unreadable = tuple(json.loads((folder / "unreadable.json").read_text()))
    images = parquet.read_metadata(folder / "images.parquet").num_rows
    if not images:
        raise InputError(f"evaluation set {path}: none of its {len(unreadable)} images decodes")
    return EvalSetRef(Path(path).name, digest, path, str(folder), images, unreadable)


def published(ref: EvalSetRef, out: Storage) -> EvalSetRef:
    """Return the set with its signatures in an output, where the workers of a cluster find them."""
    here = Path(ref.folder)
    for name in FILES:
        if out.size(f"evalsets/{here.name}/{name}") != (here / name).stat().st_size:
            with out.writing(f"evalsets/{here.name}/{name}") as path:
                shutil.copyfile(here / name, path)
    return replace(ref, folder=out.url(f"evalsets/{here.name}"))


def thumbnail(ref: EvalSetRef, name: str) -> bytes | None:
    """Return the JPEG thumbnail of image `name` of a set, None where there is no such image."""
    table = parquet.read_table(at_hand(ref.folder, FILES) / "images.parquet", filters=[("name", "==", name)])
    return table.column("thumb")[0].as_py() if len(table) else None


def members(path: str) -> Iterator[Member]:
    """Yield the images of a folder (and of tars in it) or of a tar, in the order of their names.

    Raises InputError where `path` is neither, or cannot be read. An image is what has the suffix of one.
    """
    root = Path(path)
    if not root.exists():
        raise InputError(f"evaluation set {path}: no such file or folder")
    files = sorted(root.rglob("*")) if root.is_dir() else [root]
    for file in files:
        name = file.relative_to(root).as_posix() if file != root else ""
        try:
            if file.suffix.lower() == ".tar" and file.is_file():
                yield from _tar_members(file, f"{name}/" if name else "")
            elif file.suffix.lower() in _IMAGES and file.is_file():
                yield Member(name or file.name, file.read_bytes())
        except (OSError, tarfile.TarError, EOFError) as error:
            raise InputError(f"evaluation set {path}: {name or file.name}: {error}") from error


def _tar_members(file: Path, prefix: str) -> Iterator[Member]:
    with tarfile.open(file) as tar:
        found = [info for info in tar.getmembers() if info.isfile() and Path(info.name).suffix.lower() in _IMAGES]
        for info in sorted(found, key=lambda info: (info.name, info.offset)):
            opened = tar.extractfile(info)
            if opened is not None:
                yield Member(prefix + info.name, opened.read())


def decoded(images: Iterable[Member]) -> Iterator[tuple[list[str], Batch]]:
    """Yield the names and the decoded batch (phash, pixels, width, height, ...) of at most _ROWS images at a time."""
    from curate.stages.decode import DecodeStage
    from curate.stages.header import HeaderStage

    header, decode = HeaderStage(), DecodeStage(view="rgb")
    for group in _groups(images):
        rows = pa.array(range(len(group)), pa.int64())
        data = pa.array([image.data for image in group], pa.binary())
        batch = pa.RecordBatch.from_arrays([rows, data], names=["row", "image"])
        yield [image.name for image in group], decode(header(batch))


def _groups(images: Iterable[Member]) -> Iterator[list[Member]]:
    group: list[Member] = []
    for image in images:
        group.append(image)
        if len(group) == _ROWS:
            yield group
            group = []
    if group:
        yield group


def _digest(path: str) -> str:
    """Return the sha256, hex, of the sorted names and content hashes. Raises InputError where there is no image."""
    entries = sorted((name, hashlib.sha256(data).hexdigest()) for name, data in members(path))
    if not entries:
        raise InputError(f"evaluation set {path}: no images in it")
    lines = "".join(f"{content} {name}\n" for name, content in entries)
    return hashlib.sha256(lines.encode("utf-8", errors="surrogateescape")).hexdigest()


def _made_with(kind: Kind, embedder: str) -> str:
    """Return a name for what makes signatures, safe in a path; another one whenever they could differ. Raises ModelError."""
    from curate.models.checks import check
    from curate.stages.decode import DecodeStage

    maker = embedder if kind == "embedding" else "phash"
    weights = check("embedder", embedder).sha256 if kind == "embedding" else None
    stage = SEARCH_VERSION
    short = hashlib.sha256(f"{maker}{weights or ''}".encode()).hexdigest()[:8]
    return f"{re.sub(r'[^A-Za-z0-9.-]+', '_', maker)[:60]}-{short}-v{VERSION}.{DecodeStage.version}.{stage}"


def _write(folder: Path, path: str, kind: Kind, embedder: str) -> None:
    """Make the signatures beside `folder` and move them there at once; whoever comes second finds them made."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as making:
        here = Path(making) / "set"
        here.mkdir()
        _fill(here, path, kind, embedder)
        try:
            here.rename(folder)
        except OSError:  # another process was faster: what it made is the same
            if not folder.is_dir():
                raise
            shutil.rmtree(here)


def _fill(here: Path, path: str, kind: Kind, embedder: str) -> None:
    parts: list[npt.NDArray[np.float32] | npt.NDArray[np.uint64]] = []
    unreadable: list[str] = []
    with parquet.ParquetWriter(here / "images.parquet", _SCHEMA) as writer:
        for names, batch in decoded(members(path)):
            pixels, rows = pixels_of(batch)
            readable = set(rows.tolist())
            unreadable += [name for row, name in enumerate(names) if row not in readable]
            if not readable:
                continue
            parts.append(_embed(pixels, embedder) if kind == "embedding" else _hashes(batch))
            sizes = [(batch["width"][row].as_py(), batch["height"][row].as_py()) for row in rows.tolist()]
            thumbs = [_thumb(picture, size) for picture, size in zip(pixels, sizes, strict=True)]
            writer.write_table(pa.table([[names[row] for row in rows.tolist()], thumbs], schema=_SCHEMA))
    np.save(here / "signatures.npy", np.concatenate(parts) if parts else np.empty((0, 1), np.float32))
    (here / "unreadable.json").write_text(json.dumps(unreadable))


def _embed(pixels: npt.NDArray[np.uint8], embedder: str) -> npt.NDArray[np.float32]:
    from curate.models import load_embedder

    return load_embedder(embedder).embed(pixels)


def _hashes(batch: Batch) -> npt.NDArray[np.uint64]:
    """Return the hashes by view "grey", which a recipe that compares hashes has unless it needs pixels too."""
    from curate.stages.decode import DecodeStage

    stage = DecodeStage()
    grey = stage(batch.select(stage.reads)).column("phash")
    hashes: npt.NDArray[np.uint64] = pc.coalesce(grey, batch["phash"]).drop_null().to_numpy(zero_copy_only=False)
    return hashes


def _thumb(picture: npt.NDArray[np.uint8], size: tuple[int, int]) -> bytes:
    """Return a JPEG of a squashed picture in the proportions of `size` (width, height)."""
    from PIL import Image

    scale = THUMB_SIDE / max(size)
    shape = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    out = io.BytesIO()
    Image.fromarray(picture).resize(shape, Image.Resampling.LANCZOS).save(out, "JPEG", quality=80)
    return out.getvalue()


FILES = ("signatures.npy", "images.parquet")
"""Of a folder of signatures (see curate.stages.evalsets): what is needed of it to search."""


@dataclass(frozen=True)
class EvalSetRef:
    """An evaluation set: what it is called, what is in it (`digest`), and where its signatures are on this machine.

    `digest` is empty until `curate.stages.evalsets.signatures` (or a stage's `resolved`) has read the set. Where the set and
    its signatures lie is no part of its identity.
    """

    name: str
    digest: str = ""
    path: str = field(default="", compare=False, metadata={"identity": False})
    folder: str = field(default="", compare=False, metadata={"identity": False})
    images: int = field(default=0, compare=False, metadata={"identity": False})
    unreadable: tuple[str, ...] = field(default=(), compare=False, metadata={"identity": False})


def unresolved(paths: tuple[str, ...]) -> tuple[EvalSetRef, ...]:
    """Return references to sets that nobody has looked at yet: enough to plan with, not to search in."""
    return tuple(EvalSetRef(Path(path).name, path=path) for path in paths)
