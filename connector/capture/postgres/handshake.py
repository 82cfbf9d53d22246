"""From a dsn to a running stream: connect to the walsender, refuse a bad start, START_REPLICATION.

It reads nothing of the stream itself. Errors are chosen by SQLSTATE and by facts from the catalogue, never by a
message's text.
"""

from __future__ import annotations

import re
import select
import time
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.pq.abc import PGconn, PGresult

from connector import pg
from connector.capture.postgres.protocol import lsn_int, lsn_text
from connector.capture.postgres.slot import SlotState, start_position
from connector.errors import (
    ConfigError,
    ConnectorError,
    PositionLost,
    SourceMisconfigured,
    SourceProtocolError,
    SourceUnavailable,
)
from connector.events import Position, SourceIdentity

CONNECT_S_MAX: Final = 10
PING_S_MAX: Final = 3

ANSWER_S_MAX: Final = 60.0
"""For one command before the stream; a server under load needs seconds to restore a slot's snapshot."""


@dataclass(frozen=True, slots=True)
class StreamSlot:
    """What to follow, and as whom: `application` shows in the party's pg_stat_replication."""

    dsn: str = field(repr=False)
    name: str
    publication: str
    application: str = "sipol_connector"


@dataclass(frozen=True, slots=True)
class StreamFacts:
    """What the server said just before the stream started, and the position it starts after."""

    state: SlotState
    start: Position
    sender_timeout_s: float


def begin(
    slot: StreamSlot, stored: Position | None, identity: SourceIdentity | None, *, messages: bool
) -> tuple[psycopg.Connection, StreamFacts]:
    """Start the stream; `ReplicationConnection.connect` states the contract."""
    if not re.fullmatch(r"[a-z0-9_]{1,63}", slot.name):
        raise ConfigError(f"no slot can be named {slot.name!r}", hint="a to z, digits and underscores, at most 63")
    conn = _open(slot)
    try:
        facts = _look(conn.pgconn, slot, stored, identity)
        refused = _start(conn.pgconn, slot, facts.start, messages=messages)
        if refused is not None:
            # One SQLSTATE stands for several reasons here. If the slot has gone or was taken or invalidated
            # since it was looked at, a second look says so.
            _look(conn.pgconn, slot, stored, identity)
            raise refusal(refused, "starting the stream")
    except BaseException:
        conn.close()
        raise
    return conn, facts


def _open(slot: StreamSlot) -> psycopg.Connection:
    try:
        return psycopg.connect(
            slot.dsn,
            replication="database",
            autocommit=True,
            application_name=slot.application,
            connect_timeout=CONNECT_S_MAX,
            keepalives=1,
            keepalives_idle=30,
            keepalives_interval=10,
            keepalives_count=3,
            tcp_user_timeout=60_000,
        )
    except psycopg.Error as error:
        state = error.sqlstate
    raise SourceUnavailable(f"no replication connection ({state or 'refused'})", hint=_why_refused(slot.dsn))


def _why_refused(dsn: str) -> str:
    """What to look at. libpq gives a refused login no SQLSTATE, and its text is not ours to match: ask the server."""
    try:
        answer = pq.PGconn.ping(make_conninfo(dsn, connect_timeout=PING_S_MAX).encode())
    except psycopg.Error:
        return "the dsn cannot be read"
    match answer:
        case pq.Ping.OK:
            return (
                "the server is up and refuses this login: check the password, the role's REPLICATION attribute, "
                "that pg_hba.conf lets it into this database, and max_wal_senders"
            )
        case pq.Ping.REJECT:
            return "the server is starting up or shutting down; will connect again"
        case pq.Ping.NO_RESPONSE:
            return "no server answers at this address"
        case _:
            return "the dsn cannot be used"


# -- questions ----------------------------------------------------------------------------------------

