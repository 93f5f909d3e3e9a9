"""Arguments and options that several commands share, as click decorators. Imports nothing heavy."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from curate.commands import completion, options, saying
from curate.core.errors import CurateError

F = TypeVar("F", bound=Callable[..., Any])


INTERRUPTED, TERMINATED = 130, 143
"""The exit codes after Ctrl-C, and after SIGTERM, by which schedulers end a job."""

_RESUMED = ("run", "fetch", "extract", "merge", "remove")
"""The commands that go on where they were interrupted."""

_STORES = ("botocore", "aiobotocore", "s3fs", "gcsfs", "adlfs", "azure", "google", "aiohttp", "fsspec", "huggingface_hub")
"""Packages that talk to stores: an error of theirs that nobody has translated says that a store cannot be used."""


class Terminated(KeyboardInterrupt):
    """SIGTERM came: the command ends as after Ctrl-C, with its workers and without what is half written."""


@contextmanager
def _terminable() -> Iterator[None]:
    """Raise Terminated in this thread at SIGTERM; a second one ends the process at once."""

    def terminate(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Commands(click.Group):
    """Prints errors that a user can mend as one line, with an exit code; a bug shows its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command."""
        try:
            with _terminable():
                return super().invoke(ctx)
        except CurateError as error:
            saying.say(str(error), "error")
            sys.exit(error.exit_code)
        except click.ClickException as error:
            if not saying.as_json():
                raise
            saying.say(error.format_message(), "error")
            sys.exit(error.exit_code)
        except BrokenPipeError:
            sys.exit(0)
        except KeyboardInterrupt as stop:
            goes_on = "; the same command goes on where it stopped" if ctx.invoked_subcommand in _RESUMED else ""
            terminated = isinstance(stop, Terminated)
            saying.say(f"{'terminated' if terminated else 'interrupted'}{goes_on}", "error")
            sys.exit(TERMINATED if terminated else INTERRUPTED)
        except Exception as error:
            line = _of_a_place(error)
            if line is None:
                raise
            saying.say(line, "error")
            sys.exit(1)
        finally:
            _flush()


def _of_a_place(error: Exception) -> str | None:
    """Return one line for an error of a file, a folder or a store; None for any other, which is a bug."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    said = next(iter(str(error).splitlines()), "") or type(error).__name__
    if type(error).__module__.partition(".")[0] in _STORES:
        return f"a store cannot be used: {said}"
    return said if isinstance(error, OSError) else None


def _flush() -> None:
    """Write what is left of the output; where its reader is gone, nowhere, so that Python has nothing to complain of."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ValueError:  # closed
        pass


def gathered(kind: Callable[..., Any]) -> Callable[[Callable[[Any], Any]], Callable[..., Any]]:
    """Pass a command its arguments as one typed object: click itself passes them by name."""

    def wrap(command: Callable[[Any], Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def call(*args: Any, **values: Any) -> Any:
            return command(kind(*args, **values))

        return call

    return wrap


def together(*parts: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return one decorator for several, which help lists in this order."""

    def wrap(command: Any) -> Any:
        for part in reversed(parts):
            command = part(command)
        return command

    return wrap


def workers(text: str = "Worker processes. Default: one per core.") -> Callable[[F], F]:
    """Return the option --workers."""
    return click.option("--workers", type=click.IntRange(1), default=None, help=text)


def html(text: str) -> Callable[[F], F]:
    """Return the option --html, a file to write."""
    return click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help=text)


RECIPE = click.argument("recipe", shell_complete=completion.recipes)
OUT = click.argument("out")
INPUTS = click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")

SET = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="FILTER.PARAM=VALUE",
    shell_complete=completion.settings,
    help="Change a parameter of the recipe; repeatable. Separate the items of a list with commas.",
)
MODELS = click.option(
    "--models",
    default=None,
    metavar="SET",
    help="Set of models for captioner, matcher and text embedder: mini, blip-base or blip-large. --set takes precedence.",
)
PLUGINS = click.option(
    "--plugin",
    "plugins",
    multiple=True,
    metavar="FILE",
    help="Python file with filters, stages, models or sources of yours; repeatable. It runs as you.",
)


def _share(context: click.Context, option: click.Parameter, value: str) -> float:
    """Read a share, written as 5% or 0.05, as a number from 0 to 1."""
    text = value.strip()
    try:
        found = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise click.BadParameter(f"{value!r} is not a share: write 5% or 0.05", context, option)
    return found


MAX_BAD = click.option(
    "--max-bad-records",
    callback=_share,
    default="5%",
    show_default=True,
    metavar="SHARE",
    help="Exit code 3 if a larger share of the records cannot be read; what filters drop does not count.",
)
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
COLUMNS = together(
    click.option("--column", "columns", multiple=True, metavar="ROLE=NAME",
                 help="Which column of a table, or field of key.json (dots lead into objects), is the image, text, url, key or "
                 "sha256; repeatable. Default: guessed by name. texts=lines: each line of a text is a text of its own."),
    click.option("--table", default="", metavar="NAME=VALUE,...",
                 help="How csv and tsv are written: delimiter=comma|tab|semicolon|pipe or one sign, quote=double|backslash|none, "
                 "header=yes|no, encoding=utf-8|utf-16|cp1252|..., newline=lf|cr. Default: judged by the head of each file; "
                 "`curate plan` prints it."),
    click.option("--member", "members", multiple=True, metavar="ROLE=EXTENSION",
                 help="Which members of tars are images, texts or JSON besides the usual ones: image=img, text=cap, json=meta; "
                 "repeatable."),
    click.option("--max-json", default="", metavar="SIZE",
                 help="The largest JSON beside an image that is read, at most 256MB. Default: 1 MiB; a larger one is bad_json."),
)  # fmt: skip

