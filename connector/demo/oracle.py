"""Is staging what the party's view says, row for row? An answer that shares no code with the daemon.

The whole view passes through the mapping program into a temporary table beside staging, and the two are joined in full.
Everything happens in a transaction that is rolled back. Both sides must be at rest: no writer, nothing left to apply.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import psycopg
from psycopg import sql

from connector.mapping.program import Program
from connector.pg import PINS

Connection = psycopg.Connection[tuple[Any, ...]]
# Rows of a view, a text or NULL for each of the program's inputs.
Cells = Iterator[Sequence[str | None]]
# A session of a PostgreSQL party, or whatever else reads a program's view.
Source = Connection | Callable[[Program], Cells]

DUPLICATE_KEY = "DUPLICATE_KEY"
EXAMPLES_MAX = 5
# Contract columns that no mapping sets: the daemon keys a digest of the NIK that only KPU can make.
NOT_MAPPED = ("nik_hmac",)
BOOKKEEPING = (
    "parpol_id", "source_key", "indikasi", "row_hash", "mapping_version", "sync_batch_id", "source_ts", "read_position",
    "staged_at", "dihapus_pada", "alasan_hapus",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Difference:
    """How many keys differ, by kind; `examples` are `kind:key` of a few (a party's own keys, never a cell).

    missing: good in the view, not live in staging. extra: live in staging, not in the view. different: live with other
    values. quarantine_missing: refused, without an entry of the same reasons. quarantine_extra: an entry for a key that
    is good or gone.
    """

    missing: int = 0
    extra: int = 0
    different: int = 0
    quarantine_missing: int = 0
    quarantine_extra: int = 0
    examples: tuple[str, ...] = ()

    @property
    def total(self) -> int:
        return sum(getattr(self, field.name) for field in fields(self) if field.name != "examples")


def differing_rows(staging: Connection, source: Source, program: Program, parpol_id: int) -> Difference:
    """Compare one entity of one party.

    Args:
        staging: a session with no transaction open; it may be autocommit or not, and is left as it was.
        source: a session that may read the view, or what gives its rows.
        program: the compiled mapping of the entity.
        parpol_id: whose rows to look at in staging.
    """
    if isinstance(source, psycopg.Connection):
        for name, value in PINS.items():
            source.execute("select set_config(%s, %s, false)", (name, value))
    with staging.transaction(force_rollback=True):
        _read_view(staging, source, program)
        contract = _contract(staging, program.entity)
        _expect(staging, program)
        kinds: dict[str, int] = {}
        examples: list[str] = []
        for kind, count, keys in staging.execute(
            _join(program, contract),
            {"parpol": parpol_id, "entity": program.entity, "duplicate": DUPLICATE_KEY, "examples": EXAMPLES_MAX},
        ):
            kinds[kind] = count
            examples += [f"{kind}:{key}" for key in keys]
        return Difference(**kinds, examples=tuple(examples))


def _read_view(staging: Connection, source: Source, program: Program) -> None:
    names = [sql.Identifier(f"i{place}") for place in range(len(program.inputs))]
    columns = sql.SQL(", ").join(sql.SQL("{} text").format(name) for name in names)
    staging.execute(sql.SQL("create temp table inbox ({}, edge text) on commit drop").format(columns))
    into = sql.SQL("copy inbox ({}) from stdin").format(sql.SQL(", ").join(names))
    with staging.cursor().copy(into) as inbox:
        if isinstance(source, psycopg.Connection):
            out = sql.SQL("copy (select {} from {}) to stdout").format(
                sql.SQL(", ").join(map(sql.Identifier, program.inputs)), sql.Identifier(*program.view)
            )
            with source.cursor().copy(out) as rows:
                for block in rows:
                    inbox.write(block)
        else:
            for cells in source(program):
                inbox.write_row(cells)
    staging.execute("analyze inbox")


def _contract(staging: Connection, entity: str) -> list[str]:
    rows = staging.execute(
        "select attname from pg_attribute"
        " where attrelid = %s::regclass and attnum > 0 and not attisdropped order by attnum",
        (f"staging.{entity}",),
    )
    return [name for (name,) in rows if name not in BOOKKEEPING and name not in NOT_MAPPED]


def _expect(staging: Connection, program: Program) -> None:
    """What staging should hold, in table `expected`: one row for each row of the view."""
    columns = sql.SQL(", ").join(map(sql.Identifier, program.columns))
    staging.execute(
        sql.SQL(
            "create temp table expected on commit drop as"
            " select source_key, {}, indikasi, null::text[] as alasan from staging.{} with no data"
        ).format(columns, sql.Identifier(program.entity))
    )
    # A refused row's values may not fit the columns' types; nobody compares them.
    kept = sql.SQL(", ").join(
        sql.SQL("case when alasan is null then {} end").format(sql.Identifier(name)) for name in program.columns
    )
    head = (
        sql.SQL("insert into expected select source_key, {}, indikasi, alasan from (").format(kept).as_string(staging)
    )
    staging.execute(f"{head} {program.select} ) mapped".encode(), program.params)
    staging.execute("create index on expected (source_key)")
    staging.execute("analyze expected")


def _join(program: Program, contract: Sequence[str]) -> sql.Composed:
    same = sql.SQL("({}) is not distinct from ({})").format(
        sql.SQL(", ").join(
            sql.SQL("e.{}").format(sql.Identifier(name)) if name in program.columns else sql.SQL("null")
            for name in contract
        ),
        sql.SQL(", ").join(sql.SQL("s.{}").format(sql.Identifier(name)) for name in contract),
    )
    return sql.SQL(
        """
        with doubled as (
            select source_key from expected where source_key is not null group by source_key having count(*) > 1),
        good as (
            select e.* from expected e
             where e.alasan is null and not exists (select from doubled d where d.source_key = e.source_key)),
        refused as (
            select source_key, array[%(duplicate)s::text] as reasons from doubled
            union all
            select e.source_key, array(select distinct unnest(e.alasan) order by 1) from expected e
             where e.alasan is not null and e.source_key is not null
               and not exists (select from doubled d where d.source_key = e.source_key)),
        live as (
            select * from staging.{entity} where parpol_id = %(parpol)s and dihapus_pada is null),
        held as (
            select source_key, array(select distinct unnest(reasons) order by 1) as reasons
              from staging.karantina where parpol_id = %(parpol)s and entity = %(entity)s),
        found as (
            select case when s.source_key is null then 'missing' else 'different' end as kind, e.source_key
              from good e left join live s on s.source_key = e.source_key
             where s.source_key is null
                or not ({same} and coalesce(e.indikasi, '{{}}') = coalesce(s.indikasi, '{{}}'))
            union all
            select 'extra', s.source_key from live s
             where not exists (select from expected e where e.source_key = s.source_key)
            union all
            select 'quarantine_missing', r.source_key
              from refused r left join held h on h.source_key = r.source_key
             where h.source_key is null or h.reasons <> r.reasons
            union all
            select 'quarantine_extra', h.source_key from held h
             where h.source_key <> '' and not exists (select from refused r where r.source_key = h.source_key))
        select kind, count(*), (array_agg(source_key order by source_key))[:%(examples)s::int]
          from found group by kind
        """
    ).format(entity=sql.Identifier(program.entity), same=same)
