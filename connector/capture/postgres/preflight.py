"""Looks at a party's PostgreSQL from our side and tells everything at once, each finding with its remedy.

It changes nothing: the session is read only, each question has a time limit, and the only thing it ever takes is the
slot for one empty peek. What it reads of rows are counts; what it says are names and numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import cast

import psycopg
from psycopg.rows import DictRow, dict_row

from connector import pg
from connector.capture import verdicts
from connector.capture.finding import Finding, error, ok, warning
from connector.capture.polling.reader import POSTGRES_MIN
from connector.capture.postgres.expectations import (
    MEGABYTE,
    WANTED,
    WANTED_VIEWS,
    Expectations,
    allowed_params,
    wanted_params,
)
from connector.capture.postgres.kit_request import POWERFUL_ROLES, REPLICATION_MINOR_MIN
from connector.capture.postgres.preflight_log import functions, peek, publication, slot, tables, transactions
from connector.capture.postgres.preflight_outbox import outbox
from connector.capture.postgres.preflight_views import followed, views
from connector.capture.postgres.questions import Connection, failed, one, rendered
from connector.errors import SourceUnavailable

# Run as this role they would reach files of the server.
DANGEROUS_FUNCTIONS = ("pg_read_file(text)", "pg_read_binary_file(text)", "pg_ls_dir(text)", "lo_export(oid,text)")


Question = Callable[[Connection, Expectations], Iterator[Finding]]


def examine(dsn: str, expected: Expectations) -> tuple[Finding, ...]:
    """Ask everything, and answer in one pass; a question that fails is a finding, not an exception."""
    try:
        opened = pg.connect(
            dsn,
            application="sipol-connector check",
            statement_timeout_s=expected.statement_timeout_s,
            lock_timeout_s=expected.statement_timeout_s,
        )
    except SourceUnavailable as exc:
        return (error("UNREACHABLE", "server", exc.message, exc.hint),)
    with opened:
        conn = cast(Connection, opened)
        conn.row_factory = dict_row
        conn.read_only = True
        conn.execute("set jit = off")  # compiling a catalogue query takes longer than it does
        return tuple(_examine(conn, expected))


def _examine(conn: Connection, expected: Expectations) -> Iterator[Finding]:
    for question in LOG_QUESTIONS if expected.reads_log else POLL_QUESTIONS:
        try:
            yield from question(conn, expected)
        except psycopg.Error as exc:
            yield failed(question.__name__.strip("_"), exc)
            if conn.closed:
                return


# ------------------------------------------------------------------------------------------------- server


_SERVER = """
select current_setting('server_version_num')::int as version, current_setting('server_version') as version_text,
       pg_is_in_recovery() as standby, current_setting('wal_level') as wal_level,
       current_setting('max_replication_slots')::int as slots_max,
       (select count(*) from pg_replication_slots) as slots,
       current_setting('max_wal_senders')::int as senders_max,
       (select setting::bigint from pg_settings where name = 'max_slot_wal_keep_size') as keep_mb,
       current_setting('server_encoding') as encoding,
       coalesce(current_setting('idle_replication_slot_timeout', true), '0') as idle_timeout,
       exists (select from pg_replication_slots where slot_name = %(slot)s) as has_slot
