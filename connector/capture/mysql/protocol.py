"""The binary log as a dump sends it: packets, event headers and the bodies that are not rows, decoded from bytes.

No sockets, no clock, no SQL. Bytes that do not follow the format raise `SourceProtocolError` and nothing else. Row
bodies stay bytes: `rows` takes the few key columns out of them.

Source: MariaDB Knowledge Base, "Replication Protocol"; MySQL Source Code Documentation, "Binary Log Event".
"""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from connector.errors import SourceProtocolError

HEADER: Final = 19
CHECKSUM: Final = 4
EVENT_BYTES_MAX: Final = 64 << 20
"""More of one event is not kept: what is cut off cannot be read, and the table's entities are looked at whole."""

ARTIFICIAL: Final = 0x20
IGNORABLE: Final = 0x80
_HEADER: Final = struct.Struct("<IBIIIH").unpack_from
_MARIADB_GTID: Final = struct.Struct("<QIB").unpack_from
_PACKET_MAX: Final = 0xFF_FFFF


class Kind(IntEnum):
    """Event types that mean something to us."""

    QUERY = 2
    STOP = 3
    ROTATE = 4
    INTVAR = 5
    RAND = 13
    USER_VAR = 14
    FORMAT = 15
    XID = 16
    BEGIN_LOAD = 17
    EXECUTE_LOAD = 18
    TABLE_MAP = 19
    WRITE_1 = 23
    UPDATE_1 = 24
    DELETE_1 = 25
    INCIDENT = 26
    HEARTBEAT = 27
    WRITE_2 = 30
    UPDATE_2 = 31
    DELETE_2 = 32
    MYSQL_GTID = 33
    MYSQL_ANONYMOUS = 34
    XA_PREPARE = 38
    PARTIAL_UPDATE = 39
    PAYLOAD = 40
    MYSQL_TAGGED_GTID = 42
    ANNOTATE = 160
    CHECKPOINT = 161
    MARIADB_GTID = 162
    GTID_LIST = 163
    START_ENCRYPTION = 164
    QUERY_COMPRESSED = 165
    WRITE_1_COMPRESSED = 166
    UPDATE_1_COMPRESSED = 167
    DELETE_1_COMPRESSED = 168
    WRITE_COMPRESSED = 169
    UPDATE_COMPRESSED = 170
    DELETE_COMPRESSED = 171


# Nothing of a party's rows is in these; MySQL's own ROWS_QUERY, PREVIOUS_GTIDS, TRANSACTION_CONTEXT, VIEW_CHANGE and
# HEARTBEAT_V2 are the numbers without a name.
SILENT: Final = frozenset(
    {Kind.STOP, Kind.INTVAR, Kind.RAND, Kind.USER_VAR, Kind.BEGIN_LOAD, Kind.HEARTBEAT, 29, 35, 36, 37, 41,
     Kind.ANNOTATE, Kind.CHECKPOINT, Kind.GTID_LIST, Kind.START_ENCRYPTION}
)  # fmt: skip


def malformed(what: str) -> SourceProtocolError:
    return SourceProtocolError(
        f"{what} in the binary log is malformed",
        hint="connect straight to the server, not through a proxy; if it is one, keep its log and report this",
    )


# ------------------------------------------------------------------------------------------------- packets


