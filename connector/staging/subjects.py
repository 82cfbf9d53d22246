"""Where one person stands in staging, and taking that person's rows out. Looks everywhere; nothing is sampled.

The audit log holds no person: keys stand in it as keyed digests, rows as digests of digests. Erasing leaves it whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from connector.staging.batch import Batch
from connector.staging.plan import EntityPlan

# Entities whose rows are persons, and by what a row is found.
PERSONS: Mapping[str, str] = {
    "anggota": "t.nik = %(nik)s or t.nik_hmac = %(hmac)s",
    "pengurus": "t.nik = %(nik)s",
    "petugas": "t.nik = %(nik)s",
}
# What is no use to the person: it tells of our work.
_INTERNAL = ("row_hash", "sync_batch_id", "read_position", "nik_hmac")


@dataclass(frozen=True, slots=True)
class Place:
    """One row that is this person's. `kind`: staged, deleted (a tombstone), refused, or document (what a row owns)."""

    party: str
    entity: str
    key: str
    kind: str
    since: datetime | None


def find(conn: psycopg.Connection, nik: str, hmac: bytes) -> tuple[Place, ...]:
    """Every row of this person, of every party."""
    values = {"nik": nik, "hmac": hmac, "like": f"%{nik}%"}
    places = [
        Place(*row)
        for entity, where in PERSONS.items()
        for row in conn.execute(_ROWS.format(table=sql.Identifier("staging", entity), entity=sql.Literal(entity),
                                             where=sql.SQL(where)), values)
    ]  # fmt: skip
    owners = [(one.party, one.entity, one.key) for one in places]
    lists = {"parties": [one[0] for one in owners], "entities": [one[1] for one in owners],
             "keys": [one[2] for one in owners]}  # fmt: skip
    places += [Place(*row) for row in conn.execute(_DOCUMENTS, lists)]
    places += [Place(*row) for row in conn.execute(_REFUSED, {**lists, **values})]
    return tuple(places)


def mentions(conn: psycopg.Connection, nik: str) -> list[tuple[str, int]]:
    """Audit entries that hold the number: there must be none."""
    return conn.execute(_MENTIONS, {"nik": nik.encode()}).fetchall()


def rows_of(conn: psycopg.Connection, places: Sequence[Place]) -> list[dict[str, Any]]:
    """What staging holds of these rows, column by column."""
    found = []
    for place in places:
        if place.kind == "refused":
            continue
        query = _ROW.format(sql.Identifier("staging", place.entity))
        row = conn.execute(query, {"party": place.party, "key": place.key, "drop": list(_INTERNAL)}).fetchone()
        if row is not None:
            found.append({"party": place.party, "entity": place.entity, "kind": place.kind, "row": row[0]})
    return found


def erase(batch: Batch, plan: EntityPlan, keys: Sequence[str], nik: str) -> tuple[int, int]:
    """Delete rows of one entity for good, with every trace of their keys; gives how many were live, and how many not.

    A live row leaves the change feed as deleted. It comes back if the party's view still has it and it is read again.
    """
    conn = batch.transaction
    values = {
        "party": batch.party, "parpol_id": plan.parpol_id, "entity": plan.entity, "keys": list(keys), "nik": nik,
        "like": f"%{nik}%",
    }  # fmt: skip
    gone = conn.execute(_DELETE.format(plan.partition), values).fetchall()
    live = [key for key, was_live in gone if was_live]
    if live:
        number, digests = batch.count_erased(plan, live)
        conn.execute(_JOURNAL, {**values, "live": live, "batch": number, "digests": digests})
    _forget_commitments(batch, plan, values)
    if plan.entity == "anggota":
        conn.execute(_DUE, values)
    for statement in _TRACES:
        conn.execute(statement, values)
    return len(live), len(gone) - len(live)


def _forget_commitments(batch: Batch, plan: EntityPlan, values: Mapping[str, object]) -> None:
    """Delete every salt that commitments to these rows are under, and commit to those batches' other rows anew."""
    salts = [row[0] for row in batch.transaction.execute(_SALTS, values)]
    if salts:
        batch.commit_again(plan, salts)


