"""Capture by Debezium on PostgreSQL: a child with a JVM reads the slot, its keys become signals.

As with a stream of our own the slot is where the party keeps its log for us, and our stored position is where we
stand: the two are compared on each connect, and what comes again below the position is dropped.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass

import psycopg

from connector import pg
from connector.capture.debezium import properties
from connector.capture.debezium.process import Child, require
from connector.capture.debezium.properties import Endpoint, followed, topic
from connector.capture.debezium.touched import Touched, nulls_told
from connector.capture.postgres import slot as slots
from connector.capture.postgres.protocol import lsn_int, lsn_text
from connector.capture.postgres.pull import IDLE_BYTES, IDLE_S, DirectCalls, SlotSettings, Wait
from connector.capture.signals import Signals
from connector.errors import SourceMisconfigured, SourceUnavailable
from connector.events import Position, SourceIdentity

# Transactions taken together at most: beyond, staging's transaction grows longer than it gains.
TRANSACTIONS_MAX = 100_000
# A child that has been silent so long has given what there is.
QUIET_S = 0.5
# The rest of a transaction is waited for so long at a time.
PART_S = 0.5


@dataclass(frozen=True, slots=True)
class JvmSettings:
    """A child's bounds. `jars`: a folder of Debezium's jars, where not those of the package are meant."""

    heap_mb: int = 256
    start_s: float = 120.0
    silence_s: float = 60.0
    jars: str | None = None


class DebeziumSource:
    """One party's slot, read by Debezium. One thread at a time."""

    def __init__(
        self, settings: SlotSettings, jvm: JvmSettings, stored: Position | None, identity: SourceIdentity | None,
        wait: Wait,
    ) -> None:  # fmt: skip
        """Connect, compare positions, start the child.

        Raises:
            PositionLost, SourceMisconfigured: see `slot.start_position`.
            EnvironmentMissing: the extra is not installed.
        """
        require(jars=jvm.jars)
        self._tables = followed(settings.routes)
        self._conn = pg.connect(
            settings.dsn, application=settings.application, statement_timeout_s=settings.statement_timeout_s
        )
        self._settings = settings
        self._calls = DirectCalls(settings.slot, settings.publication)
        self._wait = wait
        self._child: Child | None = None
        try:
            state = slots.look(self._conn, settings.slot)
            self._start = slots.start_position(state, settings.slot, stored, identity)
            assert state is not None
            self.identity = state.identity
            self._confirmed = state.confirmed
            self._touched = Touched(
                settings.routes, self._tables, settings.keys_in_memory, self._start.ordinal, self._nulls_told()
            )
            self._child = self._begin(jvm)
        except BaseException:
            self.close()
            raise
        self._moved_at = self._heard_at = time.monotonic()
        self._nudged_at = 0.0
        self._compared = False

    @property
    def start(self) -> Position:
        return self._start

    @property
    def child_pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def _begin(self, jvm: JvmSettings) -> Child:
        settings = self._settings
        given = properties.postgresql(self._endpoint(), settings.slot, settings.publication, self._tables)
        config = {
            "engine": "postgresql",
            "heap_mb": jvm.heap_mb,
            "jars": jvm.jars,
            "prefix": properties.PREFIX,
            "tables": [[topic(table), number, table.columns] for number, table in enumerate(self._tables)],
            "properties": {**given, **properties.IN_MEMORY},
        }
        return Child(config, start_s=jvm.start_s, silence_s=jvm.silence_s)

    def _endpoint(self) -> Endpoint:
        """Where our own session went, so that a service file or a default counts for both."""
        info = self._conn.info
        if not info.host or info.host.startswith("/"):
            raise SourceMisconfigured(
                "Debezium reaches a server by TCP only, and the dsn names a socket",
                hint="write host and port into the dsn",
            )
        given = {option.keyword.decode(): option.val.decode() for option in self._conn.pgconn.info if option.val}
        more = {
            f"database.{word}": given[word]
            for word in ("sslmode", "sslrootcert", "sslcert", "sslkey")
            if given.get(word)
        }
        return Endpoint(info.hostaddr or info.host, info.port, info.user, info.password, info.dbname, more)

    def _nulls_told(self) -> frozenset[int]:
        with slots.translated("looking at replica identities"):
            rows = self._conn.execute(
                "select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
                " where c.relreplident = 'f'"
            ).fetchall()
        return nulls_told(self._tables, rows)

    def close(self) -> None:
        if self._child is not None:
            self._child.close()
        self._conn.close()

    def read(self, timeout_s: float) -> Signals | None:
        """Signals of the transactions that have arrived, or None where none did within `timeout_s`."""
        started = time.monotonic()
        deadline = started + timeout_s
        while True:
            rest = deadline - time.monotonic()
            waits = self._touched.in_transaction
            if self._hear(PART_S if waits else max(0.0, min(rest, PART_S))):
                if self._wait(0):
                    return None  # in the midst of it: who is to stop stores no more, and reads it again later
                continue
            if self._touched.in_transaction:
                if self._wait(0):
                    return None
                continue
            if self._touched.transactions or self._worth_moving():
                return self._touched.take(self._position(), read_s=time.monotonic() - started)
            self._nudge()
            if rest <= 0 or self._wait(0):
                return None

    def _hear(self, timeout_s: float) -> bool:
        """Take in what the child says next; False where it says nothing, or enough was taken in."""
        if not self._touched.in_transaction and self._touched.transactions:
            if self._touched.transactions >= TRANSACTIONS_MAX:
                return False
            timeout_s = 0.0
        assert self._child is not None
        try:
            events = self._child.take(timeout_s)
        except SourceUnavailable:
            # Whoever moved or dropped the slot ended the child with it: that is another matter than a lost child.
            self.lag_bytes()
            raise
        if not events:
            return events is not None and timeout_s > 0
        if not self._compared:
            # The slot is in use by now, so nobody moves it under us: what was between our look and that, shows here.
            self.lag_bytes()
            self._compared = True
        self._touched.feed(events)
        self._heard_at = time.monotonic()
        return True

    def _position(self) -> Position:
        return Position(self._touched.covered, lsn_text(self._touched.covered))

    def _worth_moving(self) -> bool:
        ahead = self._touched.covered - self._confirmed
        return ahead >= IDLE_BYTES or (ahead > 0 and time.monotonic() - self._moved_at >= IDLE_S)

    def _nudge(self) -> None:
        """Let log without anything for us be forgotten: Debezium moves with what it is sent, so it is sent a mark.

        A message of a few bytes in the party's log, and only where the log grew by a megabyte that did not concern us.
        """
        now = time.monotonic()
        if now - self._heard_at < QUIET_S or now - self._nudged_at < QUIET_S:
            return
        self._nudged_at = now
        with slots.translated("asking where the log ends"):
            row = self._conn.execute("select pg_current_wal_flush_lsn()::text").fetchone()
        assert row is not None
        if lsn_int(row[0]) - self._touched.covered < IDLE_BYTES:
            return
        # A party that takes the right away keeps its log a little longer; the slot guard watches that.
        with suppress(psycopg.Error):
            self._conn.execute("select pg_logical_emit_message(false, %s, '')", (properties.MESSAGE_PREFIX,))
        self._nudged_at = now + IDLE_S

    def confirm(self, position: Position) -> None:
        """Let Debezium, and by it the party's server, forget the log up to `position`. Only after our commit."""
        assert self._child is not None
        self._child.confirm(position.ordinal)
        self._confirmed = max(self._confirmed, position.ordinal)
        self._moved_at = time.monotonic()

    def give_up(self) -> None:
        """As `PullSource.give_up`; the child ends first, a slot in use cannot be dropped."""
        if self._child is not None:
            self._child.close()
        with slots.translated("giving the replication slot up"):
            self._conn.execute(self._calls.give_up())

    def lag_bytes(self) -> int:
        """Log the party's server keeps for us.

        Raises:
            PositionLost: the slot is gone, was invalidated, or was moved by somebody else.
        """
        state = slots.look(self._conn, self._settings.slot)
        slots.start_position(state, self._settings.slot, self._position(), self.identity)
        assert state is not None
        return state.lag_bytes
