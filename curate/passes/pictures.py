"""The image of a sample: the bytes of the input, or the picture written again, and what key.json says of it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from curate.images.header import read_header
from curate.images.mode import unusual_mode
from curate.images.reencode import reencode
from curate.planning.recipe import Output

EXTENSIONS = {"jpeg": "jpg", "png": "png", "webp": "webp"}
"""Formats that trainers read (open_clip's loader); the others are re-encoded to JPEG."""

NOTES = ("color_profile",)
"""What is noted of a re-encoded image and cannot be seen in its bytes."""


@dataclass(frozen=True)
class Picture:
    """An image as it is in a tar."""

    body: bytes
    sha256: str
    notes: Mapping[str, str] = field(default_factory=dict)


def written(record: Mapping[str, Any], image: bytes, output: Output) -> Picture:
    """Return a record's image (its facts: sha256, format, width, height) as it goes into a tar."""
    made = reencode(image, output.encoding) if _again(record, image, output) else None
    return Picture(image, record["sha256"]) if made is None else Picture(made.data, _sha256(made.data), made.notes)


def _again(record: Mapping[str, Any], image: bytes, output: Output) -> bool:
    """Return whether an image has to be re-encoded."""
    extension = EXTENSIONS.get(record["format"])
    if extension is None or output.format not in ("original", extension):
        return True
    if output.fit is not None and output.fit.changes(record["width"], record["height"]):
        return True
    return output.reencode == "unusual" and unusual_mode(image, record["format"]) is not None


def told_of(record: Mapping[str, Any], picture: Picture) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return sha256, width, height and format of what is in the tar, and what else key.json says of the image.

    That is its mode, if it is an unusual one, or that it was re-encoded, and from what.
    """
    found = {name: record[name] for name in ("sha256", "width", "height", "format")}
    if picture.sha256 == record["sha256"]:
        mode = unusual_mode(picture.body, record["format"])
        return found, {} if mode is None else {"mode": mode}
    header = read_header(picture.body)
    now = {"sha256": picture.sha256, "width": header.width, "height": header.height, "format": header.format}
    return now, {"reencoded": True, **{f"original_{name}": value for name, value in found.items()}, **picture.notes}


def extension_of(form: str, output: Output) -> str:
    """Return how a member is named that holds an image of a format."""
    return output.extension or EXTENSIONS.get(form, form)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
