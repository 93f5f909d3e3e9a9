"""What a report says of each filter. A manifest records it: a report needs neither the code of a plug-in nor runs it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from curate import filters
from curate.core.contracts import Filter


@dataclass(frozen=True)
class Rule:
    """A filter's description: 'image' or 'text', whether it judges synthetic texts, the first sentence of its docstring."""

    about: str = ""
    per_text: bool = False
    drops: str = ""

    @property
    def web_texts_only(self) -> bool:
        """Return whether it judges web texts and no synthetic ones."""
        return self.about == "text" and not self.per_text


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
    return Rule(str(recorded.get("about", "")), recorded.get("per_text") is True, str(recorded.get("drops", "")))


def _installed(name: str) -> Rule:
    return rule_of(filters.load(name)) if name in filters.names() else Rule()


def described(rules: Mapping[str, Filter]) -> dict[str, dict[str, Any]]:
    """Return what a manifest records of filters, by name."""
    return {name: dataclasses.asdict(rule_of(rule)) for name, rule in rules.items()}