PAGES = together(
    click.option("--surrounding", type=click.IntRange(0, 10_000), default=0, show_default=True,
                 help="Characters of page text to keep before and after each image."),
    click.option("--images-from-archive", is_flag=True, help="Write images that the archives hold as WebDataset tars."),
    click.option("--error-pages", is_flag=True,
                 help="Take images of pages that came with an error (a status of 400 or more), too."),
)  # fmt: skip

SELECTION = together(
    click.option("--sha256", multiple=True, metavar="HASH", help="Of the image's bytes; repeatable, as the others."),
    click.option("--sha1", multiple=True, metavar="HASH", help="The same; computed of all images that OUT has, as --md5."),
    click.option("--md5", multiple=True, metavar="HASH", help="The same."),
    click.option("--phash", multiple=True, metavar="HASH", help="Perceptual hash of the image, 16 digits, as key.json has it."),
    click.option("--imagehash", multiple=True, metavar="HASH", help="As str(imagehash.phash(image)); computed, as --pdq is."),
    click.option("--pdq", multiple=True, metavar="HASH", help="PDQ of the image, 64 digits."),
    click.option("--radius", type=click.IntRange(0, 31), default=0, show_default=True,
                 help="Bits of 64 that a perceptual hash may differ by."),
    click.option("--url", multiple=True, metavar="URL", help="Where the image came from."),
    click.option("--key", multiple=True, metavar="KEY", help="A record's own key, or its key in the tars."),
    click.option("--text", multiple=True, metavar="TEXT", help="The whole text; case and spaces do not count."),
    click.option("--list", "lists", multiple=True, type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
                 help="File with a kind (any of these) and a value a line, or with hashes as blocklist reads them."),
)  # fmt: skip
"""What `remove` takes out."""

WHERE = together(
    click.option("--runner", type=click.Choice(["local", "ray", "spark"]), default="local", show_default=True,
                 help="Where the work runs."),
    click.option("--address", default="auto", show_default=True, help="Ray cluster: auto, or ray://HOST:10001."),
    click.option("--master", default=None, metavar="URL",
                 help="Spark master: spark://HOST:7077, yarn, local[4]. Default: from spark-submit or Spark's configuration, "
                 "else this machine."),
    workers(),
)  # fmt: skip

_EXECUTION = together(
    click.option("--gpus", type=click.IntRange(0), default=None, help="GPUs for captioner and matcher. Default: all; 0: none."),
    click.option("--gpu-share", type=click.FloatRange(0, 1, min_open=True), default=1, show_default=True,
                 help="Share of a GPU per worker: 0.5 puts two workers on each GPU."),
    click.option("--min-workers", type=click.IntRange(1), default=1, show_default=True,
                 help="Workers with models that a Ray pool starts with."),
    click.option("--samples-per-shard", type=click.IntRange(1), default=None, help="Samples per tar. Default: the recipe's."),
    click.option("--memory", default="1GB", show_default=True, help="Memory for merging corpus counts; the rest spills to disk."),
    click.option("--max-failed-shards", type=click.IntRange(0), default=None, help="Stop when more shards have failed."),
    click.option("--counts-of", multiple=True, metavar="INPUT",
                 help="Input that only contributes to corpus counts: the crawl that INPUT is part of, for example as WAT files; "
                 "repeatable."),
    click.option("--replace", is_flag=True, help="Replace a finished output of another recipe or input; its facts are used."),
    click.option("--add", is_flag=True, help="Add INPUT to the finished output in OUT, which keeps what it was made of."),
    click.option("--facts", default=None, metavar="STORE", help="Folder or URL of facts that outputs share. Default: in OUT."),
    click.option("--retry-failed", is_flag=True, help="Fetch images again that could not be fetched, also in finished shards."),
)  # fmt: skip

RUN = together(
    INPUTS,
    click.option("--out", required=True, type=str, help="Output folder: new, empty, or from an earlier run to resume."),
    WHERE,
    _EXECUTION,
    MAX_BAD,
    click.option(
        "--progress",
        type=click.Choice(["auto", "bar", "lines", "none"]),
        default="auto",
        show_default=True,
        help="Bars, a line each 30 seconds, or nothing, on standard error; auto: bars on a terminal, else lines.",
    ),
    click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        callback=saying.keep_format,
        help="How lines about progress, warnings and errors are written. OUT/events.jsonl has them in any case.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Show neither progress nor warnings."),
    click.option(
        "-v", "--verbose", is_flag=True, help="Show what each pass does, shard by shard, and what of earlier runs is used."
    ),
    SET,
    MODELS,
    PLUGINS,
    COLUMNS,
    JSON,
    gathered(options.Run),
)
"""What every run takes, passed as one options.Run."""
