"""A PostgreSQL session pinned so that text means one thing, with its errors translated by SQLSTATE.

Both ends use it: a party's server (hostile, read only) and staging. A driver's own message never
leaves this module: it may carry cell values.
"""

from __future__ import annotations

import math
import select
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql
from psycopg.pq import ExecStatus, TransactionStatus

from connector.errors import ConnectorError, EntityHeld, SourceBusy, SourceProtocolError, SourceUnavailable

# What a role's or database's settings must not change under us: dates, zones and number texts come out
# the same whatever the party's DBA set (a walsender with another DateStyle has turned dates around).
PINS = {
    "datestyle": "ISO, YMD",
    "timezone": "UTC",
    "intervalstyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "3",
    "client_encoding": "UTF8",
    "row_security": "off",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "search_path": "pg_catalog",
    "client_min_messages": "error",
    # Compiling a statement took ten times as long as running it, for catalogue queries and batches alike.
    "jit": "off",
    # A peer that lost power must not hold locks and snapshots for the two hours of the kernel's default.
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}

# libpq before these can be overrun by a hostile server through large-object calls (CVE-2026-6477). We make none;
# a library of ours might.
LIBPQ_MIN = {18: 180004, 17: 170010, 16: 160014, 15: 150018}

# How long a server may take to end a COPY that was given up, before its session is ended instead.
ABANDON_S = 10.0
# Rows are handed on in groups of about this size.
COPY_GROUP_BYTES = 262_144

HELD = {
    "42501": ("permission_denied", "grant the reader SELECT on the view (and USAGE on its schema) again"),
    "42P01": ("view_missing", "the view is gone: create it again, or change the mapping"),
    "3F000": ("view_missing", "the view's schema is gone"),
    "42703": ("view_changed", "a mapped column is no longer in the view: put it back, or change the mapping"),
    "42804": ("view_changed", "a column of the view has another type now"),
    "42846": ("view_changed", "a column of the view has another type now"),
    "42883": ("view_changed", "a column of the view has another type now"),
    "22P02": (
        "view_changed",
        "the key's type does not take the keys that the log carries, or the view casts a text that is no such value",
    ),
}
# An error that the view itself raises for some row: a division by zero, a cast, a function that refuses.
FAILS_CLASSES, FAILS_STATES = ("22", "23", "38", "39"), frozenset({"P0001", "21000", "54001"})
FAILS = ("view_failed", "reading the view raises an error for some row: mend the row or the view")

BUSY = frozenset({"57014", "55P03", "40001", "40P01", "53200", "53100", "53000", "58030"})
GONE = frozenset({"57P01", "57P02", "57P03", "57P05", "53300", "25P03", "25P04", "3D000"})


def connect(
    dsn: str, *, application: str, statement_timeout_s: float = 0, lock_timeout_s: float = 0
) -> psycopg.Connection:
    """Open an autocommit session with every pin set.

    Raises:
        SourceUnavailable: no connection; the reason is told by SQLSTATE where there is one.
    """
    try:
        conn = psycopg.connect(
            dsn, autocommit=True, application_name=application, connect_timeout=10, prepare_threshold=None,
            keepalives_idle=30, keepalives_interval=10, keepalives_count=3, tcp_user_timeout=60_000,
        )  # fmt: skip
    except psycopg.Error as error:
        raise SourceUnavailable(
            f"cannot connect ({error.sqlstate or 'no answer'})",
            hint="is the server up, the address right, does pg_hba.conf let this role in, and does sslrootcert name the"
            " issuer of its certificate?",
        ) from None
    pins = dict(
        PINS, statement_timeout=str(int(statement_timeout_s * 1000)), lock_timeout=str(int(lock_timeout_s * 1000))
    )
    try:
        # One statement for all pins: an idle_session_timeout of a millisecond cannot slip in between.
        conn.execute(
            "select " + ", ".join("set_config(%s, %s, false)" for _ in pins),
            [word for pin in pins.items() for word in pin],
        )
    except psycopg.Error as error:
        conn.close()
        raise SourceUnavailable(f"the session could not be set up ({error.sqlstate or 'no answer'})") from None
    conn.add_notice_handler(lambda _: None)
    return conn


