"""The command line. Imports nothing heavy until a command runs: `curate --help` answers in a fraction of a second."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from curate.commands import options
from curate.core.errors import CurateError
from curate.core.version import __version__

F = TypeVar("F", bound=Callable[..., Any])

RUNNERS = click.Choice(["local", "ray", "spark"])
RECIPE = click.argument("recipe")
COUNTED = "Input that is only counted: the crawl that INPUT is a part of, say as WAT files; repeatable."
SHARE = "Part of a GPU that a worker takes: 0.5 puts two on each."
LEAST = "Workers with models that a Ray pool starts with."
AROUND = "Characters of the page's text before and after each image that are kept beside it."
MASTER = "Spark master: spark://HOST:7077, yarn, local[4]. Default: spark-submit's or Spark's configuration's, else this machine."
OUT = click.argument("out")


def _gathered(kind: Callable[..., Any]) -> Callable[[Callable[[Any], Any]], Callable[..., Any]]:
    """Hand a command its arguments as one typed object; click itself can only pass them by name."""

    def wrap(command: Callable[[Any], Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def call(*args: Any, **values: Any) -> Any:
            return command(kind(*args, **values))

        return call

    return wrap


def _set(command: F) -> F:
    text = "Change a parameter of the recipe; repeatable. A list is comma-separated."
    return click.option("--set", "overrides", multiple=True, metavar="FILTER.PARAM=VALUE", help=text)(command)


def _models(command: F) -> F:
    text = "Set of models for captioner, matcher and text embedder: mini, blip-base or blip-large. --set wins over it."
    return click.option("--models", default=None, metavar="SET", help=text)(command)


def _json(command: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for a program instead of a table.")(command)


def _columns(command: F) -> F:
    text = "Tell which column of a table is image, text, url, key or sha256; repeatable. Default: guessed by name."
    return click.option("--column", "columns", multiple=True, metavar="ROLE=NAME", help=text)(command)


def _where(command: F) -> F:
    for option in reversed(_WHERE):
        command = option(command)
    return command


_WHERE = (
    click.option("--runner", type=RUNNERS, default="local", show_default=True, help="Where it runs."),
    click.option("--address", default="auto", show_default=True, help="Ray cluster: auto, or ray://HOST:10001."),
    click.option("--master", default=None, metavar="URL", help=MASTER),
    click.option("--workers", type=click.IntRange(1), default=None, help="Worker processes. Default: one per core."),
)

_RUN = (
    click.argument("inputs", nargs=-1, required=True, metavar="INPUT..."),
    click.option("--out", required=True, type=str, help="Output folder: new, empty, or of an earlier run (which goes on)."),
    _where,
    click.option("--gpus", type=click.IntRange(0), default=None, help="GPUs for captioner and matcher. Default: all; 0: none."),
    click.option("--gpu-share", type=click.FloatRange(0, 1, min_open=True), default=1, show_default=True, help=SHARE),
    click.option("--min-workers", type=click.IntRange(1), default=1, show_default=True, help=LEAST),
    click.option("--samples-per-shard", type=click.IntRange(1), default=None, help="Samples a tar. Default: the recipe's."),
    click.option("--memory", default="1GB", show_default=True, help="Memory for merging corpus counts; the rest spills to disk."),
    click.option("--max-failed-shards", type=click.IntRange(0), default=None, help="Stop when more shards have failed."),
    click.option("--counts-of", multiple=True, metavar="INPUT", help=COUNTED),
    click.option("--retry-failed", is_flag=True, help="Ask again for images that could not be fetched, also of finished shards."),
    _set,
    _models,
    _columns,
    _json,
)


def _running(command: Callable[[options.Run], None]) -> Callable[..., Any]:
    """Give a command what every run can be told."""
    wrapped = _gathered(options.Run)(command)
    for option in reversed(_RUN):
        wrapped = option(wrapped)
    return wrapped


class _Commands(click.Group):
    """Turns our errors into one line and an exit code; lets a bug be seen as a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CurateError as error:
            click.echo(f"curate: {error}", err=True)
            sys.exit(error.exit_code)
        except BrokenPipeError:
            sys.exit(0)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="curate")
def main() -> None:
    """Image-text curation: noisy (image, alt-text) pairs in, WebDataset tars and a record of every decision out.

    \b
    Examples:
      curate run align 'crawl/*.tar' --out curated --set eval_overlap.sets=imagenet_val,coco_test.tar
      curate dry-run align crawl/00000.tar --samples 1000 --pairs 1e9
      curate what-if curated --set min_side.larger_than=256 --set caption_frequency.max_images=5
      curate why curated 000000123

    \b
    Exit codes: 0 done, 1 error, 2 wrong usage or recipe, 3 finished, but some shards were cut short or given up.
    """


