"""A mapping tried out: the examples of its file, and real rows of the party's view. Leaves nothing behind in staging.

What it reports of real rows are counts, the party's own keys, and codes without an entry; never another cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from psycopg.rows import dict_row

from connector.mapping.contract import MEMBER_PLACE
from connector.mapping.program import Program, ProgramOptions, compile_entity
from connector.mapping.rules import Document, EntityMapping, Example
from connector.mapping.unmapped import code_queries
from connector.ops import inbox
from connector.ops.inbox import Connection
from connector.ops.quarantine import masked
from connector.view.blocks import Block

KEYS_SHOWN_MAX = 5
PLACES_SHOWN_MAX = 20


# ------------------------------------------------------------------------------------------------- examples


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one example of a mapping file; `problems` is empty when it is as the file says."""

    entity: str
    name: str
    line: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(frozen=True, slots=True)
class Mapped:
    """One mapped row: the staging columns' values as text, findings, and reasons with their columns."""

    values: Mapping[str, str | None]
    findings: tuple[str, ...]
    reasons: tuple[tuple[str, str], ...]


def examples(conn: Connection, document: Document, options: ProgramOptions) -> tuple[Verdict, ...]:
    """Run every example of a mapping file in a migrated staging database."""
    return tuple(
        verdict for mapping in document.entities.values() for verdict in _of_entity(conn, document, mapping, options)
    )


def _of_entity(
    conn: Connection, document: Document, mapping: EntityMapping, options: ProgramOptions
) -> Iterator[Verdict]:
    if not mapping.examples:
        return
    program = compile_entity(document, mapping.name, options)
    for example in mapping.examples:
        problems = tuple(_differences(mapping, example, map_row(conn, program, example.row)))
        yield Verdict(mapping.name, example.name, example.line, problems)


def map_row(conn: Connection, program: Program, row: Mapping[str, str | None]) -> Mapped:
    """Map one row given as view columns; a column that is not given is NULL."""
    cells = {f"c{place}": row.get(column) for place, column in enumerate(program.inputs)}
    inbox = ", ".join(f"%({name})s::text as i{name[1:]}" for name in cells)
    values = ", ".join(f"{column}::text" for column in program.columns)
    query = (
        f"with inbox as materialized (select {inbox}, null::text as edge)"
        f" select {values}, indikasi as found, alasan as refused, alasan_kolom as refused_columns"
        f" from ({program.select}) p"
    )
    with conn.cursor(row_factory=dict_row) as cursor:
        found = cursor.execute(query.encode(), {**program.params, **cells}).fetchone()
    assert found is not None, "one row in, one row out"
    reasons = tuple(zip(found.pop("refused") or (), found.pop("refused_columns") or (), strict=True))
    return Mapped(found, tuple(found.pop("found") or ()), reasons)


def _differences(mapping: EntityMapping, example: Example, mapped: Mapped) -> Iterator[str]:
    """What is not as the example says. Columns whose cells the example does not give are not judged."""
    given = set(example.row)
    for column, wanted in (example.gives or {}).items():
        refused = [reason for reason, about in mapped.reasons if about in (column, "")]
        if refused:
            yield f"{column}: wanted {_shown(wanted)}, was refused with {refused[0]}"
        elif mapped.values.get(column) != wanted:
            yield f"{column}: wanted {_shown(wanted)}, got {_shown(mapped.values.get(column))}"
    reasons = [reason for reason, _ in mapped.reasons]
    for reason in example.rejects or ():
        if reason not in reasons:
            yield f"wanted the reason {reason}, got {', '.join(reasons) or 'none'}"
    if example.rejects is None and example.gives is None:
        for reason, about in mapped.reasons:
            if about == "" or _reads(mapping, about) <= given:
                yield f"{about or 'the row'}: was refused with {reason}"
    for finding in example.findings or ():
        if finding not in mapped.findings:
            yield f"wanted the finding {finding}, got {', '.join(mapped.findings) or 'none'}"


def _reads(mapping: EntityMapping, column: str) -> set[str]:
    """The view columns that a staging column hangs on."""
    rule = mapping.rule(column)
    if rule is None and column in MEMBER_PLACE:
        rule = next((rule for rule in mapping.rules if rule.column in MEMBER_PLACE), None)
    return set(rule.view_columns()) if rule else set()


def _shown(value: str | None) -> str:
    return "NULL" if value is None else f"`{value}`"


# ------------------------------------------------------------------------------------------------- real rows


@dataclass(frozen=True, slots=True)
class ReasonSeen:
    """How many rows a reason refused, in which staging columns, and a few of the party's keys."""

    reason: str
    column: str
    rows: int
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CodeSeen:
    """A code of the view that the mapping has no entry for."""

    column: str
    code: str
    rows: int


@dataclass(frozen=True, slots=True)
class Trial:
    """What would become of the rows read: `passed` would be staged, with `findings` among them."""

    entity: str
    read: int
    passed: int
    refused: int
    reasons: tuple[ReasonSeen, ...]
    findings: Mapping[str, int]
    codes: tuple[CodeSeen, ...]
    places: tuple[tuple[str, int], ...]


def dry_run(conn: Connection, program: Program, mapping: EntityMapping, blocks: Iterable[Block]) -> Trial:
    """Map rows of a view as COPY blocks, in a transaction that is rolled back.

    Args:
        conn: a session at a migrated staging database with no transaction open.
        blocks: what `PostgresView.chunk` gives for `program.inputs`.
    """
    with conn.transaction(force_rollback=True):
        inbox.fill(conn, len(program.inputs), len(program.key), blocks)
        conn.execute(f"create temp table tried on commit drop as {program.select}".encode(), program.params)
        read, passed = _one(conn, "select count(*), count(*) filter (where alasan is null) from pg_temp.tried")
        reasons = tuple(
            ReasonSeen(reason, column, rows, tuple(map(masked, keys)))
            for reason, column, rows, keys in conn.execute(_REASONS, {"keys": KEYS_SHOWN_MAX})
        )
        findings: dict[str, int] = dict(conn.execute(_FINDINGS).fetchall())
        codes = tuple(
            CodeSeen(query.column, code, rows)
            for query in code_queries(mapping)
            for code, rows in conn.execute(query.select.encode(), query.params)
        )
        places: tuple[tuple[str, int], ...] = ()
        if "kode_wilayah_sumber" in program.columns:
            places = tuple(conn.execute(_PLACES, {"places": PLACES_SHOWN_MAX}).fetchall())
        return Trial(program.entity, read, passed, read - passed, reasons, findings, codes, places)


def _one(conn: Connection, query: str) -> tuple[int, int]:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return row[0], row[1]


_REASONS = """
select reason, kolom, count(*), (array_agg(coalesce(source_key, '') order by source_key))[1:%(keys)s::int]
  from pg_temp.tried, unnest(alasan, alasan_kolom) as r(reason, kolom)
 group by reason, kolom order by count(*) desc, reason, kolom
"""

_FINDINGS = """
select finding, count(*) from pg_temp.tried, unnest(indikasi) as finding
 where alasan is null group by finding order by count(*) desc, finding
"""

# Names and codes of regions that were not found are no one's personal data.
_PLACES = """
select left(kode_wilayah_sumber, 200), count(*) from pg_temp.tried
 where alasan && array['REGION_UNKNOWN', 'REGION_AMBIGUOUS', 'REGION_LEVEL'] and kode_wilayah_sumber is not null
 group by 1 order by count(*) desc, 1 limit %(places)s::int
"""
