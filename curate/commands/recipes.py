"""`curate recipes`: the recipes that come with curate."""

from __future__ import annotations

import click

from curate.commands import common
from curate.commands.options import List
from curate.planning import loader as recipe


def recipes_command(given: List) -> None:
    """List the recipes that come with curate."""
    found = [recipe.load(name) for name in recipe.names()]
    if given.as_json:
        paths = [{"about": one.about, "path": str(recipe.folder() / f"{one.name}.yaml")} for one in found]
        common.print_json([{**one.resolved(), **path} for one, path in zip(found, paths, strict=True)])
        return
    for one in found:
        click.secho(one.name, bold=True)
        click.echo(f"  {one.about}\n  filters: {', '.join(one.filters)}\n  {recipe.folder() / f'{one.name}.yaml'}")
