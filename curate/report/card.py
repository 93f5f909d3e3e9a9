"""OUT/README.md and OUT/croissant.json: the dataset card, for people and for programs. Neither holds a text or URL of a record.

Both are the same bytes for the same manifest. What a person fills in or changes stays: of README.md only the part between two
marks is written again, and only if it is as it was written; of croissant.json, the fields of FILLED_IN are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import xxhash

from curate.report.attrition import percent
from curate.storage.backend import Storage

CARD, CROISSANT = "README.md", "croissant.json"

_BEGIN = "<!-- curate writes from here, again with every change of the dataset, unless you change it -->"
_END = "<!-- curate ends here: {} -->"

_HEAD = """---
license: unknown  # fill in: the images have licences of their own
pretty_name: {name}
source_datasets: []  # fill in
task_categories: [image-to-text, zero-shot-image-classification]
tags: [webdataset]
configs:
- config_name: default
  data_files:
  - split: train
    path: shards/*.tar
dataset_info:
- config_name: default
  features:
  - name: jpg
    dtype: image
  - name: png
    dtype: image
  - name: webp
    dtype: image
  - name: txt
    dtype: string
  - name: json
    dtype: json
---

# {name}

Source of the images and texts: fill in. Licence: fill in. Contact for removals: fill in.

"""

FILLED_IN = ("license", "creator", "url", "citeAs", "datePublished", "description")
"""Fields of croissant.json that are for a person to fill in."""


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
        return _HEAD.format(name=_name(manifest)) + written
    head, begin, rest = before.partition(f"{_BEGIN}\n")
    part, end, tail = rest.rpartition(f"\n{_END.partition('{')[0]}")
    said, _, tail = tail.partition(" -->\n")
    return head + written + tail if begin and end and said == _digest(part) else None


def _digest(part: str) -> str:
    return xxhash.xxh3_64_hexdigest(part.encode("utf-8", "replace"))


def _name(manifest: Mapping[str, Any]) -> str:
    """Return the name of the recipe as letters that YAML and Markdown take for nothing else."""
    name = str((manifest.get("recipe") or {}).get("name") or "dataset")
    return "".join(one if one.isalnum() or one in "_-" else "-" for one in name)


def _lines(manifest: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of curate's part of the card."""
    tars = {"files": 0, "bytes": 0, **manifest["files"].get("shards", {})}
    yield "## Content"
    yield ""
    yield from _table(
        ("", ""),
        [
            ("samples", f"{manifest['kept']:,} of {manifest['records']:,} records"),
            ("texts kept", f"{manifest['kept_texts']:,} of {manifest['texts']:,}"),
            ("tars (WebDataset)", f"{tars['files']:,}, {tars['bytes']:,} bytes"),
        ],
    )
    yield from ("", "`load_dataset` of this folder reads the tars. `key.json` of a sample holds all kept texts, their scores")
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
    yield f"Recipe {_name(manifest)} (hash `{_plain(manifest['recipe_hash'])}`), curate {_plain(versions.get('curate', ''))}."
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


# Croissant ---------------------------------------------------------------------------------------------------------------

_CR = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileProperty", "fileObject", "fileSet", "format", "includes",
    "isLiveDataset", "jsonPath", "key", "md5", "parentField", "path", "recordSet", "references", "regex", "repeated", "replace",
    "samplingRate", "separator", "source", "subField", "transform",
)  # fmt: skip

_CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "sc": "https://schema.org/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{name: f"cr:{name}" for name in _CR},
}
"""The context that the specification, version 1.0, prescribes."""

_FIELDS = (
    ("key", "sc:Text", "key of the sample, the name of its members"),
    ("original_key", "sc:Text", "key of the record in the input"),
    ("size", "sc:Integer", "bytes of the image"),
    ("sha256", "sc:Text", "sha256 of the image, hex"),
)


def croissant(manifest: Mapping[str, Any], before: bytes | None = None) -> bytes:
    """Return croissant.json (Croissant 1.0, JSON-LD): the tars, and their index as records. Keeps what FILLED_IN names."""
    kept, recipe = manifest["kept"], _name(manifest)
    described = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": _name(manifest),
        "description": f"{kept:,} images with texts, curated by the recipe {recipe}. Sources and licence: fill in.",
        "license": "unknown",
        "url": ".",
        "version": "1.0.0",
        "distribution": [
            _files("tars", "WebDataset tars: KEY.jpg, .png or .webp, KEY.txt, KEY.json", "application/x-tar", "shards/*.tar"),
            _files("index", "where the images are in the tars", "application/x-parquet", "index/*.parquet"),
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "samples",
                "name": "samples",
                "description": "one a sample, of the index",
                "key": {"@id": "samples/key"},
                "field": [_field(*one) for one in _FIELDS],
            }
        ],
    }
    return (json.dumps({**described, **_filled_in(before)}, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace")


def _filled_in(before: bytes | None) -> dict[str, Any]:
    """Return what a person has filled in: values that are not those of curate."""
    try:
        found = json.loads(before or b"{}")
    except ValueError:
        return {}
    ours = {"license": "unknown", "url": "."}
    told = {name: found[name] for name in FILLED_IN if isinstance(found, dict) and name in found}
    return {
        name: value
        for name, value in told.items()
        if value != ours.get(name) and not (name == "description" and str(value).endswith("Sources and licence: fill in."))
    }


def _files(name: str, description: str, form: str, pattern: str) -> dict[str, Any]:
    named = {"@type": "cr:FileSet", "@id": name, "name": name, "description": description}
    return {**named, "encodingFormat": form, "includes": pattern}


def _field(name: str, kind: str, description: str) -> dict[str, Any]:
    source = {"fileSet": {"@id": "index"}, "extract": {"column": name}}
    named = {"@type": "cr:Field", "@id": f"samples/{name}", "name": name, "description": description}
    return {**named, "dataType": kind, "source": source}
