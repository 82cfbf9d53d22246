"""A net under a log: the source's own signals, and now and then a compare of the views for what no log shows.

MariaDB and MySQL delete and update by foreign key inside InnoDB, and write nothing of it into the binary log; a view
may call a function of the clock, or read a table that nobody named. What a compare finds comes at the log's position.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Protocol

from connector.capture.polling.ports import Found, Leg, Memory
from connector.capture.signals import Signals
from connector.events import Position, SourceIdentity

# The first compare comes this share of its interval after a start: a party that is restarted often is compared too,
# and one that flaps is not compared at each of its connections.
FIRST_SHARE = 0.1


class Log(Protocol):
    """What the net hangs under (`runtime.ports.Source`)."""

    @property
    def identity(self) -> SourceIdentity: ...
    @property
    def start(self) -> Position: ...
    def read(self, timeout_s: float) -> Signals | None: ...
    def confirm(self, position: Position) -> None: ...
    def lag_bytes(self) -> int: ...
    def give_up(self) -> None: ...
    def close(self) -> None: ...


class NetSource:
    """A log with a compare beside it."""

    def __init__(self, log: Log, net: Leg, memory: Memory, *, begins: bool) -> None:
        """`begins`: a history begins here, and a copy of everything follows."""
        self._log = log
        self._net = net
        self._memory = memory
        self._position = log.start
        self._due = time.monotonic() + net.every_s * FIRST_SHARE
        self._round: Iterator[Found] | None = None
        # A log that always has something must not keep a compare from its turn, nor the other way round.
        self._logs_turn_over = False
        if begins:
            try:
                net.learn()
            except BaseException:
                self.close()
                raise

    @property
    def identity(self) -> SourceIdentity:
        return self._log.identity

    @property
    def start(self) -> Position:
        return self._log.start

    def read(self, timeout_s: float) -> Signals | None:
        """The log's signals; where it has none, or had the last word, the next part of what a due compare finds."""
        if self._looking and self._logs_turn_over and (found := self._look()) is not None:
            self._logs_turn_over = False
            return self._signals(found)
        signals = self._log.read(0.0 if self._looking else timeout_s)
        if signals is not None:
            self._position, self._logs_turn_over = signals.position, True
            return signals
        found = self._look() if self._looking else None
        return None if found is None else self._signals(found)

    def _signals(self, found: Found) -> Signals:
        return Signals(self._position, found.keys, found.matches, found.whole, (), 0, None, None, notes=found.notes)

    @property
    def _looking(self) -> bool:
        return self._round is not None or time.monotonic() >= self._due

    def _look(self) -> Found | None:
        if self._round is None:
            self._round = self._net.round()
        found = next(self._round, None)
        if found is None:
            self._round = None
            self._due = time.monotonic() + self._net.every_s
        return found

    def confirm(self, position: Position) -> None:
        self._log.confirm(position)

    def lag_bytes(self) -> int:
        return self._log.lag_bytes()

    def give_up(self) -> None:
        self._log.give_up()

    def close(self) -> None:
        self._log.close()
        self._net.close()
        self._memory.close()
