"""The statistics of a shard's base facts, for `curate stats`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from curate.core import facts
from curate.core.contracts import Shard, ShardBreak, shard_name
from curate.passes.scan import base_facts, image_facts
from curate.sources.opening import open_shard
from curate.stages.header import HeaderStage
from curate.stages.language import LanguageStage
from curate.stages.text import TextStage, normalised
from curate.storage.parquet import ParquetWriter


@dataclass(frozen=True)
class _Collect:
    """The task: writes one shard's facts, with languages, for statistics."""

    folder: Path
    text: TextStage

    def __call__(self, shard: Shard) -> dict[str, str] | None:
        """Return where the shard broke, if it did: shard, reason."""
        names = ("key", "url", "text", "error", "bytes", "sha256", "header", "format", "width", "height", "animated", "words",
                 "characters", "language", "language_score")  # fmt: skip
        writer = ParquetWriter(self.folder / f"{shard.index:06d}.parquet", facts.schema(names))
        problem = None
        try:
            with open_shard(shard) as opened:
                for batch in opened.read():
                    known = base_facts(image_facts(shard, HeaderStage(), batch), normalised(batch["text"]), self.text)
                    writer.write(pa.Table.from_batches([LanguageStage()(known)]))
        except ShardBreak as stop:
            problem = {"shard": shard_name(shard), "reason": str(stop)}
        writer.close()
        return problem
