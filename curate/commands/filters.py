"""`curate filters`: the filters with their parameters, and the facts that `sql` reads."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from curate import filters
from curate.commands import common
from curate.commands.common import print_table
from curate.commands.options import Filters
from curate.core import facts
from curate.fetch.policy import FetchPolicy
from curate.planning import plugins
from curate.planning.recipe import Output


def filters_command(given: Filters) -> None:
    """List the filters and the facts."""
    for plugin in plugins.given(given.plugins):
        plugin.load()
    plugins.load_installed()
    found = [(name, filters.load(name)) for name in filters.names()]
    if given.as_json:
        common.print_json([{"name": name, **_described(name, rule)} for name, rule in found])
        return
    for name, rule in found:
        described = _described(name, rule)
        click.secho(f"{name}  ({rule.about})", bold=True)
        click.echo(f"  {described['drops']}\n  {rule.paper}")
        if described["reads"]:
            click.echo(f"  reads {', '.join(described['reads'])}")
        for parameter in described["parameters"]:
            kind = "  (changes facts)" if parameter["changes_facts"] else ""
            click.echo(f"    {parameter['name']} = {parameter['default']}   {parameter['doc']}{kind}")
    for name, section in (("output", Output), ("fetch", FetchPolicy)):
        click.secho(f"\nsection {name}", bold=True)
        keys = [(item.name, str(item.default), item.metadata["doc"]) for item in dataclasses.fields(section)]
        print_table(("key", "default", "what"), keys)
    click.secho("\nfacts that sql can read", bold=True)
    print_table(("fact", "type", "what"), [(fact.name, str(fact.type), fact.doc) for fact in facts.FACTS.values()])


def _described(name: str, rule: type[Any]) -> dict[str, Any]:
    parameters = [
        {"name": item.name, "default": item.default, "doc": item.metadata["doc"], "changes_facts": item.metadata["setting"]}
        for item in dataclasses.fields(rule)
    ]
    drops, reads = (rule.__doc__ or "").split("\n\n")[0], list(filters.facts_of(name))
    return {"about": rule.about, "drops": drops, "paper": rule.paper, "reads": reads, "parameters": parameters}
