"""Perceptual hashes of lists: computed by the library that made the list, on the image as Pillow opens it.

The hash of curate.images.phash is of the picture that the rest of curate sees: a JPEG decoded at a reduced scale, alpha on
white. It can be some bits off the hash that another library computes of the same file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from curate.images.picture import DecodeRequest
from curate.images.pillow import of_original

if TYPE_CHECKING:
    from PIL import Image


def _imagehash(image: Image.Image) -> bytes:
    import imagehash

    return bytes(np.packbits(imagehash.phash(image).hash))


def _pdq(image: Image.Image) -> bytes:
    import pdqhash

    return bytes(np.packbits(pdqhash.compute(np.array(image.convert("RGB")))[0].astype(np.bool_)))


HASHES: dict[str, Callable[[Image.Image], bytes]] = {"imagehash": _imagehash, "pdq": _pdq}
"""By kind, what computes a hash: imagehash.phash, 8 bytes; PDQ, 32 bytes. The highest bit comes first, as in their hex digits."""

MODULES: dict[str, str] = {"imagehash": "imagehash", "pdq": "pdqhash"}
"""The module that a kind needs; the extra that installs it has the name of the kind."""


def listed_hash(kind: str, data: bytes, form: str, max_bytes: int) -> bytes | None:
    """Return the hash of an image whose header is 'ok'; None if it does not decode.

    `kind` is a key of HASHES, `form` one of curate.images.header.FORMATS, `max_bytes` the largest that the picture may
    decode to. Never raises because of the data; ModuleNotFoundError where the kind's package is not installed.
    """
    return of_original(DecodeRequest(data, form, rgb=kind == "pdq", side=None, max_bytes=max_bytes), HASHES[kind])
