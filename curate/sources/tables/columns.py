"""Which columns of a table hold what, and Arrow columns of any type as clean text. Works on whole columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from curate.core.errors import InputError
from curate.sources.records import MAX_TEXT, as_text
from curate.sources.texts import of_lines, of_value, together

GUESSES: dict[str, tuple[str, ...]] = {
    "image": (
        *("image", "jpg", "jpeg", "png", "webp", "bytes", "image_bytes", "img", "image_base64", "base64", "images"),
        *("path", "image_path", "file_name", "filename", "filepath", "file_path", "file"),
    ),
    "text": (
        *("text", "caption", "alt", "alt_text", "title", "txt", "captions", "description", "texts"),
        *("json.caption", "json.text", "json.captions"),  # of a webdataset that the hub turned into parquet
    ),
    "url": ("url", "image_url", "img_url", "urls", "image_urls", "json.url"),
    "key": ("key", "id", "__key__", "sample_id", "uid"),
    "sha256": ("sha256", "image_sha256"),
}
"""Column names (in lower case) that are tried when none is given, in this order."""

LINES = "texts"
"""The role whose value is no column but `lines`: each line of a text is a text of its own."""

_ROLE_OF = {name: role for role, names in reversed(GUESSES.items()) for name in names if role != "image"} | {"image": "image"}
"""Roles by the names that their columns usually have: `--column image_url=1` is `url=1`."""

_NO_GUESS: Mapping[str, str] = {}

Code = tuple[str, pa.Array]
"""An error code and the mask of the rows that have it."""


def role_of(name: str) -> str | None:
    """Return a role by its name, or by one that its column usually has; None where there is no such role.

    >>> role_of("text"), role_of("image_url"), role_of("punsafe")
    ('text', 'url', None)
    """
    return name if name in (*GUESSES, LINES) else _ROLE_OF.get(name)


def resolve(url: str, names: Sequence[str], wanted: Mapping[str, str], guessed: Mapping[str, str] = _NO_GUESS) -> dict[str, str]:
    """Return the column of each role of GUESSES among `names`: the `wanted` one, else the likeliest, else the `guessed` one.

    Without an image column the images are on the web, and the url column names them. Raises InputError when a wanted
    column is missing, when there is neither image nor url, or no text column.
    """
    wanted = _by_role(url, wanted)
    lines = {role: name for role, name in wanted.items() if role == LINES}
    wanted = {role: name for role, name in wanted.items() if role != LINES}
    if not names:
        raise InputError(f"{url}: empty: it has no columns")
    for role, name in wanted.items():
        if name not in names:
            raise InputError(f"{url}: no column {name} for {role}; there are {', '.join(names)}")
    lower = {name.lower(): name for name in reversed(names)}
    taken = set(wanted.values())
    columns = dict(wanted)
    for role, known in GUESSES.items():
        likely = next((lower[name] for name in known if name in lower and lower[name] not in taken), None)
        if role not in columns and likely is not None:
            columns[role] = likely
    unnamed = {role: name for role, name in guessed.items() if name not in columns.values()}
    columns = {**{role: name for role, name in unnamed.items() if role != "image" or "url" not in columns}, **columns}
    for roles in (("image", "url"), ("text",)):
        if not any(role in columns for role in roles):
            missing = " or ".join(roles)
            raise InputError(f"{url}: no {missing} column among {', '.join(names)}; choose one with --column")
    return columns | lines


def _by_role(url: str, wanted: Mapping[str, str]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for given, name in wanted.items():
        role = role_of(given)
        if role is None:
            raise InputError(f"{url}: no such column role: {given} (there are {', '.join(GUESSES)})")
        if role in columns:
            raise InputError(f"{url}: two columns for {role}: {columns[role]} and {name}")
        columns[role] = name
    return columns


def on_the_web(columns: Mapping[str, str], found: Mapping[str, Sequence[object]]) -> dict[str, str]:
    """Return the columns of a table, given sample values of some: an image column with only http(s) URLs becomes the url."""
    values = [value for value in found.get(columns.get("image", ""), ()) if value is not None and value != []]
    values = [item for value in values for item in (value if isinstance(value, list) else [value])]
    if not values or not all(isinstance(value, str) and value.lower().startswith(("http://", "https://")) for value in values):
        return dict(columns)
    return {**{role: name for role, name in columns.items() if role != "image"}, "url": columns["image"]}


def without_images(columns: Mapping[str, str]) -> bool:
    """Return whether a table with these columns holds URLs, not image bytes."""
    return "url" in columns and "image" not in columns


def is_base64(column: str) -> bool:
    """Return whether a column of this name holds base64."""
    return "base64" in column.lower() or "b64" in column.lower()


def is_binary(kind: pa.DataType) -> bool:
    """Return whether a type holds bytes."""
    tests = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary, pa.types.is_binary_view)
    return any(test(kind) for test in tests)


def is_string(kind: pa.DataType) -> bool:
    """Return whether a type holds strings."""
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def is_list(kind: pa.DataType) -> bool:
    """Return whether a type holds lists."""
    return any(test(kind) for test in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def clean_text(column: pa.Array) -> tuple[pa.Array, list[Code]]:
    """Return a column of any type as valid strings of at most MAX_TEXT characters, and the error codes of its rows."""
    column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    if is_binary(column.type):
        text = column.cast(pa.binary()).view(pa.string())
    elif is_string(column.type) or pa.types.is_null(column.type):
        text = column.cast(pa.string())
    else:
        return _row_by_row(column.to_pylist())
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        return _row_by_row(text.view(pa.binary()).to_pylist())
    if (pc.max(pc.binary_length(text)).as_py() or 0) <= MAX_TEXT:
        return text, []
    long = pc.fill_null(pc.greater(pc.utf8_length(text), MAX_TEXT), False)  # noqa: FBT003 - Arrow's signature
    return pc.if_else(long, pc.utf8_slice_codeunits(text, 0, MAX_TEXT), text), [("text_too_long", long)]


def clean_texts(column: pa.Array, *, lines: bool = False) -> tuple[pa.Array, pa.Array, list[Code]]:
    """Return the first text of each row, the others (list<string>, null for none), and the error codes of the rows.

    A row of a list has its items as texts, each once; with `lines`, a row has those lines as texts that are not empty.
    """
    if not (is_list(column.type) or lines):
        text, codes = clean_text(column)
        return text, pa.nulls(len(column), pa.list_(pa.string())), codes
    found = []
    wrong: list[list[str]] = [[] for _ in range(len(column))]
    for value, codes_of_row in zip(_listed(column), wrong, strict=True):
        texts = of_value(value, codes_of_row)
        found.append(together([line for text in texts for line in of_lines(text)] if lines else texts, codes_of_row))
    first, more = (
        pa.array([one.first for one in found], pa.string()),
        pa.array([one.more for one in found], pa.list_(pa.string())),
    )
    return first, more, _masks(wrong)


def _listed(column: pa.Array) -> list[object]:
    try:
        values: list[object] = column.to_pylist()
    except UnicodeDecodeError:  # Arrow does not look into its strings: read as bytes, each is decoded by itself
        text = pa.types.is_string(column.type)
        values = column.cast(pa.binary() if text else pa.list_(pa.binary())).to_pylist()
    return values


def _row_by_row(values: Sequence[object]) -> tuple[pa.Array, list[Code]]:
    wrong: list[list[str]] = [[] for _ in values]
    text = pa.array([as_text(value, codes) for value, codes in zip(values, wrong, strict=True)], pa.string())
    return text, _masks(wrong)


def _masks(wrong: Sequence[Sequence[str]]) -> list[Code]:
    names = sorted({code for codes in wrong for code in codes})
    return [(name, pa.array([name in codes for codes in wrong])) for name in names]


def joined(codes: Sequence[Code], rows: int) -> pa.Array:
    """Return one error string a row: its codes joined by commas; null where there are none."""
    nothing = pa.scalar(None, pa.string())
    true = [(code, mask) for code, mask in codes if pc.any(mask).as_py()]
    if len(true) < 2:
        return pc.if_else(true[0][1], pa.scalar(true[0][0]), nothing) if true else pa.nulls(rows, pa.string())
    # joining nulls with null_handling="skip" loses the rows in which all are null (pyarrow 26)
    parts = [pc.if_else(mask, pa.scalar(code + ","), pa.scalar("")) for code, mask in true]
    text = pc.utf8_rtrim(pc.binary_join_element_wise(*parts, ""), ",")
    return pc.if_else(pc.equal(text, ""), nothing, text)
