"""Capture by streaming MariaDB's or MySQL's binary log: the keys that its rows touch, in whole transactions.

A transaction is in the log before it is visible: with semi-synchronous replication by as long as a replica takes to
answer. So nothing is handed over before the server shows it. MariaDB tells the place in its log that a consistent
snapshot stands at; MySQL adds a transaction to `gtid_executed` once its engine has committed it. No second look
after a grace period is needed then, and no time is guessed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from connector.capture.mysql.changes import ChangeReader, Views
from connector.capture.mysql.dump import BinlogDump
from connector.capture.mysql.gtid import position
from connector.capture.mysql.server import BinlogServer
from connector.capture.signals import Routes, SignalBuffer, Signals
from connector.errors import SourceUnavailable
from connector.events import Position, SourceIdentity
from connector.sqldb.engines import Options

Wait = Callable[[float], bool]

# Taken together at most: beyond, staging's transaction grows longer than it gains.
TRANSACTIONS_MAX, GATHER_S = 50_000, 1.0
# A position without anything for us is moved on this often: it must not be the one that is purged.
IDLE_S, IDLE_TRANSACTIONS = 10.0, 50_000
# How often the catalogue is looked at for the types of the views' columns.
TYPES_S = 30.0
# The first answer of a server that looks for a GTID in its files.
ANSWER_S = 60.0


@dataclass(frozen=True, slots=True)
class BinlogSettings:
    """How to reach a party's server, and what to look out for. `views`: the view of each entity."""

    url: str
    options: Options
    routes: Routes
    views: Mapping[str, tuple[str, str]]
    keys_in_memory: int


class BinlogSource:
    """One party's binary log. One thread."""

    def __init__(
        self, settings: BinlogSettings, stored: Position | None, known: SourceIdentity | None, wait: Wait
    ) -> None:
        """Connect, compare positions, and have the log sent.

        Args:
            stored: the position staging has, with the identity it is `known` under; None before the first start:
                then from what the server shows now.

        Raises:
            SourceUnavailable: no connection.
            SourceMisconfigured: the server does not log what we need, or this login may not read it.
            PositionLost: the log does not lead on from `stored`.
        """
        self._settings = settings
        self._wait = wait
        self._server = BinlogServer(settings.url, settings.options)
        self._dump: BinlogDump | None = None
        try:
            self._open(stored, known)
        except BaseException:
            self.close()
            raise

    def _open(self, stored: Position | None, known: SourceIdentity | None) -> None:
        self.identity = self._server.identity
        self._server.require_settings()
        if stored is None:
            gtids, place = self._server.shown()
            stored = position(gtids.count(), gtids, place)
        else:
            gtids = self._server.compare(stored, known)
        self._start = self._given = stored
        self._views = Views(
            self._server.types(self._settings.views), self._server.charsets(), folded=self._server.folds_names
        )
        self._types_at = self._moved_at = time.monotonic()
        self._buffer = SignalBuffer(self._settings.keys_in_memory)
        self._changes = ChangeReader(self._settings.routes, self._views, self._buffer, gtids, self._server.place("", 0))
        self._changes.checksums(self._server.has_checksums)
        self._ready: Signals | None = None
        self._dump = BinlogDump(self._settings.url, self._settings.options, gtids)
        self._await_answer(self._dump)

    def _await_answer(self, dump: BinlogDump) -> None:
        """A server that cannot lead on from here says so first of all: better now than after a batch."""
        deadline = time.monotonic() + ANSWER_S
        while not self._changes.begun:
            self._feed(dump, 0.2)
            if time.monotonic() > deadline or self._wait(0):
                raise SourceUnavailable("the server does not begin to send its binary log", hint="will connect again")

    @property
    def start(self) -> Position:
        return self._start

    def close(self) -> None:
        if self._dump is not None:
            self._dump.close()
        self._server.close()

    # -- reading

    def read(self, timeout_s: float) -> Signals | None:
        """Signals of the transactions that have arrived and are visible, or None where none are within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        if self._ready is None:
            self._look_at_types()
            self._ready = self._gather(timeout_s)
        if self._ready is None or not self._await_visible(deadline):
            return None
        taken, self._ready = self._ready, None
        self._given, self._moved_at = taken.position, time.monotonic()
        return taken

    def _gather(self, timeout_s: float) -> Signals | None:
        assert self._dump is not None
        begun = time.monotonic()
        wait_s = timeout_s
        while True:
            arrived = self._feed(self._dump, wait_s)
            waited_s = time.monotonic() - begun
            if self._changes.in_transaction:
                # The rest of a transaction is on its way; a part of it is worth nothing.
                if not arrived and waited_s >= timeout_s:
                    return None
                continue
            if not arrived or waited_s >= GATHER_S or self._buffer.transactions >= TRANSACTIONS_MAX:
                return self._taken(waited_s)
            wait_s = 0.0

    def _feed(self, dump: BinlogDump, timeout_s: float) -> bool:
        events = dump.receive(timeout_s)
        feed = self._changes.feed
        for event in events:
            feed(event)
        return bool(events)

    def _taken(self, read_s: float) -> Signals | None:
        ordinal = self._start.ordinal + self._changes.transactions
        if self._buffer.transactions == 0:
            moved = ordinal - self._given.ordinal
            if moved == 0 or (moved < IDLE_TRANSACTIONS and time.monotonic() - self._moved_at < IDLE_S):
                return None
        return self._buffer.take(position(ordinal, self._changes.gtids, self._changes.place), read_s=read_s)

    def _await_visible(self, deadline: float) -> bool:
        """Wait until a snapshot taken from now on shows what is ready; False where it does not within the time."""
        assert self._ready is not None
        pause_s = 0.001
        while not self._ready.empty and not self._server.shows(self._changes.gtids, self._changes.place):
            if time.monotonic() >= deadline or self._wait(pause_s):
                return False
            pause_s = min(pause_s * 2, 0.1)
        return True

    def _look_at_types(self) -> None:
        """A view whose key became another type gives other texts for it."""
        if time.monotonic() - self._types_at < TYPES_S:
            return
        self._types_at = time.monotonic()
        types = self._server.types(self._settings.views)
        if types != self._views.types:
            self._views = Views(types, self._views.charsets, folded=self._views.folded)
            self._changes.follow(self._settings.routes, self._views)

    # -- the rest of the port

    def confirm(self, position: Position) -> None:
        """Nothing to tell: the server keeps its log for as long as its DBA wants, whoever reads it."""

    def give_up(self) -> None:
        """Nothing is kept for us at the party."""

    def lag_bytes(self) -> int:
        return 0
