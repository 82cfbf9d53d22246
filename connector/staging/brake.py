"""What the delete brake tells before anybody approves: how many rows would go, region by region."""

from __future__ import annotations

import psycopg
from psycopg import sql

from connector.staging.plan import EntityPlan

# So many regions are named; the rest are counted.
REGIONS_SHOWN = 5
_REGIONS = ("kode_kabkota", "kode_wilayah")


def of_batch(conn: psycopg.Connection, plan: EntityPlan, batch_id: int) -> str:
    """The regions of the rows that this batch has deleted; inside its transaction."""
    keys = sql.SQL(
        "select one.key from connector.journal j,"
        " unnest(j.keys, string_to_array(j.ops, null)) as one (key, op) where j.batch_id = {} and one.op = 'D'"
    ).format(sql.Literal(batch_id))
    return _told(conn, plan, keys)


def of_parked(conn: psycopg.Connection, plan: EntityPlan) -> str:
    """The regions of the rows whose keys are parked."""
    keys = sql.SQL("select source_key from connector.parked where party = {} and entity = {}").format(
        sql.Literal(plan.party), sql.Literal(plan.entity)
    )
    return _told(conn, plan, keys)


def _told(conn: psycopg.Connection, plan: EntityPlan, keys: sql.Composed) -> str:
    """`; by region: 32.73 1200, 32.01 40, 3 others 7`, or nothing for an entity without regions."""
    column = next((name for name in _REGIONS if name in plan.columns), None)
    if column is None:
        return ""
    # With the party's id the index finds a row; without it each of a million keys would walk the whole index.
    query = sql.SQL(
        "select coalesce({column}, 'PUSAT'), count(*) from {table} where parpol_id = {parpol_id}"
        " and source_key in ({keys}) group by 1 order by 2 desc, 1"
    ).format(
        column=sql.Identifier(column), table=plan.partition, parpol_id=sql.Literal(plan.parpol_id), keys=keys
    )  # fmt: skip
    found = conn.execute(query).fetchall()
    if not found:
        return ""
    shown = [f"{kode} {count}" for kode, count in found[:REGIONS_SHOWN]]
    rest = found[REGIONS_SHOWN:]
    if rest:
        shown.append(f"{len(rest)} others {sum(count for _, count in rest)}")
    return f"; by region: {', '.join(shown)}"
