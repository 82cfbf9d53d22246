"""Holds what a party's view says against staging, in a session of its own: it writes nothing but its temporary tables.

Rows go through the same mapping as a batch's, inside the database, and only digests are compared. What differs at a
first look is a suspect: the view and staging were looked at in different moments. A suspect that a later look finds
unchanged is a difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from connector.staging.batch import Block
from connector.staging.plan import DigestKeys, EntityPlan
from connector.staging.session import translated

# missing: good in the view, not live in staging. different: live with other values. extra: live, not in the view.
# refusal_missing: refused, without an entry of the same reasons. refusal_stale: an entry for a good or gone row.
KINDS = ("missing", "different", "extra", "refusal_missing", "refusal_stale")


@dataclass(frozen=True, slots=True)
class Met:
    """What a look has met: rows of the view, and how many of them are refused."""

    rows: int
    refused: int


@dataclass(frozen=True, slots=True)
class Differing:
    """One key that differs, and how."""

    key: str
    kind: str


class Comparison:
    """The compare of one entity. `first` for each chunk of the view, `gone` once, then `again` until nothing moves."""

    def __init__(self, conn: psycopg.Connection, plan: EntityPlan, keys: DigestKeys) -> None:
        self._conn = conn
        self._plan = plan
        self._values: Mapping[str, object] = {
            **plan.params, "parpol_id": plan.parpol_id, "entity": plan.entity, "party": plan.party,
            "seed": keys.seed,
        }  # fmt: skip
        with translated("preparing the compare"):
            for made in plan.temporary_tables:
                conn.execute(made)
            for statement in _TABLES:
                conn.execute(statement)

    def first(self, blocks: Iterable[Block]) -> Met:
        """Compare one chunk of the view's rows with staging."""
        with translated(f"comparing {self._plan.entity}"), self._conn.transaction():
            self._load(blocks)
            row = self._conn.execute(self._judged(_ASKED_MET, _NOTE_MET), self._values).fetchone()
        assert row is not None
        return Met(*row)

    def gone(self) -> None:
        """All chunks were met: what staging has beyond them is suspect too."""
        with translated(f"comparing {self._plan.entity}"), self._conn.transaction():
            self._conn.execute("analyze pg_temp.banding_temu")
            self._conn.execute(_GONE.format(partition=self._plan.partition), self._values)

    def unsettled(self, slice_rows: int) -> Iterator[list[str]]:
        """Keys that are suspect and no difference yet, in slices. Look at each slice `again` before the next."""
        after = ""
        while True:
            with translated("reading suspects"):
                rows = self._conn.execute(_UNSETTLED, (after, slice_rows)).fetchall()
            if not rows:
                return
            yield [row[0] for row in rows]
            after = rows[-1][0]

    def again(self, keys: Sequence[str], blocks: Iterable[Block], *, decide: bool) -> None:
        """Look at suspects once more: what the view says for `keys` now, against staging now.

        A suspect that is in order now is none. One that differs as it did is a difference where this look may
        `decide`: staging had had time to catch up with the look before. Any other stays suspect.
        """
        with translated(f"comparing {self._plan.entity} again"), self._conn.transaction():
            self._load(blocks)
            with self._conn.cursor().copy(sql.SQL("copy {} from stdin").format(self._plan.signalled)) as copy:
                for key in keys:
                    copy.write_row((key,))
            asked = sql.SQL("select source_key from {}").format(self._plan.signalled)
            self._conn.execute(self._judged(asked, _NOTE_AGAIN), {**self._values, "decide": decide})

    def counts(self, *, settled: bool = True) -> dict[str, int]:
        """How many keys differ, by kind; with `settled` False, how many are still suspect. Parked keys are neither."""
        with translated("counting differences"):
            rows = self._conn.execute(_COUNTS, {**self._values, "settled": settled}).fetchall()
        counted: dict[str, int] = dict(rows)
        return {kind: counted.get(kind, 0) for kind in KINDS}

    def parked(self) -> int:
        """Suspects that wait, parked, to be read: known, and no difference."""
        with translated("counting differences"):
            row = self._conn.execute(_PARKED, self._values).fetchone()
        assert row is not None
        return int(row[0])

    def examples(self, rows: int) -> list[Differing]:
        with translated("reading differences"):
            found = self._conn.execute(_EXAMPLES, {**self._values, "rows": rows}).fetchall()
        return [Differing(*row) for row in found]

    def live_rows(self) -> int:
        with translated("counting rows"):
            row = self._conn.execute(
                sql.SQL("select count(*) from {} where dihapus_pada is null").format(self._plan.partition)
            ).fetchone()
        assert row is not None
        return int(row[0])

    def keep(self, run: int) -> None:
        """Write the differing keys down under a run, for a repair or to be looked up; inside a transaction of yours."""
        self._conn.execute(_KEEP, {**self._values, "run": run})

    def _load(self, blocks: Iterable[Block]) -> None:
        bad: list[tuple[str | None, ...]] = []
        with self._conn.cursor() as cursor:
            with cursor.copy(self._plan.copy_inbox) as copy:
                for block in blocks:
                    copy.write(block.data)
                    bad.extend((*row.key, row.reason) for row in block.bad)
            if bad:
                cursor.executemany(self._plan.insert_bad, bad)

    def _judged(self, asked: sql.Composable, note: sql.SQL) -> sql.Composed:
        return _JUDGED.format(mapped=self._plan.mapped, asked=asked, partition=self._plan.partition, note=note)


