"""The share of a GPU pass in which captioner and matcher wait for pictures: stand-ins sleep as long as BLIP-large computes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from curate.driver.progress import idle
from curate.models.fakes import FakeCaptioner, FakeMatcher
from curate.models.protocols import Captioner, Floats, Matcher, Pixels
from curate.passes.evaluation import WAIT
from curate.passes.judge import Judge
from curate.passes.scan import Scan
from curate.planning.plan import Plan
from curate.sources.listing import list_shards
from curate.stages.caption import CaptionStage
from curate.stages.match import MatchStage
from curate.storage.backend import storage
from curate.storage.store import Store
from tests.bench.measure import WORKERS, Figure, at_most, photos, plan_of, scratch, write_tar

RECORDS = 6000
SIDE = 384
TFLOP = 0.82  # of BLIP-large an image: captioner and matcher with two texts (tests.bench.capfilt.flops)
SECONDS = TFLOP / (312 / 2)
"""That an image takes on a GPU that reaches half of the 312 bfloat16 TFLOP/s of an A100's data sheet."""

RECIPE = """
captions: {model: fake, min_tokens: 5}
filters:
  unreadable:
  caption_match: {matcher: fake}
"""


@dataclass(frozen=True)
class Slow:
    """A stand-in that takes half of the time of both models; it calculates nothing, as a core that waits for a GPU."""

    captioner: FakeCaptioner | None
    seconds: float
    name: str = "slow"
    side: int = SIDE

    def captions(self, pictures: Pixels, draws: Floats) -> list[list[str]]:
        """Return captions after a while."""
        assert self.captioner is not None
        time.sleep(self.seconds * len(pictures))
        return self.captioner.captions(pictures[:, :1, :1], draws)

    def reads(self, text: str) -> bool:
        """Return True."""
        return True

    def match(self, pictures: Pixels, texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """Return scores after a while."""
        time.sleep(self.seconds * len(pictures))
        return FakeMatcher().match(pictures[:, :1, :1], texts)


@dataclass(frozen=True)
class SlowCaptions(CaptionStage):
    """The captioner's stage with the stand-in."""

    def _load(self) -> Captioner:
        return Slow(FakeCaptioner(self._sampling()), SECONDS / 2)

    def side(self) -> int:
        return SIDE


@dataclass(frozen=True)
class SlowMatch(MatchStage):
    """The matcher's stage with the stand-in."""

    def _load(self) -> Matcher:
        return Slow(None, SECONDS / 2)

    def side(self) -> int:
        return SIDE


def slowed(plan: Plan) -> Plan:
    """Return the plan with stand-ins for both models."""
    stages = {stage.name: stage for stage in plan.stages()}
    captions = SlowCaptions(**vars(stages["caption"]))
    return plan.with_stages({"caption": captions, "match": SlowMatch(**vars(stages["match"]))})


def run() -> list[Figure]:
    """Judge a shard of photos in this process, as the worker of a GPU does, with all cores decoding beside the model."""
    with scratch() as folder:
        given = photos()
        records = [(f"{n:06d}", given[n % len(given)], f"a picture of thing number {n}") for n in range(RECORDS)]
        shards = list_shards([str(write_tar(folder / "0.tar", records))], {})
        plan = slowed(plan_of(RECIPE, folder))
        store, base = Store(storage(folder / "out")), plan.base_key
        Scan(store, base, plan.header, plan.text, ())(shards[0])
        started = time.perf_counter()
        report = Judge(store, plan, base, "run", {}, threads=WORKERS)(shards[0])
        seconds = time.perf_counter() - started
    waited = idle(report.seconds)
    assert waited is not None
    decoded = report.seconds["pictures"] + report.seconds["decode"]
    more = {"images_per_second": round(RECORDS / seconds), "model_images_per_second": round(1 / SECONDS), "threads": WORKERS,
            "seconds_waited": round(report.seconds[WAIT], 2), "decoding_seconds": round(decoded, 2)}  # fmt: skip
    return [at_most("models_idle_share", waited, "of their time", 0.05, more)]
