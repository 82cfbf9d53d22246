"""What became of one key, batch by batch: a walk back through the journal, without an index over keys.

Each change in the journal names the batch that had written the row before it. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import psycopg
from psycopg import sql

# Longer histories are cut, and say so.
STEPS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class Step:
    """One change of a row: the batch and entry that did it, and the commitment to the row after it (None: erased)."""

    batch: int
    seq: int | None
    kind: str
    gone: bool
    digest: bytes | None
    prior: int
    mapping_version: str
    mapping_digest: str
    position_to: str | None
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class History:
    """A key's changes, the newest first. `state`: staged, deleted, refused or none; `whole`: nothing was pruned."""

    party: str
    entity: str
    key: str
    state: str
    refused_as: tuple[str, ...]
    steps: tuple[Step, ...]
    whole: bool


def of_key(conn: psycopg.Connection, party: tuple[str, int], entity: str, key: str) -> History:
    """Every batch that changed this key. `party`: name and parpol_id; call inside one snapshot.

    A row that is staged or deleted says where to begin. Of a key without a row (erased, or never staged) all pages of
    the entity are searched: slow, and complete as far as the journal goes back.
    """
    name, parpol_id = party
    values = {"parpol_id": parpol_id, "entity": entity, "key": key, "party": name}
    row = conn.execute(_ROW.format(sql.Identifier("staging", entity)), values).fetchone()
    refused = conn.execute(_REFUSED, values).fetchone()
    if row is not None:
        steps = tuple(_walk(conn, values, row[0]))
        state = "staged" if row[1] else "deleted"
    else:
        batches = [found[0] for found in conn.execute(_SEARCH, values)]
        steps = tuple(step for batch in batches for step in _steps(conn, values, batch))
        state = "refused" if refused else "none"
    whole = bool(steps) and steps[-1].prior == 0
    return History(name, entity, key, state, tuple(refused[0]) if refused else (), steps, whole)


def _walk(conn: psycopg.Connection, values: dict[str, object], batch: int) -> Iterator[Step]:
    for _ in range(STEPS_MAX):
        found = _steps(conn, values, batch)
        yield from found
        if not found or not found[-1].prior:
            return
        batch = found[-1].prior


def _steps(conn: psycopg.Connection, values: dict[str, object], batch: int) -> list[Step]:
    """What one batch did to the key: once, or more often where its slices met it again; the last first."""
    return [Step(*row) for row in conn.execute(_STEP, {**values, "batch": batch})]


_ROW = sql.SQL(
    "select sync_batch_id, dihapus_pada is null from {} where parpol_id = %(parpol_id)s and source_key = %(key)s"
)

_REFUSED = """
select reasons from staging.karantina
 where parpol_id = %(parpol_id)s and entity = %(entity)s and source_key = %(key)s
"""

_SEARCH = """
select batch_id from connector.journal
 where parpol_id = %(parpol_id)s and entity = %(entity)s and keys @> array[%(key)s::text] and digests is not null
union
select batch_id from audit.committed
 where parpol_id = %(parpol_id)s and entity = %(entity)s and keys @> array[%(key)s::text]
 order by 1 desc
"""

# A digest whose salt was deleted says nothing any more, and is not shown.
_STEP = """
select p.batch_id, b.audit_seq, b.kind, p.gone, case when s.batch_id is not null then p.digest end,
       ('x' || encode(p.prior, 'hex'))::bit(64)::bigint, b.mapping_version, b.mapping_digest, b.position_to, b.ended_at
  from (select batch_id, first_ordinal + place as ordinal, substr(ops, place, 1) = 'D' as gone,
               substr(digests, 16 * place - 15, 16) as digest,
               coalesce(substr(priors, 8 * place - 7, 8), int8send(0)) as prior
          from (select *, array_position(keys, %(key)s::text) as place from connector.journal
                 where batch_id = %(batch)s and parpol_id = %(parpol_id)s and entity = %(entity)s
                   and digests is not null) j
         where place is not null
        union all
        select batch_id, first_ordinal + place, false, substr(digests, 16 * place - 15, 16), int8send(0)
          from (select *, array_position(keys, %(key)s::text) as place from audit.committed
                 where batch_id = %(batch)s and parpol_id = %(parpol_id)s and entity = %(entity)s) c
         where place is not null) p
  join staging.sync_batch b on b.id = p.batch_id
  left join audit.salt s on s.batch_id = p.batch_id
 order by p.ordinal desc
"""
