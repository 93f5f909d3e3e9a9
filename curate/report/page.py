"""OUT/report.html: self-contained, the same bytes for the same OUT, and safe against hostile texts."""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curate.report import charts, gallery, histograms, problems
from curate.report.attrition import COLUMNS, Attrition, Combination, combinations, overlaps, percent, tally
from curate.report.card import write_cards
from curate.report.query import opened, parquet_files
from curate.report.rules import Rule, rules_of
from curate.storage.backend import Storage, storage
from curate.storage.manifest import read_manifest
from curate.storage.samples import FILES, kind_in

if TYPE_CHECKING:
    from jinja2 import Environment

TEXT = 220  # characters
LISTED = 50  # shards listed by name
UNUSED = ("shard", "key", "url", "error", "animated", "sha256", "language_score", "phash")
"""Columns of decisions that no part of the report shows."""

HELD = 128 * 1024 * 1024  # bytes of decisions, compressed, that are read once and not for each query: about two million rows


@dataclass(frozen=True)
class Texts:
    """Numbers of texts, web and synthetic (`written`), and of the kept ones."""

    web: int
    web_kept: int
    written: int
    written_kept: int

    @property
    def all(self) -> int:
        """Number of all texts."""
        return self.web + self.written

    @property
    def kept(self) -> int:
        """Number of all kept texts."""
        return self.web_kept + self.written_kept


@dataclass(frozen=True)
class Content:
    """The values of the template; `overlap` is square, in the order of `attrition`."""

    manifest: Mapping[str, Any]
    attrition: list[Attrition]
    about: dict[str, str]
    records: int
    kept: int
    texts: Texts
    warnings: list[str]
    faults: list[str]
    problems: list[problems.Problem]
    overlap: list[list[int]]
    evidence: list[histograms.Histogram]
    facts: list[histograms.Histogram]
    categories: list[histograms.Categories]
    kept_texts: list[tuple[str, int]]
    dropped_texts: list[tuple[str, int]]
    shown: gallery.Galleries


def write_report(out: Storage) -> list[Attrition]:
    """Write the dataset card, then OUT/report.html, and return its line of each filter. Raises OutputError and OSError."""
    manifest = read_manifest(out)
    content = _content(out, manifest)
    page = _rendered("report.html.j2", {"page": content})
    write_cards(out, manifest)
    out.write("report.html", page)
    return content.attrition


def report_page(out: Storage) -> bytes:
    """Return the report on OUT, made from its manifest.json, decisions and thumbs.

    Raises OutputError if OUT is not the output of a finished run or a file cannot be read.
    """
    return _rendered("report.html.j2", {"page": _content(out, read_manifest(out))})


def write_page(path: Path, template: str, values: Mapping[str, object]) -> None:
    """Render a template of this folder to `path`, atomically."""
    storage(path.parent).write(path.name, _rendered(template, values))


def _rendered(template: str, values: Mapping[str, object]) -> bytes:
    return _environment().get_template(template).render(values).encode("utf-8", "replace")


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(count=count, size=size, visible=visible, shorten=shorten, short=charts.short)
    environment.globals.update(percent=percent, chart=charts)
    return environment


def _content(out: Storage, manifest: dict[str, Any]) -> Content:
    rules = rules_of(manifest)
    with opened(parquet_files(out, "decisions"), COLUMNS) as view:
        if sum(file.size for file in out.listing("decisions")) <= HELD:
            view.hold(without=UNUSED)
        found = combinations(view)
        lines = tally(found, rules)
        evidence, facts = histograms.distributions(view, rules, manifest.get("thresholds") or {})
        categorical = ["format", "language", *histograms.text_columns(view, list(rules))]
        values = histograms.categories(view, categorical)
        kept_texts, dropped_texts = histograms.frequent_texts(view)
    records, kept = sum(one.records for one in found), sum(one.kept for one in found)
    texts = _texts(found)
    names = [line.filter for line in lines]
    return Content(
        manifest=_complete(manifest),
        attrition=lines,
        about={name: _sentence(name, rules, manifest) for name in names},
        records=records,
        kept=kept,
        texts=texts,
        warnings=[*map(str, manifest.get("warnings") or []), *_contradictions(manifest, records, kept)],
        faults=[] if manifest.get("dry_run") else problems.faults(manifest),
        problems=problems.listed(manifest),
        overlap=overlaps(found, names),
        evidence=evidence,
        facts=facts,
        categories=values,
        kept_texts=kept_texts,
        dropped_texts=dropped_texts,
        shown=gallery.galleries(out, ["kept", *names]),
    )