_LOOK: Final = """
select (s.slot_name is not null)::text as present,
       (s.slot_type = 'logical' and s.plugin = 'pgoutput' and s.database = current_database())::text as fits,
       coalesce(s.active, false)::text as active,
       coalesce(s.confirmed_flush_lsn, '0/0') as confirmed,
       coalesce(s.restart_lsn, '0/0') as restart,
       coalesce(s.wal_status, 'lost') as wal_status,
       (select setting from pg_catalog.pg_settings where name = 'wal_sender_timeout') as sender_timeout_ms,
       (select setting from pg_catalog.pg_settings where name = 'synchronous_standby_names') as standbys,
       exists (select from pg_catalog.pg_publication where pubname = {publication})::text as published
  from (values (1)) as one
  left join pg_catalog.pg_replication_slots s on s.slot_name = {slot}
"""

# A database of encoding SQL_ASCII has keys that are no UTF-8: it would break the stream off rather than send them so.
_ENCODING: Final = (
    "set_config('client_encoding', case getdatabaseencoding() when 'SQL_ASCII' then 'SQL_ASCII' else 'UTF8' end, false)"
)

_Row: TypeAlias = "dict[str, str]"


def _look(pgconn: PGconn, slot: StreamSlot, stored: Position | None, identity: SourceIdentity | None) -> StreamFacts:
    """Pin the session, then read what must hold before a stream may start, and judge it."""

    def quoted(value: str) -> str:
        return pq.Escaping(pgconn).escape_literal(value.encode()).decode()

    # All in one statement: an idle_session_timeout of a millisecond cannot slip in between.
    pins = {**pg.PINS, "statement_timeout": "0", "lock_timeout": "0"}
    words = ", ".join(f"set_config({quoted(name)}, {quoted(value)}, false)" for name, value in pins.items())
    _ask(pgconn, f"select {words}, {_ENCODING}", "setting the session up")
    look = _LOOK.format(slot=quoted(slot.name), publication=quoted(slot.publication))
    row = _ask(pgconn, "IDENTIFY_SYSTEM", "identifying the system") | _ask(pgconn, look, "looking at the slot")
    try:
        state = _slot_state(row, slot.name)
        timeout_s = int(row["sender_timeout_ms"]) / 1000
        _judge(row, slot)
    except (KeyError, ValueError) as exc:
        raise SourceProtocolError("the server describes itself in no known form", hint="is it PostgreSQL?") from exc
    start = start_position(state, slot.name, stored, identity)
    assert state is not None, "start_position refuses a missing slot"
    return StreamFacts(state, start, timeout_s)


def _slot_state(row: _Row, slot: str) -> SlotState | None:
    if row["present"] != "true":
        return None
    return SlotState(
        identity=SourceIdentity(row["systemid"], int(row["timeline"]), slot),
        confirmed=lsn_int(row["confirmed"]),
        restart=lsn_int(row["restart"]),
        current=lsn_int(row["xlogpos"]),
        wal_status=row["wal_status"],
        active=row["active"] == "true",
    )


def _judge(row: _Row, slot: StreamSlot) -> None:
    """Refuse a start that could not work, or that would do the party harm."""
    if row["present"] == "true" and row["fits"] != "true":
        raise SourceMisconfigured(
            f"replication slot {slot.name} is not a pgoutput slot of this database",
            hint="drop it, run the kit's SQL in the right database, then `connector resync PARTY`",
        )
    if row["active"] == "true":
        raise SourceUnavailable(
            f"replication slot {slot.name} is in use by another session",
            hint="a second daemon follows this party, or the server has not noticed yet that our last connection "
            "ended: pg_stat_replication shows who",
        )
    if row["published"] != "true":
        raise unpublished(slot.publication)
    if would_be_standby(row["standbys"], slot.application):
        raise SourceMisconfigured(
            f"synchronous_standby_names takes {slot.application} for a standby: the party's commits would wait for us",
            hint="the DBA names the real standbys there instead of `*`",
        )


def would_be_standby(names: str, application: str) -> bool:
    """Whether this value of synchronous_standby_names takes our walsender for a synchronous standby."""
    words = re.findall(r'"(?:[^"]|"")*"|[^\s,()"]+', names)
    return any(word.strip('"').lower() in ("*", application.lower()) for word in words)


