"""SQL expressions over facts, for the `sql` filter: parsed once, evaluated by DuckDB with file and network access off."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from curate.core.facts import FACTS

_LONGEST = 10_000

INPUT = "input"
"""The fact that holds the further fields of the input, as JSON; an expression names one of them as input.NAME."""

Json = dict[str, Any] | list[Any] | str | int | float | bool | None


@functools.cache
def _connection() -> Any:
    import duckdb

    # division by zero is an error, which try() turns into a null, not an infinity that is greater than any threshold
    safe = {"enable_external_access": "false", "ieee_floating_point_ops": "false"}
    return duckdb.connect(config={**safe, "threads": "1", "lock_configuration": "true"})


@functools.cache
def _momentary() -> frozenset[str]:
    """Return the functions whose answer is not decided by their arguments: time, chance, the session."""
    query = "select function_name from duckdb_functions() where stability != 'CONSISTENT' or macro_definition ilike '%current_%'"
    return frozenset(name for (name,) in _connection().execute(query).fetchall())


def columns_of(expression: str) -> tuple[str, ...]:
    """Return the facts that an expression mentions, sorted. Raises ValueError, in one line, for anything else than that.

    >>> columns_of("width > 200 and language = 'en'"), columns_of("input.similarity > 0.3")
    (('language', 'width'), ('input',))
    """
    return _mentioned(expression)[0]


def fields_of(expression: str) -> tuple[str, ...]:
    """Return the further fields of the input that an expression mentions as input.NAME, sorted. Raises as `columns_of`."""
    return _mentioned(expression)[1]


@functools.cache
def _mentioned(expression: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the facts and the fields of the input that an expression mentions."""
    if not expression.strip() or len(expression) > _LONGEST:
        raise ValueError("the expression is empty" if not expression.strip() else f"longer than {_LONGEST} characters")
    parsed = _parsed(f"select ({expression}) from facts")
    if parsed.get("error"):
        raise ValueError(f"not an SQL expression: {parsed.get('error_message', '').splitlines()[0]}")
    if len(parsed["statements"]) != 1:
        raise ValueError("one expression, not several statements")
    node = parsed["statements"][0]["node"]
    if node.get("type") != "SELECT_NODE" or len(node["select_list"]) != 1 or node.get("where_clause"):
        raise ValueError("one expression over facts, nothing else")
    found, fields = set[str](), set[str]()
    for item in _nodes(node["select_list"][0]):
        if item.get("class") in ("SUBQUERY", "STAR", "WINDOW", "POSITIONAL_REFERENCE"):
            raise ValueError("subqueries, *, #1 and window functions are not allowed")
        if item.get("class") == "FUNCTION" and item["function_name"] in _momentary():
            raise ValueError(f"{item['function_name']}() is not decided by facts: another run would keep other records")
        if item.get("class") == "COLUMN_REF":
            name, *below = item["column_names"]
            if name == INPUT:
                fields.add(_field(below))
            found.add(INPUT if name == INPUT else _known(".".join(item["column_names"])))
    facts, named = tuple(sorted(found)), tuple(sorted(fields))
    _check_types(expression, facts, named)
    return facts, named


def _field(below: list[str]) -> str:
    if len(below) != 1:
        raise ValueError("write one further field of the input as input.NAME; objects in it are not read")
    return below[0]


def _parsed(statement: str) -> dict[str, Any]:
    import duckdb

    try:
        found = _connection().execute("select json_serialize_sql(?)", [statement]).fetchall()[0][0]
        parsed: dict[str, Any] = json.loads(found)
    except duckdb.Error as error:
        raise ValueError(f"not an SQL expression: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ValueError("nested too deeply for an expression") from None
    return parsed


def _nodes(value: Json) -> Iterator[dict[str, Any]]:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, dict):
            yield item
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)


class UnknownFact(ValueError):
    """A name in an expression that is no fact; `near` are facts that it may be meant for."""

    def __init__(self, name: str, near: Sequence[str]) -> None:
        super().__init__(name, near)
        self.name, self.near = name, near

    def __str__(self) -> str:
        hint = f"; did you mean {' or '.join(map(repr, self.near))}?" if self.near else ""
        return f"no fact is called {self.name!r}{hint}; a further field of the input is input.{self.name}"


def _known(name: str) -> str:
    if name not in FACTS:
        raise UnknownFact(name, difflib.get_close_matches(name, FACTS, 1))
    return name


def _check_types(expression: str, names: tuple[str, ...], fields: tuple[str, ...]) -> None:
    columns = [(name, FACTS[name].type) for name in names if name != INPUT] or [("nothing", pa.int8())]
    facts = {name: pa.nulls(0, kind) for name, kind in columns}
    if fields:
        facts[INPUT] = pa.StructArray.from_arrays([pa.nulls(0)] * len(fields), names=list(fields))
    _evaluated(expression, pa.table(facts))


def evaluate(expression: str, batch: pa.RecordBatch, names: tuple[str, ...]) -> pa.BooleanArray:
    """Return the expression's value for each row of `batch`, which holds the facts `names`. Raises ValueError when it fails.

    A field of the input has on each row the type that it has there. Where the expression cannot mean anything for such types
    (a number compared with a text), its value is null.
    """
    columns = {name: batch[name] for name in names if name != INPUT}
    if INPUT not in names:
        return _evaluated(expression, pa.table(columns) if columns else pa.table({"nothing": pa.nulls(batch.num_rows)}))
    fields = fields_of(expression)
    told: list[dict[str, Any]] = [json.loads(one) if one else {} for one in batch[INPUT].to_pylist()]
    kinds: dict[tuple[pa.DataType, ...], list[int]] = {}
    for row, values in enumerate(told):
        kinds.setdefault(tuple(_type(values.get(name)) for name in fields), []).append(row)
    found: list[bool | None] = [None] * batch.num_rows
    for types, rows in kinds.items():
        parts = [pa.array([told[row].get(name) for row in rows], kind) for name, kind in zip(fields, types, strict=True)]
        given = {name: column.take(pa.array(rows)) for name, column in columns.items()}
        given[INPUT] = pa.StructArray.from_arrays(parts, names=list(fields))
        try:
            answers = _evaluated(expression, pa.table(given)).to_pylist()
        except ValueError:  # it was checked with nulls: it is the types that do not fit
            continue
        for row, answer in zip(rows, answers, strict=True):
            found[row] = answer
    return pa.array(found, pa.bool_())


def _type(value: object) -> pa.DataType:
    if value is None or isinstance(value, list | dict):
        return pa.null()
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int) and value.bit_length() < 64:
        return pa.int64()
    return pa.string() if isinstance(value, str) else pa.float64()


def _evaluated(expression: str, columns: pa.Table) -> pa.BooleanArray:
    import duckdb

    facts = columns.add_column(0, "row_of_batch", pa.array(range(columns.num_rows), pa.int64()))
    cursor = _connection().cursor()
    try:
        cursor.register("facts", facts)
        # try(): a row for which the expression cannot be computed is a null, not the end of its shard
        answer = cursor.sql(f"select try(({expression})::boolean) as evidence from facts order by row_of_batch").to_arrow_table()
    except duckdb.Error as error:
        raise ValueError(f"the expression fails: {str(error).splitlines()[0]}") from None
    finally:
        cursor.close()
    return answer["evidence"].combine_chunks()
