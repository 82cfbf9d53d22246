"""The preflight's questions that only MariaDB and MySQL answer."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pymysql
import sqlalchemy as sa

from connector.capture import verdicts
from connector.capture.finding import Finding, error, ok, warning
from connector.capture.mysql.kit import GRANTED
from connector.capture.outbox.kit_mysql import ROW_EVENTS, limit_name, trigger_body, triggers_name
from connector.capture.outbox.request import OutboxRequest
from connector.capture.polling.questions import Asked, number, text
from connector.capture.postgres.expectations import ExpectedView

# Accounts can be locked, and a trigger replaced in one statement, since then.
MARIADB_MIN, MYSQL_MIN = (10, 4), (8, 0)
Place = tuple[str, str]

# -------------------------------------------------------------------------------------------------- server


def transport(asked: Asked) -> Iterator[Finding]:
    url = asked.url
    cipher = asked.named("show session status like 'Ssl_cipher'").get("Ssl_cipher", "")
    yield verdicts.transport(
        local="unix_socket" in url.query or verdicts.is_local(url.host or ""),
        encrypted=bool(cipher),
        verified="ssl_ca" in url.query and "ssl_verify_identity" in url.query,
        how="?ssl_ca=...&ssl_verify_cert=true&ssl_verify_identity=true",
    )


def server(asked: Asked) -> Iterator[Finding]:
    said = asked.named(
        "show variables where variable_name in ('version', 'read_only', 'character_set_server',"
        " 'system_time_zone', 'log_bin', 'binlog_format')"
    )
    version, mariadb = said["version"], asked.session.is_mariadb
    found = re.match(r"(\d+)\.(\d+)", version)
    number_ = (int(found[1]), int(found[2])) if found else (0, 0)
    if number_ < (MARIADB_MIN if mariadb else MYSQL_MIN):
        oldest = ".".join(map(str, MARIADB_MIN if mariadb else MYSQL_MIN))
        yield error("SERVER_TOO_OLD", "server", f"{version}: older than {oldest}", "upgrade the server")
    elif not mariadb:
        yield warning("SERVER_UNTRIED", "server", f"MySQL {version}: only MariaDB was tried", "tried: MariaDB 10.11")
    else:
        yield ok("SERVER", "server", version)
    if said["read_only"] not in ("OFF", "0") and asked.expected.mode == "outbox":
        yield error("STANDBY", "server", "it is read only: notes cannot be removed", "let the dsn name the primary")
    elif said["read_only"] not in ("OFF", "0"):
        late = "it is read only, perhaps a replica: what it shows is late, and another one may show less"
        yield warning("STANDBY", "server", late, "let the dsn name the primary, or always this same replica")
    if asked.expected.mode == "outbox" and said.get("log_bin") == "ON" and said.get("binlog_format") == "STATEMENT":
        yield warning(
            "BINLOG_STATEMENT",
            "server",
            "binlog_format = STATEMENT: each write that fires a trigger is logged with a warning, and locks more",
            "set global binlog_format = 'MIXED'; and in the server's configuration",
        )
    yield ok("CHARSET", "server", f"character_set_server = {said['character_set_server']}; our session is utf8mb4")
    yield ok("TIME_ZONE", "server", f"our session is pinned to UTC; the host is in {said['system_time_zone']}")


def clock(asked: Asked) -> Iterator[Finding]:
    before = time.time()
    (there,) = asked.one("select unix_timestamp(now(6))")
    yield verdicts.clock(float(text(there)) - (before + time.time()) / 2)


# ---------------------------------------------------------------------------------------------------- role


def role(asked: Asked) -> Iterator[Finding]:
    """What we may do: too little is told where it is needed, too much here."""
    (current,) = asked.texts("select current_user()")[0]
    user, _, host = current.rpartition("@")
    grants = [row[0] for row in asked.texts("show grants")]
    roles = [found[1] for line in grants if (found := re.match(r"GRANT ([`'\"][^ ]+) TO ", line))]
    grantees = (f"'{user}'@'{host}'", "PUBLIC", "''@''", *(name.strip("`'\"") for name in roles))
    wrong = [*_global(asked, current, grantees), *_relations(asked, grantees)]
    wrong += [error("READER_MEMBER", current, f"is member of {name}", f"revoke {name} from it") for name in roles]
    expected = _routines(asked)
    for line in grants:
        found = re.match(r"GRANT .+ ON (?:PROCEDURE|FUNCTION|PACKAGE(?: BODY)?) (.+) TO ", line)
        if found and found[1].replace("`", "") not in expected:
            said = f"our role may run {found[1]}"
            wrong.append(warning("TOO_MUCH_OPEN", current, said, "revoke execute on it from the reader"))
    yield from wrong or [ok("READER", current, "has only what it needs")]


def _routines(asked: Asked) -> tuple[str, ...]:
    request = asked.expected.outbox
    return () if request is None else (f"{request.schema}.{triggers_name(request)}",)


def _in(values: tuple[str, ...]) -> str:
    return ", ".join(["%s"] * len(values))


def _global(asked: Asked, current: str, grantees: tuple[str, ...]) -> Iterator[Finding]:
    rows = asked.texts(
        "select privilege_type, is_grantable from information_schema.user_privileges"
        f" where grantee in ({_in(grantees)}) and (privilege_type <> 'USAGE' or is_grantable = 'YES')",
        grantees,
    )
    # A log is sent to nobody without these; what they reveal is a finding of its own.
    allowed = GRANTED if asked.expected.mode == "stream" else frozenset()
    rows = [row for row in rows if row[0] not in allowed or row[1] == "YES"]
    if rows:
        names = sorted({row[0] for row in rows})
        some = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        yield error(
            "READER_TOO_POWERFUL",
            current,
            f"has rights on the whole server: {some}",
            "name an account of its own in the dsn: the kit makes it",
        )
    for schema, rights in asked.texts(
        "select table_schema, group_concat(privilege_type) from information_schema.schema_privileges"
        f" where grantee in ({_in(grantees)}) group by table_schema",
        grantees,
    ):
        yield error(
            "BASE_TABLE_OPEN",
            f"{schema}.*",
            f"our role has {rights} on all of it; it should see views only",
            f"revoke all privileges on {schema}.* from the reader",
        )


def _relations(asked: Asked, grantees: tuple[str, ...]) -> Iterator[Finding]:
    wanted = _wanted(asked)
    have: dict[Place, set[str]] = {}
    for catalogue in ("table_privileges", "column_privileges"):
        rows = asked.texts(
            f"select table_schema, table_name, privilege_type, is_grantable from information_schema.{catalogue}"
            f" where grantee in ({_in(grantees)})",
            grantees,
        )
        for schema, name, right, grantable in rows:
            have.setdefault((schema, name), set()).add(right)
            if grantable == "YES":
                yield error("READER_GRANTS", f"{schema}.{name}", "our role may pass its right on",
                            "revoke grant option on it from the reader")  # fmt: skip
    tables = {
        (schema, name)
        for schema, name in asked.texts(
            "select table_schema, table_name from information_schema.tables where table_type = 'BASE TABLE'"
        )
    }
    for place, rights in sorted(have.items()):
        extra = ", ".join(sorted(rights - wanted.get(place, set())))
        subject = ".".join(place)
        if not extra:
            continue
        remedy = f"revoke {extra} on {subject} from the reader"
        if place in wanted:
            yield error("READER_WRITES", subject, f"our role has {extra} on it", remedy)
        elif place in tables:
            yield error(
                "BASE_TABLE_OPEN", subject, f"our role has {extra} on this base table; it should see views only", remedy
            )
        else:
            yield warning("TOO_MUCH_OPEN", subject, f"our role has {extra} on it; the mapping does not name it", remedy)
    for place, rights in wanted.items():
        lacks = ", ".join(sorted(rights - have.get(place, set())))
        if lacks == "SHOW VIEW":
            yield warning(
                "VIEW_TEXT_HIDDEN",
                ".".join(place),
                "we cannot see its text: a changed filter is noticed by the scheduled compare only",
                f"grant show view on {'.'.join(place)} to the reader",
            )
        if lacks and asked.expected.outbox is not None and place[1].startswith(asked.expected.outbox.name):
            yield error(
                "OUTBOX_DENIED", ".".join(place), f"our role lacks {lacks}", "the party's DBA runs the kit again"
            )


def _wanted(asked: Asked) -> dict[Place, set[str]]:
    wanted = {(view.schema, view.name): {"SELECT", "SHOW VIEW"} for view in asked.expected.views}
    request = asked.expected.outbox
    if request is not None:
        wanted[request.schema, request.name] = {"SELECT", "DELETE"}
        wanted[request.schema, request.mark] = {"SELECT", "UPDATE"}
        if asked.session.is_mariadb:
            wanted[request.schema, limit_name(request)] = {"SELECT", "INSERT"}
    return wanted


# -------------------------------------------------------------------------------------------------- outbox


def outbox(asked: Asked) -> Iterator[Finding]:
    request = asked.expected.outbox
    if request is None:
        return
    place = f"{request.schema}.{request.name}"
    if not all(asked.session.columns(request.schema, name).types for name in (request.name, request.mark)):
        yield error(
            "OUTBOX_MISSING", place, "there is no change table that we may read", "the party's DBA runs the kit"
        )
        return
    yield from _state(asked, request, place)
    yield from _triggers(asked, request, place)


def _state(asked: Asked, request: OutboxRequest, place: str) -> Iterator[Finding]:
    notes, mark = asked.quote(request.schema, request.name), asked.quote(request.schema, request.mark)
    lost, share, waiting = asked.one(
        f"select m.lost, (coalesce((select max(id) from {notes}), m.pruned) - m.pruned) / m.notes_max,"
        f" coalesce(timestampdiff(second, (select dicatat from {notes} order by id limit 1), now()), 0) from {mark} m"
    )
    full = number(lost) > 0
    if asked.session.is_mariadb:
        (gone,) = asked.one(
            "select (select auto_increment from information_schema.tables where table_schema = %s and table_name = %s)"
            f" > (select next_not_cached_value from {asked.quote(request.schema, limit_name(request))})",
            (request.schema, request.name),
        )
        full = full or number(gone) > 0
    else:
        yield warning(
            "NOTES_UNBOUNDED",
            place,
            "MySQL has no sequences: notes have no limit while we are away",
            "watch the size of the change table",
        )
    yield from verdicts.outbox_state(place, lost=full, share=float(text(share)), waiting_s=float(text(waiting)))


def _triggers(asked: Asked, request: OutboxRequest, place: str) -> Iterator[Finding]:
    try:
        rows = asked.texts(f"call {asked.quote(request.schema, triggers_name(request))}()")
    except pymysql.err.MySQLError as exc:
        yield _unseen(request, place, exc.args[0] if exc.args else 0)
        return
    there = {(schema, trigger): (table, body) for schema, table, trigger, _, _, body in rows}
    for table in request.tables:
        wrong = []
        for event, (verb, _) in ROW_EVENTS.items():
            found = there.pop((table.schema, request.trigger(table, event)), None)
            state = ""
            if found is None:
                state = "missing"
            elif found != (table.name, trigger_body(request, table, event)):
                state = "differs"
            finding = verdicts.trigger(table.place, verb, state)
            wrong += [finding] if finding is not None else []
        yield from wrong or [ok("TRIGGERS", table.place, "its changes are noted")]
    if there:
        names = ", ".join(sorted({f"{schema}.{table}" for (schema, _), (table, _) in there.items()}))
        yield warning(
            "TRIGGER_UNUSED", names, "notes changes although no lineage names it", "remove the kit, and run it again"
        )


def _unseen(request: OutboxRequest, place: str, code: int) -> Finding:
    """Why the kit's triggers cannot be looked at. 1449: their definer is gone."""
    if code == 1449:
        return error(
            "OWNER_MISSING",
            request.owner,
            "the account that the triggers run as is gone: the party's own writes fail",
            "now: the party's DBA runs the kit again, or removes it",
        )
    return error(
        "TRIGGERS_UNSEEN",
        place,
        f"we cannot see whether the triggers are there ({code})",
        "the party's DBA runs the kit",
    )