"""


def _server(conn: Connection, expected: Expectations) -> Iterator[Finding]:
    fact = one(conn, _SERVER, {"slot": expected.slot})
    version, text = fact["version"], fact["version_text"]
    if version < 150000:
        yield error(
            "SERVER_TOO_OLD",
            "server",
            f"PostgreSQL {text}: column lists came with 15",
            "upgrade; or `capture: outbox`, whose triggers need no column list; or a relay of 15 or newer",
        )
    else:
        yield _tried(version, text)
    if fact["standby"]:
        yield error("STANDBY", "server", "this is a standby", "let the dsn name the primary")
    if fact["wal_level"] == "logical":
        yield ok("WAL_LEVEL", "server", "wal_level = logical")
    else:
        yield error(
            "WAL_LEVEL",
            "server",
            f"wal_level = {fact['wal_level']}: the log does not say which rows change",
            "alter system set wal_level = 'logical'; then restart the server (a reload is not enough)",
        )
    yield from _slot_room(fact)
    yield from _wal_limit(fact, expected)
    yield _charset(fact["encoding"])
    if expected.mode == "stream":
        yield from _stream_server(fact)


def _tried(version: int, text: str) -> Finding:
    if version >= 190000:
        return warning("SERVER_UNTRIED", "server", f"PostgreSQL {text} is newer than any we tried", "tried: 15 to 18")
    if version < 150000:
        return warning("SERVER_UNTRIED", "server", f"PostgreSQL {text} is older than any we tried", "tried: 15 to 18")
    return ok("SERVER", "server", f"PostgreSQL {text}")


def _charset(encoding: str) -> Finding:
    if encoding == "SQL_ASCII":
        return warning(
            "SQL_ASCII",
            "server",
            "server_encoding = SQL_ASCII: text may be in any encoding",
            "rows that are not UTF-8 go to quarantine; convert the database when there are many",
        )
    return ok("CHARSET", "server", f"server_encoding = {encoding}")


_POLLED_SERVER = """
select current_setting('server_version_num')::int as version, current_setting('server_version') as version_text,
       pg_is_in_recovery() as standby, current_setting('server_encoding') as encoding
"""


def _polled_server(conn: Connection, expected: Expectations) -> Iterator[Finding]:
    """What matters of a server whose log is not read."""
    fact = one(conn, _POLLED_SERVER)
    if fact["version"] < POSTGRES_MIN:
        said = f"PostgreSQL {fact['version_text']}: older than our questions"
        yield error("SERVER_TOO_OLD", "server", said, "upgrade the server")
    else:
        yield _tried(fact["version"], fact["version_text"])
    if fact["standby"] and expected.mode == "outbox":
        yield error("STANDBY", "server", "this is a standby: notes cannot be removed", "let the dsn name the primary")
    elif fact["standby"]:
        said = "this is a standby: what it shows is late, and another one may show less"
        yield warning("STANDBY", "server", said, "let the dsn name the primary, or always this same standby")
    yield _charset(fact["encoding"])


def _clock(conn: Connection, _: Expectations) -> Iterator[Finding]:
    asked = time.time()
    there = float(one(conn, "select extract(epoch from clock_timestamp())::float8 as now")["now"])
    yield verdicts.clock(there - (asked + time.time()) / 2)
    zone = one(conn, "select reset_val as zone from pg_settings where name = 'TimeZone'")["zone"]
    yield ok("TIME_ZONE", "server", f"its sessions are in {zone}, ours are pinned to UTC")


def _slot_room(fact: DictRow) -> Iterator[Finding]:
    if fact["has_slot"] or fact["slots"] < fact["slots_max"]:
        yield ok("SLOT_ROOM", "server", f"{fact['slots']} of {fact['slots_max']} replication slots taken")
        return
    yield error(
        "NO_FREE_SLOT",
        "server",
        f"all {fact['slots_max']} replication slots are taken",
        "alter system set max_replication_slots = ...; then restart, or drop a slot that nobody uses",
    )


def _wal_limit(fact: DictRow, expected: Expectations) -> Iterator[Finding]:
    drop_mb, keep_mb = expected.lag_drop_bytes // MEGABYTE, fact["keep_mb"]
    if keep_mb < 0:
        yield warning(
            "NO_WAL_LIMIT",
            "server",
            "max_slot_wal_keep_size = -1: if both we and our guard stay away, the disk fills",
            f"alter system set max_slot_wal_keep_size = '{2 * drop_mb}MB'; select pg_reload_conf();",
        )
    elif keep_mb < drop_mb:
        yield warning(
            "WAL_LIMIT_LOW",
            "server",
            f"max_slot_wal_keep_size = {keep_mb} MB, and our own limit is {drop_mb} MB",
            f"raise it above {drop_mb} MB, or set `lag_drop_mb` below it: we should act before the server does",
        )
    else:
        yield ok("WAL_LIMIT", "server", f"max_slot_wal_keep_size = {keep_mb} MB")
    if fact["idle_timeout"] != "0":
        yield warning(
            "IDLE_SLOT_TIMEOUT",
            "server",
            f"idle_replication_slot_timeout = {fact['idle_timeout']}",
            "after that long without us the slot is lost and a whole copy is needed: make it days",
        )


def _stream_server(fact: DictRow) -> Iterator[Finding]:
    major, minor = divmod(fact["version"], 10000)
    if minor < REPLICATION_MINOR_MIN.get(major, 0):
        yield error(
            "CVE_2026_6471",
            "server",
            "a login with REPLICATION can load any library on this minor version",
            f"update to {major}.{REPLICATION_MINOR_MIN[major]} or newer, or use mode pull",
        )
    if fact["senders_max"] < 1:
        yield error("NO_WAL_SENDERS", "server", "max_wal_senders = 0", "alter system set max_wal_senders = 10; restart")


_RELAY = """
select (select count(*) from pg_database where datname <> current_database() and datname <> 'postgres'
                                           and not datistemplate) as databases,
       (select count(*) from pg_publication where pubname <> %(publication)s) as publications
