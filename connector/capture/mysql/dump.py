"""One binlog dump: the conversation in which a server sends its binary log, from a list of GTIDs on.

On PyMySQL's connection, for its handshake and TLS; the packets are taken off the socket here, many at a time, and a
lost connection is an error, not a silent new one from where it once began. It does not look into events.

Source: MariaDB Knowledge Base, "Replication Protocol: Slave Registration, COM_BINLOG_DUMP"; MySQL Source Code
Documentation, "COM_BINLOG_DUMP_GTID".
"""

from __future__ import annotations

import secrets
import select
import struct
import time
from collections.abc import Sequence
from typing import Any, Final

from connector.capture.mysql.gtid import Gtids, MySqlGtids
from connector.capture.mysql.protocol import Packets
from connector.errors import ConnectorError, PositionLost, SourceMisconfigured, SourceProtocolError, SourceUnavailable
from connector.sqldb.engines import Options
from connector.sqldb.session import SqlSession

HEARTBEAT_S: Final = 5.0
"""A server that has nothing to send says so this often."""
SILENCE_S_MAX: Final = 30.0
"""No sign of life for so long while we listened: the connection is dead, whatever TCP thinks."""
READ_BYTES: Final = 1 << 18
_COM_BINLOG_DUMP, _COM_BINLOG_DUMP_GTID = 0x12, 0x1E
_OK, _ERROR, _EOF = 0x00, 0xFF, 0xFE
_LOST: Final = frozenset({1236, 1945, 1950, 1955})
_DENIED: Final = frozenset({1227, 1044, 1045, 1142})
_SETTINGS: Final = (
    f"set @master_heartbeat_period = {int(HEARTBEAT_S * 1e9)}",
    f"set @source_heartbeat_period = {int(HEARTBEAT_S * 1e9)}",
    "set @master_binlog_checksum = @@global.binlog_checksum",
    "set @source_binlog_checksum = @@global.binlog_checksum",
    # We may be slow: staging comes first, and the server waits with its own log.
    "set session net_write_timeout = 3600",
)
_MARIADB: Final = (
    "set @mariadb_slave_capability = 4",
    # A GTID that is not in its log is an error, not a place near by.
    "set @slave_gtid_strict_mode = 1",
    "set @slave_gtid_ignore_duplicates = 0",
)


class BinlogDump:
    """A dump under way; owned by one thread."""

    def __init__(self, url: str, options: Options, after: Gtids) -> None:
        """Connect, and have everything behind `after` sent.

        Raises:
            SourceUnavailable: no connection.
        """
        self._session = SqlSession(url, options)
        self._packets = Packets()
        try:
            with self._session.translated("asking for the binary log"):
                self._start(after)
        except BaseException:
            self.close()
            raise
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self._heard = time.monotonic()

    def _start(self, after: Gtids) -> None:
        mysql = isinstance(after, MySqlGtids)
        for statement in (*_SETTINGS, *(() if mysql else _MARIADB)):
            self._session.execute(statement)
        # A number of its own for each dump: one that another replica has would end that replica's dump.
        server_id = (1 << 31) + secrets.randbelow((1 << 31) - 2)
        raw: Any = self._session.raw
        if isinstance(after, MySqlGtids):
            command = _dump_gtid(server_id, after)
        else:
            self._session.execute("set @slave_connect_state = %s", (after.text(),))
            command = struct.pack("<BIHI", _COM_BINLOG_DUMP, 4, 0, server_id)
        raw._write_bytes(struct.pack("<I", len(command)) + command)
        self._socket = raw._sock
        self._socket.settimeout(None)

    def close(self) -> None:
        self._session.close()

    def receive(self, timeout_s: float) -> Sequence[bytes]:
        """The events that are there; none where nothing comes within `timeout_s`.

        Raises:
            SourceUnavailable: the connection is gone, or silent for too long.
            PositionLost: the server does not have what we asked for.
            SourceMisconfigured: this login may not read the log.
        """
        try:
            pending = getattr(self._socket, "pending", None)
            if not (pending is not None and pending()) and not self._poll.poll(timeout_s * 1000):
                if time.monotonic() - self._heard > SILENCE_S_MAX:
                    raise SourceUnavailable(
                        f"the server said nothing for {SILENCE_S_MAX:.0f} seconds", hint="will connect again"
                    )
                return ()
            data = self._socket.recv(READ_BYTES)
        except OSError as error:
            raise SourceUnavailable(
                f"reading the binary log: no connection ({type(error).__name__})", hint="will connect again"
            ) from None
        if not data:
            raise SourceUnavailable("the server ended the dump", hint="it is shutting down; will connect again")
        self._heard = time.monotonic()
        return [self._event(packet) for packet in self._packets.feed(data)]

    @staticmethod
    def _event(packet: bytes) -> bytes:
        if packet[:1] == b"\0":
            return packet[1:]
        raise _refusal(packet)


def _dump_gtid(server_id: int, after: MySqlGtids) -> bytes:
    sets = after.encoded()
    through_gtid = 4
    return (
        struct.pack("<BHII", _COM_BINLOG_DUMP_GTID, through_gtid, server_id, 0)
        + struct.pack("<QI", 4, len(sets))
        + sets
    )


def _refusal(packet: bytes) -> ConnectorError:
    """What the server's last word means. Its text is not looked at."""
    if packet[:1] == bytes([_EOF]):
        return SourceUnavailable("the server ended the dump", hint="it is shutting down; will connect again")
    if packet[:1] != bytes([_ERROR]):
        return SourceProtocolError("a packet that is no event", hint="connect straight to the server, without a proxy")
    code = int.from_bytes(packet[1:3], "little")
    if code in _LOST:
        return PositionLost(
            "position_lost", f"the server's binary log does not lead on from our position ({code})",
            hint="it was purged before we had read it, or the server is not the one we followed:"
            " keep binary logs for longer (see `connector check`), then `connector resync PARTY`",
        )  # fmt: skip
    if code in _DENIED:
        return SourceMisconfigured(
            f"this login may not read the binary log ({code})",
            hint="the party's DBA runs the kit's SQL: `connector kit PARTY` grants REPLICATION SLAVE",
        )
    return SourceUnavailable(f"the server ended the dump ({code})", hint="see the server's log; will connect again")
