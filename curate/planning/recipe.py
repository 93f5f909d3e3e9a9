"""A recipe as objects: its filters in order, captions, fetching, output."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from curate.core.contracts import Filter
from curate.fetch.policy import FetchPolicy
from curate.planning.plugins import Plugin
from curate.stages.caption import CaptionStage


@dataclass(frozen=True)
class Output:
    """How samples are packed. None of it changes which samples are kept."""

    samples_per_shard: int = field(default=10_000, metadata={"doc": "samples a tar; the last tar of a block has fewer"})
    block_shards: int = field(default=10, metadata={"doc": "consecutive input shards that are packed together"})
    longest_side: int | None = field(default=None, metadata={"doc": "re-encode larger images to JPEG with this longest side"})
    quality: int = field(default=92, metadata={"doc": "JPEG quality of what is re-encoded"})
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
    show_nsfw: bool = field(default=False, metadata={"doc": "draw images that fail nsfw in the report as they are, not blurred"})

    def check(self) -> None:
        """Raise ValueError for a value that no output can have."""
        if self.samples_per_shard < 1 or self.block_shards < 1:
            raise ValueError("samples_per_shard and block_shards must be at least 1")
        if self.longest_side is not None and self.longest_side < 1:
            raise ValueError("longest_side must be at least 1")
        if self.key_prefix is not None and not re.fullmatch(r"[A-Za-z0-9_-]{0,64}", self.key_prefix):
            raise ValueError("key_prefix may have up to 64 letters, digits, - and _")
        if not 1 <= self.quality <= 100:
            raise ValueError("quality must be between 1 and 100")


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
        output = dataclasses.asdict(self.output)
        captions = {} if self.captions is None else {"captions": dataclasses.asdict(self.captions)}
        fetch = {"fetch": dataclasses.asdict(self.policy)} if "fetch" in self.filters else {}
        plugins = {"plugins": {plugin.name: plugin.sha256 for plugin in self.plugins}} if self.plugins else {}
        described = {"name": self.name, "order": list(self.filters), "filters": rules, "output": output}
        return {**described, **captions, **fetch, **plugins}

    def digest(self) -> str:
        """Return sha256 of the resolved recipe, the same for every way to write it."""
        return hashlib.sha256(json.dumps(self.resolved(), sort_keys=True).encode()).hexdigest()
