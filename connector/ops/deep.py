"""Holds the staged rows themselves against what batches wrote: finds rows that somebody changed by hand.

A row carries the keyed digest that its batch gave it. Who changes a cell and has not KPU's digest key cannot make
the digest fit; who adds or removes whole rows does not fit the counts. Reads only.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psycopg
from psycopg import sql

from connector.staging.plan import DigestKeys, EntityPlan
from connector.staging.session import translated

# Keys named per finding: enough to start looking.
NAMED_MAX = 20


@dataclass(frozen=True, slots=True)
class Suspect:
    """Rows of an entity that no batch left like this; `keys` are the first of `rows`."""

    entity: str
    what: str
    rows: int
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Looked:
    """What was looked at. `skipped` rows were written under another mapping: their digest is over other columns."""

    party: str
    entity: str
    rows: int
    skipped: int
    suspects: tuple[Suspect, ...]


def look(conn: psycopg.Connection, plan: EntityPlan, keys: DigestKeys) -> Looked | None:
    """Recompute every row's digest; None where the entity has no table yet. Call inside one snapshot."""
    with translated(f"looking at {plan.partition_name}"):
        table = conn.execute("select to_regclass(%s)", (plan.partition.as_string(conn),)).fetchone()
        if table is None or table[0] is None:
            return None
        names = sql.SQL(", ").join(sql.Identifier("t", name) for name in plan.columns)
        values = {
            "seed": keys.seed, "party": plan.party, "entity": plan.entity, "digest": plan.mapping_digest,
            "named": NAMED_MAX, "parpol_id": plan.parpol_id,
        }  # fmt: skip
        row = conn.execute(_ROWS.format(columns=names, partition=plan.partition), values).fetchone()
        assert row is not None
        rows, ours, changed, changed_keys, strays, stray_keys, live, counted = row
    suspects = tuple(_suspects(plan.entity, (changed, changed_keys), (strays, stray_keys), (live, counted)))
    return Looked(plan.party, plan.entity, rows, rows - ours, suspects)


def _suspects(
    entity: str,
    changed: tuple[int, list[str] | None],
    strays: tuple[int, list[str] | None],
    live: tuple[int, int | None],
) -> Iterator[Suspect]:
    if changed[0]:
        yield Suspect(entity, "cells are not those that the batch wrote", changed[0], tuple(changed[1] or ()))
    if strays[0]:
        yield Suspect(entity, "no batch wrote them", strays[0], tuple(strays[1] or ()))
    if live[1] is not None and live[0] != live[1]:
        what = f"{live[0]:,} live rows, and the batches left {live[1]:,}"
        yield Suspect(entity, what, abs(live[0] - live[1]))


# A row's digest is over the columns of the mapping that wrote it; others are counted and left alone. Its key is not in
# it: a row copied under another key is found by the journal, as long as its batch is in there.
_ROWS = sql.SQL(
    """
    with state as (
        select live_rows, mapping_version from connector.entity
         where party = %(party)s and entity = %(entity)s and mapping_digest = %(digest)s
    ), kept as materialized (
        select j.batch_id, unnest(j.keys) as source_key from connector.journal j
         where j.parpol_id = %(parpol_id)s and j.entity = %(entity)s
    ), looked as (
        select t.source_key, t.dihapus_pada is null as live, t.mapping_version = s.mapping_version as ours,
               t.mapping_version = s.mapping_version and t.row_hash <>
                 int8send(hash_record_extended(row({columns}, t.indikasi), %(seed)s::bigint)) as changed,
               b.id is null or (k.source_key is null and t.sync_batch_id in (select batch_id from kept)) as stray
          from {partition} t
          left join kept k on k.batch_id = t.sync_batch_id and k.source_key = t.source_key
          left join state s on true
          left join staging.sync_batch b
            on b.id = t.sync_batch_id and b.party = %(party)s and b.entity = %(entity)s
    )
    select count(*), count(*) filter (where ours),
           count(*) filter (where changed),
           (array_agg(source_key order by source_key) filter (where changed))[1:%(named)s],
           count(*) filter (where stray),
           (array_agg(source_key order by source_key) filter (where stray))[1:%(named)s],
           count(*) filter (where live),
           (select live_rows from connector.entity where party = %(party)s and entity = %(entity)s and not copying)
      from looked
    """
)
