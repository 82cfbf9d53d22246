"""Capture by streaming: a walsender's conversation as a source of signals, and peeks for what has piled up.

For a relay cluster only (see the kit). The conversation wakes us within milliseconds; a backlog is read
faster by peeking, since COPY carries its messages without a round of Python per message.
"""

from __future__ import annotations

import time

from connector.capture.postgres.changes import ChangeReader
from connector.capture.postgres.protocol import lsn_text
from connector.capture.postgres.pull import IDLE_BYTES, IDLE_S, MIB, DirectCalls, PullSource, SlotSettings, Wait
from connector.capture.postgres.stream import Delivery, Idle, StreamSlot, WalReader
from connector.capture.signals import SignalBuffer, Signals
from connector.events import Position, SourceIdentity

# Less log than this between us and the server's end is streamed, more is peeked.
BACKLOG_BYTES = 4 * MIB
# Transactions taken together at most: beyond, staging's transaction grows longer than it gains.
TRANSACTIONS_MAX = 100_000
# The rest of a transaction is waited for so long at a time, also by a caller who has no time: asking again at once
# would keep the conversation's thread from working.
PART_S = 0.5


class StreamSource:
    """One party's slot, read through a walsender. One consumer thread; the conversation has its own."""

    def __init__(
        self, settings: SlotSettings, stored: Position | None, identity: SourceIdentity | None, wait: Wait
    ) -> None:
        """Connect and compare positions; as `PullSource`."""
        self._settings = settings
        calls = DirectCalls(settings.slot, settings.publication)
        self._pull = PullSource(settings, calls, stored, identity, wait)
        self.identity = self._pull.identity
        self._start = self._pull.start
        self._covered = self._start.ordinal
        self._confirmed = self._start.ordinal
        self._pulled = 0
        self._moved_at = time.monotonic()
        self._reader: WalReader | None = None
        self._buffer = SignalBuffer(settings.keys_in_memory)
        self._changes = ChangeReader(settings.routes, self._buffer, self._covered)

    @property
    def start(self) -> Position:
        return self._start

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._pull.close()

    def read(self, timeout_s: float) -> Signals | None:
        """Signals of the transactions that have arrived, or None where none did within `timeout_s`."""
        if self._reader is None:
            # What was peeked is confirmed through the peeks: a walsender started before would send it again.
            if self._pulled > self._pull.confirmed or self._pull.behind_bytes() > BACKLOG_BYTES:
                signals = self._pull.read(timeout_s if self._pulled > self._pull.confirmed else 0.0)
                self._pulled = signals.position.ordinal if signals is not None else self._pulled
                return signals
            self._converse()
        assert self._reader is not None
        return self._stream(self._reader, timeout_s)

    def _converse(self) -> None:
        """Start the walsender where the peeks ended; the slot serves one session at a time."""
        self._covered = max(self._covered, self._pull.confirmed)
        slot = StreamSlot(self._settings.dsn, self._settings.slot, self._settings.publication)
        self._reader = WalReader.open(slot, self._position(), self.identity)
        self._changes = ChangeReader(self._settings.routes, self._buffer, self._covered)

    def _stream(self, reader: WalReader, timeout_s: float) -> Signals | None:
        taken = reader.take(timeout_s)
        if taken is None:
            return None
        if isinstance(taken, Idle):
            self._covered = max(self._covered, taken.position)
            if not self._worth_moving():
                return None
            return self._buffer.take(self._position())
        self._feed(taken)
        # A part of a large transaction is worth nothing without the rest; what has come meanwhile goes along.
        while self._changes.in_transaction or self._buffer.transactions < TRANSACTIONS_MAX:
            more = reader.take(PART_S if self._changes.in_transaction else 0.0)
            if isinstance(more, Delivery):
                self._feed(more)
            elif not self._changes.in_transaction:
                break
        return self._buffer.take(self._position()) if self._buffer.transactions else None

    def _feed(self, delivery: Delivery) -> None:
        for message in delivery.payloads:
            self._changes.feed(message)
        if delivery.commit_end is not None:
            self._covered = delivery.commit_end

    def _position(self) -> Position:
        return Position(self._covered, lsn_text(self._covered))

    def _worth_moving(self) -> bool:
        return self._covered - self._confirmed >= IDLE_BYTES or time.monotonic() - self._moved_at >= IDLE_S

    def confirm(self, position: Position) -> None:
        """Let the party's server forget the log up to `position`. Only after our commit."""
        if self._reader is None:
            self._pull.confirm(position)
        else:
            self._reader.acknowledge(position.ordinal)
        self._confirmed = position.ordinal
        self._moved_at = time.monotonic()

    def give_up(self) -> None:
        """As `PullSource.give_up`; the conversation ends first, a slot in use cannot be dropped."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._pull.give_up()

    def lag_bytes(self) -> int:
        """Log the party's server keeps for us."""
        return self._pull.lag_bytes() if self._reader is None else self._pull.lag_bytes_at(self._covered)