@main.command()
@RECIPE
@_running
def run(given: options.Run) -> None:
    """Curate INPUT by RECIPE (a name of `curate recipes`, or a YAML file) into OUT.

    INPUT: WebDataset tars, parquet, csv or jsonl with images, folders of images with captions; tables of image URLs and
    web archives (WARC, WAT, ARC), whose images are fetched once the text filters have run; files, globs, folders or URLs
    (s3://, gs://, file://). Killed at any moment, the same command goes on where it stopped.

    \b
    Examples:
      curate run align 'crawl/*.tar' --out curated
      curate run my.yaml s3://bucket/pairs/ --out curated --workers 16 --set nsfw.below=0.3
      curate run align pairs.parquet --out curated --column image=jpg --column text=alt
      curate run align_capfilt 'crawl/*.tar' --out curated --models blip-base
      curate run align urls.parquet --out curated --set fetch.contact=https://example.org/our-crawl
      curate run align /shared/crawl --out /shared/curated --runner ray
      curate run align /shared/crawl --out /shared/curated --runner spark --master spark://HEAD:7077
      spark-submit jobs/spark/main.py run align /shared/crawl --out /shared/curated --runner spark
    """
    from curate.commands.run import run_command

    sys.exit(run_command(given))


@main.command()
@click.option("--recipe", default="fetch", show_default=True, help="What is kept of the images that come.")
@_running
def fetch(given: options.Run) -> None:
    """Fetch the images of INPUT, tables of URLs or web archives, into tars in OUT: `curate run` with the recipe `fetch`.

    Sites are asked politely, as the recipe's section fetch says (`curate recipes` lists it); they must be able to write to
    you: fetch.contact. Every failure is recorded with its cause; --retry-failed asks again for those.

    \b
    Examples:
      curate fetch urls.parquet --out images --set fetch.contact=https://example.org/our-crawl
      curate fetch urls.parquet --out images --set fetch.contact=https://example.org/our-crawl --retry-failed
    """
    from curate.commands.run import run_command

    sys.exit(run_command(given))


@main.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--out", required=True, type=str, help="Output folder: new, empty, or of an earlier extraction (which goes on).")
@_where
@click.option("--surrounding", type=click.IntRange(0, 10_000), default=0, show_default=True, help=AROUND)
@click.option("--images-from-archive", is_flag=True, help="Write the images that the archive itself holds as WebDataset tars.")
@_json
@_gathered(options.Extract)
def extract(given: options.Extract) -> None:
    """Read web archives (WARC, Common Crawl's WAT, ARC) into pairs of image URL and alt text, one parquet an archive.

    INPUT: archives, plain or packed (.gz, .zst, .lz4); files, globs, folders or URLs (s3://, gs://, file://). Nothing is
    fetched. Killed at any moment, the same command goes on where it stopped.

    \b
    Examples:
      curate extract 'crawl/*.warc.gz' --out pairs
      curate extract s3://bucket/CC-MAIN-00000.warc.wat.gz --out pairs --workers 16
      curate extract site.warc.gz --out site --images-from-archive --surrounding 200
    """
    from curate.commands.extract import extract_command

    sys.exit(extract_command(given))


@main.command("dry-run")
@RECIPE
@click.argument("shard")
@click.option("--samples", type=click.IntRange(1), default=1000, show_default=True, help="Records to try.")
@click.option("--pairs", type=float, default=1e9, show_default=True, help="Size of the real input, for the estimate.")
@click.option("--counts", default=None, metavar="OUT", help="Output of an earlier run, a folder or URL.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a gallery of what is kept and dropped.")
@_set
@_models
@_columns
@_json
@_gathered(options.DryRun)
def dry_run(given: options.DryRun) -> None:
    """Try RECIPE on one SHARD: attrition, rate of each stage, the bottleneck, core-hours and kept pairs for --pairs.

    Writes nothing but the --html gallery. Corpus counts come from --counts; without it those filters are not estimated.

    \b
    Example:
      curate dry-run align crawl/00000.tar --pairs 2e9 --counts curated --html look.html
    """
    from curate.commands.dry_run import dry_run_command

    dry_run_command(given)


@main.command()
@RECIPE
@click.argument("inputs", nargs=-1, metavar="[INPUT...]")
@_set
@_models
@_columns
@_json
@_gathered(options.Plan)
def plan(given: options.Plan) -> None:
    """Print what RECIPE would do: the passes, what provides each fact, what it costs, and warnings.

    \b
    Example:
      curate plan align 'crawl/*.tar'
    """
    from curate.commands.plan import plan_command

    plan_command(given)


