"""Which filters of texts judge synthetic texts too: those whose facts are known of any text, as its words and language are."""

from __future__ import annotations

from curate.core.contracts import Filter
from curate.core.facts import RECORD_FACTS
from curate.planning.plan import Plan, Step
from curate.stages.language import LanguageStage

_OF_THE_WEB = {"error", "fetched"}  # facts of records that say other things of a caption, or nothing


def of_captions(plan: Plan) -> tuple[Step, ...]:
    """Return the steps, besides those that judge every text by scores of it, that judge captions; none without a captioner.

    A filter by a corpus count does not: it counts texts of the web. Nor does one by facts that decisions do not carry.
    """
    if plan.captions is None:
        return ()
    declared = (*RECORD_FACTS, *plan.header.facts, *plan.text.facts, *LanguageStage.facts, *plan.gathered)
    known = {fact.name for fact in declared} - _OF_THE_WEB
    return tuple(step for step in plan.steps if _of_texts(step.rule) and set(step.rule.reads()) <= known)


def _of_texts(rule: Filter) -> bool:
    return rule.about == "text" and not rule.per_text and bool(rule.reads())
