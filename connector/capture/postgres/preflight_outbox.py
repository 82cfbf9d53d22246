"""The part of the preflight that looks at an outbox: change table, functions, a trigger for every kind of change."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from psycopg import sql

from connector.capture import verdicts
from connector.capture.finding import Finding, error, ok, warning
from connector.capture.outbox.kit_postgres import TRANSITIONS, prune_body, reopen_body, trigger_body
from connector.capture.outbox.request import OutboxRequest
from connector.capture.postgres.expectations import Expectations
from connector.capture.postgres.preflight_log import function
from connector.capture.postgres.questions import Connection


def outbox(conn: Connection, expected: Expectations) -> Iterator[Finding]:
    request = expected.outbox
    if request is None:
        return
    place = f"{request.schema}.{request.name}"
    if not (yield from _tables(conn, request, place)):
        return
    yield from _state(conn, request, place)
    yield from _functions(conn, request)
    yield from _triggers(conn, request)


_TABLES = """
select has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select') as readable
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where n.nspname = %(schema)s and c.relname = any (%(names)s) and c.relkind = 'r'
"""


def _tables(conn: Connection, request: OutboxRequest, place: str) -> Generator[Finding, None, bool]:
    """Says whether the questions about what is in them can be asked."""
    names = [request.name, request.mark, f"{request.name}_lost"]
    rows = conn.execute(_TABLES, {"schema": request.schema, "names": names}).fetchall()
    if len(rows) < len(names):
        yield error("OUTBOX_MISSING", place, "there is no change table", "the party's DBA runs the kit")
        return False
    if not all(row["readable"] for row in rows):
        yield error("OUTBOX_DENIED", place, "we may not read the change table", "the party's DBA runs the kit again")
        return False
    return True


def _state(conn: Connection, request: OutboxRequest, place: str) -> Iterator[Finding]:
    query = sql.SQL(
        "select m.lost or exists (select from {lost}) as lost,"
        " coalesce((select max(id) from {notes}) - m.pruned, 0)::float8 / m.notes_max as share,"
        " coalesce(extract(epoch from clock_timestamp()"
        "  - (select dicatat from {notes} order by id limit 1)), 0)::float8 as waiting_s from {mark} m"
    ).format(
        lost=sql.Identifier(request.schema, f"{request.name}_lost"),
        notes=sql.Identifier(request.schema, request.name),
        mark=sql.Identifier(request.schema, request.mark),
    )
    fact = conn.execute(query).fetchone()
    if fact is None:
        yield error("OUTBOX_MISSING", place, "the row that says how far is gone", "the party's DBA runs the kit again")
        return
    yield from verdicts.outbox_state(place, lost=fact["lost"], share=fact["share"], waiting_s=fact["waiting_s"])


def _functions(conn: Connection, request: OutboxRequest) -> Iterator[Finding]:
    prune, reopen = f"{request.name}_prune", f"{request.name}_reopen"
    yield from function(conn, (request.schema, prune), "bigint[], bigint, boolean", request.owner, prune_body(request))
    yield from function(conn, (request.schema, reopen), "", request.owner, reopen_body(request))


_TRIGGERS = """
select n.nspname::text as schema, c.relname::text as name, t.tgname::text as trigger,
       t.tgenabled in ('O', 'A') as fires, p.prosrc as body, t.tgtype::int as type,
       p.prosecdef and o.rolname = %(owner)s and not o.rolcanlogin as guarded
  from pg_trigger t
  join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
  join pg_proc p on p.oid = t.tgfoid join pg_roles o on o.oid = p.proowner
 where not t.tgisinternal and starts_with(t.tgname, %(prefix)s)
"""
# pg_trigger.tgtype of an AFTER statement trigger: one bit for each event.
_TYPES = {"i": 4, "d": 8, "u": 16, "t": 32}


def _triggers(conn: Connection, request: OutboxRequest) -> Iterator[Finding]:
    params = {"owner": request.owner, "prefix": f"{request.name}_"}
    there = {(row["schema"], row["name"], row["trigger"]): row for row in conn.execute(_TRIGGERS, params).fetchall()}
    for table in request.tables:
        found = []
        for event, (verb, _, _) in TRANSITIONS.items():
            row = there.pop((table.schema, table.name, request.trigger(table, event)), None)
            state = ""
            if row is None:
                state = "missing"
            elif not row["fires"]:
                state = "disabled"
            elif (
                not row["guarded"] or row["type"] != _TYPES[event] or row["body"] != trigger_body(request, table, event)
            ):
                state = "differs"
            found.append(verdicts.trigger(table.place, verb, state))
        wrong = [finding for finding in found if finding is not None]
        yield from wrong or [ok("TRIGGERS", table.place, "its changes are noted")]
    if there:
        names = ", ".join(sorted({f"{schema}.{name}" for schema, name, _ in there}))
        yield warning(
            "TRIGGER_UNUSED", names, "notes changes although no lineage names it", "remove the kit, and run it again"
        )