def _texts(found: Sequence[Combination]) -> Texts:
    """Count texts by source and fate."""

    def rows(*, synthetic: bool, kept: bool) -> int:
        return sum(one.rows for one in found if one.synthetic == synthetic and not (kept and one.dropped_by is not None))

    return Texts(*(rows(synthetic=synthetic, kept=kept) for synthetic in (False, True) for kept in (False, True)))


def _sentence(name: str, rules: Mapping[str, Rule], manifest: Mapping[str, Any]) -> str:
    """Return what a filter drops: its docstring's first sentence, with parameters in backticks replaced by their values."""
    values = ((manifest.get("recipe") or {}).get("filters") or {}).get(name) or {}
    return re.sub(r"`(\w+)`", lambda found: str(values.get(found[1], found[1])), rules.get(name, Rule()).drops)


def _complete(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what a manifest may lack, so that the template needs no checks."""
    recipe = manifest.get("recipe") or {}
    tars = (manifest.get("files") or {}).get("shards") or {}
    return {
        "name": recipe.get("name") or "unnamed",
        "source": recipe.get("source") or "",
        "parameters": {name: _parameters(values) for name, values in (recipe.get("filters") or {}).items()},
        "hash": manifest.get("recipe_hash") or "",
        "versions": sorted((str(key), str(value)) for key, value in (manifest.get("versions") or {}).items()),
        "input": manifest.get("input") or {},
        "failed": _shards(manifest.get("failed_shards")),
        "partial": _shards(manifest.get("partial_shards")),
        "tars": int(tars.get("files") or 0),
        "file": FILES.get(kind_in(manifest), "files").removesuffix("s"),
        "bytes": int(tars.get("bytes") or 0),
        "modes": sorted((manifest.get("image_modes") or {}).items()),
        "listed": LISTED,
    }


def _parameters(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the parameters of a filter that are set, as text."""
    shown = {name: ", ".join(map(str, value)) if isinstance(value, list) else value for name, value in values.items()}
    return {name: str(value) for name, value in shown.items() if value not in (None, "")}


def _shards(found: Sequence[Mapping[str, Any]] | None) -> list[tuple[str, str]]:
    return [(str(shard.get("shard", "")), str(shard.get("reason", ""))) for shard in found or []]


def _contradictions(manifest: Mapping[str, Any], records: int, kept: int) -> list[str]:
    """Return the contradictions between manifest and decisions: one of them was changed or cut off."""
    counts = [("kept", manifest.get("kept"), kept), ("records", manifest.get("records"), records)]
    return [
        f"the manifest says {claimed:,} {what}, the decisions hold {found:,}"
        for what, claimed, found in counts
        if isinstance(claimed, int) and claimed != found
    ]


def count(value: int) -> str:
    """Format a whole number with thousands separators."""
    return f"{value:,}"


def size(value: int) -> str:
    """Format a number of bytes.

    >>> size(512), size(15_300_000)
    ('512 B', '15.3 MB')
    """
    for unit, letter in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if value >= unit:
            return f"{value / unit:.1f} {letter}"
    return f"{value} B"


def visible(text: object) -> str:
    r"""Replace invisible characters and those that change others (controls, bidi) by their code points.

    >>> visible("a\x00b\u202ec\nd")
    'a⟨0⟩b⟨202E⟩c d'
    """
    return "".join(" " if one in "\t\n\r" else f"⟨{ord(one):X}⟩" if _invisible(one) else one for one in str(text))


def _invisible(one: str) -> bool:
    # joiners are part of emoji, and of Indic and Persian spelling
    return unicodedata.category(one) in ("Cc", "Cf", "Cs", "Zl", "Zp") and one not in "\u200c\u200d"


def shorten(text: object, limit: int = TEXT) -> str:
    """Return `text` in visible characters, cut to `limit` characters.

    >>> shorten("abcdef", 3), shorten("abc", 3)
    ('abc…', 'abc')
    """
    whole = str(text)
    shown = visible(whole[: limit + 1])
    return shown if len(shown) <= limit and len(whole) <= limit else shown[:limit] + "…"
