"""The part of the preflight that looks at the change stream: slot, functions, tables, publication."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import psycopg
from psycopg import sql
from psycopg.rows import DictRow

from connector.capture.finding import Finding, Level, error, ok, warning
from connector.capture.postgres.catalogue import table_columns, table_problems
from connector.capture.postgres.expectations import MEGABYTE, WANTED, Expectations, wanted_params
from connector.capture.postgres.kit import confirm_body, peek_body, release_body
from connector.capture.postgres.kit_request import confirm_name, guardian_name, peek_name, release_name
from connector.capture.postgres.questions import Connection, judged, one, rendered

# A transaction older than this is no ordinary one; while it is open, each peek decodes again from its start.
TRANSACTION_AGE_WARN_S = 300
# Eight windows of the default 32 MB: from here a peek spends most of its time on log it has already shown.
REDECODE_WARN_BYTES = 256 * MEGABYTE

# ------------------------------------------------------------------------------------------------- slot


_SLOT = """
with place as (select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_lsn() end as here)
select s.plugin, s.slot_type, s.database, s.temporary, s.active, s.wal_status, s.two_phase,
       s.database = current_database() as here,
       coalesce(to_jsonb(s) ->> 'invalidation_reason',
                case when to_jsonb(s) ->> 'conflicting' = 'true' then 'conflict' end) as invalidated,
       (place.here - s.restart_lsn)::bigint as kept, (place.here - s.confirmed_flush_lsn)::bigint as behind,
       (s.confirmed_flush_lsn - s.restart_lsn)::bigint as again, s.confirmed_flush_lsn::text as confirmed
  from pg_replication_slots s cross join place
 where s.slot_name = %(slot)s
"""


def slot(conn: Connection, expected: Expectations) -> Iterator[Finding]:
    name = expected.slot
    fact = conn.execute(_SLOT, {"slot": name}).fetchone()
    if fact is None:
        yield error("SLOT_MISSING", name, "there is no such slot", "the party's DBA runs the kit (`connector kit`)")
        return
    if fact["plugin"] != "pgoutput" or fact["slot_type"] != "logical" or fact["temporary"] or fact["two_phase"]:
        yield error(
            "SLOT_KIND",
            name,
            "is not a permanent logical slot of pgoutput without two_phase",
            "choose another name with `slot:`, and let the kit make it",
        )
        return
    if not fact["here"]:
        yield error("SLOT_ELSEWHERE", name, "belongs to another database", "correct the dsn's dbname, or `slot:`")
        return
    if fact["wal_status"] == "lost" or fact["invalidated"]:
        why = fact["invalidated"] or "wal_status = lost"
        yield error(
            "SLOT_LOST",
            name,
            f"the server has given it up ({why}): changes since then are gone from the log",
            f"select pg_drop_replication_slot('{name}'); run the kit again; then `connector resync PARTY`",
        )
        return
    yield _lag(name, fact, expected)
    if fact["again"] > REDECODE_WARN_BYTES:
        yield warning(
            "LONG_TRANSACTION",
            name,
            f"each peek decodes {_mb(fact['again'])} again, because a transaction has been open that long",
            "the party ends it: see xact_start in pg_stat_activity, and pg_prepared_xacts",
        )


def _lag(name: str, fact: DictRow, expected: Expectations) -> Finding:
    said = f"the server keeps {_mb(fact['kept'])} of log for us, {_mb(fact['behind'])} of it unread"
    if fact["kept"] >= expected.lag_drop_bytes:
        return error(
            "SLOT_LAG", name, f"{said}: past `lag_drop_mb`", "start the daemon now, or drop the slot and resync"
        )
    if fact["wal_status"] == "unreserved":
        return error("SLOT_LAG", name, f"{said}: the next checkpoint may take it away", "start the daemon now")
    if fact["kept"] >= expected.lag_warn_bytes:
        return warning("SLOT_LAG", name, f"{said}: past `lag_warn_mb`", "is the daemon running? see LONG_TRANSACTION")
    return ok("SLOT", name, said)


def _mb(size_bytes: int) -> str:
    return f"{max(size_bytes, 0) / MEGABYTE:.1f} MB"


_OPEN = """
select (select coalesce(extract(epoch from max(now() - xact_start)), 0)::bigint from pg_stat_activity
         where xact_start is not null and pid <> pg_backend_pid()) as age_s,
       (select coalesce(extract(epoch from max(now() - prepared)), 0)::bigint from pg_prepared_xacts) as prepared_s
