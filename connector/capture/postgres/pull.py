"""Capture by guarded pull: peek at the slot through a function, in windows, and confirm through another.

The login has neither REPLICATION nor any table. Peek is repeatable, so "commit in staging, then confirm"
is exact. Refuses to peek without an upper bound: an unbounded peek has filled disks.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import structlog
from psycopg import sql

from connector import pg
from connector.capture.postgres import slot as slots
from connector.capture.postgres.changes import ChangeReader
from connector.capture.postgres.protocol import lsn_int, lsn_text
from connector.capture.signals import Routes, SignalBuffer, Signals
from connector.errors import SourceBusy, SourceProtocolError
from connector.events import Position, SourceIdentity

MIB = 1 << 20
WINDOW_MIN = MIB
# Grow the window until a call takes about half a second: each call decodes again from restart_lsn, so small
# windows pay that price often, and large ones hold the party's server for long.
CALL_S_LOW, CALL_S_HIGH = 0.25, 1.0
# A transaction left open makes each call decode again all that was written since it began. Then windows are as large
# as what is decoded again, or that price is paid for every MiB; and once caught up, the party's server rests longer.
COSTLY_S, REST_TIMES, REST_S_MAX = 1.0, 4.0, 30.0
# How often the log says so.
COSTLY_EVERY_S = 60.0
# Asking where the log ends costs the party about 50 microseconds; peeking costs milliseconds.
LOOK_S = 0.1
# A party that was quiet for a while is asked less and less often: with forty of them, asking is all there is to do.
LOOK_S_MAX, QUIET_SHARE = 0.5, 0.02
# A stretch of log without anything for us is confirmed when it is this large or this old.
IDLE_BYTES, IDLE_S = MIB, 10.0
_PEEK = sql.SQL("copy (select data from {}) to stdout (format binary)")
# Sleeps up to so many seconds and says whether to stop.
Wait = Callable[[float], bool]
_COPY_HEADER = b"PGCOPY\n\xff\r\n\0"


class SlotCalls(Protocol):
    """How a slot is peeked at (a table expression with a column `data`) and moved."""

    def peek(self, upto: str) -> sql.Composed: ...
    def confirm(self, upto: str) -> sql.Composed: ...
    def give_up(self) -> sql.Composed: ...


@dataclass(frozen=True, slots=True)
class KitCalls:
    """Through the kit's functions: the login needs EXECUTE on them and nothing else."""

    schema: str
    slot: str

    def peek(self, upto: str) -> sql.Composed:
        function = sql.Identifier(self.schema, f"{self.slot}_peek")
        return sql.SQL("{}({}::pg_lsn, null)").format(function, sql.Literal(upto))

    def confirm(self, upto: str) -> sql.Composed:
        function = sql.Identifier(self.schema, f"{self.slot}_confirm")
        return sql.SQL("select {}({}::pg_lsn)").format(function, sql.Literal(upto))

    def give_up(self) -> sql.Composed:
        return sql.SQL("select {}()").format(sql.Identifier(self.schema, f"{self.slot}_release"))


@dataclass(frozen=True, slots=True)
class DirectCalls:
    """With a REPLICATION login, on a relay cluster."""

    slot: str
    publication: str

    def peek(self, upto: str) -> sql.Composed:
        return sql.SQL(
            "pg_logical_slot_peek_binary_changes({}, {}::pg_lsn, null,"
            " 'proto_version', '1', 'publication_names', {}, 'messages', 'false')"
        ).format(
            sql.Literal(self.slot), sql.Literal(upto), sql.Literal('"' + self.publication.replace('"', '""') + '"')
        )

    def confirm(self, upto: str) -> sql.Composed:
        return sql.SQL("select pg_replication_slot_advance({}, {}::pg_lsn)").format(
            sql.Literal(self.slot), sql.Literal(upto)
        )

    def give_up(self) -> sql.Composed:
        return sql.SQL("select pg_drop_replication_slot({})").format(sql.Literal(self.slot))


@dataclass(frozen=True, slots=True)
class SlotSettings:
    """One party's slot: how to reach it, what its tables' changes touch, and how much to take at a time."""

    dsn: str
    application: str
    slot: str
    publication: str
    routes: Routes
    keys_in_memory: int
    poll_s: float
    statement_timeout_s: float
    window_bytes: int = 32 * MIB


