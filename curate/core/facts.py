"""Every fact, declared once: its name, Arrow type, what provides it, and whether it is about the image or the text.

A fact is true of a record whatever the thresholds. Filters and the `sql` filter read facts by these names; decisions
carry the ones marked `shown`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pyarrow as pa


@dataclass(frozen=True)
class Fact:
    """One column: `provider` is the name of the stage or the kind of corpus count that computes it."""

    name: str
    type: pa.DataType
    provider: str
    about: Literal["image", "text"]
    doc: str
    shown: bool = False


_DECLARED = [
    Fact("key", pa.string(), "record", "image", "the record's own key, as found"),
    Fact("url", pa.string(), "record", "image", "where the image came from"),
    Fact("text", pa.string(), "record", "text", "the web text as found"),
    Fact("error", pa.string(), "record", "image", "what is wrong with the record itself"),
    Fact("bytes", pa.int64(), "header", "image", "size of the image file", shown=True),
    Fact("sha256", pa.string(), "header", "image", "sha256 of the image file, hex", shown=True),
    Fact("header", pa.string(), "header", "image", "'ok', or why the image's header says that it cannot be used"),
    Fact("format", pa.string(), "header", "image", "jpeg, png, webp, gif, bmp, tiff, avif, heif", shown=True),
    Fact("width", pa.int32(), "header", "image", "pixels, as stored (before EXIF orientation)", shown=True),
    Fact("height", pa.int32(), "header", "image", "pixels, as stored (before EXIF orientation)", shown=True),
    Fact("animated", pa.bool_(), "header", "image", "more than one frame; the first is judged", shown=True),
    Fact("fetched", pa.string(), "fetch", "image", "'ok', 'here' where it came with its record, or why it could not be fetched"),
    Fact("words", pa.int32(), "text", "text", "unigrams: whitespace-separated tokens of the normalised text", shown=True),
    Fact("characters", pa.int32(), "text", "text", "code points of the normalised text", shown=True),
    Fact("language", pa.string(), "language", "text", "ISO 639 code by fastText lid.176", shown=True),
    Fact("language_score", pa.float32(), "language", "text", "fastText's probability of it", shown=True),
    Fact("decoding", pa.string(), "decode", "image", "'ok', 'damaged: ...' with what is wrong, or why it does not decode"),
    Fact("phash", pa.uint64(), "decode", "image", "64-bit perceptual hash (DCT), as imagehash.phash", shown=True),
    Fact("texts_per_image", pa.int64(), "texts_per_image", "image", "different texts under this image; null below the floor"),
    Fact("images_per_text", pa.int64(), "images_per_text", "text", "different images under this text; null below the floor"),
    Fact("rarest_ngram", pa.int64(), "ngrams", "text", "corpus count of the text's rarest unigram or bigram; 0 below the floor"),
    Fact("first_pair", pa.string(), "first_pair", "image", "shard/row of the first record with this image and text, if another"),
    Fact("first_image", pa.string(), "first_image", "image", "shard/row of the first record with this image, if another"),
    Fact("eval_similarity", pa.float32(), "eval_similarity", "image", "largest cosine to an image of the evaluation sets"),
    Fact("eval_distance", pa.int16(), "eval_distance", "image", "smallest Hamming distance of perceptual hashes to the sets"),
    Fact("eval_match", pa.string(), "eval_*", "image", "the evaluation image that is nearest: set/file"),
    Fact("blocklist_distance", pa.int16(), "blocklist", "image", "0 = listed content hash, else Hamming distance to the list"),
    Fact("nsfw_score", pa.float32(), "nsfw", "image", "probability of not safe for work, 0 to 1"),
    Fact("captions", pa.list_(pa.string()), "caption", "image", "synthetic texts of the image, as the captioner wrote them"),
    Fact("match_scores", pa.list_(pa.float32()), "match", "image", "P(match) of each text: the web text's, then each caption's"),
    Fact("clip_scores", pa.list_(pa.float32()), "clip", "image", "cosine of image and each text: the web text's, each caption's"),
]

FACTS: dict[str, Fact] = {fact.name: fact for fact in _DECLARED}
"""All facts by name."""

SHOWN: tuple[Fact, ...] = tuple(fact for fact in _DECLARED if fact.shown)
"""Facts that decisions carry beside the evidence."""


def schema(names: tuple[str, ...]) -> pa.Schema:
    """Return the Arrow schema of the named facts. Raises KeyError for a name that is not a fact."""
    return pa.schema([pa.field(name, FACTS[name].type) for name in names])