"""


def transactions(conn: Connection, _: Expectations) -> Iterator[Finding]:
    """Other roles' sessions hide their start from us; prepared transactions do not, nor does what the slot keeps."""
    fact = one(conn, _OPEN)
    if fact["prepared_s"] > TRANSACTION_AGE_WARN_S:
        yield warning(
            "PREPARED_TRANSACTION",
            "server",
            f"a prepared transaction has been waiting for {fact['prepared_s']} s",
            "the party commits or rolls it back: select gid, prepared from pg_prepared_xacts;",
        )
    if fact["age_s"] > TRANSACTION_AGE_WARN_S:
        yield warning(
            "OPEN_TRANSACTION",
            "server",
            f"a transaction has been open for {fact['age_s']} s: it slows each peek",
            "the party ends it: select pid, xact_start from pg_stat_activity order by xact_start;",
        )
    if max(fact["prepared_s"], fact["age_s"]) <= TRANSACTION_AGE_WARN_S:
        yield ok("TRANSACTIONS", "server", "no long transaction that we can see")


# ------------------------------------------------------------------------------------------------- functions


_FUNCTION = """
select p.oid::regprocedure::text as place, p.prosrc as body, p.prosecdef as definer,
       o.rolname = %(guardian)s as guarded,
       o.rolcanlogin as owner_login, o.rolsuper as owner_super, o.rolreplication as owner_replication,
       coalesce('search_path=pg_catalog, pg_temp' = any (p.proconfig), false) as pinned,
       exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee = 0) as public,
       has_schema_privilege(p.pronamespace, 'usage') and has_function_privilege(p.oid, 'execute') as ours
  from pg_proc p join pg_roles o on o.oid = p.proowner join pg_namespace n on n.oid = p.pronamespace
 where n.nspname = %(schema)s and p.proname = %(name)s
   and oidvectortypes(p.proargtypes) = %(arguments)s
"""


def functions(conn: Connection, expected: Expectations) -> Iterator[Finding]:
    if expected.mode != "pull":
        return
    wanted = (
        (peek_name(expected.slot), "pg_lsn, integer", peek_body(expected.slot, expected.publication)),
        (confirm_name(expected.slot), "pg_lsn", confirm_body(expected.slot)),
        (release_name(expected.slot), "", release_body(expected.slot)),
    )
    for name, arguments, body in wanted:
        params = {
            "schema": expected.schema,
            "name": name,
            "arguments": arguments,
            "guardian": guardian_name(expected.slot),
        }
        fact = conn.execute(_FUNCTION, params).fetchone()
        place = f"{expected.schema}.{name}"
        if fact is None:
            yield error("FUNCTION_MISSING", place, "there is no such function", "the party's DBA runs the kit")
        else:
            yield from judged_function(place, fact, body, replication=True)


def function(conn: Connection, place: tuple[str, str], arguments: str, owner: str, body: str) -> Iterator[Finding]:
    """Judge a function that the kit made for our use, and that needs no REPLICATION."""
    params = {"schema": place[0], "name": place[1], "arguments": arguments, "guardian": owner}
    fact = conn.execute(_FUNCTION, params).fetchone()
    if fact is None:
        yield error("FUNCTION_MISSING", ".".join(place), "there is no such function", "the party's DBA runs the kit")
    else:
        yield from judged_function(".".join(place), fact, body, replication=False)


def judged_function(place: str, fact: DictRow, body: str, *, replication: bool) -> Iterator[Finding]:
    again = "the party's DBA runs the kit again"
    wrong = [
        (
            not fact["ours"],
            "error",
            "FUNCTION_DENIED",
            "we may not execute it",
            "grant execute on it (and usage on its schema) to our role",
        ),
        (
            fact["public"],
            "error",
            "FUNCTION_PUBLIC",
            "everybody may execute it",
            f"revoke all on function {fact['place']} from public;",
        ),
        (
            not fact["definer"] or (replication and not fact["owner_replication"]),
            "error",
            "FUNCTION_POWERLESS",
            "does not run with REPLICATION" if replication else "does not run with its owner's rights",
            again,
        ),
        (
            fact["owner_super"] or fact["owner_login"],
            "error",
            "FUNCTION_OWNER",
            "its owner is superuser or can log in",
            again,
        ),
        (not fact["pinned"], "error", "FUNCTION_SEARCH_PATH", "its search_path is not pinned", again),
        (
            fact["body"].strip() != body.strip() or not fact["guarded"],
            "warning",
            "FUNCTION_DIFFERS",
            "is not what this version's kit makes",
            again,
        ),
    ]
    found = [
        Finding(cast(Level, level), code, place, message, remedy) for hit, level, code, message, remedy in wrong if hit
    ]
    yield from found or [ok("FUNCTION", place, "guarded, and ours to call")]


