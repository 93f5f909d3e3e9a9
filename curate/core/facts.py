"""Facts: columns that hold for a record whatever the thresholds. Each is declared once, by its provider.

Stages and corpus counts declare their facts as class attributes; declaring enters them into FACTS. Filters and the `sql`
filter read facts by name, decisions carry those that are `shown`. Facts whose names depend on a stage's parameters
(curate.stages.embedding) are not in FACTS: only stages read them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa


@dataclass(frozen=True)
class Fact:
    """One column: its Arrow type, whether it is about the image or the text, and what it means."""

    name: str
    type: pa.DataType
    about: Literal["image", "text"]
    doc: str
    shown: bool = False  # decisions carry it beside the evidence


FACTS: dict[str, Fact] = {}
"""All facts by name: of records, of the stages and counts of this package, and of plug-ins that are loaded."""

PROVIDERS: dict[str, type] = {}
"""The class that provides each fact; facts of the record itself have none."""


def declare(facts: Iterable[Fact], provider: type | None = None) -> None:
    """Enter facts into FACTS.

    Raises ValueError for a name that another provider has declared differently.
    """
    for fact in facts:
        other = PROVIDERS.get(fact.name)
        same_place = other is not None and provider is not None and _file(other) == _file(provider)
        if fact.name in FACTS and FACTS[fact.name] != fact and not same_place:
            raise ValueError(f"fact {fact.name!r} is declared twice: by {_place(other)} and by {_place(provider)}")
        FACTS[fact.name] = fact
        if provider is not None:
            PROVIDERS[fact.name] = provider


def _file(provider: type) -> str | None:
    return getattr(sys.modules.get(provider.__module__), "__file__", None)


def _place(provider: type | None) -> str:
    return "the record" if provider is None else f"{provider.__module__}.{provider.__qualname__}"


def schema(names: tuple[str, ...]) -> pa.Schema:
    """Return the Arrow schema of the named facts. Raises KeyError for a name that is not a fact."""
    return schema_of(FACTS[name] for name in names)


def schema_of(facts: Iterable[Fact]) -> pa.Schema:
    """Return the Arrow schema of facts, declared or not."""
    return pa.schema([pa.field(fact.name, fact.type) for fact in facts])


RECORD_FACTS = (
    Fact("key", pa.string(), "image", "the record's own key, as found; of a sample of ours, that of its first run"),
    Fact("url", pa.string(), "image", "where the image came from"),
    Fact("text", pa.string(), "text", "the web text as found"),
    Fact("error", pa.string(), "image", "what is wrong with the record itself"),
    Fact("input", pa.string(), "image", "further fields of the input, each as input.NAME"),
    Fact("fetched", pa.string(), "image", "'ok', 'here' where it came with its record, or why it could not be fetched"),
)
"""What is known of a record before any stage."""

declare(RECORD_FACTS)
