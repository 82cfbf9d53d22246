"""Housekeeping of staging: what is old enough goes, statistics and dead rows are seen to, reference data is checked.

The audit log and the batches' records are evidence and never go.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from connector.errors import StagingIncompatible
from connector.settings import Retention
from connector.staging import reference
from connector.staging.session import translated

# Who asks for what the scheduler asks for.
ASKED_BY = "scheduler"
# Tables worth a vacuum of ours: autovacuum begins at a fifth, and on large ones comes late.
DEAD_ROWS_MIN, DEAD_SHARE_MIN = 10_000, 0.1


def retain(conn: psycopg.Connection, keep: Retention) -> str:
    """Drop what is older than is to be kept; gives what went, in words.

    Not the change feed's journal, nor rows that left their views: the audit log's history of rows stands on both, and
    `connector audit prune` is the one way to shorten it.
    """
    values = {"days": keep.record_days}
    with translated("dropping what is old"):
        wishes = conn.execute(_WISHES, values).rowcount
        runs = conn.execute(_RUNS, values).rowcount
        found = conn.execute(_FINDINGS, values).rowcount
    return f"{wishes} obeyed wishes, {runs} compares and {found} ended findings went"


def tend(conn: psycopg.Connection) -> str:
    """Vacuum and analyze the partitions and tables of ours that gathered dead rows since the last night."""
    with translated("tending tables"):
        tables = conn.execute(_DEAD, {"rows": DEAD_ROWS_MIN, "share": DEAD_SHARE_MIN}).fetchall()
        for schema, name in tables:
            conn.execute(sql.SQL("vacuum (analyze) {}").format(sql.Identifier(schema, name)))
    return f"{len(tables)} tables vacuumed"


def check_reference(conn: psycopg.Connection) -> str:
    """Whether staging holds the reference data that this program carries.

    Raises:
        StagingIncompatible: it does not.
    """
    carried = {edition.nama: edition.sha256 for edition in reference.editions()}
    with translated("reading the editions"):
        loaded = {name: bytes(sha256) for name, sha256 in conn.execute("select nama, sha256 from staging.ref_versi")}
    stale = sorted(name for name, sha256 in carried.items() if loaded.get(name) != sha256)
    if stale:
        raise StagingIncompatible(
            f"staging has other reference data than this program: {', '.join(stale)}", hint="run `connector migrate`"
        )
    return f"{len(carried)} tables are the ones this program carries"


_WISHES = "delete from connector.wish where obeyed_at < now() - make_interval(days => %(days)s)"
# The last run of an entity stays, whatever its age: readiness shows its count.
_RUNS = """
delete from connector.reconcile r
 where ended_at < now() - make_interval(days => %(days)s)
   and exists (select from connector.reconcile n where n.party = r.party and n.entity = r.entity and n.id > r.id)
"""
_FINDINGS = "delete from staging.temuan where resolved_at < now() - make_interval(days => %(days)s)"
_DEAD = """
select schemaname, relname from pg_stat_user_tables
 where schemaname in ('staging', 'connector') and n_dead_tup >= %(rows)s
   and n_dead_tup >= %(share)s * (n_live_tup + n_dead_tup)
   and pg_has_role(current_user, (select relowner from pg_class where oid = relid), 'usage')
 order by n_dead_tup desc
"""
