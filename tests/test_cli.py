"""The command line: light to start, every command documented, errors in one line with the right exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from curate.cli import main

README = Path(__file__).parents[1] / "README.md"
COMMANDS = sorted(main.commands)


def curate(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_help_loads_nothing_heavy() -> None:
    heavy = ["pyarrow", "duckdb", "numpy", "torch", "rich", "pydantic", "jinja2", "PIL", "yaml"]
    code = f"import sys, curate.cli; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_the_package_runs_as_a_module() -> None:
    command = [sys.executable, "-m", "curate", "--help"]
    found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert found.startswith("Usage: curate [OPTIONS] COMMAND")
    assert set(COMMANDS) <= set(found.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_and_stands_in_the_readme(name: str) -> None:
    found = curate(name, "--help")
    assert found.exit_code == 0
    assert (main.commands[name].help or "").strip()
    assert f"curate {name}" in README.read_text(encoding="utf-8")


def test_every_option_says_what_it_does() -> None:
    for command in main.commands.values():
        for parameter in command.params:
            assert not isinstance(parameter, click.Option) or parameter.help


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["plan", "aling"], 2, "did you mean 'align'?"),
        (["plan", "align", "--set", "min_side.larger=3"], 2, "did you mean 'larger_than'?"),
        (["run", "align", "nothing-here.tar", "--out", "OUT"], 1, "no such file"),
        (["run", "align", "nothing-here.tar", "--out", "nosuch://bucket/out"], 1, "nosuch://bucket/out: Protocol not known"),
        (["plan", "align", "x.tar", "--column", "picture=a"], 2, "ROLE=NAME"),
        (["plan", "align", "x.csv", "--column", "url=a", "--column", "image_url=b"], 2, "--column image_url=b: url is a already"),
        (["plan", "align", "x.csv", "--column", "text=a", "--column", "text=a"], 2, "text is a already"),
        (["plan", "align", "x.csv", "--table", "delimeter=tab"], 2, "did you mean 'delimiter'?"),
        (["stats", "x.csv", "--table", "delimiter=tap"], 2, "did you mean 'tab'?"),
        (["stats", "x.csv", "--table", "quote=single"], 2, "must be double or backslash or none"),
        (["dry-run", "align", "x.csv", "--table", "encoding=utf-17"], 2, "no such encoding"),
        (["fetch", "x.csv", "--out", "OUT", "--table", "header"], 2, "NAME=VALUE"),
        (["fetch", "x.csv", "--out", "OUT", "--table", "header=no,header=yes"], 2, "header is given twice"),
        (["stats", "nothing-here.parquet"], 1, "no such file"),
    ],
)
def test_a_mistake_is_one_line_and_a_code(arguments: list[str], code: int, says: str, tmp_path: Path) -> None:
    found = curate(*[str(tmp_path / "out") if argument == "OUT" else argument for argument in arguments])
    assert found.exit_code == code
    assert says in found.stderr
    assert found.stderr.startswith("curate: ")
    assert found.stderr.count("\n") == 1


def test_commands_on_what_is_no_finished_run_say_so(tmp_path: Path) -> None:
    for name in (["report", tmp_path], ["why", tmp_path, "key"], ["what-if", tmp_path], ["verify", tmp_path]):
        found = curate(*name)
        assert found.exit_code == 1
        assert "no finished run" in found.stderr


def test_lists_print_json() -> None:
    rules = json.loads(curate("filters", "--json").stdout)
    assert {rule["name"] for rule in rules} >= {"min_side", "eval_overlap", "sql"}
    assert all(rule["paper"] and rule["drops"].startswith("Drop") for rule in rules)
    assert "align" in {one["name"] for one in json.loads(curate("recipes", "--json").stdout)}
    assert json.loads(curate("plan", "align", "--json").stdout)["passes"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, demo: Path) -> Path:
    """A run of the demo without models."""
    folder = tmp_path_factory.mktemp("cli")
    recipe = folder / "light.yaml"
    rules = "image_reuse: {max_texts: 30, record_from: 2}\n  caption_words:\n  min_side:\n  aspect_ratio:\n  unreadable:"
    recipe.write_text(f"filters:\n  {rules}\n", encoding="utf-8")
    found = curate("run", recipe, demo / "pairs", "--out", folder / "out", "--workers", 1)
    assert found.exit_code == 0, found.output
    return folder


def test_a_run_ends_with_the_attrition_and_says_where_to_look(finished: Path, demo: Path) -> None:
    again = curate("run", finished / "light.yaml", demo / "pairs", "--out", finished / "out")
    assert again.exit_code == 0
    assert "nothing to do" in again.stdout
    assert "report.html" in again.stdout
    assert "caption_words" in again.stdout


def test_why_tells_every_failing_filter_and_the_first(finished: Path) -> None:
    import pyarrow.dataset as ds

    rows = ds.dataset(finished / "out" / "decisions").to_table(columns=["key", "dropped_by", "failed", "sha256"]).to_pylist()
    record = next(row for row in rows if len(row["failed"]) > 1)
    found = json.loads(curate("why", finished / "out", record["sha256"], "--json").stdout)
    assert record["key"] in {one["key"] for one in found}
    told = curate("why", finished / "out", record["key"]).stdout
    assert f"dropped by {record['dropped_by']}" in told
    assert "fails first" in told
    assert curate("why", finished / "out", "no such key").exit_code == 1


def test_what_if_of_nothing_is_what_was(finished: Path) -> None:
    answer = json.loads(curate("what-if", finished / "out", "--json").stdout)
    assert answer["kept"] == answer["at_least"] == answer["was"]


@pytest.mark.parametrize("changes", [["min_side.larger_than=260"], ["caption_words.max_words=6", "aspect_ratio.below=1.5"]])
def test_what_if_equals_a_run(finished: Path, demo: Path, tmp_path: Path, changes: list[str]) -> None:
    given = [word for change in changes for word in ("--set", change)]
    answer = json.loads(curate("what-if", finished / "out", *given, "--json").stdout)
    real = curate("run", finished / "light.yaml", demo / "pairs", "--out", tmp_path / "out", "--workers", 1, *given, "--json")
    assert answer["kept"] == answer["at_least"] == json.loads(real.stdout)["kept"]
    assert answer["kept"] != answer["was"]


def test_what_if_refuses_what_only_a_run_can_tell(finished: Path) -> None:
    found = curate("what-if", finished / "out", "--set", "image_reuse.identity=content")
    assert found.exit_code == 2
    assert "changes facts" in found.stderr
    found = curate("what-if", finished / "out", "--set", "image_reuse.max_texts=0")
    assert found.exit_code == 2
    assert "--set image_reuse.max_texts=0: image_reuse: record_from 2 is above max_texts 0" in found.stderr


def test_a_loosened_filter_gives_a_bound_that_holds_the_truth(finished: Path, demo: Path, tmp_path: Path) -> None:
    given = ["--set", "min_side.larger_than=20"]
    answer = json.loads(curate("what-if", finished / "out", *given, "--json").stdout)
    real = curate("run", finished / "light.yaml", demo / "pairs", "--out", tmp_path / "out", "--workers", 1, *given, "--json")
    assert answer["at_least"] < answer["kept"]
    assert answer["at_least"] <= json.loads(real.stdout)["kept"] <= answer["kept"]


def test_a_dry_run_writes_nothing_but_the_gallery(finished: Path, demo: Path, tmp_path: Path) -> None:
    shard, page = demo / "pairs" / "00001.tar", tmp_path / "look.html"
    found = curate("dry-run", finished / "light.yaml", shard, "--samples", 60, "--pairs", "1e6", "--html", page, "--json")
    answer = json.loads(found.stdout)
    assert answer["records"] == 60
    assert answer["not_estimated"] == ["image_reuse"]
    assert answer["kept_pairs"]["low"] <= answer["kept_pairs"]["value"] <= answer["kept_pairs"]["high"]
    assert 0 < answer["core_hours"]["low"] <= answer["core_hours"]["high"]
    assert answer["bottleneck"] in answer["stages"]
    assert [path.name for path in tmp_path.iterdir()] == ["look.html"]
    counted = curate("dry-run", finished / "light.yaml", shard, "--counts", finished / "out", "--json")
    assert json.loads(counted.stdout)["not_estimated"] == []


def test_statistics_need_no_recipe(demo: Path, tmp_path: Path) -> None:
    found = curate("stats", demo / "pairs", "--html", tmp_path / "s.html", "--json")
    assert json.loads(found.stdout)["records"] == 761
    assert (tmp_path / "s.html").stat().st_size > 1000
