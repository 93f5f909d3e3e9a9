"""Further fields and columns of the input, which a record carries to `key.json` of the output and to the filter `sql`.

Scalars alone, as one JSON object. Strings, numbers and truth values stay what they are, dates become ISO strings; lists,
objects, bytes, nulls and what is too long are left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice

import pyarrow as pa
import pyarrow.compute as pc

MAX_FIELDS = 64
"""Fields of a record that are carried, the first ones."""

MAX_FIELD = 2048
"""Characters of the longest string that is carried."""

MAX_BYTES = 8192
"""Bytes of all fields of a record, as JSON: those that do not fit are left out."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))  # made once: json.dumps makes one a call

_PLAIN_NUMBER = r"^-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,17})?(e-[0-9]{1,3})?$"  # of identifiers in hex, none has a minus


def kept(fields: Mapping[str, object], used: Collection[str]) -> str | None:
    """Return the scalars among the fields whose names are not `used`, as JSON; None where there are none.

    >>> kept({"url": "u", "similarity": 0.31, "tags": ["a"], "nsfw": False, "gone": None}, {"url"})
    '{"similarity":0.31,"nsfw":false}'
    """
    found = {name: value for name, value in fields.items() if name not in used and _is_scalar(value)}
    if len(found) > MAX_FIELDS:
        found = dict(islice(found.items(), MAX_FIELDS))
    if not found:
        return None
    whole = _ENCODER.encode(found)
    if whole.isascii() and len(whole) <= MAX_BYTES:
        return whole
    parts: list[str] = []
    size = len("{}")
    for name, value in found.items():
        part = _part(name, _ENCODER.encode(value))
        length = len(part.encode())
        if size + length <= MAX_BYTES:
            parts.append(part)
            size += length
    return "{" + "".join(parts)[:-1] + "}" if parts else None


def said(columns: Mapping[str, str]) -> set[str]:
    """Return the columns (by role) that a record has in its own fields. An identifier that serves as key keeps its name, too."""
    return {name for role, name in columns.items() if role != "texts" and (role != "key" or name in ("key", "__key__"))}


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_FIELD
    if isinstance(value, bool | int):
        return value.bit_length() <= 256
    return isinstance(value, float) and math.isfinite(value)


def _part(name: str, value: str) -> str:
    part = f"{json.dumps(name, ensure_ascii=False)}:{value},"
    return part if part.isascii() else part.encode("utf-8", "replace").decode()  # JSON can say what UTF-8 cannot


def scalar_columns(schema: Iterable[pa.Field]) -> list[str]:
    """Return the names of the columns that can be carried: of one short value a row, under a name that no other has."""
    fields = list(schema)
    names = [field.name for field in fields]
    return [field.name for field in fields if _is_scalar_type(field.type) and names.count(field.name) == 1]


def _is_scalar_type(kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    tests = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_temporal)
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in (*tests, *texts)) and not pa.types.is_duration(kind)


def kept_columns(columns: Sequence[tuple[str, pa.Array]], rows: int, *, written: bool) -> pa.Array:
    """Return the values of columns (see `scalar_columns`) as JSON, an object a row, null for a row without any.

    With `written` the table says nothing of types: what is written as a plain number is one.
    """
    parts = []
    for name, column in columns[:MAX_FIELDS]:
        part = pc.binary_join_element_wise(_part(name, "")[:-1], _as_json(column, written=written), ",", "")
        parts.append(pc.fill_null(part, "") if part.null_count else part)
    if not parts:
        return pa.nulls(rows, pa.string())
    joined = pc.binary_join_element_wise(*parts, "")
    if (pc.max(pc.binary_length(joined)).as_py() or 0) + len("{}") > MAX_BYTES:
        joined = pc.binary_join_element_wise(*_fitting(parts, rows), "")
    body = pc.utf8_rtrim(joined, ",")
    found = pc.binary_join_element_wise("{", body, "}", "")
    return pc.if_else(pc.equal(body, ""), pa.scalar(None, pa.string()), found)


def _fitting(parts: Sequence[pa.Array], rows: int) -> Iterator[pa.Array]:
    """Yield parts in which those are empty that do not fit into MAX_BYTES of their row."""
    size = pa.array([len("{}")] * rows, pa.int32())
    for part in parts:
        longer = pc.add(size, pc.binary_length(part))
        fits = pc.less_equal(longer, MAX_BYTES)
        size = pc.if_else(fits, longer, size)
        yield pc.if_else(fits, part, "")


def _as_json(column: pa.Array, *, written: bool) -> pa.Array:
    """Return the values of a column as JSON (string), null for those that are left out."""
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    kind = column.type
    if pa.types.is_boolean(kind):
        return pc.if_else(column, "true", "false")
    if pa.types.is_integer(kind):
        return column.cast(pa.string())
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return _numbers(column)
    if pa.types.is_temporal(kind):
        said = pc.replace_substring(column.cast(pa.string()), " ", "T", max_replacements=1)
        return pc.binary_join_element_wise('"', said, '"', "")
    return _strings(column.cast(pa.string()), written=written)


def _numbers(column: pa.Array) -> pa.Array:
    column = column if pa.types.is_float32(column.type) else column.cast(pa.float64())
    text = pc.if_else(pc.is_finite(column), column, pa.scalar(None, column.type)).cast(pa.string())
    whole = pc.invert(pc.match_substring_regex(text, "[.e]"))  # a float stays one
    return pc.if_else(whole, pc.binary_join_element_wise(text, ".0", ""), text)


def _strings(text: pa.Array, *, written: bool) -> pa.Array:
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:  # Arrow does not look into its strings
        text = pa.array(
            [None if one is None else one.decode(errors="replace") for one in text.view(pa.binary()).to_pylist()], pa.string()
        )
    text = pc.if_else(pc.less_equal(pc.utf8_length(text), MAX_FIELD), text, pa.scalar(None, pa.string()))
    escaped = pc.replace_substring(pc.replace_substring(text, "\\", "\\\\"), '"', '\\"')
    found = pc.binary_join_element_wise('"', escaped, '"', "")
    control = pc.fill_null(pc.match_substring_regex(text, r"[\x00-\x1f]"), False)  # noqa: FBT003 - Arrow's signature
    if pc.any(control).as_py():
        said = [json.dumps(one, ensure_ascii=False) for one in text.filter(control).to_pylist()]
        found = pc.replace_with_mask(found, control, pa.array(said, pa.string()))
    return pc.if_else(pc.match_substring_regex(text, _PLAIN_NUMBER), text, found) if written else found