# ---------------------------------------------------------------------------------------------------- views


class _Views:
    def view(self, asked: Asked, view: ExpectedView, types: Mapping[str, str]) -> Iterator[Finding]:
        place = (view.schema, view.name)
        kind = asked.texts(
            "select table_type from information_schema.tables where table_schema = %s and table_name = %s", place
        )
        if kind and kind[0][0] != "VIEW":
            yield error(
                "NOT_A_VIEW",
                view.place,
                "is a table: the reader may read views only",
                f"create view ... as select ... from {view.place}; and map that",
            )
        security = asked.texts(
            "select security_type from information_schema.views where table_schema = %s and table_name = %s", place
        )
        if security and security[0][0] == "INVOKER":
            yield error(
                "SECURITY_INVOKER",
                view.place,
                "is a SQL SECURITY INVOKER view: the reader would need the base tables themselves",
                "create or replace sql security definer view ... as ...",
            )
        approximate = [column for column in view.key if re.match(r"(float|double)", types.get(column, ""))]
        if approximate:
            yield error(
                "KEY_APPROXIMATE",
                view.place,
                f"key column {', '.join(approximate)} is an approximate number: it does not compare equal to itself",
                "show it as text or as a whole number",
            )

    def as_bytes(self, column: str) -> str:
        return f"binary {column}"

    def cost(self, asked: Asked, view: ExpectedView, statement: sa.Select[Any]) -> str | None:  # noqa: ARG002
        """Run it and count: EXPLAIN of a view is for those who may read its base tables."""
        before = self._rows_read(asked)
        for _ in asked.session.rows(statement):
            pass
        read = self._rows_read(asked) - before
        return f"{read} rows" if read > verdicts.SCAN_WARN_ROWS else None

    def _rows_read(self, asked: Asked) -> int:
        rows = asked.texts("show session status like 'Handler_read%%'")  # the driver formats
        return sum(int(count) for _, count in rows)

    def rises(self, kind: str) -> bool:
        return re.match(r"(tinyint|smallint|mediumint|int|bigint|decimal|float|double|datetime|timestamp|char|varchar|"
                        r"text|binary|varbinary)\b", kind) is not None  # fmt: skip


VIEWS = _Views()
QUESTIONS = (transport, server, clock, role, outbox)
