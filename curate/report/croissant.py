"""OUT/croissant.json: Croissant 1.0 (JSON-LD), by which programs find the files of a dataset and read its index as records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from curate.storage.samples import kind_in

CROISSANT = "croissant.json"

FILLED_IN = ("license", "creator", "url", "citeAs", "datePublished", "description")
"""Fields of croissant.json that are for a person to fill in."""

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


def _files(name: str, description: str, form: str, pattern: str) -> dict[str, Any]:
    named = {"@type": "cr:FileSet", "@id": name, "name": name, "description": description}
    return {**named, "encodingFormat": form, "includes": pattern}


_SAMPLES = {
    "tars": _files("tars", "WebDataset tars: KEY.jpg, .png or .webp, KEY.txt, KEY.json", "application/x-tar", "shards/*.tar"),
    "parquet": _files("samples", "images, texts and what is known of them", "application/x-parquet", "shards/*.parquet"),
}
"""The files of samples, by kind."""

_FIELDS = (
    ("key", "sc:Text", "key of the sample, the name of its members"),
    ("original_key", "sc:Text", "key of the record in the input"),
    ("size", "sc:Integer", "bytes of the image"),
    ("sha256", "sc:Text", "sha256 of the image, hex"),
)


def name_of(manifest: Mapping[str, Any]) -> str:
    """Return the name of the recipe as letters that YAML and Markdown take for nothing else."""
    name = str((manifest.get("recipe") or {}).get("name") or "dataset")
    return "".join(one if one.isalnum() or one in "_-" else "-" for one in name)


def croissant(manifest: Mapping[str, Any], before: bytes | None = None) -> bytes:
    """Return croissant.json: the files of samples, and their index as records. Keeps what FILLED_IN names."""
    kept, recipe = manifest["kept"], name_of(manifest)
    described = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": name_of(manifest),
        "description": f"{kept:,} images with texts, curated by the recipe {recipe}. Sources and licence: fill in.",
        "license": "unknown",
        "url": ".",
        "version": "1.0.0",
        "distribution": [
            _SAMPLES[kind_in(manifest)],
            _files("index", "where the images are in these files", "application/x-parquet", "index/*.parquet"),
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


def _field(name: str, kind: str, description: str) -> dict[str, Any]:
    source = {"fileSet": {"@id": "index"}, "extract": {"column": name}}
    named = {"@type": "cr:Field", "@id": f"samples/{name}", "name": name, "description": description}
    return {**named, "dataType": kind, "source": source}
