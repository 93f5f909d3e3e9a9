"""A recipe as objects: its filters in order, captions, fetching, output."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from curate.core.contracts import Filter
from curate.fetch.policy import FetchPolicy
from curate.images.reencode import Encoding, Fit, FitName
from curate.planning.plugins import Plugin
from curate.stages.caption import CaptionStage

_LONGEST = 65_500  # pixels of a side, as JPEG has them


@dataclass(frozen=True)
class Output:
    """How samples are packed. None of it but `empty_text` changes which samples are kept."""

    samples_per_shard: int = field(default=10_000, metadata={"doc": "samples a file; the last file of a block has fewer"})
    block_shards: int = field(default=10, metadata={"doc": "consecutive input shards that are packed together"})
    kind: Literal["tars", "parquet"] = field(
        default="tars",
        metadata={"doc": "what samples are written into: WebDataset tars, or parquet files as Hugging Face has them"},
    )
    longest_side: int | None = field(default=None, metadata={"doc": "re-encode larger images to JPEG with this longest side"})
    quality: int = field(default=92, metadata={"doc": "quality of what is re-encoded to JPEG or WebP"})
    key_prefix: str | None = field(
        default=None,
        metadata={"doc": "what keys of samples begin with: letters, digits, - and _; none: a hash of the first shard"},
    )
    text: Literal["web_first", "best_score"] = field(
        default="web_first", metadata={"doc": "which kept text becomes key.txt: the web text if it is kept, or the best match"}
    )
    keep: tuple[str, ...] | None = field(
        default=None, metadata={"doc": "further fields of the input that key.json keeps: none: all scalar ones; []: no field"}
    )
    empty_text: Literal["drop", "keep"] = field(
        default="drop",
        metadata={"doc": "what becomes of a record without text that no filter drops: dropped as missing_text, or kept"},
    )
    show_nsfw: bool = field(default=False, metadata={"doc": "draw images that fail nsfw in the report as they are, not blurred"})
    format: Literal["original", "jpg", "webp", "png"] = field(
        default="original", metadata={"doc": "re-encode other formats; original: only those that trainers do not read, to JPEG"}
    )
    extension: Literal["jpg", "png", "webp"] | None = field(
        default=None, metadata={"doc": "name all images so, whatever they are, for loaders that want one extension"}
    )
    reencode: Literal["needed", "unusual"] = field(
        default="needed", metadata={"doc": "unusual: also images with transparency, 16 bits, CMYK or a palette"}
    )
    shortest_side: int | None = field(default=None, metadata={"doc": "re-encode larger images with this shortest side"})
    crop: int | None = field(default=None, metadata={"doc": "re-encode to squares of this side, cut out of the middle"})
    pad: int | None = field(default=None, metadata={"doc": "re-encode to squares of this side, padded with white"})
    only_if_bigger: bool | None = field(
        default=None,
        metadata={"doc": "leave images that are not larger as they are; none: yes for longest_side and shortest_side, else no"},
    )

    def check(self) -> None:
        """Raise ValueError for a value that no output can have."""
        if self.samples_per_shard < 1 or self.block_shards < 1:
            raise ValueError("samples_per_shard and block_shards must be at least 1")
        self._check_sizes()
        if self.extension is not None and self.format not in ("original", self.extension):
            raise ValueError(f"format={self.format} and extension={self.extension} contradict; leave out extension")
        if self.key_prefix is not None and not re.fullmatch(r"[A-Za-z0-9_-]{0,64}", self.key_prefix):
            raise ValueError("key_prefix may have up to 64 letters, digits, - and _")
        if not 1 <= self.quality <= 100:
            raise ValueError("quality must be between 1 and 100")

    def _check_sizes(self) -> None:
        sizes = self._sizes()
        for name, side in sizes.items():
            if not 1 <= side <= _LONGEST:
                raise ValueError(f"{name} must be at least 1, at most {_LONGEST}")
        if len(sizes) > 1:
            raise ValueError(f"{' and '.join(sizes)} contradict; choose one of them")
        if self.only_if_bigger is not None and not sizes:
            raise ValueError("only_if_bigger needs longest_side, shortest_side, crop or pad")

    def _sizes(self) -> dict[FitName, int]:
        sides = {name: getattr(self, name) for name in get_args(FitName)}
        return {name: side for name, side in sides.items() if side is not None}

    @property
    def fit(self) -> Fit | None:
        """Return the size that images get, None where they keep theirs."""
        for how, side in self._sizes().items():
            bound = how in ("longest_side", "shortest_side")
            return Fit(how, side, only_if_bigger=bound if self.only_if_bigger is None else self.only_if_bigger)
        return None

    @property
    def encoding(self) -> Encoding:
        """Return how images are re-encoded."""
        return Encoding("jpg" if self.format == "original" else self.format, self.quality, self.fit)

    def described(self) -> dict[str, Any]:
        """Return the settings as JSON values, later ones only where they are set: an output of before them stays what it is."""
        default = Output()
        settings = dataclasses.asdict(self)
        return {name: value for name, value in settings.items() if name not in _LATER or value != getattr(default, name)}


_LATER = ("kind", "format", "extension", "reencode", "shortest_side", "crop", "pad", "only_if_bigger")
"""Settings that the first outputs did not have."""


@dataclass(frozen=True)
class Recipe:
    """A recipe as resolved: every filter with every parameter, in order."""

    name: str
    about: str
    filters: dict[str, Filter]
    output: Output
    source: str
    captions: CaptionStage | None = None  # synthetic texts are written: who writes them, and how
    policy: FetchPolicy = FetchPolicy()  # how images are fetched, where the input has their urls
    plugins: tuple[Plugin, ...] = ()  # files of the user with filters, stages, models or sources

    def resolved(self) -> dict[str, Any]:
        """Return everything that determines the output, as plain JSON values."""
        rules = {name: dataclasses.asdict(rule) for name, rule in self.filters.items()}
        output = self.output.described()
        captions = {} if self.captions is None else {"captions": self.captions.described()}
        fetch = {"fetch": dataclasses.asdict(self.policy)} if "fetch" in self.filters else {}
        plugins = {"plugins": {plugin.name: plugin.sha256 for plugin in self.plugins}} if self.plugins else {}
        described = {"name": self.name, "order": list(self.filters), "filters": rules, "output": output}
        return {**described, **captions, **fetch, **plugins}

    def digest(self) -> str:
        """Return sha256 of the resolved recipe, the same for every way to write it."""
        return hashlib.sha256(json.dumps(self.resolved(), sort_keys=True).encode()).hexdigest()
