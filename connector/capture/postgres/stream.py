"""Follow a slot through a walsender: whole transactions of raw pgoutput messages, and an honest feedback.

`WalReader` runs the conversation (`walsender.py`) in a thread of its own, so that the server is answered while
the consumer is slow. It does not look into row messages (`signals.py` does), and it keeps promise P4: what is
reported to the server never exceeds what `acknowledge` was told, whatever was received, buffered or handed over.
"""

from __future__ import annotations

import os
import select
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Final

from connector.capture.postgres.assembler import Assembler, Delivery, Idle
from connector.capture.postgres.handshake import StreamFacts, StreamSlot
from connector.capture.postgres.protocol import Keepalive
from connector.capture.postgres.walsender import ReplicationConnection
from connector.errors import ConnectorError, SourceUnavailable
from connector.events import Position, SourceIdentity

__all__ = ["Delivery", "Idle", "ReplicationConnection", "StreamFacts", "StreamLimits", "StreamSlot", "WalReader"]

READ_BYTES_MAX: Final = 1_048_576
"""Taken from the socket before the reader looks at its other duties again."""

STORM_GAP_S: Final = 0.05
STORM_SPACING_S: Final = 0.1
STORM_ANSWERS_MAX: Final = 40
"""A walsender asks for an answer twice per wal_sender_timeout. One that asks again at once after each answer
is in shutdown and waits for us to confirm all it sent: 40 answers, 50 ms apart, are our two seconds' notice."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """How much the reader holds and how patient it is.

    At `buffer_bytes` it stops reading: the party's server then waits with its own memory, not with ours.
    `part_bytes` is when a transaction starts to leave in parts. `status_s`: the server hears from us at least
    this often (and four times per its wal_sender_timeout, if that is shorter). `stalled_s_max`: with a full
    buffer we do not hear a server that wants to shut down and waits for us, so we hang up and leave it be.
    `silence_s_max`: without any sign of life (asked for halfway) the connection counts as dead; long, because
    old servers are mute while they decode a large transaction that concerns no published table.
    """

    buffer_bytes: int = 32 * 1_048_576
    part_bytes: int = 8 * 1_048_576
    status_s: float = 5.0
    stalled_s_max: float = 60.0
    silence_s_max: float = 300.0


class WalReader:
    """Follows a slot in a thread of its own. One consumer calls `take` and `acknowledge`.

    Use as a context manager, or call `close`: it sends the last acknowledgement and leaves the slot.
    `facts` has the slot's state and the position the stream started after.
    """

    def __init__(self, connection: ReplicationConnection, limits: StreamLimits) -> None:
        assert limits.part_bytes * 2 <= limits.buffer_bytes, "a paused reader could wait for itself"
        self.facts = connection.facts
        self._limits = limits
        self._connection = connection
        self._ready = threading.Condition()
        self._assembler = Assembler(connection.acknowledged, limits.part_bytes)
        self._acknowledged = connection.acknowledged
        self._handed_over = connection.acknowledged
        self._paused = False
        self._closing = False
        self._ended = False
        self._error: ConnectorError | None = None
        self._wake_out, self._wake_in = os.pipe()
        os.set_blocking(self._wake_out, False)
        os.set_blocking(self._wake_in, False)
        duties = _Duties(connection, limits, self._wake_out)
        self._thread = threading.Thread(target=self._converse, args=(duties,), name="wal-reader", daemon=True)
        self._thread.start()

    @classmethod
    def open(
        cls,
        slot: StreamSlot,
        stored: Position | None = None,
        identity: SourceIdentity | None = None,
        limits: StreamLimits | None = None,
    ) -> WalReader:
        """Connect and start reading; `ReplicationConnection.connect` says what it takes and raises."""
        return cls(ReplicationConnection.connect(slot, stored, identity), limits or StreamLimits())

    @property
    def paused(self) -> bool:
        """Whether a full buffer has stopped the reading."""
        return self._paused

    @property
    def buffered_bytes(self) -> int:
        return self._assembler.size_bytes

    def take(self, timeout_s: float) -> Delivery | Idle | None:
        """The next delivery as soon as there is one; after `timeout_s`, where the stream stands if that moved.

        Raises:
            SourceUnavailable, PositionLost, SourceProtocolError: the conversation ended, and all that was whole
                has been handed over. Parts of an unfinished transaction will come again from its beginning.
        """
        deadline = time.monotonic() + timeout_s
        with self._ready:
            while True:
                if (delivery := self._assembler.pop()) is not None:
                    return self._hand_over(delivery)
                if self._ended:
                    raise self._error or self._unexplained_end()
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    break
                self._ready.wait(left_s)
            idle = self._assembler.pop_idle()
            if idle is not None:
                self._handed_over = idle.position
            return idle

    def _unexplained_end(self) -> Exception:
        if self._closing:
            return SourceUnavailable("the stream was closed")
        return RuntimeError("the reader's thread failed: its traceback is on stderr")

    def _hand_over(self, delivery: Delivery) -> Delivery:
        self._handed_over = delivery.commit_end or self._handed_over
        if self._paused and self._has_room():
            self._paused = False
            self._wake()
        return delivery

    def _has_room(self) -> bool:
        # Half, so that reader and consumer do not take turns for every message.
        return self._assembler.size_bytes < self._limits.buffer_bytes // 2

    def acknowledge(self, flush: int) -> None:
        """Everything up to `flush`, a position that `take` gave, is safe in staging: the server may forget it."""
        with self._ready:
            assert flush <= self._handed_over, "acknowledged what was never handed over"
            self._acknowledged = max(self._acknowledged, flush)
            self._wake()

    def close(self) -> None:
        """Report the last acknowledgement, end the conversation, and wait for the thread. Calling it twice is fine."""
        with self._ready:
            self._closing = True
            self._wake()
        self._thread.join()
        with self._ready:
            for end in {self._wake_out, self._wake_in} - {-1}:
                os.close(end)
            self._wake_out = self._wake_in = -1

    def __enter__(self) -> WalReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wake(self) -> None:
        # A full pipe wakes as well as one more byte would.
        if self._wake_in >= 0:
            with suppress(BlockingIOError):
                os.write(self._wake_in, b"!")

    # What follows runs in the reader's thread.

    def _converse(self, duties: _Duties) -> None:
        try:
            while not self._closing:
                duties.report(self._acknowledged, paused=self._paused)
                if not self._paused:
                    self._read(duties)
                duties.wait(paused=self._paused)
            duties.leave(self._acknowledged)
        except ConnectorError as error:
            self._error = error
        finally:
            # Also when something of ours fails (threading.excepthook shows it): the consumer must not wait for ever.
            self._connection.close()
            with self._ready:
                self._ended = True
                self._ready.notify_all()

    def _read(self, duties: _Duties) -> None:
        payloads: list[bytes] = []
        keepalive: Keepalive | None = None
        try:
            keepalive = self._connection.read(payloads, READ_BYTES_MAX)
        finally:
            # Also what came before an error: whole transactions in it need not be sent again.
            self._store(payloads, keepalive)
        duties.heard(keepalive, got_data=bool(payloads))

    def _store(self, payloads: list[bytes], keepalive: Keepalive | None) -> None:
        with self._ready:
            self._assembler.feed(payloads)
            if keepalive is not None:
                self._assembler.idle(keepalive.wal_end)
            self._paused = self._assembler.size_bytes >= self._limits.buffer_bytes
            if self._assembler.has_delivery:
                self._ready.notify()


class _Duties:
    """What the reader owes the server besides reading: answers in time, patience with limits, a goodbye."""

    def __init__(self, connection: ReplicationConnection, limits: StreamLimits, wake: int) -> None:
        self._connection = connection
        self._limits = limits
        timeout_s = connection.facts.sender_timeout_s
        self._status_s = min(limits.status_s, max(timeout_s / 4, STORM_GAP_S)) if timeout_s else limits.status_s
        self._wake = wake
        self._poller = select.poll()
        self._poller.register(wake, select.POLLIN)
        now = time.monotonic()
        self._report_at = now  # at once: a server whose slot lags hears from us before anything else
        self._asked_at = 0.0
        self._heard_at = now
        self._paused_at: float | None = None
        self._storm = 0

    def report(self, acknowledged: int, *, paused: bool) -> None:
        """Send a status update if one is due, or if there is news.

        Raises:
            SourceUnavailable: the connection is gone, or one of the limits of patience is reached.
        """
        now = time.monotonic()
        self._check_patience(now, paused=paused)
        if acknowledged > self._connection.acknowledged or now >= self._report_at:
            silent = now - self._heard_at > self._limits.silence_s_max / 2
            self._connection.acknowledge(acknowledged, reply_requested=silent and not paused)
            self._report_at = now + self._status_s

    def _check_patience(self, now: float, *, paused: bool) -> None:
        if not paused:
            self._paused_at = None
        elif self._paused_at is None:
            self._paused_at = now
        elif now - self._paused_at > self._limits.stalled_s_max:
            raise SourceUnavailable(
                "hung up: nothing was taken from a full buffer for too long",
                hint="staging is slow or down; the stream starts again from the stored position",
            )
        if paused:
            self._heard_at = now  # we do not listen
        elif now - self._heard_at > self._limits.silence_s_max:
            raise SourceUnavailable("the server is silent", hint="network or server hang; will connect again")

    def heard(self, keepalive: Keepalive | None, *, got_data: bool) -> None:
        """Note a sign of life, and when an answer is wanted."""
        now = time.monotonic()
        if got_data:
            self._heard_at, self._storm = now, 0
        if keepalive is None:
            return
        self._heard_at = now
        if not keepalive.reply_requested:
            return
        self._storm = self._storm + 1 if now - self._asked_at < STORM_SPACING_S else 0
        self._asked_at = now
        if self._storm > STORM_ANSWERS_MAX:
            raise SourceUnavailable(
                "left a server that is shutting down and waits for us", hint="will connect again when it is back"
            )
        self._report_at = min(self._report_at, now + (STORM_GAP_S if self._storm else 0))

    def wait(self, *, paused: bool) -> None:
        """Sleep until the server, the consumer or the clock wants something."""
        flags = 0 if paused else select.POLLIN
        if self._connection.unflushed:
            flags |= select.POLLOUT
        self._poller.register(self._connection.fileno(), flags)
        ready_now = not paused and not self._connection.drained
        timeout_s = 0 if ready_now else max(0.0, self._report_at - time.monotonic())
        for fd, event in self._poller.poll(timeout_s * 1000):
            if fd == self._wake:
                with suppress(BlockingIOError):
                    os.read(self._wake, 4096)
            elif paused and event & (select.POLLHUP | select.POLLERR):
                # Reported whether asked for or not; without this the wait would spin until the consumer takes.
                raise SourceUnavailable("the server closed the connection", hint="will connect again")
            elif event & select.POLLOUT:
                self._connection.flush()

    def leave(self, acknowledged: int) -> None:
        """Send the last acknowledgement if it is news; the slot keeps what is not said here."""
        if acknowledged > self._connection.acknowledged:
            self._connection.acknowledge(acknowledged)