def _start(pgconn: PGconn, slot: StreamSlot, start: Position, *, messages: bool) -> str | None:
    """Send START_REPLICATION; None once the stream runs, else the SQLSTATE it was refused with."""
    options = f"proto_version '1', publication_names {_literal(_identifier(slot.publication))}"
    if messages:
        options += ", messages 'true'"
    command = f"START_REPLICATION SLOT {_identifier(slot.name)} LOGICAL {lsn_text(start.ordinal)} ({options})"
    try:
        pgconn.send_query(command.encode())
        answer = result(pgconn)
        if answer is not None and answer.status == pq.ExecStatus.COPY_BOTH:
            return None
        while result(pgconn) is not None:
            pass
    except psycopg.Error as error:
        raise refusal(error.sqlstate, "starting the stream") from None
    return (sqlstate(answer) if answer is not None else None) or "no SQLSTATE"


def _identifier(name: str) -> str:
    """Quote for the replication grammar, which knows no escape but the doubled quote."""
    assert "\0" not in name
    return '"' + name.replace('"', '""') + '"'


def _literal(value: str) -> str:
    assert "\0" not in value
    return "'" + value.replace("'", "''") + "'"


# -- answers ------------------------------------------------------------------------------------------


def _ask(pgconn: PGconn, command: str, doing: str) -> _Row:
    """Run a command of the simple protocol, all that a walsender takes; gives its single row by column name."""
    row: _Row = {}
    try:
        pgconn.send_query(command.encode())
        while (answer := result(pgconn)) is not None:
            if answer.status == pq.ExecStatus.FATAL_ERROR:
                raise refusal(sqlstate(answer), doing)
            if answer.ntuples == 1:
                row = {_ascii(answer.fname(at)): _ascii(answer.get_value(0, at)) for at in range(answer.nfields)}
    except psycopg.Error as error:
        raise refusal(error.sqlstate, doing) from None
    return row


def _ascii(value: bytes | None) -> str:
    return (value or b"").decode("ascii", "replace")


def result(pgconn: PGconn) -> PGresult | None:
    """Wait for the next result of a command, never longer than `ANSWER_S_MAX`.

    Raises:
        SourceUnavailable: no answer in that time.
        psycopg.Error: the connection is gone.
    """
    deadline = time.monotonic() + ANSWER_S_MAX
    poller = select.poll()
    poller.register(pgconn.socket, select.POLLIN)
    while pgconn.is_busy():
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise SourceUnavailable("the server does not answer", hint="it is overloaded or hangs; will connect again")
        poller.poll(left_s * 1000)
        pgconn.consume_input()
    return pgconn.get_result()


def sqlstate(answer: PGresult) -> str | None:
    state = answer.error_field(pq.DiagnosticField.SQLSTATE)
    return state.decode("ascii", "replace") if state else None


# Connection lost, resources, operator, system, internal: another try can end well.
_PASSING: Final = ("08", "25", "28", "3D", "40", "53", "55", "57", "58", "XX", "no")


def refusal(state: str | None, doing: str) -> ConnectorError:
    """The class for an SQLSTATE outside the stream. The server's own words stay out: they can hold values."""
    if state is None or state.startswith(_PASSING):
        return SourceUnavailable(
            f"{doing}: connection lost or refused ({state or 'no answer'})", hint="the party's server log says more"
        )
    if state == "42501":
        return SourceMisconfigured(f"{doing}: permission denied", hint="the login needs the REPLICATION attribute")
    return SourceProtocolError(f"{doing}: the server refused ({state})", hint="the party's server log says more")


def ended(state: str | None, slot: str) -> ConnectorError:
    """The class for an SQLSTATE that ended a running stream."""
    if state == "58P01":
        return PositionLost(
            "slot_lost",
            f"the server has removed log that replication slot {slot} still needed",
            hint="make the slot anew (kit --remove, kit), then `connector resync PARTY`",
        )
    if state == "42704":
        return unpublished("of this stream")
    return refusal(state, "streaming")


def unpublished(publication: str) -> SourceMisconfigured:
    return SourceMisconfigured(
        f"publication {publication} does not exist",
        hint="run the kit's SQL again; if this stays, the slot is older than the publication: make it anew, resync",
    )
