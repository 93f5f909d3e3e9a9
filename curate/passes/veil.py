"""What a report may show of a sampled image: nothing of one on a block list, a blur of one that is not safe for work.

A sampled record was often dropped before the filter that would hide its picture came to it. For these few dozen images of a
shard that filter is evaluated after all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from curate.core.contracts import Batch, Pictures, Stage
from curate.planning.plan import Plan, Step
from curate.sources.records import image_array

FACTS = ("row", "offset", "bytes", "sha256", "header", "format", "width", "height")
"""The base facts that `Veil.lifted` needs beside the image."""


@dataclass(frozen=True)
class Drawn:
    """How an image is drawn as far as its verdicts say, and the filters that may say more but were not evaluated on it."""

    how: Pictures
    open: tuple[str, ...] = ()


class Veil:
    """Rules which pictures of a plan's records are drawn."""

    def __init__(self, plan: Plan) -> None:
        shown = ("shown", "blurred") if plan.recipe.output.show_nsfw else ("shown",)
        self._steps = {step.name: step for step in plan.steps if step.rule.pictures not in shown and step.rule.reads()}
        self._stages, self._decode = list(plan.stages()), plan.decode

    def drawn(self, failed: Collection[str], not_evaluated: Collection[str]) -> Drawn:
        """Return how a record's image is drawn, by the filters that it fails and those that were not evaluated on it."""
        how = _strictest(step.rule.pictures for name, step in self._steps.items() if name in failed)
        return Drawn(how, () if how == "hidden" else tuple(name for name in self._steps if name in not_evaluated))

    def lifted(self, drawn: Sequence[Drawn], facts: Batch) -> list[Pictures]:
        """Return how images are drawn, after a look at them together; `facts` has FACTS and `image`, a row for each.

        A filter that cannot be evaluated here, because it reads facts of other stages or needs a GPU, counts as failed.
        """
        how = [[one.how] for one in drawn]
        for name, step in self._steps.items():
            rows = [place for place, one in enumerate(drawn) if name in one.open]
            if rows:
                for row, fails in zip(rows, self._fails(step, facts.take(pa.array(rows))), strict=True):
                    how[row] += [step.rule.pictures] if fails else []
        return [_strictest(found) for found in how]

    def _fails(self, step: Step, facts: Batch) -> list[bool]:
        decoded = self._decode(facts)
        wanted = set(step.rule.reads()) - set(decoded.schema.names)
        for stage in self._stages:
            if wanted & set(stage.provides.names) and self._runs(stage, decoded):
                decoded = stage(decoded)
        if not set(step.rule.reads()) <= set(decoded.schema.names):
            return [True] * facts.num_rows
        return [not kept for kept in step.rule.keep(step.rule.measure(decoded)).to_pylist()]

    def _runs(self, stage: Stage, decoded: Batch) -> bool:
        return not stage.needs.gpus and set(stage.reads) <= set(decoded.schema.names)


def _strictest(found: Iterable[Pictures]) -> Pictures:
    return max(found, key=("shown", "blurred", "hidden").index, default="shown")


def with_images(located: pa.Table, images: Sequence[bytes | None]) -> Batch:
    """Return the facts of records, a row for each, and their images."""
    columns = {name: located[name].combine_chunks() for name in located.schema.names}
    return pa.RecordBatch.from_pydict({**columns, "image": image_array(images)})