class PullSource:
    """One party's slot, read by peeking. One thread at a time."""

    def __init__(
        self,
        settings: SlotSettings,
        calls: SlotCalls,
        stored: Position | None,
        identity: SourceIdentity | None,
        wait: Wait,
    ) -> None:
        """Connect and compare positions.

        Args:
            calls: how this login peeks and confirms.
            stored: the position staging has, with the `identity` it belongs to; None before the first start.
            wait: sleeps up to so many seconds and says whether to stop.

        Raises:
            PositionLost, SourceMisconfigured: see `slot.start_position`.
        """
        self._conn = pg.connect(
            settings.dsn, application=settings.application, statement_timeout_s=settings.statement_timeout_s
        )
        self._slot = settings.slot
        # A server that does not keep to its own statement_timeout is hung up on a little later.
        self._limit_s = settings.statement_timeout_s + 10.0 if settings.statement_timeout_s else math.inf
        self._calls = calls
        try:
            state = slots.look(self._conn, settings.slot)
            self._start = slots.start_position(state, settings.slot, stored, identity)
        except BaseException:
            self._conn.close()
            raise
        assert state is not None
        self.identity = state.identity
        self._covered = self._start.ordinal
        self._confirmed = state.confirmed
        self._restart = state.restart
        self._span_max = math.inf
        self._costly_at = -math.inf
        self._settings = settings
        self._begin_anew()
        self._poll_s = settings.poll_s
        self._pause_s = 0.0
        self._window = self._window_max = settings.window_bytes
        self._peeked_at = 0.0
        self._found_at = time.monotonic()
        self._moved_at = time.monotonic()
        self._wait = wait

    @property
    def start(self) -> Position:
        """The position reading begins after."""
        return self._start

    def close(self) -> None:
        self._conn.close()

    def read(self, timeout_s: float) -> Signals | None:
        """Signals of the next window, or None where nothing happened within `timeout_s`.

        An empty result with a position is a stretch of log that holds nothing for us and is worth confirming.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            flushed = self._flushed()
            if flushed > self._covered and time.monotonic() >= self._peeked_at + self._pause_s:
                signals = self._window_in_time(flushed)
                if signals is not None:
                    return signals
            if self._covered > self._confirmed and self._worth_moving():
                return self._buffer.take(Position(self._covered, lsn_text(self._covered)))
            rest = deadline - time.monotonic()
            quiet_s = time.monotonic() - self._found_at
            if rest <= 0 or self._wait(min(rest, max(LOOK_S, min(LOOK_S_MAX, quiet_s * QUIET_SHARE)))):
                return None

    def confirm(self, position: Position) -> None:
        """Let the party's server forget the log up to `position`. Only after our commit."""
        with slots.translated("confirming the position"):
            self._conn.execute(self._calls.confirm(position.text))
        self._confirmed = max(self._confirmed, position.ordinal)
        self._moved_at = time.monotonic()

    def give_up(self) -> None:
        """Drop our slot: the party's disk matters more than our not having to copy again."""
        with slots.translated("giving the replication slot up"):
            self._conn.execute(self._calls.give_up())

    @property
    def confirmed(self) -> int:
        """What the server was last told it may forget."""
        return self._confirmed

    def behind_bytes(self) -> int:
        """Log between what is covered and where the server's log ends."""
        return max(0, self._flushed() - self._covered)

    def lag_bytes(self) -> int:
        """Log the party's server keeps for us.

        Raises:
            PositionLost: the slot is gone, was invalidated, or was moved by somebody else.
        """
        return self.lag_bytes_at(self._covered)

    def lag_bytes_at(self, covered: int) -> int:
        """As `lag_bytes`, for whoever reads the slot by other means and has it covered up to there."""
        return self._look(covered).lag_bytes

    def _look(self, covered: int) -> slots.SlotState:
        state = slots.look(self._conn, self._slot)
        slots.start_position(state, self._slot, Position(covered, lsn_text(covered)), self.identity)
        assert state is not None
        return state

    def _flushed(self) -> int:
        with slots.translated("asking where the log ends"):
            row = self._conn.execute("select pg_current_wal_flush_lsn()::text").fetchone()
        assert row is not None
        return lsn_int(row[0])

    def _window_in_time(self, flushed: int) -> Signals | None:
        """The next window; a smaller one where the server's time limit ended the peek."""
        while True:
            try:
                return self._window_of(flushed)
            except SourceBusy:
                span = min(self._span(), flushed - self._covered)
                if span <= WINDOW_MIN:
                    raise
                self._window = self._span_max = max(WINDOW_MIN, span // 4)
                # What the peek gave before it was ended comes again: peeks take nothing away.
                self._begin_anew()

    def _begin_anew(self) -> None:
        self._buffer = SignalBuffer(self._settings.keys_in_memory)
        self._changes = ChangeReader(self._settings.routes, self._buffer, self._covered)

    def _span(self) -> int:
        """How many bytes of log the next window has."""
        return int(min(max(self._window, self._covered - self._restart), self._span_max))

    def _window_of(self, flushed: int) -> Signals | None:
        span, again = self._span(), max(0, self._covered - self._restart)
        upto = min(self._covered + span, flushed)
        started = time.monotonic()
        last_commit = 0
        for message in self._messages(upto):
            commit = self._changes.feed(message)
            if commit is not None:
                last_commit = commit.end_lsn
        if self._changes.in_transaction:
            raise SourceProtocolError("a peek ended inside a transaction")
        # A peek begins at the slot's place, and begins later without a word where somebody moved the slot. Looked
        # at after the peek: the place never moves back.
        self._restart = self._look(self._covered).restart
        taken_s = time.monotonic() - started
        new = upto - self._covered
        self._adapt(taken_s * new / (new + again), whole=upto < flushed)
        self._covered = max(upto, last_commit, self._covered)
        found = self._buffer.transactions > 0
        self._pause_s = 0.0 if upto < flushed else self._pause(taken_s, found=found, costly=again > new)
        self._peeked_at = time.monotonic()
        if found:
            self._found_at = self._peeked_at
        return self._buffer.take(Position(self._covered, lsn_text(self._covered)), read_s=taken_s) if found else None

    def _pause(self, taken_s: float, *, found: bool, costly: bool) -> float:
        """How long to leave the server alone, now that nothing is left to read."""
        if costly and taken_s > COSTLY_S:
            self._complain(taken_s)
            return min(REST_S_MAX, taken_s * REST_TIMES)
        # After work there is often more work; a quiet log is looked at less and less, up to the interval.
        return 0.0 if found else min(self._poll_s, max(LOOK_S, self._pause_s * 2, taken_s * 4))

    def _complain(self, taken_s: float) -> None:
        if time.monotonic() < self._costly_at + COSTLY_EVERY_S:
            return
        self._costly_at = time.monotonic()
        structlog.get_logger().warning(
            "peek_costly", peek_s=round(taken_s, 1), again_bytes=self._covered - self._restart,
            hint="a transaction is long open at the party: all log since it began is decoded again at each look, so"
            " the connector looks less often; the party's DBA finds it in pg_stat_activity by its xact_start",
        )  # fmt: skip

    def _worth_moving(self) -> bool:
        idle_s = time.monotonic() - self._moved_at
        return self._covered - self._confirmed >= IDLE_BYTES or idle_s >= IDLE_S

    def _adapt(self, taken_s: float, *, whole: bool) -> None:
        """Follow what the window itself cost, without what had to be decoded again."""
        if taken_s > CALL_S_HIGH:
            self._window = max(WINDOW_MIN, self._window // 2)
        elif whole and taken_s < CALL_S_LOW:
            self._window = min(self._window_max * 8, self._window * 2)
        self._span_max *= 2

    def _messages(self, upto: int) -> Iterator[bytes]:
        """The messages of every transaction that committed up to `upto`, in order."""
        query = _PEEK.format(self._calls.peek(lsn_text(upto)))
        with slots.translated("peeking at the slot"):
            first = True
            for group in pg.copy_out(self._conn, query, self._limit_s):
                if first:
                    group[0] = _without_header(group[0])
                    first = False
                for row in group:
                    # A row is a column count (1), a length, and the message; the trailer is a count of -1.
                    if row[:2] == b"\x00\x01":
                        yield row[6:]


def _without_header(row: bytes) -> bytes:
    if not row.startswith(_COPY_HEADER) or len(row) < 19:
        raise SourceProtocolError("the party's server did not send binary COPY")
    return row[19 + int.from_bytes(row[15:19], "big") :]