def peek(conn: Connection, expected: Expectations) -> Iterator[Finding]:
    """One peek up to where the slot stands: empty, quick, and proof that slot, publication and grants fit together."""
    if expected.mode != "pull":
        return
    fact = conn.execute(_SLOT, {"slot": expected.slot}).fetchone()
    # A slot that stands far behind would be decoded for seconds; one that is not ours, or lost, is told above.
    if fact is None or fact["active"] or fact["again"] is None or fact["again"] > REDECODE_WARN_BYTES:
        return
    call = sql.SQL("select count(*) from {}(%s::pg_lsn, 1)").format(
        sql.Identifier(expected.schema, peek_name(expected.slot))
    )
    try:
        conn.execute(call, [fact["confirmed"]])
    except psycopg.Error as exc:
        # In use: the daemon got there first, which proves as much. Missing, denied: said above.
        if exc.sqlstate not in ("55006", "42883", "42501", "3F000"):
            yield error(
                "PEEK_FAILED",
                f"{expected.schema}.{peek_name(expected.slot)}",
                f"a trial peek failed ({exc.sqlstate})",
                "was the publication made before the slot? the party's DBA removes the kit and runs it again",
            )
        return
    yield ok("PEEK", f"{expected.schema}.{peek_name(expected.slot)}", "a trial peek works")


# ------------------------------------------------------------------------------------------------- publication


def tables(conn: Connection, expected: Expectations) -> Iterator[Finding]:
    found = list(judged(conn.execute(rendered(table_problems(WANTED)), wanted_params(expected)).fetchall()))
    yield from found
    if not any(finding.level == "error" for finding in found):
        yield ok(
            "TABLES", "lineage", f"{len({(t.schema, t.name) for t in expected.tables})} base tables can be followed"
        )


_PUBLICATION = """
select puballtables as everything, pubinsert and pubupdate and pubdelete and pubtruncate as whole
  from pg_publication where pubname = %(publication)s
"""

_PUBLISHED = """
with wanted as ({columns})
select coalesce(w.place, format('%I.%I', p.schemaname, p.tablename)) as place,
       w.rel is not null as is_wanted, p.tablename is not null as is_published, p.rowfilter is not null as filtered,
       array(select c from unnest(w.columns) c where c <> all (p.attnames)) as lacking,
       case when w.columns is not null
            then array(select c::text from unnest(p.attnames) c where c <> all (w.columns)) end as extra
  from wanted w
  full join (select *, format('%I.%I', schemaname, tablename) as place from pg_publication_tables
              where pubname = %(publication)s) p on p.place = w.place
 order by 1
"""


def publication(conn: Connection, expected: Expectations) -> Iterator[Finding]:
    name, again = expected.publication, "the party's DBA runs the kit again"
    fact = conn.execute(_PUBLICATION, {"publication": name}).fetchone()
    if fact is None:
        yield error("PUBLICATION_MISSING", name, "there is no such publication", "the party's DBA runs the kit")
        return
    if not fact["whole"]:
        yield error("PUBLICATION_PARTIAL", name, "does not publish insert, update, delete and truncate", again)
    if fact["everything"]:
        yield warning("PUBLICATION_ALL", name, "publishes all tables with all columns", again)
    query = _PUBLISHED.replace("{columns}", table_columns(WANTED))
    rows = conn.execute(rendered(query), {**wanted_params(expected), "publication": name}).fetchall()
    found = [finding for row in rows for finding in _published(row, again)]
    yield from found
    if not any(finding.level == "error" for finding in found):
        yield ok("PUBLICATION", name, f"carries the keys of {sum(row['is_wanted'] for row in rows)} tables")


def _published(row: DictRow, again: str) -> Iterator[Finding]:
    place = row["place"]
    if not row["is_published"]:
        yield error("NOT_PUBLISHED", place, "its changes are not in the publication", again)
    elif not row["is_wanted"]:
        yield warning("PUBLISHED_UNUSED", place, "is in the publication although no lineage names it", again)
    else:
        if row["filtered"]:
            yield error("ROW_FILTER", place, "the publication filters its rows: changes would be missed", again)
        if row["lacking"]:
            yield error("COLUMN_NOT_PUBLISHED", place, f"the log lacks column {', '.join(row['lacking'])}", again)
        if row["extra"]:
            yield warning("COLUMN_REVEALED", place, f"the log carries more than keys: {', '.join(row['extra'])}", again)