_TABLES = (
    sql.SQL("drop table if exists pg_temp.banding_temu, pg_temp.banding_curiga"),
    sql.SQL('create temp table banding_temu (source_key text collate "C" not null)'),
    sql.SQL(
        'create temp table banding_curiga (source_key text collate "C" primary key, kind text not null,'
        " digest bytea, settled boolean not null default false)"
    ),
)

# `r`: what the view says, one row for each key. `v`: for each key that was asked for, what is wrong with it, or null.
_JUDGED = sql.SQL("""
with m as materialized ({mapped}),
     r as materialized (
       select source_key, case when count(*) > 1 then array['DUPLICATE_KEY'] else min(alasan) end as alasan,
              case when count(*) = 1 then min(encode(row_hash, 'hex')) end as digest
         from m where source_key is not null group by source_key),
     asked as ({asked}),
     v as (
       select a.source_key, decode(r.digest, 'hex') as digest,
              case when r.source_key is null
                   then case when t.source_key is not null then 'extra'
                             when k.source_key is not null then 'refusal_stale' end
                   when r.alasan is not null
                   then case when k.reasons is distinct from r.alasan then 'refusal_missing' end
                   when t.source_key is null then 'missing'
                   when t.row_hash <> decode(r.digest, 'hex') then 'different'
                   when k.source_key is not null then 'refusal_stale' end as kind
         from asked a
         left join r on r.source_key = a.source_key
         left join {partition} t on t.parpol_id = %(parpol_id)s::smallint and t.source_key = a.source_key
               and t.dihapus_pada is null
         left join staging.karantina k on k.parpol_id = %(parpol_id)s::smallint and k.entity = %(entity)s::text
               and k.source_key = a.source_key)
{note}
""")

_ASKED_MET = sql.SQL("select source_key from r")

_NOTE_MET = sql.SQL("""
   , met as (insert into pg_temp.banding_temu select source_key from r),
     noted as (insert into pg_temp.banding_curiga (source_key, kind, digest)
               select source_key, kind, digest from v where kind is not null on conflict do nothing)
select count(*), count(*) filter (where alasan is not null) from r
""")

_NOTE_AGAIN = sql.SQL("""
   , cleared as (delete from pg_temp.banding_curiga c using v where c.source_key = v.source_key and v.kind is null)
update pg_temp.banding_curiga c
   set settled = %(decide)s and c.kind = v.kind and c.digest is not distinct from v.digest,
       kind = v.kind, digest = v.digest
  from v where c.source_key = v.source_key and v.kind is not null
""")

_GONE = sql.SQL("""
insert into pg_temp.banding_curiga (source_key, kind)
select t.source_key, 'extra' from {partition} t
 where t.dihapus_pada is null
   and not exists (select from pg_temp.banding_temu b where b.source_key = t.source_key)
union
select k.source_key, 'refusal_stale' from staging.karantina k
 where k.parpol_id = %(parpol_id)s::smallint and k.entity = %(entity)s::text and k.source_key <> ''
   and not exists (select from pg_temp.banding_temu b where b.source_key = k.source_key)
on conflict do nothing
""")

_UNSETTLED = """
select source_key from pg_temp.banding_curiga where not settled and source_key > %s order by source_key limit %s
"""

_NOT_PARKED = """
not exists (select from connector.parked p
             where p.party = %(party)s and p.entity = %(entity)s and p.source_key = c.source_key)
"""

_COUNTS = f"""
select kind, count(*) from pg_temp.banding_curiga c where settled = %(settled)s and {_NOT_PARKED} group by kind
""".encode()

_PARKED = f"select count(*) from pg_temp.banding_curiga c where not ({_NOT_PARKED})".encode()

_EXAMPLES = f"""
select source_key, kind from pg_temp.banding_curiga c where settled and {_NOT_PARKED} order by source_key limit %(rows)s
""".encode()

_KEEP = f"""
insert into connector.reconcile_key (run, source_key, kind)
select %(run)s, source_key, kind from pg_temp.banding_curiga c where settled and {_NOT_PARKED}
""".encode()
