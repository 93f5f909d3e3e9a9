"""What the shell completes: recipes, and the keys of --set."""

from __future__ import annotations

import dataclasses

import click


def recipes(_context: click.Context, _option: click.Parameter, begun: str) -> list[str]:
    """Return the recipes that come with curate, by their beginning."""
    from curate.planning import loader

    return [name for name in loader.names() if name.startswith(begun)]


def settings(_context: click.Context, _option: click.Parameter, begun: str) -> list[str]:
    """Return FILTER.PARAM= of all filters, captions, fetch and output, by their beginning; first FILTER. alone."""
    from curate import filters
    from curate.fetch.policy import FetchPolicy
    from curate.planning.recipe import Output
    from curate.stages.caption import CaptionStage

    sections = {"captions": CaptionStage, "fetch": FetchPolicy, "output": Output}
    owner, dot, _ = begun.partition(".")
    if not dot:
        return [f"{name}." for name in sorted({*filters.names(), *sections}) if name.startswith(begun)]
    if owner not in filters.names() and owner not in sections:
        return []
    kind = sections.get(owner) or filters.load(owner)
    keys = [f"{owner}.{field.name}=" for field in dataclasses.fields(kind)]
    return [key for key in keys if key.startswith(begun)]
