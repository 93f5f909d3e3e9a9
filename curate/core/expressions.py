"""SQL expressions over facts, for the `sql` filter: parsed once, evaluated by DuckDB with file and network access off."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from curate.core.facts import FACTS

_LONGEST = 10_000

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


@functools.cache
def columns_of(expression: str) -> tuple[str, ...]:
    """Return the facts that an expression mentions, sorted. Raises ValueError, in one line, for anything else than that.

    >>> columns_of("width > 200 and language = 'en'")
    ('language', 'width')
    """
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
    found: set[str] = set()
    for item in _nodes(node["select_list"][0]):
        if item.get("class") in ("SUBQUERY", "STAR", "WINDOW", "POSITIONAL_REFERENCE"):
            raise ValueError("subqueries, *, #1 and window functions are not allowed")
        if item.get("class") == "FUNCTION" and item["function_name"] in _momentary():
            raise ValueError(f"{item['function_name']}() is not decided by facts: another run would keep other records")
        if item.get("class") == "COLUMN_REF":
            found.add(_known(".".join(item["column_names"])))
    _check_types(expression, tuple(sorted(found)))
    return tuple(sorted(found))


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


def _known(name: str) -> str:
    if name not in FACTS:
        near = difflib.get_close_matches(name, FACTS, 1)
        raise ValueError(f"no fact is called {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    return name


def _check_types(expression: str, names: tuple[str, ...]) -> None:
    columns = [(name, FACTS[name].type) for name in names] or [("nothing", pa.int8())]
    evaluate(expression, pa.RecordBatch.from_pylist([], schema=pa.schema(columns)), names)


def evaluate(expression: str, batch: pa.RecordBatch, names: tuple[str, ...]) -> pa.BooleanArray:
    """Return the expression's value for each row of `batch`, which holds the facts `names`. Raises ValueError when it fails."""
    import duckdb

    columns = [batch[name] for name in names]
    facts = pa.table([pa.array(range(batch.num_rows), pa.int64()), *columns], names=["row_of_batch", *names])
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