def libpq_too_old(version: int | None = None) -> str:
    """What is wrong with this process's libpq; empty where nothing is known to be."""
    ours = psycopg.pq.version() if version is None else version
    if ours < LIBPQ_MIN.get(ours // 10_000, 0):
        return f"our libpq {ours} can be overrun by a hostile server (CVE-2026-6477)"
    return ""


def translate(error: psycopg.Error, doing: str) -> ConnectorError:
    """The class of ours for a driver's error: by SQLSTATE, never by its text."""
    state = error.sqlstate
    if state is None or state in GONE or state.startswith(("08", "28")):
        return SourceUnavailable(
            f"{doing}: connection lost or refused ({state or 'no answer'})", hint="will connect again"
        )
    if state in BUSY:
        return SourceBusy(
            f"{doing}: stopped by a limit or conflict at the server ({state})", hint="will try again with less work"
        )
    return SourceProtocolError(f"{doing}: the server refused ({state})", hint="see the server's log at this time")


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn driver errors inside the block into ours."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, doing) from None


@contextmanager
def held_or_translated(entity: str, doing: str) -> Iterator[None]:
    """As `translated`, but what concerns one view alone becomes `EntityHeld`."""
    try:
        yield
    except psycopg.Error as error:
        state = error.sqlstate or ""
        found = HELD.get(state) or (FAILS if state in FAILS_STATES or state.startswith(FAILS_CLASSES) else None)
        if found is not None:
            raise EntityHeld(entity, found[0], f"{doing} ({state})", hint=found[1]) from None
        raise translate(error, doing) from None


def copy_out(
    conn: psycopg.Connection, query: sql.Composed | sql.SQL, limit_s: float = math.inf
) -> Iterator[list[bytes]]:
    """Run a COPY ... TO STDOUT and yield its messages, one bytes per row, in groups.

    psycopg's own `Copy` costs about 2 microseconds a row; this loop costs 0.4, and waits outside the
    interpreter's lock. The caller must exhaust it or let it be closed, which cancels the query.

    Args:
        limit_s: end the session after so long. The server's own statement_timeout is only an honest server's.

    Raises:
        psycopg.Error: as the server says; wrap with `translated`.
    """
    text = query.as_bytes(conn)
    with _bytes_as_stored(conn):
        yield from _copy_out(conn, text, time.monotonic() + limit_s)


@contextmanager
def _bytes_as_stored(conn: psycopg.Connection) -> Iterator[None]:
    """A database of encoding SQL_ASCII refuses to send bytes as UTF-8 that are none, and a whole COPY with them.

    Inside, it sends what it has: who reads the rows says which of them are bad.
    """
    if conn.info.parameter_status("server_encoding") != "SQL_ASCII":
        yield
        return
    conn.execute("set client_encoding = 'SQL_ASCII'")
    try:
        yield
    finally:
        # In a failed transaction the rollback does it.
        if not conn.closed and conn.info.transaction_status in (TransactionStatus.IDLE, TransactionStatus.INTRANS):
            conn.execute("set client_encoding = 'UTF8'")


def _copy_out(conn: psycopg.Connection, text: bytes, deadline: float) -> Iterator[list[bytes]]:
    pgconn = conn.pgconn
    pgconn.send_query(text)
    poller = select.poll()
    _send(conn, poller, deadline)
    _await_copy(conn, poller, deadline)
    finished = False
    try:
        take = pgconn.get_copy_data
        group: list[bytes] = []
        size = 0
        while True:
            count, data = take(1)
            if count > 0:
                group.append(bytes(data))
                size += count
                if size >= COPY_GROUP_BYTES:
                    yield group
                    group, size = [], 0
            elif count == 0:
                _poll(conn, poller, deadline)
                pgconn.consume_input()
            else:
                break
        finished = True
        _drain(conn)
        if group:
            yield group
    finally:
        if not finished and pgconn.status == psycopg.pq.ConnStatus.OK:
            _abandon(conn)


def _send(conn: psycopg.Connection, poller: select.poll, deadline: float) -> None:
    """Get the whole query out: one with many keys is larger than what the socket takes at once."""
    pgconn = conn.pgconn
    poller.register(pgconn.socket, select.POLLIN | select.POLLOUT)
    while pgconn.flush():
        _poll(conn, poller, deadline)
        pgconn.consume_input()
    poller.modify(pgconn.socket, select.POLLIN)


def _await_copy(conn: psycopg.Connection, poller: select.poll, deadline: float) -> None:
    pgconn = conn.pgconn
    pgconn.consume_input()
    while pgconn.is_busy():
        _poll(conn, poller, deadline)
        pgconn.consume_input()
    result = pgconn.get_result()
    if result is None or result.status != ExecStatus.COPY_OUT:
        error = psycopg.errors.error_from_result(result, "utf-8") if result else psycopg.OperationalError("no result")
        _drain_quietly(conn)
        raise error


def _poll(conn: psycopg.Connection, poller: select.poll, deadline: float) -> None:
    """Wait for the server; past the deadline, hang up on it."""
    left_s = deadline - time.monotonic()
    # A server that trickles bytes never makes the wait itself time out.
    if left_s > 0 and poller.poll(None if left_s == math.inf else left_s * 1000):
        return
    conn.close()
    raise psycopg.OperationalError("no answer in time")


def _drain(conn: psycopg.Connection) -> None:
    error: psycopg.Error | None = None
    while (result := conn.pgconn.get_result()) is not None:
        if result.status == ExecStatus.FATAL_ERROR and error is None:
            error = psycopg.errors.error_from_result(result, "utf-8")
    if error is not None:
        raise error


def _drain_quietly(conn: psycopg.Connection) -> None:
    while True:
        result = conn.pgconn.get_result()
        if result is None:
            return
        if result.status == ExecStatus.COPY_OUT:
            while conn.pgconn.get_copy_data(0)[0] > 0:
                pass


def _abandon(conn: psycopg.Connection) -> None:
    """Cancel a COPY that its reader gave up, so that the session is usable again."""
    poller = select.poll()
    poller.register(conn.pgconn.socket, select.POLLIN)
    deadline = time.monotonic() + ABANDON_S
    try:
        conn.cancel_safe(timeout=ABANDON_S)
        while (count := conn.pgconn.get_copy_data(1)[0]) >= 0:
            if count == 0:
                _poll(conn, poller, deadline)
                conn.pgconn.consume_input()
        _drain_quietly(conn)
    except psycopg.Error:
        conn.close()
