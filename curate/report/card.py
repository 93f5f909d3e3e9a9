"""OUT/README.md and OUT/croissant.json: the dataset card, for people and for programs. Neither holds a text or URL of a record.

Both are the same bytes for the same manifest. What a person fills in or changes stays: of README.md only the part between two
marks is written again, and only if it is as it was written; of croissant.json, the fields of croissant.FILLED_IN are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import xxhash

from curate.report.attrition import percent
from curate.report.croissant import CROISSANT, croissant, name_of
from curate.report.trainers import IMAGES, image_columns
from curate.storage.backend import Storage
from curate.storage.samples import FILES, kind_in

CARD = "README.md"

_BEGIN = "<!-- curate writes from here, again with every change of the dataset, unless you change it -->"
_END = "<!-- curate ends here: {} -->"

_HEAD = """---
license: unknown  # fill in: the images have licences of their own
pretty_name: {name}
source_datasets: []  # fill in
task_categories: [image-to-text, zero-shot-image-classification]
{configs}---

# {name}

Source of the images and texts: fill in. Licence: fill in. Contact for removals: fill in.

"""

_CONFIGS = """tags: [{tag}]
configs:
- config_name: default
  data_files:
  - split: train
    path: shards/*.{suffix}
"""

_FEATURES = """dataset_info:
- config_name: default
  features:
"""

_WORDS = {"tars": ("tars (WebDataset)", "`key.json`"), "parquet": (FILES["parquet"], "The column `json`")}
"""What samples are in, and what tells all of a sample, by kind."""

_LACKING: Mapping[str, Any] = {
    **dict.fromkeys(("records", "kept", "texts", "kept_texts"), 0),
    "recipe": {},
    "recipe_hash": "",
    "versions": {},
    "attrition": (),
    "files": {},
}
"""What stands for parts of a manifest that one of an earlier version may lack."""


def write_cards(out: Storage, manifest: Mapping[str, Any]) -> None:
    """Write both files, or what of them may be written again."""
    manifest = {**_LACKING, **manifest}
    before = out.read(CARD)
    card = updated(None if before is None else before.decode("utf-8", "replace"), manifest)
    if card is not None:
        out.write(CARD, card.encode("utf-8", "replace"))
    out.write(CROISSANT, croissant(manifest, out.read(CROISSANT)))


def updated(before: str | None, manifest: Mapping[str, Any]) -> str | None:
    """Return the card that replaces `before`, None where a person has changed what curate wrote."""
    part = "\n".join(_lines(manifest))
    written = f"{_BEGIN}\n{part}\n{_END.format(_digest(part))}\n"
    if before is None:
        return _HEAD.format(name=name_of(manifest), configs=_configs(manifest)) + written
    head, begin, rest = before.partition(f"{_BEGIN}\n")
    part, end, tail = rest.rpartition(f"\n{_END.partition('{')[0]}")
    said, _, tail = tail.partition(" -->\n")
    return _with_configs(head, manifest) + written + tail if begin and end and said == _digest(part) else None


def _configs(manifest: Mapping[str, Any]) -> str:
    """Return the part of the head that says how `load_dataset` reads the samples: parquet files say their columns themselves."""
    if kind_in(manifest) == "parquet":
        return _CONFIGS.format(tag="parquet", suffix="parquet")
    return _of_tars(image_columns(manifest))


def _of_tars(images: Iterable[str]) -> str:
    columns = {**dict.fromkeys(images, "image"), "txt": "string", "json": "json"}
    features = "".join(f"  - name: {name}\n    dtype: {kind}\n" for name, kind in columns.items())
    return _CONFIGS.format(tag="webdataset", suffix="tar") + _FEATURES + features


def _with_configs(head: str, manifest: Mapping[str, Any]) -> str:
    """Return a head whose part about the files, if a person has not changed it, is that of the files there are now."""
    ours = [_CONFIGS.format(tag="parquet", suffix="parquet"), *map(_of_tars, (IMAGES, *((one,) for one in IMAGES)))]
    found = max((one for one in ours if one in head), key=len, default=None)
    return head if found is None else head.replace(found, _configs(manifest), 1)


def _digest(part: str) -> str:
    return xxhash.xxh3_64_hexdigest(part.encode("utf-8", "replace"))


def _lines(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of curate's part of the card."""
    tars = {"files": 0, "bytes": 0, **manifest["files"].get("shards", {})}
    files, about = _WORDS[kind_in(manifest)]
    yield "## Content"
    yield ""
    yield from _table(
        ("", ""),
        [
            ("samples", f"{manifest['kept']:,} of {manifest['records']:,} records"),
            ("texts kept", f"{manifest['kept_texts']:,} of {manifest['texts']:,}"),
            (files, f"{tars['files']:,}, {tars['bytes']:,} bytes"),
        ],
    )
    what = files.partition(" (")[0]
    yield from ("", f"`load_dataset` of this folder reads the {what}. {about} of a sample holds all kept texts, their scores")
    yield from ("and the image's URL; `decisions/` has every record with what dropped it.", "", "## How it was made", "")
    yield from _recipe(manifest)
    rules = manifest["recipe"].get("filters") or {}
    yield from _table(
        ("filter", "seen", "dropped", "of seen", "left", "parameters"),
        ([*_attrition(row), _parameters(rules.get(row["filter"]) or {})] for row in manifest["attrition"]),
    )
    yield from ("", "## Evaluation sets", "", _evaluation_sets(manifest), "", "## Models", "")
    models = manifest.get("models") or []
    names = ("stage", "spec", "revision", "sha256")
    yield from _table(names, ([one.get(name) or "" for name in names] for one in models)) if models else ["None."]
    yield from ("", "## Known limits", "")
    yield from (f"- {limit}" for limit in _limits(manifest))


def _attrition(row: Mapping[str, Any]) -> list[str]:
    seen, dropped, left = (f"{row[name]:,}" for name in ("seen", "dropped", "left"))
    return [row["filter"], seen, dropped, percent(row["dropped"], row["seen"]), left]


def _parameters(values: Mapping[str, Any]) -> str:
    """Return the parameters of a filter as they were used, but lists (of sets and files) and what is not set."""
    said = {name: value for name, value in values.items() if value not in (None, "") and not isinstance(value, list)}
    return ", ".join(f"{name} {value}" for name, value in said.items())


def _recipe(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield what the recipe is, and its text where it is one."""
    recipe, versions = manifest["recipe"], manifest["versions"]
    yield f"Recipe {name_of(manifest)} (hash `{_plain(manifest['recipe_hash'])}`), curate {_plain(versions.get('curate', ''))}."
    if "merged_from" in manifest:
        yield f"Merged from {len(manifest['merged_from'])} outputs."
    source = str(recipe.get("source") or "").strip("\n")
    if source:
        fence = "`" * max(3, 1 + max(map(len, "".join(one if one == "`" else " " for one in source).split()), default=0))
        yield from ("", f"{fence}yaml", source, fence, "")
    changed = {name: value for name, value in (recipe.get("output") or {}).items() if value is not None}
    yield from (f"Output settings: `{_plain(json.dumps(changed, sort_keys=True))}`", "")


def _evaluation_sets(manifest: Mapping[str, Any]) -> str:
    rules = manifest["recipe"].get("filters") or {}
    if "eval_overlap" not in rules:
        return "None was checked: images of evaluation sets may be among these."
    sets = rules["eval_overlap"].get("sets") or ()
    names = [PurePath(str(one)).name for one in ([sets] if isinstance(sets, str) else sets)]
    return f"Near-duplicates were dropped of: {_plain(', '.join(names))}." if names else "No set was given to `eval_overlap`."


def _limits(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a user of the dataset should know."""
    yield "Texts are as the sources have them: they may be wrong, offensive or private where no filter of the recipe looks."
    for what in ("failed", "partial"):
        if shards := manifest.get(f"{what}_shards"):
            yield f"{len(shards):,} input shards {'failed' if what == 'failed' else 'were cut short'}."
    if modes := manifest.get("image_modes"):
        listed = ", ".join(f"{mode} {number:,}" for mode, number in modes.items())
        yield f"Images with unusual modes, which loaders may show otherwise than models saw them: {_plain(listed)}."
    yield from (_plain(warning) for warning in manifest.get("warnings") or ())


def _table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield f"|{'---|' * len(names)}"
    for row in rows:
        yield f"| {' | '.join(_plain(cell) for cell in row)} |"


def _plain(text: object) -> str:
    """Return a text as one line that ends no cell and no comment, and is no HTML."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
