"""What a report says of each filter. A manifest records it: a report needs neither the code of a plug-in nor runs it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from curate import filters
from curate.core.contracts import Filter


@dataclass(frozen=True)
class Rule:
    """A filter's description: 'image' or 'text', whether it judges each text by a score of its own (`per_text`), the first
    sentence of its docstring, and whether it judged captions too, by facts that any text has.
    """

    about: str = ""
    per_text: bool = False
    drops: str = ""
    captions: bool = False

    @property
    def web_texts_only(self) -> bool:
        """Return whether it judges web texts and no synthetic ones."""
        return self.about == "text" and not self.per_text and not self.captions


def rule_of(rule: Filter | type[Filter]) -> Rule:
    """Return the description of a filter."""
    doc = " ".join((inspect.getdoc(rule) or "").split("\n\n")[0].split())
    return Rule(rule.about, rule.per_text, doc.split(". ")[0].rstrip("."))


def rules_of(manifest: Mapping[str, Any]) -> dict[str, Rule]:
    """Return the descriptions of a run's filters, in order: as recorded, else of the filters that are installed here."""
    recorded = manifest.get("rules") or {}
    return {name: _read(recorded.get(name)) or _installed(name) for name in map(str, manifest.get("filters") or ())}


def _read(recorded: Any) -> Rule | None:
    if not isinstance(recorded, dict):
        return None
    per_text, captions = recorded.get("per_text") is True, recorded.get("captions") is True
    return Rule(str(recorded.get("about", "")), per_text, str(recorded.get("drops", "")), captions)


def _installed(name: str) -> Rule:
    return rule_of(filters.load(name)) if name in filters.names() else Rule()


def described(rules: Mapping[str, Filter], captions: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return what a manifest records of filters, by name; `captions` names those of texts that judge captions too."""
    found = {name: dataclasses.replace(rule_of(rule), captions=name in captions) for name, rule in rules.items()}
    return {name: dataclasses.asdict(rule) for name, rule in found.items()}