@main.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the statistics as a page too.")
@click.option("--workers", type=click.IntRange(1), default=None, help="Worker processes. Default: one per core.")
@_columns
@_json
@_gathered(options.Stats)
def stats(given: options.Stats) -> None:
    """Print statistics of any dataset, before or after curation; no recipe needed.

    \b
    Examples:
      curate stats 'crawl/*.tar' --html before.html
      curate stats curated/shards
    """
    from curate.commands.stats import stats_command

    stats_command(given)


@main.command()
@OUT
@_json
@_gathered(options.Report)
def report(given: options.Report) -> None:
    """Make OUT/report.html (again) and print the attrition table. OUT: a folder or URL (s3://, gs://)."""
    from curate.commands.report import report_command

    report_command(given)


@main.command()
@OUT
@click.argument("key")
@_json
@_gathered(options.Why)
def why(given: options.Why) -> None:
    """Print everything known of one record: every filter that fails, and the first of them.

    OUT: a folder or URL (s3://, gs://). KEY: the record's own key, its key in the tars, its url, or the sha256 of its image.
    """
    from curate.commands.why import why_command

    why_command(given)


@main.command("what-if")
@OUT
@_set
@_json
@_gathered(options.WhatIf)
def what_if(given: options.WhatIf) -> None:
    """Print the attrition that OUT's recipe would have with other thresholds, from recorded facts alone.

    OUT: a folder or URL (s3://, gs://).

    \b
    Example:
      curate what-if curated --set min_side.larger_than=256 --set caption_words.max_words=30
    """
    from curate.commands.what_if import what_if_command

    what_if_command(given)


@main.command()
@OUT
@_json
@_gathered(options.Report)
def verify(given: options.Report) -> None:
    """Check OUT: sums, sizes, the index, and that every image that was written decodes. Exit code 1 if anything is wrong.

    OUT: a folder or URL (s3://, gs://), whose tars are copied here one by one.
    """
    from curate.commands.verify import verify_command

    sys.exit(verify_command(given))


@main.command()
@click.argument("sets", nargs=-1, required=True, metavar="SET...")
@click.option("--candidates", multiple=True, metavar="INPUT", help="Images that are surely not in the sets; repeatable.")
@click.option("--rate", type=click.FloatRange(0, 1), default=0.001, show_default=True, help="Share of unrelated images dropped.")
@click.option("--embedder", default="efficientnet-lite0", show_default=True, help="Spec of the image embedding.")
@_json
@_gathered(options.Calibrate)
def calibrate(given: options.Calibrate) -> None:
    """Choose eval_overlap's threshold for your evaluation SETs: recall of everyday edits against unrelated images dropped.

    \b
    Example:
      curate calibrate imagenet_val --candidates 'crawl/00000.tar' --rate 0.001
    """
    from curate.commands.calibrate import calibrate_command

    calibrate_command(given)


@main.command("train-mini")
@click.argument("data", nargs=-1, required=True, metavar="DATA...")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the weights.")
@click.option("--holdout", multiple=True, metavar="TAR", help="Tar that is only measured, also where DATA names it; repeatable.")
@click.option("--epochs", type=click.IntRange(1), default=8, show_default=True, help="Times the captioner sees every picture.")
@click.option("--workers", type=click.IntRange(1), default=None, help="Worker processes for features. Default: one per core.")
@_json
@_gathered(options.TrainMini)
def train_mini(given: options.TrainMini) -> None:
    """Train the models named `mini`, captioner, matcher and embedder, from images with captions that people wrote.

    DATA: WebDataset tars with key.jpg and key.json {"captions": [...]}, or folders of them. Writes two .safetensors files.

    \b
    Examples:
      curate train-mini flickr8k/ --holdout flickr8k/000005.tar --out weights
      curate train-mini 000000.tar 000001.tar --epochs 4 --out weights --json
    """
    from curate.commands.train_mini import train_mini_command

    train_mini_command(given)


@main.command("filters")
@_json
@_gathered(options.List)
def filters_(given: options.List) -> None:
    """List the filters: what they drop, their parameters with defaults, and the papers; and the facts sql can read."""
    from curate.commands.filters import filters_command

    filters_command(given)


@main.command()
@_json
@_gathered(options.List)
def recipes(given: options.List) -> None:
    """List the recipes that come with curate."""
    from curate.commands.recipes import recipes_command

    recipes_command(given)
