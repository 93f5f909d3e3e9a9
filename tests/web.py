"""Tables of urls, and a web that is a function: what the tests of fetching share."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from curate.fetch import FetchRequest, FetchResult
from curate.fetch.policy import FetchPolicy
from tests.running import jpeg


@dataclass
class Web:
    """Answers by url: an image, or the code of a failure; remembers what was asked."""

    answers: dict[str, bytes | str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    dies_after: int | None = None
    hangs_after: int | None = None
    """From then on nothing comes any more, and the process is asked to end."""

    def __call__(self, wanted: Sequence[FetchRequest], policy: FetchPolicy) -> Generator[FetchResult | None, None, None]:
        for one in reversed(wanted):  # answers come in any order
            if self.dies_after is not None and len(self.asked) >= self.dies_after:
                raise KeyboardInterrupt
            if self.hangs_after is not None and len(self.asked) >= self.hangs_after:
                os.kill(os.getpid(), signal.SIGTERM)
                while True:
                    yield None
            self.asked.append(one.url)
            answer = self.answers.get(one.url, "http_404")
            yield None
            yield FetchResult(one.row, answer, None) if isinstance(answer, str) else FetchResult(one.row, None, answer)


def url(name: object) -> str:
    return f"http://example.org/{name}.jpg"


def table(path: Path, rows: Sequence[tuple[str | None, str | list[str] | None]], **more: list[Any]) -> Path:
    pq.write_table(pa.table({"URL": [row[0] for row in rows], "TEXT": [row[1] for row in rows], **more}), path)
    return path


def web_of(names: Sequence[object]) -> Web:
    return Web({url(name): jpeg(seed) for seed, name in enumerate(names)})
