"""What a command says on standard error beside its result: lines for a person, or JSON for a program (`--log-format json`)."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click

_FORMAT = "curate.log_format"
_COLOURS = {"warning": "yellow", "error": "red"}


def keep_format(context: click.Context, option: click.Parameter, value: str) -> str:
    """Keep how lines are written for all that a command says; the callback of --log-format."""
    context.meta[_FORMAT] = value
    return value


def as_json() -> bool:
    """Return whether lines are to be JSON."""
    context = click.get_current_context(silent=True)
    return context is not None and context.meta.get(_FORMAT) == "json"


def event(name: str, **more: Any) -> str:
    """Return an event as a line of JSON, with its time."""
    return json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), "event": name, **more}, ensure_ascii=False)


def say(text: str, name: str = "warning", prefix: str = "curate: ") -> None:
    """Write a line to standard error: a warning, an error, or a detail."""
    if as_json():
        click.echo(event(name, text=text), err=True)
    else:
        click.secho(f"{prefix}{text}", err=True, fg=_COLOURS.get(name))
