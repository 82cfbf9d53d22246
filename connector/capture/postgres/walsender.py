"""One logical replication conversation with a walsender, on libpq itself: psycopg has no API for it.

It reads without waiting and says what it is told to say. It does not look into messages, starts no thread, and
never decides what to acknowledge.
"""

from __future__ import annotations

import select
import time
from typing import Final

import psycopg
from psycopg import pq

from connector.capture.postgres.handshake import StreamFacts, StreamSlot, begin, ended, result, sqlstate
from connector.capture.postgres.protocol import XLOG_DATA_HEADER, Frame, Keepalive, decode_frame, encode_status
from connector.errors import ConnectorError, SourceProtocolError, SourceUnavailable
from connector.events import Position, SourceIdentity

_UNIX_2000: Final = 946_684_800
_XLOG: Final = ord("w")


class ReplicationConnection:
    """One logical replication conversation, owned by one thread.

    `acknowledged` is what the server was told last; it starts at `after`, which the caller read from staging.
    `drained` tells after `read` whether nothing more was there. `unflushed` asks for another `flush` once the
    socket takes bytes again.
    """

    def __init__(self, conn: psycopg.Connection, facts: StreamFacts) -> None:
        self.facts = facts
        self.acknowledged = facts.start.ordinal
        self.drained = False
        self.unflushed = False
        self._conn = conn
        self._pgconn = conn.pgconn
        self._pgconn.nonblocking = 1
        # A TLS record holds up to 16 KB and one read may leave half of it inside OpenSSL, where poll() does
        # not see it: read once more. What still stays behind waits for the next status update at most.
        self._dry_reads_max = 2 if self._pgconn.ssl_in_use else 1

    @classmethod
    def connect(
        cls,
        slot: StreamSlot,
        stored: Position | None = None,
        identity: SourceIdentity | None = None,
        *,
        messages: bool = False,
    ) -> ReplicationConnection:
        """Connect, compare positions (`slot.start_position`), and start the stream.

        Args:
            stored: the position staging has, None before the first start: then from where the slot stands.
            identity: the cluster and history that position is from.
            messages: also send what `pg_logical_emit_message` wrote (PostgreSQL 14 or newer).

        Raises:
            SourceUnavailable: no connection, or the slot is in use.
            SourceMisconfigured: the login, slot, publication or synchronous_standby_names is not as it must be.
            PositionLost: see `slot.start_position`; also `slot_missing` for a slot that cannot be ours.
            SourceProtocolError: the server refused a command as no PostgreSQL does.
        """
        return cls(*begin(slot, stored, identity, messages=messages))

    def fileno(self) -> int:
        return self._pgconn.socket

    def receive(self, timeout_s: float) -> Frame | None:
        """The next frame, or None after `timeout_s`. It answers nothing by itself.

        Raises:
            SourceUnavailable, PositionLost, SourceProtocolError: the stream ended, and why.
        """
        deadline = time.monotonic() + timeout_s
        poller = select.poll()
        poller.register(self._pgconn.socket, select.POLLIN)
        try:
            while True:
                count, view = self._pgconn.get_copy_data(1)
                if count > 0:
                    return decode_frame(bytes(view))
                if count < 0:
                    raise self._end()
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return None
                poller.poll(left_s * 1000)
                self._pgconn.consume_input()
        except psycopg.Error as error:
            raise self._lost(error) from None

    def read(self, payloads: list[bytes], bytes_max: int) -> Keepalive | None:
        """Append the payloads that are there without waiting; stop at a keepalive and give it back.

        It does not let go of the interpreter's lock in between: libpq reads 16 KB at a time, and a thread
        that waits after each would get the lock back every 5 ms from a consumer that computes.

        Raises:
            As `receive`.
        """
        pgconn, size, dry_reads = self._pgconn, 0, 0
        self.drained = False
        try:
            while size < bytes_max:
                count, view = pgconn.get_copy_data(1)
                if count > XLOG_DATA_HEADER and view[0] == _XLOG:
                    payloads.append(bytes(view[XLOG_DATA_HEADER:]))
                    size += count
                    dry_reads = 0
                elif count > 0:
                    return self._keepalive(bytes(view))
                elif count < 0:
                    raise self._end()
                elif dry_reads == self._dry_reads_max:
                    self.drained = True
                    return None
                else:
                    pgconn.consume_input()
                    dry_reads += 1
        except psycopg.Error as error:
            raise self._lost(error) from None
        return None

    @staticmethod
    def _keepalive(data: bytes) -> Keepalive:
        frame = decode_frame(data)
        if not isinstance(frame, Keepalive):
            raise SourceProtocolError("an XLogData message without a payload", hint="report this with the server's log")
        return frame

    def acknowledge(self, flush: int, *, reply_requested: bool = False) -> None:
        """Tell the server that everything up to `flush` is safe in staging; the same number again says "alive".

        Raises:
            SourceUnavailable: the connection is gone.
        """
        assert flush >= self.acknowledged
        try:
            # One report in libpq's buffer at a time: a server that does not read must not make us grow.
            if self.unflushed and not self.flush():
                return
            now_us = int((time.time() - _UNIX_2000) * 1_000_000)
            if self._pgconn.put_copy_data(encode_status(flush, now_us, reply_requested=reply_requested)) == 1:
                self.acknowledged = flush
            self.flush()
        except psycopg.Error as error:
            raise self._lost(error) from None

    def flush(self) -> bool:
        """Push what waits in libpq's buffer; False when some of it still waits.

        Raises:
            SourceUnavailable: the connection is gone.
        """
        try:
            self.unflushed = self._pgconn.flush() != 0
        except psycopg.Error as error:
            raise self._lost(error) from None
        return not self.unflushed

    def close(self) -> None:
        """End the conversation; libpq says Terminate, which a walsender takes as a goodbye."""
        self._conn.close()

    def _end(self) -> ConnectorError:
        """Why the stream ended: the server's last word, or none."""
        answer = result(self._pgconn)
        if answer is None or answer.status != pq.ExecStatus.FATAL_ERROR:
            return SourceUnavailable("the server ended the stream", hint="it is shutting down; will connect again")
        return ended(sqlstate(answer), self.facts.state.identity.slot)

    def _lost(self, error: psycopg.Error) -> ConnectorError:
        return ended(error.sqlstate, self.facts.state.identity.slot)
