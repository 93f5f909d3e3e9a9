"""The dataset card of an output: true counts, kept up to date, deterministic, and what a person wrote in it stays."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from curate.report import card, write_report
from curate.storage.backend import storage
from tests.running import KEEP_ALL, Setup, curate, decisions, make_tar, manifest, pairs, run_job


@pytest.fixture
def out(tmp_path: Path) -> Path:
    run_job(Setup(KEEP_ALL, [make_tar(tmp_path / "0.tar", pairs(range(6)))]), tmp_path / "out")
    return tmp_path / "out"


def test_the_card_says_what_is_there_and_nothing_of_a_record(out: Path) -> None:
    text = (out / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert head["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "shards/*.tar"}]}]
    said = ("6 of 6 records", "| unreadable | 6 | 0 | 0.0% | 6 |", manifest(out)["recipe_hash"], "None was checked")
    for words in said:
        assert words in text
    for name in ("README.md", "croissant.json"):
        assert "a picture of thing" not in (out / name).read_text()
        assert str(out.parent) not in (out / name).read_text()


def test_the_card_is_the_same_bytes_again(out: Path) -> None:
    before = [(out / name).read_bytes() for name in ("README.md", "croissant.json")]
    write_report(storage(out))
    assert [(out / name).read_bytes() for name in ("README.md", "croissant.json")] == before
    for name in ("README.md", "croissant.json", "report.html"):
        (out / name).unlink()
    write_report(storage(out))
    assert [(out / name).read_bytes() for name in ("README.md", "croissant.json")] == before


def test_more_input_and_removal_change_the_card_and_what_was_filled_in_stays(out: Path, tmp_path: Path) -> None:
    path, facts = out / "README.md", out / "croissant.json"
    path.write_text(path.read_text().replace("license: unknown", "license: cc-by-4.0") + "\nOur own words.\n")
    told = json.loads(facts.read_text())
    facts.write_text(json.dumps({**told, "license": "CC-BY-4.0", "creator": {"@type": "sc:Organization", "name": "us"}}))
    run_job(Setup(KEEP_ALL, [make_tar(tmp_path / "1.tar", pairs(range(6, 9)))], into="add"), out)
    text = path.read_text()
    assert "9 of 9 records" in text and "license: cc-by-4.0" in text and text.endswith("\nOur own words.\n")
    assert curate("remove", out, "--key", "00003").returncode == 0
    assert "8 of 9 records" in path.read_text() and "| removed | 9 | 1 |" in path.read_text()
    now = json.loads(facts.read_text())
    assert (now["license"], now["creator"]["name"]) == ("CC-BY-4.0", "us")
    assert now["description"].startswith("8 images")


@pytest.mark.parametrize("change", [("6 of 6", "all"), ("<!-- curate writes", "<!-- writes"), ("curate ends here", "end")])
def test_a_card_that_was_changed_is_left_alone(change: tuple[str, str], out: Path, tmp_path: Path) -> None:
    path = out / "README.md"
    path.write_text(edited := path.read_text().replace(*change))
    run_job(Setup(KEEP_ALL, [make_tar(tmp_path / "1.tar", pairs(range(6, 9)))], into="add"), out)
    assert path.read_text() == edited


def test_a_merge_has_a_card(out: Path, tmp_path: Path) -> None:
    other = KEEP_ALL.replace("{", "{key_prefix: x, ")
    run_job(Setup(other, [make_tar(tmp_path / "1.tar", pairs(range(6, 9)))]), tmp_path / "b")
    assert curate("merge", out, tmp_path / "b", "--out", tmp_path / "c").returncode == 0
    text = (tmp_path / "c" / "README.md").read_text()
    assert "9 of 9 records" in text and "Merged from 2 outputs." in text


def test_a_merge_of_other_output_settings_names_every_column(out: Path, tmp_path: Path) -> None:
    """The recipes have the same filters, and the settings of one are not those of both."""
    other = KEEP_ALL.replace("{", "{key_prefix: x, format: jpg, ")
    run_job(Setup(other, [make_tar(tmp_path / "1.tar", pairs(range(6, 9)))]), tmp_path / "b")
    names = {}
    for given in ((out, tmp_path / "b"), (tmp_path / "b", out)):
        target = tmp_path / f"c{len(names)}"
        done = curate("merge", *given, "--out", target)
        assert done.returncode == 0 and "jpg=Image(), png=Image(), webp=Image()" in done.stdout
        [info] = yaml.safe_load((target / "README.md").read_text().split("---")[1])["dataset_info"]
        names[target] = [feature["name"] for feature in info["features"]]
    assert set(map(tuple, names.values())) == {("jpg", "png", "webp", "txt", "json")}


def test_names_in_a_card_are_no_markup(out: Path) -> None:
    about = {**manifest(out), "warnings": ["a | <b> `x`\n# no heading"]}
    text = card.updated(None, about)
    assert text is not None and "- a \\| &lt;b> 'x' # no heading" in text


def test_croissant_has_the_structure_of_the_specification(out: Path) -> None:
    found = json.loads((out / "croissant.json").read_text())
    assert (found["@type"], found["conformsTo"]) == ("sc:Dataset", "http://mlcommons.org/croissant/1.0")
    sets = {one["@id"]: one for one in found["distribution"]}
    assert all(one["@type"] == "cr:FileSet" and list(out.glob(one["includes"])) for one in sets.values())
    [records] = found["recordSet"]
    names = {field["@id"] for field in records["field"]}
    assert records["key"]["@id"] in names
    assert all(field["source"]["fileSet"]["@id"] in sets for field in records["field"])


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of rdflib, of itself
def test_croissant_is_read_by_its_own_library(out: Path) -> None:
    import mlcroissant

    found = mlcroissant.Dataset(str(out / "croissant.json"))
    assert found.metadata.ctx.issues.errors == set()
    keys = [row["samples/key"].decode() for row in found.records("samples")]
    assert sorted(keys) == sorted(row["sample_key"] for row in decisions(out) if row["sample_key"]) and keys
