"""Every filter keeps the contract: no threshold in measure, nothing but evidence in keep, a docstring."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap

import pyarrow as pa
import pytest

from curate import filters
from curate.core.contracts import Filter
from curate.core.expressions import columns_of, evaluate
from curate.filters.sql import Sql

NAMES = filters.names()


@pytest.mark.parametrize("name", NAMES)
def test_a_filter_is_one_documented_rule(name: str) -> None:
    rule = filters.load(name)
    text = rule.__doc__ or ""
    assert text.startswith("Drop")
    assert ">>>" in text
    assert rule.paper
    assert len(inspect.getsource(inspect.getmodule(rule)).splitlines()) <= 90  # type: ignore[arg-type]
    for item in dataclasses.fields(rule):  # type: ignore[arg-type]
        assert item.metadata["doc"]
        assert isinstance(item.metadata["setting"], bool)


@pytest.mark.parametrize("name", NAMES)
def test_measure_reads_no_threshold(name: str) -> None:
    rule = filters.load(name)
    thresholds = {item.name for item in dataclasses.fields(rule) if not item.metadata["setting"]}  # type: ignore[arg-type]
    tree = ast.parse(textwrap.dedent(inspect.getsource(rule.measure)))
    read = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not read & thresholds


@pytest.mark.parametrize("name", NAMES)
def test_keep_answers_for_every_row_also_without_evidence(name: str) -> None:
    rule = filters.load(name)()
    answer = rule.keep(pa.nulls(3, rule.evidence))
    assert len(answer) == 3
    assert answer.null_count == 0
    assert len(rule.keep(pa.nulls(0, rule.evidence))) == 0


@pytest.mark.parametrize(
    ("name", "given", "evidence", "kept"),
    [
        ("min_side", {"larger_than": 200}, [199, 200, 201, None], [False, False, True, True]),
        ("aspect_ratio", {"below": 3.0}, [1.0, 2.999999, 3.0, None], [True, True, False, True]),
        ("caption_words", {}, [0, 2, 3, 20, 21, None], [False, False, True, True, False, False]),
        ("image_reuse", {"max_texts": 7}, [6, 7, 8, None], [True, True, False, True]),
        ("caption_frequency", {"max_images": 7}, [6, 7, 8, None], [True, True, False, True]),
        ("common_ngrams", {"min_count": 3}, [0, 2, 3, None], [False, False, True, True]),
        ("common_ngrams", {}, [0, 1, 2, None], [False, True, True, True]),
        ("nsfw", {"below": 0.5}, [0.49, 0.5, 0.51, None], [True, False, False, True]),
        ("eval_overlap", {"similarity": 0.5}, [0.49, 0.5, 0.51, None], [True, False, False, True]),
        ("eval_overlap", {"method": "hash", "radius": 4}, [3, 4, 5, None], [False, False, True, True]),
        ("blocklist", {"radius": 0}, [0, 1, None], [False, True, True]),
        ("duplicate_pair", {}, ["0/1", None], [False, True]),
        ("unreadable", {"tolerate": ("a", "b")}, ["ok", "damaged: a+b", "damaged: a+c", "empty"], [True, True, False, False]),
        ("sql", {}, [True, False, None], [True, False, False]),
    ],
)
def test_thresholds_fall_where_the_docstring_says(
    name: str, given: dict[str, object], evidence: list[object], kept: list[bool]
) -> None:
    rule: Filter = filters.load(name)(**given)
    assert rule.keep(pa.array(evidence, rule.evidence)).to_pylist() == kept


def test_sides_are_measured_without_regard_to_orientation() -> None:
    batch = pa.record_batch({"width": pa.array([640, 200, None], pa.int32()), "height": pa.array([480, 800, 5], pa.int32())})
    assert filters.load("min_side")().measure(batch).to_pylist() == [480, 200, None]
    assert filters.load("aspect_ratio")().measure(batch).to_pylist() == [640 / 480, 4.0, None]


@pytest.mark.parametrize(
    "expression",
    [
        "(select 1)",
        "width > (select max(width) from facts)",
        "1) from facts; drop table facts; select (1",
        "*",
        "count(*) over ()",
        "true; select true",
        "",
        "nothing_known > 1",
        "true) from read_csv('/etc/passwd'",
        "true where width > 1",
        "width >",
        "1 + " * 5000 + "1",
    ],
)
def test_sql_refuses_what_is_not_an_expression_over_facts(expression: str) -> None:
    with pytest.raises(ValueError) as caught:
        Sql(where=expression).check()
    assert "\n" not in str(caught.value)


def test_sql_reaches_no_file() -> None:
    batch = pa.record_batch({"text": pa.array(["/etc/passwd"])})
    try:
        found = evaluate("read_text(text) is not null", batch, ("text",)).to_pylist()
    except ValueError:
        return
    assert found == [None]


def test_a_row_that_sql_cannot_compute_is_null_and_dropped() -> None:
    batch = pa.record_batch({"text": pa.array(["12", "x", None])})
    rule = Sql(where="text::integer > 3")
    assert columns_of(rule.where) == ("text",)
    evidence = rule.measure(batch)
    assert evidence.to_pylist() == [True, None, None]
    assert rule.keep(evidence).to_pylist() == [True, False, False]
