"""Two mappings of one party, tried on the same rows: which staged rows would change, and in which columns.

Both run in a transaction of staging that is rolled back. What is told of the rows are counts and the party's own keys,
masked where they look like a NIK; never a cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from psycopg import sql

from connector.mapping.program import Program
from connector.ops import inbox
from connector.ops.inbox import Connection
from connector.ops.quarantine import masked
from connector.view.blocks import Block
from connector.view.shape import ViewShape

KEYS_SHOWN_MAX = 5


class View(Protocol):
    """What is asked of a party's view."""

    def shape(self, entity: str, view: tuple[str, str], key: Sequence[str], inputs: Sequence[str]) -> ViewShape: ...
    def chunk(self, shape: ViewShape, after: str | None, rows: int) -> Iterator[Block]: ...


@dataclass(frozen=True, slots=True)
class Change:
    """Rows that change in one way: in a staging column, by a reason, by a finding. A few of their keys."""

    what: str
    rows: int
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EntityDiff:
    """What becomes of the rows of one entity under the new mapping.

    `changed` rows are staged by both with other values; `refused` are staged by the old one only, `released` by the
    new one only. `gone` and `new` keys exist under one of them only: the view, its filter or the key differs.
    `uncounted` have no key, or one that stands there twice.
    """

    entity: str
    read: int
    same: int
    changed: int
    refused: int
    released: int
    still_refused: int
    gone: int
    new: int
    uncounted: int
    columns: tuple[Change, ...]
    reasons: tuple[Change, ...]
    findings: tuple[Change, ...]

    @property
    def moved(self) -> int:
        """Rows that staging would show otherwise than now."""
        return self.changed + self.refused + self.released + self.gone + self.new


def compare(conn: Connection, view: View, pair: tuple[Program, Program], rows: int) -> EntityDiff:
    """Try both programs on up to `rows` rows. The caller holds the view's snapshot."""
    old, new = pair
    with conn.transaction(force_rollback=True):
        _load(conn, view, old, new, rows)
        read = _number(conn, "select count(*) from pg_temp.inbox_baru")
        for name, program in (("lama", old), ("baru", new)):
            conn.execute(sql.SQL("create temp view inbox as select * from {}").format(_table(f"inbox_{name}")))
            made = f"create temp table {name} on commit drop as {program.select}"
            conn.execute(made.encode(), program.params)
            conn.execute("drop view pg_temp.inbox")
        conn.execute("analyze pg_temp.lama; analyze pg_temp.baru")
        uncounted = _number(conn, _UNCOUNTED)
        columns = _columns(old, new)
        conn.execute(_JUDGED.format(differing=_differing(columns)))
        conn.execute("analyze pg_temp.beda")
        fates: dict[str, int] = dict(conn.execute("select fate, count(*) from pg_temp.beda group by fate").fetchall())
        return EntityDiff(
            entity=new.entity, read=read, same=fates.get("same", 0), changed=fates.get("changed", 0),
            refused=fates.get("refused", 0), released=fates.get("released", 0),
            still_refused=fates.get("still_refused", 0), gone=fates.get("gone", 0), new=fates.get("new", 0),
            uncounted=uncounted, columns=_changes(conn, _COLUMNS), reasons=_changes(conn, _REASONS),
            findings=_changes(conn, _FINDINGS),
        )  # fmt: skip


def _load(conn: Connection, view: View, old: Program, new: Program, rows: int) -> None:
    """Fill `inbox_lama` and `inbox_baru`: from one read of the view where both ask the same one."""
    if (old.view, old.key) != (new.view, new.key):
        for name, program in (("lama", old), ("baru", new)):
            blocks = _read(view, program, program.inputs, rows)
            inbox.fill(conn, len(program.inputs), len(program.key), blocks, f"inbox_{name}")
        return
    together = tuple(dict.fromkeys((*new.inputs, *old.inputs)))
    inbox.fill(conn, len(together), len(new.key), _read(view, new, together, rows), "inbox_bersama")
    for name, program in (("lama", old), ("baru", new)):
        taken = sql.SQL(", ").join(
            sql.SQL("{} as {}").format(sql.Identifier(f"i{together.index(column)}"), sql.Identifier(f"i{place}"))
            for place, column in enumerate(program.inputs)
        )
        query = sql.SQL("create temp view {} as select {}, edge from pg_temp.inbox_bersama")
        conn.execute(query.format(sql.Identifier(f"inbox_{name}"), taken))


def _read(view: View, program: Program, columns: tuple[str, ...], rows: int) -> Iterable[Block]:
    return view.chunk(view.shape(program.entity, program.view, program.key, columns), None, rows)


