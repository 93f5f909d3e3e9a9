"""What commands print in a terminal of 80 characters: every number is whole, and every line fits."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from curate.commands import common, dry_run, ending, plan, what_if, why
from curate.commands.options import DryRun, WhatIf
from curate.driver.dry_run import DryRun as Tried
from curate.driver.dry_run import Estimate
from curate.report import what_if as answering
from curate.report.attrition import Attrition, attrition_table
from curate.report.statistics import MEASURES, POINTS, Quantiles, Repeated, Statistics, render
from curate.report.what_if import FilterCount
from curate.report.what_if import WhatIf as Answer
from tests.running import make_tar

MANY = 12_345_678_901
SHOWN = f"{MANY:,}"
LONG = "a_filter_of_somebody_with_a_very_long_name"
ABOUT = "drops what nobody would want to see in a table, with 1234567890 reasons"


def lines(written: int) -> list[Attrition]:
    names = (LONG, "min_side", f"{LONG}_again")
    return [Attrition(name, ABOUT, 3 * MANY, MANY, 2 * MANY, 1 / 3, MANY + 1, 3 * MANY, written) for name in names]


def of_attrition(written: int = 0) -> list[str]:
    console = common.console()
    console.print(attrition_table(lines(written), 4 * MANY, console.width))
    return [SHOWN, f"{MANY + 1:,}", f"{2 * MANY:,}", f"{3 * MANY:,}", *([f"{written:,}"] if written else [])]


def of_statistics() -> list[str]:
    values = tuple(float(MANY) * (1 + at) for at in range(len(POINTS)))
    quantiles = tuple(Quantiles(name, "pixels", MANY, values) for name in MEASURES)
    kinds = ((LONG, MANY),)
    repeated = (Repeated("f" * 64, MANY, LONG * 2), Repeated("a text of many words " * 9, MANY))
    found = Statistics(MANY, MANY, MANY, MANY, kinds, kinds, kinds, kinds, quantiles, MANY, MANY, MANY, MANY, repeated, repeated)
    console = common.console()
    console.print(render(found, console.width))
    return [SHOWN, "12.35G", "111.1G"]


def of_dry_run() -> list[str]:
    estimate = Estimate(MANY, MANY - 5, MANY + 5)
    seconds = {f"{LONG}_{number}": float(MANY) for number in range(3)}
    about = {"records": MANY, "problems": {"errors": {LONG: MANY}, "fetch_failures": {LONG: MANY}}}
    rows = dict.fromkeys(seconds, MANY * 100)
    found = Tried(MANY, MANY, lines(0), seconds, rows, estimate, estimate, [], 1.0, about)
    dry_run._print(found, DryRun("align", "x", 1, 1e9, None, None, (), None, (), (), "", (), "", 0.05, False))
    return [SHOWN, f"{MANY}.000", f"{MANY * 100:,}", "33%"]


def of_problems() -> list[str]:
    ending.print_problems({"records": 3 * MANY, "problems": {"errors": {LONG: MANY}, "fetch_failures": {"http_404": MANY + 1}}})
    return [SHOWN, f"{MANY + 1:,}", "33.3%"]


def of_plan() -> list[str]:
    common.print_table(
        ("pass", "rows", "what", "core time per record"), [("judge", f"alive before {LONG}", f"filter {LONG}", "12345.5 ms")]
    )
    common.print_table(
        ("stage", "model", "revision", "sha256"), [[plan._short(cell) for cell in (LONG, LONG, "f" * 40, "e" * 64)]]
    )
    return ["12345.5", "e" * 12]


def of_why() -> list[str]:
    record: dict[str, Any] = {
        "key": LONG, "shard": f"{LONG}.tar", "row": MANY, "text_no": 0, "source": "web", "phash": None, "width": MANY,
        "url": "https://e.org/" + LONG, "dropped_by": LONG, "failed": [LONG], "not_evaluated": [], LONG: MANY * 1000,
    }  # fmt: skip
    parameters = {"at_most": MANY, "words": "one two three four five six seven eight nine ten eleven twelve"}
    filters = {LONG: {"about": ABOUT}}
    why._print(record, {"filters": filters, "recipe": {"filters": {LONG: parameters}}})
    return [str(MANY), str(MANY * 1000)]


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def whole(shown: str, numbers: list[str]) -> None:
    for number in numbers:
        assert re.search(rf"(?<![\w,.]){re.escape(number)}(?![\w,.]*\d)", shown), f"{number} is cut:\n{shown}"
    for line in shown.splitlines():
        if "core-hours" in line:  # a sentence
            continue
        assert len(line.rstrip()) <= 80, line


@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("prints", [of_attrition, of_statistics, of_dry_run, of_problems, of_plan, of_why])
def test_no_number_is_cut_in_80_columns(prints: Callable[[], list[str]], capsys: pytest.CaptureFixture[str]) -> None:
    numbers = prints()
    whole(capsys.readouterr().out, numbers)


@pytest.mark.usefixtures("narrow")
def test_nor_with_synthetic_texts(capsys: pytest.CaptureFixture[str]) -> None:
    numbers = of_attrition(MANY - 7)
    whole(capsys.readouterr().out, numbers)


@pytest.mark.usefixtures("narrow")
def test_nor_of_other_thresholds(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    counted = [FilterCount(f"{LONG}_{number}", MANY + number, MANY - number) for number in range(3)]
    answer = Answer(4 * MANY, 4 * MANY, MANY, MANY, MANY, counted)
    was = [{"filter": line.filter, "dropped": MANY * 2} for line in counted]
    monkeypatch.setattr(answering, "what_if", lambda *given: answer)
    monkeypatch.setattr(what_if, "read_manifest", lambda out: {"attrition": was})
    what_if.what_if_command(WhatIf(str(make_tar(tmp_path / "x.tar", []).parent), (), (), False))
    whole(capsys.readouterr().out, [f"{MANY + 2:,}", f"{MANY - 2:,}", f"{2 * MANY:,}", f"{3 * MANY:,}"])
