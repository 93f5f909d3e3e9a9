"""The report and statistics, on small outputs made up here."""

from __future__ import annotations

import io
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from rich.console import Console

from curate.core.errors import OutputError
from curate.report import attrition, attrition_table, charts, write_report
from curate.report.page import shorten, visible
from curate.report.rules import rules_of
from curate.report.statistics import as_json, render, statistics, write_html
from curate.stages.decode import DecodeStage
from curate.stages.header import HeaderStage
from curate.stages.language import LanguageStage
from curate.stages.text import TextStage
from curate.storage.backend import storage

SHOWN = [fact for stage in (HeaderStage, TextStage, LanguageStage, DecodeStage) for fact in stage.facts if fact.shown]
FILTERS = ["image_reuse", "caption_words", "min_side", "aspect_ratio", "unreadable", "eval_overlap", "nsfw", "sql"]
EVIDENCE = {
    "image_reuse": pa.int64(),
    "caption_words": pa.int32(),
    "min_side": pa.int32(),
    "aspect_ratio": pa.float32(),
    "unreadable": pa.string(),
    "eval_overlap": pa.float32(),
    "nsfw": pa.float32(),
    "sql": pa.bool_(),
}
THRESHOLDS = {
    "image_reuse": [1000],
    "caption_words": [3, 20],
    "min_side": [200],
    "aspect_ratio": [3],
    "eval_overlap": [0.93],
    "nsfw": [0.8],
}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "evil \u202egpj.exe\u202c text",
    "nul \x00 here",
    "{{ 7*7 }} {% raw %}",
    "</pre></style><b>",
]
DECISIONS = pa.schema(
    [
        ("shard", pa.string()),
        ("shard_index", pa.int32()),
        ("row", pa.int64()),
        ("sample_key", pa.string()),
        ("key", pa.string()),
        ("url", pa.string()),
        ("text_no", pa.int16()),
        ("source", pa.string()),
        ("text", pa.string()),
        ("dropped_by", pa.string()),
        ("failed", pa.list_(pa.string())),
        ("not_evaluated", pa.list_(pa.string())),
        ("error", pa.string()),
        *[(fact.name, fact.type) for fact in SHOWN],
        ("eval_match", pa.string()),
        *EVIDENCE.items(),
    ]
)
RECIPE = "# ALIGN (Jia et al., 2021)\nfilters:\n  image_reuse: {max_texts: 1000}\n  min_side: {larger_than: 200}\n"
SUBJECTS = [
    "a red bicycle against a wall",
    "two dogs on the beach at dusk",
    "old harbour, Bergen, seen from the fish market",
    "IMG_2041",
    "logo",
    "close-up of a ginkgo leaf in autumn",
    "click to enlarge",
    "ein Haus am See mit Garten",
]


def colour(rng: random.Random) -> tuple[int, int, int]:
    return rng.randrange(256), rng.randrange(256), rng.randrange(256)


def picture(rng: random.Random, width: int, height: int) -> bytes:
    scale = 160 / max(width, height)
    image = Image.new("RGB", (max(1, int(width * scale)), max(1, int(height * scale))), colour(rng))
    drawing = ImageDraw.Draw(image)
    for _ in range(5):
        x, y, r = rng.randrange(160), rng.randrange(160), rng.randrange(8, 60)
        drawing.ellipse((x - r, y - r, x + r, y + r), fill=colour(rng))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=80)
    return file.getvalue()