"""


def _relay(conn: Connection, expected: Expectations) -> Iterator[Finding]:
    """What else a REPLICATION login can see on this cluster."""
    if expected.mode != "stream":
        return
    fact = one(conn, _RELAY, {"publication": expected.publication})
    if fact["databases"] or fact["publications"]:
        yield warning(
            "NOT_A_RELAY",
            "server",
            f"{fact['databases']} other databases and {fact['publications']} other publications are open to us",
            "use mode pull, or a relay cluster that holds the shared tables only",
        )
    else:
        yield ok("RELAY", "server", "nothing else is on this cluster")


def _transport(conn: Connection, _: Expectations) -> Iterator[Finding]:
    old = pg.libpq_too_old()
    if old:
        yield warning("LIBPQ_OLD", "connector", old, "install a newer psycopg-binary or libpq")
    yield verdicts.transport(
        local=verdicts.is_local(conn.info.host, conn.info.hostaddr),
        encrypted=bool(conn.pgconn.ssl_in_use),
        verified=conn.info.get_parameters().get("sslmode") == "verify-full",
        how="sslmode=verify-full and sslrootcert=... (and `hostssl` into the party's pg_hba.conf)",
    )


# ------------------------------------------------------------------------------------------------- role


_ROLE = """
select quote_ident(r.rolname) as name, r.rolsuper as super, r.rolreplication as replication,
       r.rolbypassrls or r.rolcreaterole or r.rolcreatedb as powerful,
       array(select p.rolname::text from pg_roles p
              where p.rolname = any (%(powerful)s) and pg_has_role(r.oid, p.oid, 'member') order by 1) as member_of,
       array(select f from unnest(%(functions)s::text[]) f
              where to_regprocedure(f) is not null
                and has_function_privilege(r.oid, to_regprocedure(f), 'execute')) as dangerous
  from pg_roles r where r.rolname = current_user
