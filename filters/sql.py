"""Rule that a recipe writes itself."""

import contextlib
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from curate import filters
from curate.core.contracts import Batch, Filter, setting
from curate.core.expressions import UnknownFact, columns_of, evaluate, fields_of
from curate.core.facts import FACTS


@dataclass(frozen=True)
class Sql(Filter):
    """Drop texts for which an expression over recorded facts is not true; null is not true, as in SQL's WHERE.

    An expression over facts of the image alone drops the image, and with it every text.

    The expression is DuckDB's SQL without subqueries, evaluated with file and network access off; what cannot be
    computed for a row, like a division by zero, is null. DataComp's basic
    English rule (Gadre et al. 2023, baselines), for one: `language = 'en' and words > 2 and characters > 5`.

    `input.NAME` is a further field of the input (a column of a table, a scalar of `key.json`): a number, a text or a truth value
    as it is in that record, null where it has none. Where an expression cannot mean anything for a record's types, like
    a text compared with a number, it is null.

    >>> rule = Sql(where="width * height > 90000 and language = 'en'")
    >>> sorted(rule.reads())
    ['height', 'language', 'width']
    >>> rule.keep(pa.array([True, False, None])).to_pylist()
    [True, False, False]
    >>> rule.about, Sql(where="width * height > 90000").about
    ('text', 'image')
    """

    about = "text"
    paper = "DataComp 2023, baselines"
    evidence = pa.bool_()

    where: str = setting("true", "a DuckDB expression over facts (curate filters lists them) and input.NAME, fields of the input")

    def __post_init__(self) -> None:
        """Determine what the rule is about: the image, unless it reads a fact of the text."""
        with contextlib.suppress(ValueError):  # which `check` raises, with file and line
            if self.reads() and all(FACTS[name].about == "image" for name in self.reads()):
                object.__setattr__(self, "about", "image")

    def reads(self) -> tuple[str, ...]:
        """Name the facts that the expression mentions."""
        return columns_of(self.where)

    def input_fields(self) -> tuple[str, ...]:
        """Name the fields of the input that the expression mentions."""
        return fields_of(self.where)

    def measure(self, batch: Batch) -> pa.Array:
        """Return the expression's value for each row."""
        return evaluate(self.where, batch, self.reads())

    def keep(self, evidence: pa.Array) -> pa.BooleanArray:
        """Keep what is true."""
        return pc.fill_null(evidence, fill_value=False)

    def check(self) -> None:
        """Refuse what is not an expression over known facts. The name of a filter is taken for the facts that it reads."""
        try:
            columns_of(self.where)
        except UnknownFact as error:
            raise UnknownFact(error.name, filters.facts_of(error.name) if error.name in filters.names() else error.near) from None