_ROWS = sql.SQL("""
select p.party, {entity}, t.source_key, case when t.dihapus_pada is null then 'staged' else 'deleted' end,
       coalesce(t.dihapus_pada, t.staged_at)
  from {table} t join connector.party p using (parpol_id) where {where} order by 1, 3
""")

_DOCUMENTS = """
select p.party, 'dokumen', d.source_key, 'document', d.staged_at
  from staging.dokumen d join connector.party p using (parpol_id)
  join unnest(%(parties)s::text[], %(entities)s::text[], %(keys)s::text[]) as o (party, entity, key)
    on o.party = p.party and o.entity = d.pemilik_entity and o.key = d.pemilik_source_key order by 1, 3
"""

# Of a refused row only its key is known: it is this person's where an earlier version is, or where the key says so.
_REFUSED = """
select p.party, k.entity, k.source_key, 'refused', k.first_seen
  from staging.karantina k join connector.party p using (parpol_id)
 where k.source_key like %(like)s
    or (p.party, k.entity, k.source_key)
       in (select * from unnest(%(parties)s::text[], %(entities)s::text[], %(keys)s::text[])) order by 1, 2, 3
"""

_MENTIONS = "select party, seq from audit.entry where position(%(nik)s::bytea in body) > 0 order by 1, 2"

_ROW = sql.SQL("""
select to_jsonb(t) - %(drop)s::text[] from {} t join connector.party p using (parpol_id)
 where p.party = %(party)s and t.source_key = %(key)s
""")

_DELETE = sql.SQL("delete from {} where source_key = any (%(keys)s) returning source_key, dihapus_pada is null")

_JOURNAL = """
insert into connector.journal (batch_id, parpol_id, entity, keys, ops, digests)
values (%(batch)s, %(parpol_id)s, %(entity)s, %(live)s, repeat('D', cardinality(%(live)s::text[])), %(digests)s)
"""

# Every page is looked at: whatever is wrong with a row's history, no salt of its commitments stays.
_SALTS = """
delete from audit.salt where batch_id in (
    select batch_id from connector.journal
     where parpol_id = %(parpol_id)s and entity = %(entity)s and keys && %(keys)s::text[]
    union all
    select batch_id from audit.committed
     where parpol_id = %(parpol_id)s and entity = %(entity)s and keys && %(keys)s::text[])
returning batch_id
"""

_DUE = """
insert into connector.hitungan_due
select distinct parpol_id, kode_kabkota from connector.sosok
 where parpol_id = %(parpol_id)s and source_key = any (%(keys)s) on conflict do nothing
"""

_TRACES = (
    """
    delete from staging.karantina
     where parpol_id = %(parpol_id)s and entity = %(entity)s
       and (source_key = any (%(keys)s) or source_key like %(like)s)
    """,
    """
    delete from staging.temuan
     where parpol_id = %(parpol_id)s and entity = %(entity)s and source_key = any (%(keys)s)
    """,
    """
    delete from connector.berkas
     where parpol_id = %(parpol_id)s
       and (%(entity)s = 'anggota' and pemilik = any (%(keys)s)
            or %(entity)s = 'dokumen' and source_key = any (%(keys)s))
    """,
    """
    delete from connector.pejabat
     where parpol_id = %(parpol_id)s and %(entity)s = 'pengurus' and source_key = any (%(keys)s)
    """,
    "delete from connector.parked where party = %(party)s and entity = %(entity)s and source_key = any (%(keys)s)",
    "delete from connector.seen where party = %(party)s and entity = %(entity)s and source_key = any (%(keys)s)",
    """
    delete from connector.reconcile_key k using connector.reconcile r
     where k.run = r.id and r.party = %(party)s and r.entity = %(entity)s and k.source_key = any (%(keys)s)
    """,
    *(
        # The journal keeps its keys, which say nothing of a person, unless a key is the number itself. Digests stay:
        # the entry's commitment is over them, and goes on to fit.
        f"""
        update {table} j
           set keys = (select array_agg(case when key like %(like)s then 'erased' else key end order by place)
                         from unnest(j.keys) with ordinality as one (key, place))
         where j.parpol_id = %(parpol_id)s and j.entity = %(entity)s
           and exists (select from unnest(j.keys) as key where key like %(like)s and key = any (%(keys)s))
        """
        for table in ("connector.journal", "audit.committed")
    ),
)