def decision(rng: random.Random, row: int) -> dict[str, object]:
    width, height = (int(min(20_000, np.exp(rng.gauss(6.4, 0.7)))) + 1 for _ in range(2))
    words = max(0, int(np.exp(rng.gauss(1.9, 0.6))))
    broken = rng.random() < 0.06
    text = rng.choice(SUBJECTS) if rng.random() < 0.4 else f"{rng.choice(SUBJECTS)} no {row}"
    evidence = {
        "image_reuse": int(np.exp(rng.gauss(6.2, 0.6))) if rng.random() < 0.15 else None,
        "caption_words": words,
        "min_side": None if broken else min(width, height),
        "aspect_ratio": None if broken else max(width, height) / min(width, height),
        "unreadable": rng.choice(["damaged: missing_eoi", "damaged: junk", "too_large", "empty"]) if broken else "ok",
        "eval_overlap": None if broken else min(1.0, max(0.0, rng.gauss(*rng.choice([(0.5, 0.14)] * 19 + [(0.96, 0.02)])))),
        "nsfw": None if broken else rng.betavariate(0.6, 6),
        "sql": None if broken else width * height > 40_000,
    }
    fails = {
        "image_reuse": (evidence["image_reuse"] or 0) > 1000,
        "caption_words": not 3 <= words <= 20,
        "min_side": not broken and min(width, height) <= 200,
        "aspect_ratio": not broken and max(width, height) / min(width, height) >= 3,
        "unreadable": broken,
        "eval_overlap": not broken and evidence["eval_overlap"] >= 0.93,
        "nsfw": not broken and evidence["nsfw"] >= 0.8,
        "sql": evidence["sql"] is False,
    }
    failed = [name for name in FILTERS if fails[name]]
    return {
        "shard": f"part-{row % 3}.tar",
        "shard_index": row % 3,
        "row": row,
        "key": f"dir/{row:06d}",
        "url": f"https://example.org/{row}.jpg",
        "text_no": 0,
        "source": "web",
        "text": text,
        "dropped_by": failed[0] if failed else None,
        "failed": failed,
        "not_evaluated": [name for name in FILTERS if broken and name not in ("unreadable", "image_reuse", "caption_words")],
        "bytes": int(np.exp(rng.gauss(11, 1))),
        "sha256": f"{row % 250:064x}",
        "format": rng.choice(["jpeg"] * 8 + ["png", "webp"]),
        "width": width,
        "height": height,
        "animated": False,
        "words": words,
        "characters": words * 6,
        "language": rng.choice(["en"] * 6 + ["de", "es", "fr", "ja"]),
        "language_score": 0.9,
        "phash": row,
        "eval_match": f"flickr/{row}.jpg" if fails["eval_overlap"] else None,
        **evidence,
    }


