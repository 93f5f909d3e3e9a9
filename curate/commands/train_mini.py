"""`curate train-mini`: trains the small models named `mini`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from curate.commands import common
from curate.commands.options import TrainMini
from curate.core.errors import InputError, ModelError


def train_mini_command(given: TrainMini) -> None:
    """Train with progress on stderr, and print the files and measurements."""
    held = _tars(given.holdout)
    tars = tuple(path for path in _tars(given.data) if path not in held)
    if not tars:
        raise InputError("no tars to train on: all of DATA is held out")
    try:
        from curate.models.mini.train import Task, train

        task = Task(tars, held, given.out, given.epochs, common.workers(given.workers))
        result = train(task, lambda line: click.echo(line, err=True))
    except ImportError as error:
        raise ModelError(
            f'train-mini needs the package {error.name or error}: pip install "curate-image-text[models]"'
        ) from error
    if given.as_json:
        common.print_json(result)
    else:
        _print(result, given.out)


def _tars(names: Sequence[str]) -> tuple[Path, ...]:
    """Return the given tars and those in given folders, each once. Raises InputError."""
    found: list[Path] = []
    for name in names:
        path = Path(name)
        tars = sorted(path.glob("*.tar")) if path.is_dir() else [path]
        if not tars or not all(tar.is_file() for tar in tars):
            raise InputError(f"{name}: no tar, and no folder with tars")
        found += [tar.resolve() for tar in tars]
    return tuple(dict.fromkeys(found))


def _print(result: dict[str, Any], out: Path) -> None:
    for name, size in result["files"].items():
        click.echo(f"{out / name}  {size:,} bytes")
    click.echo(f"{result['pictures']:,} pictures, {result['words']:,} words, {result['seconds']:,} s")
    measured = result.get("measured")
    if measured is None:
        return
    matcher = measured["matcher"]
    click.echo(f"on {measured['pictures']:,} held-out pictures:")
    for name in ("greedy", "nucleus"):
        click.echo(f"  captions, {name}: CIDEr-D {measured[name]['cider']}, BLEU-4 {measured[name]['bleu4']}")
    click.echo(f"  matches: AUC {matcher['auc']}, {matcher['matches_kept']:.1%} kept and {matcher['mismatches_dropped']:.1%} of")
    click.echo(f"    mismatches dropped at P(match) 0.5; calibration error {matcher['calibration_error']}")
    click.echo("  text to picture: " + ", ".join(f"{name} {share:.1%}" for name, share in measured["embedder"].items()))