def _table(name: str) -> sql.Identifier:
    return sql.Identifier("pg_temp", name)


def _columns(old: Program, new: Program) -> Mapping[str, tuple[bool, bool]]:
    """Each staging column, and which of the two sets it."""
    together = dict.fromkeys((*new.columns, *old.columns))
    return {column: (column in old.columns, column in new.columns) for column in together}


def _differing(columns: Mapping[str, tuple[bool, bool]]) -> sql.Composed:
    """An array of the columns in which a row differs. A column that one side does not set is empty there."""
    arms = []
    for column, sides in columns.items():
        left, right = (
            sql.SQL("{}.{}").format(sql.Identifier(alias), sql.Identifier(column)) if there else sql.SQL("null")
            for alias, there in zip(("l", "b"), sides, strict=True)
        )
        arms.append(sql.SQL("case when {} is distinct from {} then {} end").format(left, right, sql.Literal(column)))
    return sql.SQL("array_remove(array[{}]::text[], null)").format(sql.SQL(", ").join(arms))


def _changes(conn: Connection, query: str) -> tuple[Change, ...]:
    rows = conn.execute(query.encode(), {"keys": KEYS_SHOWN_MAX}).fetchall()
    return tuple(Change(what, count, tuple(map(masked, keys))) for what, count, keys in rows)


def _number(conn: Connection, query: str) -> int:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


# A key that stands there twice gives no row at all (DUPLICATE_KEY), and which of its rows is which nobody can tell.
_UNCOUNTED = """
select coalesce(sum(rows), 0)::bigint
  from (select count(*) as rows from pg_temp.baru group by source_key having count(*) > 1 or source_key is null) d
"""

_JUDGED = sql.SQL("""
create temp table beda on commit drop as
with lama1 as (select source_key, count(*) as rows from pg_temp.lama group by 1),
     baru1 as (select source_key, count(*) as rows from pg_temp.baru group by 1),
     l as (select lama.* from pg_temp.lama join lama1 using (source_key) where lama1.rows = 1),
     b as (select baru.* from pg_temp.baru join baru1 using (source_key) where baru1.rows = 1),
     twice as (select source_key from lama1 where rows > 1 union select source_key from baru1 where rows > 1)
select coalesce(l.source_key, b.source_key) as source_key,
       case when b.source_key is null then 'gone'
            when l.source_key is null then 'new'
            when l.alasan is not null and b.alasan is not null then 'still_refused'
            when b.alasan is not null then 'refused'
            when l.alasan is not null then 'released'
            when {differing} = '{{}}' and l.indikasi is not distinct from b.indikasi then 'same'
            else 'changed' end as fate,
       case when l.alasan is null and b.alasan is null then {differing} end as kolom,
       l.alasan as alasan_lama, b.alasan as alasan_baru, l.indikasi as indikasi_lama, b.indikasi as indikasi_baru
  from l full join b on b.source_key = l.source_key
 where coalesce(l.source_key, b.source_key) not in (select source_key from twice where source_key is not null)
""")

_COLUMNS = """
select u.nama, count(*), (array_agg(source_key order by source_key))[1:%(keys)s::int]
  from pg_temp.beda, unnest(kolom) as u(nama) where fate = 'changed' group by 1 order by 2 desc, 1
"""

_REASONS = """
select tanda || alasan, count(*), (array_agg(source_key order by source_key))[1:%(keys)s::int]
  from (select source_key, '+' as tanda, unnest(alasan_baru) as alasan
          from pg_temp.beda where fate in ('refused', 'still_refused')
        except select source_key, '+', unnest(alasan_lama) from pg_temp.beda
        union all
       (select source_key, '-', unnest(alasan_lama) from pg_temp.beda where fate in ('released', 'still_refused')
        except select source_key, '-', unnest(alasan_baru) from pg_temp.beda)) r
 group by 1 order by 2 desc, 1
"""

_FINDINGS = """
select tanda || temuan, count(*), (array_agg(source_key order by source_key))[1:%(keys)s::int]
  from (select source_key, '+' as tanda, unnest(indikasi_baru) as temuan from pg_temp.beda where fate = 'changed'
        except select source_key, '+', unnest(indikasi_lama) from pg_temp.beda
        union all
       (select source_key, '-', unnest(indikasi_lama) from pg_temp.beda where fate = 'changed'
        except select source_key, '-', unnest(indikasi_baru) from pg_temp.beda)) r
 group by 1 order by 2 desc, 1
"""
