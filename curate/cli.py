"""The command line. Imports nothing heavy until a command runs, so that `curate --help` is quick."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from curate.commands import flags, options
from curate.commands.flags import gathered
from curate.core.version import __version__


@click.group(cls=flags.Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="curate")
def main() -> None:
    """Image-text curation: noisy (image, alt-text) pairs in, WebDataset tars and a record of every decision out.

    \b
    Examples:
      curate run align 'crawl/*.tar' --out curated --set eval_overlap.sets=imagenet_val,coco_test.tar
      curate dry-run align crawl/00000.tar --samples 1000 --pairs 1e9
      curate what-if curated --set min_side.larger_than=256

    \b
    Exit codes: 0 done; 1 error; 2 wrong usage or recipe; 3 finished, but a shard was cut short or given up, more
    records than --max-bad-records cannot be read, or nothing is kept; 130 interrupted; 143 terminated.
    """


@main.command()
@flags.RECIPE
@flags.RUN
def run(given: options.Run) -> None:
    """Curate INPUT by RECIPE (a name of `curate recipes`, or a YAML file) into OUT.

    INPUT: WebDataset tars, tables (parquet, arrow, csv, tsv, jsonl, json) with images, folders of images with captions;
    tables of image URLs and web archives, with images fetched after the text filters; files, globs, brace lists,
    @lists, folders or URLs (s3://, gs://, hf://). If killed, the same command resumes where it stopped.

    \b
    Examples:
      curate run align 'crawl/*.tar' --out curated
      curate run my.yaml s3://bucket/pairs/ --out curated --workers 16 --set nsfw.below=0.3
      curate run align pairs.parquet --out curated --column image=jpg --column text=alt
      curate run align urls.parquet --out curated --set fetch.contact=https://example.org/our-crawl
      curate run align /shared/crawl --out /shared/curated --runner ray
      curate run align /shared/crawl --out /shared/curated --runner spark --master spark://HEAD:7077
    """
    from curate.commands.run import run_command

    sys.exit(run_command(given))


@main.command()
@click.option("--recipe", default="fetch", show_default=True, help="Recipe that decides which images are kept.")
@flags.RUN
def fetch(given: options.Run) -> None:
    """Fetch the images of INPUT, tables of URLs or web archives, into tars in OUT: `curate run` with the recipe `fetch`.

    Requests follow the limits in the recipe's section `fetch` (`curate filters` lists them). Sites must be able to reach you:
    set fetch.contact. Every failure is recorded with its cause; --retry-failed fetches those images again.

    \b
    Examples:
      curate fetch urls.parquet --out images --set fetch.contact=https://example.org/our-crawl
      curate fetch urls.parquet --out images --set fetch.contact=https://example.org/our-crawl --retry-failed
    """
    from curate.commands.run import run_command

    sys.exit(run_command(given))


@main.command()
@flags.INPUTS
@click.option("--out", required=True, type=str, help="Output folder: new, empty, or from an extraction to resume.")
@flags.WHERE
@flags.PAGES
@flags.JSON
@gathered(options.Extract)
def extract(given: options.Extract) -> None:
    """Read web archives (WARC, Common Crawl's WAT, ARC) into pairs of image URL and alt text, one parquet file per archive.

    INPUT: archives, plain or compressed (.gz, .zst, .lz4); files, globs, folders or URLs (s3://, gs://, file://). Nothing is
    fetched. If killed, the same command resumes where it stopped.

    \b
    Examples:
      curate extract 'crawl/*.warc.gz' --out pairs
      curate extract s3://bucket/CC-MAIN-00000.warc.wat.gz --out pairs --workers 16
      curate extract site.warc.gz --out site --images-from-archive --surrounding 200
    """
    from curate.commands.extract import extract_command

    sys.exit(extract_command(given))


@main.command("dry-run")
@flags.RECIPE
@click.argument("shard")
@click.option("--samples", type=click.IntRange(1), default=1000, show_default=True, help="Records to try.")
@click.option("--pairs", type=float, default=1e9, show_default=True, help="Pairs in the real input, for the estimate.")
@click.option("--counts", default=None, metavar="OUT", help="Output of an earlier run, a folder or URL.")
@flags.html("Write a gallery of what is kept and dropped.")
@flags.SET
@flags.MODELS
@flags.PLUGINS
@flags.COLUMNS
@flags.MAX_BAD
@flags.JSON
@gathered(options.DryRun)
def dry_run(given: options.DryRun) -> None:
    """Try RECIPE on one SHARD: attrition, rate of each stage, bottleneck, core-hours and kept pairs for --pairs.

    Writes nothing except the --html gallery. Exit code 3 as for `run`. Filters of corpus counts are estimated only with --counts.

    \b
    Example:
      curate dry-run align crawl/00000.tar --pairs 2e9 --counts curated --html look.html
    """
    from curate.commands.dry_run import dry_run_command

    sys.exit(dry_run_command(given))


@main.command()
@flags.RECIPE
@click.argument("inputs", nargs=-1, metavar="[INPUT...]")
@flags.SET
@flags.MODELS
@flags.PLUGINS
@flags.COLUMNS
@flags.MAX_BAD
@flags.JSON
@gathered(options.Plan)
def plan(given: options.Plan) -> None:
    """Print what RECIPE would do: the passes, what provides each fact, its cost, and warnings.

    \b
    Example:
      curate plan align 'crawl/*.tar'
    """
    from curate.commands.plan import plan_command

    sys.exit(plan_command(given))


@main.command()
@flags.INPUTS
@flags.html("Write the statistics as a page too.")
@flags.workers()
@flags.COLUMNS
@flags.MAX_BAD
@flags.JSON
@gathered(options.Stats)
def stats(given: options.Stats) -> None:
    """Print statistics of any dataset, before or after curation; no recipe needed.

    \b
    Examples:
      curate stats 'crawl/*.tar' --html before.html
      curate stats curated/shards
    """
    from curate.commands.stats import stats_command

    sys.exit(stats_command(given))


@main.command()
@flags.OUT
@flags.JSON
@gathered(options.Report)
def report(given: options.Report) -> None:
    """Make OUT/report.html (again) and print the attrition table. OUT: a folder or URL (s3://, gs://)."""
    from curate.commands.report import report_command

    report_command(given)


@main.command()
@flags.OUT
@click.argument("key")
@flags.JSON
@gathered(options.Why)
def why(given: options.Why) -> None:
    """Print everything known about one record: all filters that it fails, and which of them came first.

    OUT: a folder or URL (s3://, gs://). KEY: the record's own key, its key in the tars, its URL, or the sha256 of its image.
    """
    from curate.commands.why import why_command

    why_command(given)


@main.command("what-if")
@flags.OUT
@flags.SET
@flags.PLUGINS
@flags.JSON
@gathered(options.WhatIf)
def what_if(given: options.WhatIf) -> None:
    """Print the attrition that OUT's recipe would have with other thresholds, from recorded facts.

    OUT: a folder or URL (s3://, gs://).

    \b
    Example:
      curate what-if curated --set min_side.larger_than=256 --set caption_words.max_words=30
    """
    from curate.commands.what_if import what_if_command

    what_if_command(given)


@main.command()
@click.argument("a")
@click.argument("b")
@flags.html("Write the comparison as a page too, with pictures of records that changed sides.")
@flags.JSON
@gathered(options.Diff)
def diff(given: options.Diff) -> None:
    """Compare two finished outputs A and B of overlapping input, made by other recipes, thresholds or versions of curate.

    Prints the totals of each, how many records each filter dropped in A and in B, what each keeps alone, evidence that
    changed, and texts that differ. Records are the same if shard (by fingerprint) and row are, and where A and B share no
    such shard, if sha256 and text are. A, B: folders or URLs (s3://, gs://).

    \b
    Examples:
      curate diff curated curated-256 --html diff.html
      curate diff s3://bucket/january s3://bucket/june --json

    Exit code 0 whatever was found.
    """
    from curate.commands.diff import diff_command

    diff_command(given)


@main.command()
@click.argument("outs", nargs=-1, required=True, metavar="A B...")
@click.option("--out", required=True, type=str, help="Output folder: new, empty, or from the same merge to resume.")
@click.option(
    "--duplicates",
    type=click.Choice(["keep", "drop"]),
    default="keep",
    show_default=True,
    help="Of records with the same image and text in several outputs, keep all, or drop all but those of the first.",
)
@flags.workers()
@flags.JSON
@gathered(options.Merge)
def merge(given: options.Merge) -> None:
    """Merge finished outputs A, B, ... in this order into one dataset C (--out): tars, index, decisions, pictures, report.

    A, B and C: folders or URLs (s3://, gs://). A, B, ... are only read. Tars are not written again: they are hard links where C
    is on the same disk, else copies. Records that were removed from one of the outputs are left out of the others' too. If
    killed, the same command completes it. C has no facts, and nothing can be run into it; `remove`, `report`, `why`, `verify` and
    `diff` work as with any output, `what-if` if the outputs have the same filters.

    \b
    Examples:
      curate merge january february --out winter
      curate merge out-align out-sql --out both --duplicates drop
    """
    from curate.commands.merge import merge_command

    merge_command(given)


@main.command()
@flags.OUT
@flags.JSON
@gathered(options.Report)
def verify(given: options.Report) -> None:
    """Check OUT: checksums, sizes, the index, and that every image decodes. Exit code 1 if anything is wrong.

    OUT: a folder or URL (s3://, gs://), in which case its tars are copied here one by one.
    """
    from curate.commands.verify import verify_command

    sys.exit(verify_command(given))


@main.command()
@flags.OUT
@flags.SELECTION
@click.option("--dry-run", is_flag=True, help="Only list what would go.")
@flags.workers()
@flags.JSON
@gathered(options.Remove)
def remove(given: options.Remove) -> None:
    """Take records out of OUT, for good: from tars, index, decisions, thumbnails, report, facts and fetched images.

    The input is not needed. A decision stays of each, with the reason `removed`, the date and the sha256 of the image; no later
    run into OUT brings it back, and a removed URL is not fetched again. Every copy of an image goes with it. sha1, MD5 and the
    hashes of imagehash and PDQ are computed of the images in OUT's tars, as these are there, and of those that it has fetched.
    Exit code 1 if OUT has nothing of it.

    \b
    Examples:
      curate remove out --url https://example.org/me.jpg --dry-run
      curate remove out --sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
      curate remove out --phash e1f0c3a58796b4d2 --radius 4
      curate remove out --list withdrawn.txt
    """
    from curate.commands.remove import remove_command

    sys.exit(remove_command(given))


@main.command()
@click.argument("store")
@click.option("--dry-run", is_flag=True, help="Only say what would be freed.")
@flags.JSON
@gathered(options.Gc)
def gc(given: options.Gc) -> None:
    """Free what no output uses of STORE, a store of facts (`curate run --facts STORE`).

    Outputs that were deleted do not count. Exit code 1 while a run is in one of the others: what it needs may not be used yet.
    Begin no first run with --facts STORE meanwhile.

    \b
    Examples:
      curate gc s3://bucket/facts --dry-run
    """
    from curate.commands.gc import gc_command

    gc_command(given)


@main.command()
@click.argument("sets", nargs=-1, required=True, metavar="SET...")
@click.option("--candidates", multiple=True, metavar="INPUT", help="Images that are certainly not in the sets; repeatable.")
@click.option("--rate", type=click.FloatRange(0, 1), default=0.001, show_default=True, help="Share of unrelated images dropped.")
@click.option("--embedder", default="efficientnet-lite0", show_default=True, help="Image embedder.")
@flags.JSON
@gathered(options.Calibrate)
def calibrate(given: options.Calibrate) -> None:
    """Choose eval_overlap's threshold for your evaluation SETs: recall of common edits against unrelated images dropped.

    \b
    Example:
      curate calibrate imagenet_val --candidates 'crawl/00000.tar' --rate 0.001
    """
    from curate.commands.calibrate import calibrate_command

    calibrate_command(given)


@main.command("train-mini")
@click.argument("data", nargs=-1, required=True, metavar="DATA...")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the weights.")
@click.option("--holdout", multiple=True, metavar="TAR", help="Tar used only for measuring, even if it is in DATA; repeatable.")
@click.option("--epochs", type=click.IntRange(1), default=8, show_default=True, help="Epochs of the captioner.")
@flags.workers("Worker processes for features. Default: one per core.")
@flags.JSON
@gathered(options.TrainMini)
def train_mini(given: options.TrainMini) -> None:
    """Train the models named `mini` (captioner, matcher, embedder) from images with human-written captions.

    DATA: WebDataset tars with key.jpg and key.json {"captions": [...]}, or folders of them. Writes two .safetensors files.

    \b
    Examples:
      curate train-mini flickr8k/ --holdout flickr8k/000005.tar --out weights
      curate train-mini 000000.tar 000001.tar --epochs 4 --out weights --json
    """
    from curate.commands.train_mini import train_mini_command

    train_mini_command(given)


@main.command("filters")
@flags.PLUGINS
@flags.JSON
@gathered(options.Filters)
def filters_(given: options.Filters) -> None:
    """List the filters (what they drop, parameters with defaults, papers) and the facts that sql can read."""
    from curate.commands.filters import filters_command

    filters_command(given)


@main.command()
@flags.JSON
@gathered(options.List)
def recipes(given: options.List) -> None:
    """List the recipes that come with curate."""
    from curate.commands.recipes import recipes_command

    recipes_command(given)