"""


def _role(conn: Connection, expected: Expectations) -> Iterator[Finding]:
    fact = one(conn, _ROLE, {"powerful": list(POWERFUL_ROLES), "functions": list(DANGEROUS_FUNCTIONS)})
    name, before = fact["name"], "name a role of its own in the dsn: the kit makes it"
    if fact["super"]:
        yield error("READER_SUPERUSER", name, "we log in as superuser: we could read and change everything", before)
        return
    bad = False
    if fact["powerful"]:
        bad = True
        yield error("READER_TOO_POWERFUL", name, "has BYPASSRLS, CREATEROLE or CREATEDB", before)
    if fact["replication"] and expected.mode != "stream":
        bad = True
        yield error(
            "READER_REPLICATION",
            name,
            "has REPLICATION: it could copy the whole cluster",
            f"alter role {name} noreplication;",
        )
    if not fact["replication"] and expected.mode == "stream":
        bad = True
        yield error(
            "READER_NO_REPLICATION",
            name,
            "has no REPLICATION, which mode stream needs",
            "run `connector kit --mode stream`",
        )
    for group in fact["member_of"]:
        bad = True
        yield error("READER_MEMBER", name, f"is member of {group}", f"revoke {group} from {name};")
    for function in fact["dangerous"]:
        bad = True
        yield error(
            "READER_FUNCTION",
            name,
            f"may run {function}",
            f"revoke execute on function {function} from {name}, public;",
        )
    if not bad:
        yield ok("READER", name, "has only what it needs")


# Catalogues and the views themselves apart, the reader should see nothing. Temporary objects are its own.
_REACH = """
with wanted as ({wanted}), wanted_view as ({views})
select format('%I.%I', n.nspname, c.relname) as place,
       exists (select from wanted w where w.schema_name = n.nspname and w.table_name = c.relname) as base
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind in ('r', 'p', 'v', 'm', 'f') and n.nspname not in ('pg_catalog', 'information_schema')
   and c.relpersistence <> 't' and n.nspname !~ '^pg_toast'
   and has_schema_privilege(n.oid, 'usage')
   and (has_any_column_privilege(c.oid, 'select, insert, update') or has_table_privilege(c.oid, 'delete, truncate'))
   and not exists (select from wanted_view v where v.schema_name = n.nspname and v.view_name = c.relname)
 order by 2 desc, 1
"""


_WRITES = f"""
with wanted_view as ({WANTED_VIEWS})
select format('%I.%I', n.nspname, c.relname) as place
  from wanted_view v join pg_namespace n on n.nspname = v.schema_name
  join pg_class c on c.relnamespace = n.oid and c.relname = v.view_name and c.relkind in ('r', 'p', 'v', 'm', 'f')
 where has_any_column_privilege(c.oid, 'insert, update') or has_table_privilege(c.oid, 'delete, truncate')
 order by 1
"""


def _reach(conn: Connection, expected: Expectations) -> Iterator[Finding]:
    if one(conn, "select rolsuper as super from pg_roles where rolname = current_user")["super"]:
        return
    query = _REACH.replace("{wanted}", WANTED).replace("{views}", WANTED_VIEWS)
    rows = conn.execute(rendered(query), allowed_params(expected)).fetchall()
    others = [row["place"] for row in rows if not row["base"]]
    for row in rows:
        if row["base"]:
            yield error(
                "BASE_TABLE_OPEN",
                row["place"],
                "our role may read or write this base table; it should see views only",
                f"revoke all on {row['place']} from our role and from public;",
            )
    if others:
        yield warning(
            "TOO_MUCH_OPEN",
            ", ".join(others[:5]) + (", ..." if len(others) > 5 else ""),
            f"our role may use {len(others)} relations that the mapping does not name",
            "revoke all on them from our role and from public",
        )
    written = [row["place"] for row in conn.execute(rendered(_WRITES), wanted_params(expected)).fetchall()]
    for place in written:
        remedy = f"revoke insert, update, delete, truncate on {place} from our role and from public;"
        yield error("READER_WRITES", place, "our role may write through this view", remedy)
    if not rows and not written:
        yield ok("REACH", "role", "sees the mapped views and nothing else")


LOG_QUESTIONS: tuple[Question, ...] = (
    _transport,
    _server,
    _clock,
    _relay,
    _role,
    _reach,
    slot,
    transactions,
    functions,
    tables,
    publication,
    peek,
    views,
)
POLL_QUESTIONS: tuple[Question, ...] = (_transport, _polled_server, _clock, _role, _reach, outbox, views, followed)