def make_out(out: Path, rows: list[dict[str, object]], schema: pa.Schema = DECISIONS) -> Path:
    rng = random.Random(4)
    (out / "decisions").mkdir(parents=True, exist_ok=True)
    (out / "thumbs").mkdir(exist_ok=True)
    for shard in sorted({row["shard_index"] for row in rows}):
        table = pa.Table.from_pylist([row for row in rows if row["shard_index"] == shard], schema=schema)
        pq.write_table(table, out / "decisions" / f"{shard:06d}.parquet")
    thumbs = []
    for row in rows[:: max(1, len(rows) // 120)]:
        by = row["dropped_by"]
        thumbs.append(
            {
                "shard_index": row["shard_index"],
                "row": row["row"],
                "category": by or "kept",
                "key": row["key"],
                "text": row["text"],
                "thumb": None if by == "unreadable" else picture(rng, row["width"], row["height"]),
                "reason": "" if by is None else f"{row[by]:.3g}" if isinstance(row[by], float) else str(row[by]),
                "match": row["eval_match"],
                "match_thumb": picture(rng, row["width"], row["height"]) if row["eval_match"] else None,
            }
        )
    fields = [
        ("shard_index", pa.int32()),
        ("row", pa.int64()),
        ("category", pa.string()),
        ("thumb", pa.binary()),
        ("key", pa.string()),
    ]
    fields += [("text", pa.string()), ("reason", pa.string()), ("match", pa.string()), ("match_thumb", pa.binary())]
    pq.write_table(pa.Table.from_pylist(thumbs, schema=pa.schema(fields)), out / "thumbs" / "000000.parquet")
    kept = sum(row["dropped_by"] is None for row in rows)
    parameters = {
        "image_reuse": {"max_texts": 1000, "identity": "url"},
        "min_side": {"larger_than": 200},
        "aspect_ratio": {"below": 3.0},
    }
    manifest = {
        "recipe": {"name": "align", "source": RECIPE, "filters": parameters},
        "recipe_hash": "5f0c2d9e4b7a1c38",
        "versions": {"curate": "0.1.0", "python": "3.11.9"},
        "input": {"shards": 4, "records": len(rows), "bytes": 73_400_320},
        "filters": FILTERS,
        "thresholds": THRESHOLDS,
        "kept": kept,
        "records": len(rows),
        "failed_shards": [{"shard": "part-3.tar", "reason": "cannot be opened: permission denied"}],
        "partial_shards": [{"shard": "part-2.tar", "reason": "tar cut off at byte 1,048,576; 212 records before it stand"}],
        "warnings": ["eval_overlap: no evaluation sets given, nothing was checked"],
        "files": {"shards": {"files": 1, "samples": kept, "bytes": 40_000_000}},
    }
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


@pytest.fixture(scope="module")
def rows() -> list[dict[str, object]]:
    rng = random.Random(7)
    return [decision(rng, row) for row in range(400)]


@pytest.fixture(scope="module")
def out(rows: list[dict[str, object]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_out(tmp_path_factory.mktemp("report") / "o[u]t*'1", rows)


@pytest.fixture(scope="module")
def html(out: Path) -> str:
    return html_of(out)


class Page(HTMLParser):
    """What a browser would see: tags, attributes, and the text outside of style."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.cells: list[list[str]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.cells.append([])
        if tag == "td" and self.cells:
            self.cells[-1].append("")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.cells and self.cells[-1]:
            self.cells[-1][-1] += data.strip() + " "


def html_of(out: Path) -> str:
    write_report(storage(out))
    return (out / "report.html").read_bytes().decode("utf-8")


def expected(rows: list[dict[str, object]]) -> list[tuple[str, int, int, int, int, int]]:
    alive, lines = len(rows), []
    for name in FILTERS:
        dropped = sum(row["dropped_by"] == name for row in rows)
        failed = sum(name in row["failed"] for row in rows)
        evaluated = sum(name not in row["not_evaluated"] for row in rows)
        lines.append((name, alive, dropped, alive - dropped, failed, evaluated))
        alive -= dropped
    return lines


def test_attrition_counts_what_the_decisions_say(out: Path, rows: list[dict[str, object]]) -> None:
    found = attrition(storage(out), rules_of({"filters": FILTERS}))
    assert [(a.filter, a.seen, a.dropped, a.left, a.failed_anywhere, a.evaluated) for a in found] == expected(rows)
    assert found[1].share == found[1].dropped / found[1].seen
    assert found[-1].left == sum(row["dropped_by"] is None for row in rows)


def test_rows_dropped_by_an_unknown_filter_are_not_lost(out: Path) -> None:
    found = attrition(storage(out), rules_of({"filters": [name for name in FILTERS if name != "min_side"]}))
    assert found[-1].filter == "min_side"
    assert found[-1].left == attrition(storage(out), rules_of({"filters": FILTERS}))[-1].left


def test_terminal_table_shows_input_first_and_kept_last(out: Path) -> None:
    console = Console(file=io.StringIO(), width=120)
    found = attrition(storage(out), rules_of({"filters": FILTERS}))
    console.print(attrition_table(found))
    lines = [line for line in console.file.getvalue().splitlines() if line.strip()]
    assert lines[1].split()[:2] == ["input", "400"]
    assert lines[-1].startswith("kept") and f"{found[-1].left:,}" in lines[-1]
    assert len(lines) == len(FILTERS) + 3


def test_page_shows_the_numbers_of_the_decisions(html: str, rows: list[dict[str, object]]) -> None:
    page = Page(html)
    cells = [[cell.strip() for cell in line] for line in page.cells]
    by_name = {line[0].split()[0]: line for line in cells if line and line[0]}
    for name, _, dropped, left, failed, _ in expected(rows):
        line = next(line for line in cells if line and line[0].split()[:1] == [name])
        assert (line[2], line[4], line[6]) == (str(dropped), str(failed), str(left))
    kept = sum(row["dropped_by"] is None for row in rows)
    assert by_name["kept"][6] == str(kept)
    jpegs = [row for row in rows if row["format"] == "jpeg"]
    assert by_name["jpeg"][2] == str(len(jpegs))
    both = sum({"min_side", "aspect_ratio"} <= set(row["failed"]) for row in rows)
    assert any(line[:4][-1:] == [str(sum("aspect_ratio" in row["failed"] for row in rows))] and line[2] == str(both)
               for line in cells if len(line) == 4)  # fmt: skip
    assert "no evaluation sets given" in page.text
    assert "part-3.tar" in page.text and "cut off at byte" in page.text


def test_bars_of_a_histogram_sum_to_the_records(html: str, rows: list[dict[str, object]]) -> None:
    figure = next(part for part in html.split("<figure>") if "<b>caption_words</b>" in part)
    fails = sum("caption_words" in row["failed"] for row in rows)
    assert f"{fails} fail" in figure and "400 with a value" in figure
    labels = re.findall(r'class="at"[^>]*>([^<]+)<', figure)
    assert labels == ["3", "20"]


def test_page_needs_nothing_from_outside(html: str) -> None:
    page = Page(html)
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "object"}
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("src") or "data:").startswith("data:image/jpeg;base64,") or "src" not in attributes
        assert "href" not in attributes
    assert len(html) < 3_000_000


def test_same_output_same_bytes(out: Path, html: str) -> None:
    assert html_of(out) == html
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []


def test_hostile_texts_stay_texts(rows: list[dict[str, object]], tmp_path: Path) -> None:
    hostile = [
        {**row, "text": HOSTILE[i % len(HOSTILE)], "key": HOSTILE[i % 3], "language": HOSTILE[i % 2]}
        for i, row in enumerate(rows)
    ]
    out = make_out(tmp_path / "out", hostile)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["warnings"] = [HOSTILE[0]]
    manifest["recipe"] |= {"name": HOSTILE[1], "source": HOSTILE[5]}
    manifest["recipe"]["filters"]["min_side"] = {HOSTILE[0]: HOSTILE[1]}
    manifest["failed_shards"] = [{"shard": HOSTILE[1], "reason": HOSTILE[2]}]
    (out / "manifest.json").write_text(json.dumps(manifest))
    html = html_of(out)
    page = Page(html)
    assert not [tag for tag, attributes in page.tags if tag == "script" or "onerror" in attributes]
    assert not set(html) & {"\x00", "\u202e", "\u202c"}
    assert "<script>alert(1)</script>" in page.text and "⟨202E⟩" in page.text and "{{ 7*7 }}" in page.text


def test_leaked_pairs_and_galleries_show_pictures(html: str, rows: list[dict[str, object]]) -> None:
    leaked = html.split("Leaked evaluation images</h2>")[1].split("<h2>")[0]
    assert leaked.count("<img") == 2 * leaked.count("<figure>") > 0
    assert "flickr/" in leaked
    for shelf in html.split("by verdict</h2>")[1].split("<h2>")[0].split("<h3>")[1:]:
        assert 0 < shelf.count("<figure") <= 24
    assert "no image" in html


def test_too_many_pictures_are_cut_to_the_budget(rows: list[dict[str, object]], tmp_path: Path) -> None:
    out = make_out(tmp_path / "out", rows)
    large = b"\xff\xd8\xff" + bytes(50_000)
    thumbs = pq.read_table(out / "thumbs" / "000000.parquet").to_pylist()
    many = [{**row, "row": i, "thumb": large} for i, row in enumerate(thumbs)]
    pq.write_table(pa.Table.from_pylist(many), out / "thumbs" / "000000.parquet")
    assert len(html_of(out)) < 3_000_000


@pytest.mark.parametrize("number", [0, 1])
def test_hardly_any_records(rows: list[dict[str, object]], tmp_path: Path, number: int) -> None:
    out = make_out(tmp_path / "out", rows[:number])
    found = attrition(storage(out), rules_of({"filters": FILTERS}))
    assert [line.seen for line in found][:1] == [number]
    assert f"<b>{number}</b>" in html_of(out)
    Console(file=io.StringIO()).print(attrition_table(found))


def test_files_without_rows_and_columns_without_values(rows: list[dict[str, object]], tmp_path: Path) -> None:
    schema = pa.schema([field for field in DECISIONS if field.name not in ("nsfw", "width", "phash", "text")])
    out = make_out(tmp_path / "a", [{**row, "aspect_ratio": None} for row in rows[:30]], schema)
    assert "No value recorded" in html_of(out)
    pq.write_table(schema.empty_table(), out / "decisions" / "000000.parquet")
    for path in sorted((out / "decisions").iterdir())[1:]:
        path.unlink()
    assert "There were no records" in html_of(out)


def test_huge_and_impossible_values(rows: list[dict[str, object]], tmp_path: Path) -> None:
    huge = {"bytes": 2**63 - 1, "width": 2**31 - 1, "height": 0, "image_reuse": 2**62, "text": "x" * 1_000_000}
    odd = [{**rows[0], **huge}, {**rows[1], "nsfw": float("nan"), "aspect_ratio": float("inf")}]
    html = html_of(make_out(tmp_path / "out", [*odd, *rows[2:50]]))
    assert "nan" not in re.sub(r"base64,[^\"]*", "", html).lower().replace("evaluation", "")
    assert len(html) < 1_000_000


def test_numbers_that_contradict_the_manifest_are_said(rows: list[dict[str, object]], tmp_path: Path) -> None:
    out = make_out(tmp_path / "out", rows)
    pq.write_table(pq.read_table(out / "decisions" / "000001.parquet").slice(1), out / "decisions" / "000001.parquet")
    assert "the manifest says 400 records, the decisions hold 399" in html_of(out)


def test_no_output_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"manifest\.json"):
        write_report(storage(tmp_path))
    (tmp_path / "manifest.json").write_text("{}")
    (tmp_path / "decisions").mkdir()
    (tmp_path / "decisions" / "0.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(OutputError, match="cannot read"):
        write_report(storage(tmp_path))


@given(st.text(max_size=300), st.integers(1, 40))
def test_shortened_texts_have_nothing_unseen(text: str, limit: int) -> None:
    shown = shorten(text, limit)
    assert len(shown) <= limit + 1
    assert visible(shown) == shown
    assert not set(shown) & set("\x00\x1b\n\u202e\u2066\u200f")


NUMBERS = st.floats(-1e18, 1e18) | st.integers(-(2**63), 2**63).map(float)


@given(st.lists(NUMBERS, min_size=1, max_size=20), st.booleans(), st.booleans(), st.lists(NUMBERS, max_size=2))
def test_every_value_has_a_bin_and_a_place(values: list[float], whole: bool, log: bool, marks: list[float]) -> None:
    values = [float(round(value)) for value in values] if whole else values
    values = [abs(value) for value in values] if log else values
    low, high = min(values), max(values)
    bins = charts.log_bins(low, high, whole=whole) if log else charts.linear_bins(low, high, whole=whole)
    assert list(bins.edges) == sorted(set(bins.edges))
    assert bins.low < bins.edges[0] and bins.edges[-1] >= high - 1e-8 * (1e-3 + abs(high) + abs(low))
    assert len(bins.edges) <= 130
    counts = [("kept", [1] * len(bins.edges)), ("fails", [0] * len(bins.edges))]
    chart = charts.draw(bins, counts, marks)
    for part in chart.parts:
        assert charts.LEFT <= part.x <= charts.WIDTH - charts.RIGHT
        assert part.width >= 0 and part.y >= 0
    assert len(chart.x_ticks) <= 20


def test_threshold_stands_between_the_verdicts() -> None:
    bins = charts.linear_bins(0, 30, whole=True)
    fails = [int(edge < 3 or edge > 20) for edge in bins.edges]
    counts = [("kept", [1 - one for one in fails]), ("fails", fails)]
    chart = charts.draw(bins, counts, [3, 20])
    kept = [part for part in chart.parts if part.kind == "kept"]
    assert chart.marks[0].at == pytest.approx(min(part.x for part in kept), abs=0.1)
    assert chart.marks[1].at == pytest.approx(max(part.x + part.width for part in kept), abs=1.1)


def facts(rows: list[dict[str, object]], folder: Path) -> list[str]:
    table = pa.Table.from_pylist([{**row, "header": "ok" if i % 10 else "not_an_image"} for i, row in enumerate(rows)])
    pq.write_table(table, folder / "facts.parquet")
    return [str(folder / "*.parquet")]


def test_statistics_equal_numpy(rows: list[dict[str, object]], tmp_path: Path) -> None:
    found = statistics(facts(rows, tmp_path))
    assert (found.records, found.with_image, found.with_text) == (400, 400, 400)
    assert (found.distinct_images, found.duplicate_images) == (250, 150)
    assert found.distinct_texts == len({row["text"] for row in rows})
    assert dict(found.unreadable) == {"not_an_image": 40}
    side = sorted(min(row["width"], row["height"]) for row in rows)
    line = next(one for one in found.quantiles if one.name == "shorter side")
    assert line.values[0] == side[0] and line.values[4] == side[199] and line.values[8] == side[-1]
    assert list(line.values) == list(np.quantile(side, [0, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1], method="inverted_cdf"))
    assert len(found.repeated_images) == 20 and found.repeated_images[0].records == 2
    top = found.repeated_texts[0]
    assert top.records == sum(row["text"] == top.value for row in rows)
    assert json.loads(json.dumps(as_json(found)))["formats"] == dict(found.formats)


def test_statistics_are_shown(rows: list[dict[str, object]], tmp_path: Path) -> None:
    found = statistics(facts([{**row, "text": HOSTILE[i % 5]} for i, row in enumerate(rows)], tmp_path))
    console = Console(file=io.StringIO(), width=140)
    console.print(render(found))
    assert "shorter side" in console.file.getvalue() and "\x00" not in console.file.getvalue()
    write_html(found, tmp_path / "s.html")
    first = (tmp_path / "s.html").read_bytes()
    write_html(found, tmp_path / "s.html")
    assert (tmp_path / "s.html").read_bytes() == first
    page = Page(first.decode())
    assert not [tag for tag, _ in page.tags if tag in ("script", "img")]
    assert "<script>alert(1)</script>" in page.text


def test_statistics_of_nothing(tmp_path: Path) -> None:
    found = statistics([])
    assert found.records == 0 and found.repeated_texts == ()
    Console(file=io.StringIO()).print(render(found))
    write_html(found, tmp_path / "s.html")
    pq.write_table(pa.table({"key": ["a"]}), tmp_path / "f.parquet")
    assert statistics([str(tmp_path / "f.parquet")]).with_image == 0
