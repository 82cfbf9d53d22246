"""Which code values of a batch have no entry in the mapping's `codes`: a statement over the same inbox. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from connector.mapping import rules
from connector.mapping.cells import cell, solid
from connector.mapping.check import inputs as inputs_of
from connector.mapping.rules import EntityMapping, Rule
from connector.mapping.sheet import Sheet

# A code list that lacks more than these lacks the list.
SHOWN_MAX = 20
# A code is short; a longer text stands in the column by mistake and is not repeated.
CODE_LENGTH_MAX = 40


@dataclass(frozen=True, slots=True)
class CodeQuery:
    """`select` reads `inbox` and gives code and rows, the commonest first."""

    column: str
    select: str
    params: dict[str, object]


def code_queries(mapping: EntityMapping) -> Iterator[CodeQuery]:
    """A query for each rule with a code list."""
    names = {column: f"i{place}" for place, column in enumerate(inputs_of(mapping))}
    for rule in mapping.rules:
        coded = next((step for step in rule.steps if isinstance(step, rules.Codes)), None)
        if coded is not None:
            yield _query(rule, coded, names)


def _query(rule: Rule, coded: rules.Codes, names: dict[str, str]) -> CodeQuery:
    before = replace(rule, steps=rule.steps[: rule.steps.index(coded)])
    sheet = Sheet("inbox", (*names.values(), "edge"))
    code = solid(sheet, cell(sheet, before, names), rule.column)
    known = sheet.param([pair[0] for pair in coded.pairs], "text[]")
    inner = sheet.select((("code", code), ("edge", "edge")))
    select = (
        f"select left(code, {CODE_LENGTH_MAX}) as code, count(*) as rows from ({inner}) c"
        f" where edge is null and code is not null and code <> all ({known})"
        f" group by 1 order by 2 desc, 1 limit {SHOWN_MAX}"
    )
    return CodeQuery(rule.column, select, sheet.params)