class Packets:
    """Takes the bytes of a connection and gives its packets' payloads; what is longer than the limit is cut."""

    def __init__(self, bytes_max: int = EVENT_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._rest = b""
        self._long: bytearray | None = None

    def feed(self, data: bytes) -> list[bytes]:
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        found: list[bytes] = []
        while end - at >= 4:
            size = data[at] | data[at + 1] << 8 | data[at + 2] << 16
            if end - at - 4 < size:
                break
            part = data[at + 4 : at + 4 + size]
            at += 4 + size
            if self._long is None and size < _PACKET_MAX:
                found.append(part)
                continue
            # A payload of 16 MiB or more comes in several packets; a shorter one ends it.
            self._long = bytearray() if self._long is None else self._long
            self._long += part[: max(0, self._bytes_max - len(self._long))]
            if size < _PACKET_MAX:
                found.append(bytes(self._long))
                self._long = None
        self._rest = data[at:]
        return found


# -------------------------------------------------------------------------------------------------- events


class Header(NamedTuple):
    """What every event begins with. `end` is its end in the file, modulo 4 GiB. A tuple: two are made a transaction."""

    timestamp: int
    kind: int
    server_id: int
    size: int
    end: int
    flags: int


def header(event: bytes) -> Header:
    if len(event) < HEADER:
        raise malformed("an event's header")
    return Header._make(_HEADER(event))


def verified(event: bytes) -> bytes:
    """The event without its checksum."""
    body = event[:-CHECKSUM]
    if zlib.crc32(body) != int.from_bytes(event[-CHECKSUM:], "little"):
        if len(event) < int.from_bytes(event[9:13], "little"):
            return event  # cut: nothing to compare with
        raise SourceProtocolError(
            "an event's checksum does not fit: the binary log is damaged",
            hint="the party's DBA looks at the server's disk; `connector resync PARTY` once its log is whole again",
        )
    return body


def has_checksums(event: bytes) -> bool:
    """Whether a file's events end with a checksum, as its format description says."""
    if len(event) < HEADER + 57 + CHECKSUM + 1:
        raise malformed("a format description")
    return event[-CHECKSUM - 1] == 1


def rotation(event: bytes) -> tuple[str, int]:
    """The next file and the place in it (body without a checksum)."""
    if len(event) <= HEADER + 8:
        raise malformed("a rotation")
    return event[HEADER + 8 :].decode("utf-8", "replace"), int.from_bytes(event[HEADER : HEADER + 8], "little")


class MariaDbGtid(NamedTuple):
    """A transaction's place in MariaDB's numbering. `alone`: one statement, and no commit after it."""

    domain: int
    server_id: int
    sequence: int
    alone: bool


def mariadb_gtid(event: bytes, server_id: int) -> MariaDbGtid:
    if len(event) < HEADER + 13:
        raise malformed("a GTID")
    sequence, domain, flags = _MARIADB_GTID(event, HEADER)
    return MariaDbGtid(domain, server_id, sequence, bool(flags & 1))


def mysql_gtid(event: bytes) -> tuple[str, int]:
    """Source's UUID and transaction number."""
    if len(event) < HEADER + 25:
        raise malformed("a GTID")
    at = HEADER + 1
    return str(uuid.UUID(bytes=event[at : at + 16])), int.from_bytes(event[at + 16 : at + 24], "little")


@dataclass(frozen=True, slots=True)
class Query:
    """A statement in the log, in the bytes of its session's character set."""

    schema: str
    text: bytes


def query(event: bytes, *, compressed: bool = False) -> Query:
    at = HEADER + 13
    if len(event) < at:
        raise malformed("a statement")
    schema_length = event[HEADER + 8]
    at += int.from_bytes(event[HEADER + 11 : HEADER + 13], "little")
    schema = event[at : at + schema_length].decode("utf-8", "replace")
    at += schema_length + 1
    if len(event) < at:
        raise malformed("a statement")
    return Query(schema, uncompressed(event, at) if compressed else event[at:])


def uncompressed(data: bytes, at: int) -> bytes:
    """What MariaDB's `log_bin_compress` packed, from `at` on; cut as any event is."""
    if len(data) <= at or (data[at] & 0x70) != 0:
        raise malformed("a compressed event")
    start = at + 1 + (data[at] & 0x07)
    try:
        return zlib.decompressobj().decompress(data[start:], EVENT_BYTES_MAX)
    except zlib.error:
        raise malformed("a compressed event") from None


def lenenc(data: bytes, at: int) -> tuple[int, int]:
    """A length-encoded whole number, and where it ends."""
    first = data[at]
    if first < 0xFB:
        return first, at + 1
    size = {0xFC: 2, 0xFD: 3, 0xFE: 8}.get(first)
    if size is None or len(data) < at + 1 + size:
        raise malformed("a length")
    return int.from_bytes(data[at + 1 : at + 1 + size], "little"), at + 1 + size
