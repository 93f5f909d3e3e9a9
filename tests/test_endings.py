"""How a command ends: what is wrong with records is told, and a bad input is no success, however often it is run."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from curate.cli import main
from curate.core.contracts import Shard
from curate.core.shards import Shards
from curate.driver.look import COPIED, look
from tests.running import KEEP_ALL, decisions, jpeg, make_tar, manifest, pairs


def curate(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def recipe(folder: Path, text: str = KEEP_ALL) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def with_bad(folder: Path, good: int, bad: int) -> Path:
    """Write pictures, and a jsonl that names them and some that are not there."""
    for seed in range(good):
        (folder / f"{seed}.jpg").write_bytes(jpeg(seed))
    lines = [{"image": f"{number}.jpg", "text": f"thing number {number}"} for number in range(good + bad)]
    path = folder / "pairs.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def run(folder: Path, *inputs: object, rules: str = KEEP_ALL) -> Result:
    return curate("run", recipe(folder, rules), *inputs, "--out", folder / "out", "--workers", 1)


def test_records_that_cannot_be_read_are_told_and_too_many_are_no_success(tmp_path: Path) -> None:
    table = with_bad(tmp_path, 18, 2)
    done = run(tmp_path, table)
    assert done.exit_code == 3
    assert "2 of 20 records (10.0%) cannot be read, more than --max-bad-records 0.05: image_not_found 2" in done.stderr
    assert "record: image_not_found" in done.stdout and "does not exist or cannot be read" in done.stdout
    again = run(tmp_path, table)
    assert again.exit_code == 3 and "nothing to do" in again.stdout and "cannot be read" in again.stderr
    enough = curate("run", tmp_path / "recipe.yaml", table, "--out", tmp_path / "out", "--max-bad-records", "10%", "--json")
    assert enough.exit_code == 0
    stated = json.loads(enough.stdout)
    assert stated["problems"] == manifest(tmp_path / "out")["problems"]
    assert (
        stated["problems"] == {"unreadable": 2, "errors": {"image_not_found": 2}, "fetch_failures": {}} and stated["faults"] == []
    )
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert page.index("Not a success") < page.index("image_not_found") < page.index("<h2>Attrition")


@pytest.mark.parametrize("command", ["stats", "plan", "dry-run"])
def test_commands_without_an_output_end_alike(tmp_path: Path, command: str) -> None:
    table = with_bad(tmp_path, 18, 2)
    given = [command, *([] if command == "stats" else [recipe(tmp_path)]), table]
    done = curate(*given)
    assert done.exit_code == 3, done.output
    assert "image_not_found" in done.stdout and "2 of 20 records (10.0%) cannot be read" in done.stderr
    enough = curate(*given, "--max-bad-records", "0.1", "--json")
    assert enough.exit_code == 0
    assert json.loads(enough.stdout)["problems"]["errors"] == {"image_not_found": 2}


@pytest.mark.parametrize("share", ["7", "-1%", "some"])
def test_a_share_that_is_none_is_refused(tmp_path: Path, share: str) -> None:
    assert curate("stats", tmp_path, "--max-bad-records", share).exit_code == 2


def test_nothing_kept_says_why(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "some.tar", pairs(range(4)))
    done = run(tmp_path, tar, rules="filters:\n  min_side: {larger_than: 5000}\n")
    assert done.exit_code == 3
    assert "nothing is kept: 0 of 4 records (dropped by: min_side 4)" in done.stderr
    tried = curate("dry-run", tmp_path / "recipe.yaml", tar)
    assert tried.exit_code == 3 and "dropped by: min_side 4" in tried.stderr


def test_an_input_without_records_is_not_silent(tmp_path: Path) -> None:
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    done = run(tmp_path, empty)
    assert done.exit_code == 3 and "nothing is kept: the input holds no records" in done.stderr
    assert run(tmp_path, empty).exit_code == 3
    for command in (["stats", empty], ["plan", tmp_path / "recipe.yaml", empty], ["dry-run", tmp_path / "recipe.yaml", empty]):
        assert curate(*command).exit_code == 3, command


def test_a_tar_that_is_cut_short_is_no_success_for_any_command(tmp_path: Path) -> None:
    whole = make_tar(tmp_path / "whole.tar", pairs(range(4))).read_bytes()
    cut = tmp_path / "cut.tar"
    cut.write_bytes(whole[: len(whole) // 2])
    (tmp_path / "whole.tar").unlink()
    for command in (["stats", cut], ["plan", recipe(tmp_path), cut], ["dry-run", recipe(tmp_path), cut]):
        done = curate(*command)
        assert done.exit_code == 3 and "1 shard cut short" in done.stderr, (command, done.output)
    assert run(tmp_path, cut).exit_code == 3


def own_extensions(folder: Path) -> Path:
    members = [(f"{number}.{kind}", body) for number in range(4) for kind, body in (("img", jpeg(number)), ("cap", b"a boat"))]
    return make_tar(folder / "own.tar", members)


def nothing_in_it(folder: Path) -> Path:
    (folder / "empty").mkdir(exist_ok=True)
    return folder / "empty"


def made(name: str, body: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / name).write_text(body)
        return folder / name

    return make


@pytest.mark.parametrize(
    ("make", "code", "told"),
    [
        (own_extensions, 3, "cut short: own.tar: no image among its members; their extensions are not known: .img (4), .cap (4)"),
        (made("zero.tar", ""), 3, "cut short: zero.tar: empty: no tar, at byte 0"),
        (nothing_in_it, 1, "empty: no tar, table, web archive or image in this folder"),
        (made("rows.csv", "image,caption\n"), 3, "nothing is kept: the input holds no records"),
        (made("nothing.csv", ""), 1, "nothing.csv: empty"),
    ],
)
def test_an_input_of_nothing_is_no_quiet_success(make: Callable[[Path], Path], code: int, told: str, tmp_path: Path) -> None:
    given = make(tmp_path)
    rules = recipe(tmp_path)
    for command in (
        ["stats", given],
        ["plan", rules, given],
        ["dry-run", rules, given],
        ["run", rules, given, "--out", tmp_path / "out"],
    ):
        done = curate(*command, *(["--workers", 1] if command[0] in ("stats", "run") else []))
        assert done.exit_code == code and told in done.stderr and "Traceback" not in done.output, (command, done.output)
        assert done.exception is None or isinstance(done.exception, SystemExit)


def test_shards_that_broke_are_in_the_json_of_statistics_and_plans(tmp_path: Path) -> None:
    given, broken = made("zero.tar", "")(tmp_path), [{"shard": "zero.tar", "reason": "empty: no tar, at byte 0"}]
    for command in (["stats", given, "--workers", 1], ["plan", recipe(tmp_path), given]):
        assert json.loads(curate(*command, "--json").stdout)["partial_shards"] == broken


# Records without text -------------------------------------------------------------------------------------------------


def some_without_text(folder: Path) -> Path:
    texts = ["a cat", None, "", " \n ", "a dog"]
    members: list[tuple[str, bytes]] = []
    for seed, text in enumerate(texts):
        members.append((f"{seed}.jpg", jpeg(seed)))
        members += [] if text is None else [(f"{seed}.txt", text.encode())]
    return make_tar(folder / "some.tar", members)


def fates(out: Path) -> Counter[Any]:
    return Counter(row["dropped_by"] for row in decisions(out))


def test_a_record_without_text_is_dropped_unless_that_is_wanted(tmp_path: Path) -> None:
    tar = some_without_text(tmp_path)
    done = run(tmp_path, tar)
    assert done.exit_code == 0, done.output
    assert fates(tmp_path / "out") == {None: 2, "missing_text": 3} and "missing_text" in done.stdout
    assert manifest(tmp_path / "out")["attrition"][-1] == {"filter": "missing_text", "seen": 5, "dropped": 3, "left": 2}
    kept = curate(
        "run", tmp_path / "recipe.yaml", tar, "--out", tmp_path / "all", "--workers", 1, "--set", "output.empty_text=keep"
    )
    assert kept.exit_code == 0 and fates(tmp_path / "all") == {None: 5}


def test_a_filter_that_drops_it_first_has_its_name_and_what_if_knows_the_rest(tmp_path: Path) -> None:
    tar = some_without_text(tmp_path)
    rules = "filters:\n  caption_words: {min_words: 1}\n  unreadable:\n"
    assert run(tmp_path, tar, rules=rules).exit_code == 0
    assert fates(tmp_path / "out") == {None: 2, "caption_words": 3}
    found = json.loads(curate("what-if", tmp_path / "out", "--set", "caption_words.min_words=0", "--json").stdout)
    assert found["kept"] == found["at_least"] == 2


def test_images_alone_are_wanted_by_the_recipe_that_fetches() -> None:
    from curate.planning import loader

    assert loader.load("fetch").output.empty_text == "keep"
    assert loader.load("align").output.empty_text == "drop"


def test_a_plan_does_not_copy_large_remote_shards() -> None:
    far, small = Shard(0, "memory://b/a.tar", "tar", COPIED + 1, "0a"), Shard(0, "memory://b/b.tar", "tar", 1, "0b")
    assert look(Shards([])) is None and look(Shards([far])) is None
    found = look(Shards([far, small]))
    assert found is not None and found.shards == 1 and len(found.manifest["partial_shards"]) == 1
