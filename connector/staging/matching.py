"""Holds a party's own view against the commitments that its receipts hand it; in a scratch database of the party's.

Needs no access to staging and no key of KPU's. Rows go through the party's mapping as a batch's do, and their digests
are made with each batch's salt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from connector.staging.batch import Block
from connector.staging.commitment import DIGEST_BYTES, row_digest_sql
from connector.staging.plan import EntityPlan
from connector.staging.session import translated

# same: KPU has it as the view says. different: with other values. lacking: KPU does not have it. left: KPU has it and
# the view does not. refused: the mapping refuses it. other_mapping, erased: not comparable (written under another
# mapping; its salt was deleted).
KINDS = ("same", "different", "lacking", "left", "refused", "other_mapping", "erased")
WRONG = ("different", "lacking", "left")


@dataclass(frozen=True, slots=True)
class Page:
    """Rows of one batch, as a receipt tells of them."""

    keys: tuple[str, ...]
    ops: str
    digests: bytes
    salt: bytes | None
    mapping_digest: str

    def rows(self) -> Iterator[tuple[str, bool, bytes, bytes | None, str]]:
        for place, (key, op) in enumerate(zip(self.keys, self.ops, strict=True)):
            digest = self.digests[place * DIGEST_BYTES : (place + 1) * DIGEST_BYTES]
            yield key, op == "D", digest, self.salt, self.mapping_digest


class Matching:
    """The matching of one entity. `told` once, `meet` for each chunk of the view, then `counts` and `keys`."""

    def __init__(self, conn: psycopg.Connection, plan: EntityPlan) -> None:
        self._conn = conn
        self._plan = plan
        with translated("preparing the match"):
            for made in plan.temporary_tables:
                conn.execute(made)
            for statement in _TABLES:
                conn.execute(statement)

    def told(self, pages: Iterable[Page]) -> None:
        """What the receipts say, oldest first: of each key the last word counts."""
        into = "copy pg_temp.terima (n, source_key, gone, digest, salt, mapping_digest) from stdin (format binary)"
        with translated("taking the receipts in"):
            with self._conn.cursor() as cursor, cursor.copy(into) as copy:
                copy.set_types(["int8", "text", "bool", "bytea", "bytea", "text"])
                for n, row in enumerate(row for page in pages for row in page.rows()):
                    copy.write_row((n, *row))
            self._conn.execute(_LAST)
            self._conn.execute("analyze pg_temp.akhir")

    def meet(self, blocks: Iterable[Block]) -> None:
        """Map one chunk of the view's rows and judge each."""
        bad: list[tuple[str | None, ...]] = []
        with translated(f"matching {self._plan.entity}"), self._conn.transaction():
            with self._conn.cursor() as cursor:
                with cursor.copy(self._plan.copy_inbox) as copy:
                    for block in blocks:
                        copy.write(block.data)
                        bad.extend((*row.key, row.reason) for row in block.bad)
                if bad:
                    cursor.executemany(self._plan.insert_bad, bad)
            self._conn.execute(self._judge, {**self._plan.params, "seed": 0, "mapping": self._plan.mapping_digest})

    @property
    def _judge(self) -> sql.Composed:
        columns = sql.SQL(", ").join(sql.Identifier("m", name) for name in self._plan.columns)
        digest = row_digest_sql(
            sql.Identifier("m", "source_key"), columns, gone=sql.SQL("false"), salt=sql.Identifier("l", "salt")
        )
        return _JUDGE.format(mapped=self._plan.mapped, digest=digest)

    def left(self) -> None:
        """All of the view was met: what KPU has beyond it."""
        with translated("counting"):
            self._conn.execute("analyze pg_temp.temu")
            self._conn.execute(_LEFT)

    def counts(self) -> dict[str, int]:
        with translated("counting"):
            rows = self._conn.execute("select kind, count(*) from pg_temp.temu group by kind").fetchall()
        counted: dict[str, int] = dict(rows)
        return {kind: counted.get(kind, 0) for kind in KINDS}

    def keys(self, limit: int) -> list[tuple[str, str]]:
        """Key and kind of rows that are not as they should be."""
        query = "select source_key, kind from pg_temp.temu where kind = any (%s) order by kind, source_key limit %s"
        with translated("reading differences"):
            return self._conn.execute(query, (list(WRONG), limit)).fetchall()


_TABLES = (
    sql.SQL("drop table if exists pg_temp.terima, pg_temp.akhir, pg_temp.temu"),
    sql.SQL(
        'create temp table terima (n bigint, source_key text collate "C", gone boolean, digest bytea, salt bytea,'
        " mapping_digest text)"
    ),
    sql.SQL('create temp table temu (source_key text collate "C", kind text not null)'),
)

_LAST = """
create temp table akhir as
select distinct on (source_key) source_key, gone, digest, salt, mapping_digest from pg_temp.terima
 order by source_key, n desc
"""

_JUDGE = sql.SQL("""
insert into pg_temp.temu (source_key, kind)
with m as materialized ({mapped}),
     d as materialized (select source_key from m group by source_key having count(*) > 1)
select m.source_key,
       case when m.alasan is not null or d.source_key is not null then 'refused'
            when l.source_key is null or l.gone then 'lacking'
            when l.salt is null then 'erased'
            when l.mapping_digest <> %(mapping)s then 'other_mapping'
            when l.digest = {digest} then 'same'
            else 'different' end
  from m
  left join pg_temp.akhir l on l.source_key = m.source_key
  left join d on d.source_key = m.source_key
""")

_LEFT = """
insert into pg_temp.temu (source_key, kind)
select source_key, 'left' from pg_temp.akhir l
 where not gone and salt is not null and not exists (select from pg_temp.temu t where t.source_key = l.source_key)
"""
