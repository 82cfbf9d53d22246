"""pgoutput (proto_version 1) and the walsender envelope, decoded from bytes and nothing else.

No sockets, no clock, no SQL. Bytes that do not follow the format raise `SourceProtocolError` and never
anything else; every length is bounded by the message it stands in. Column values stay bytes: only the
caller knows which few of them are keys.

`decode` gives one object per message and is the reference; `row_keys` has the fast road for row messages.

Source: PostgreSQL manual, "Logical Replication Message Formats" and "Streaming Replication Protocol".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Final, TypeAlias

from connector.errors import SourceProtocolError

COLUMNS_MAX: Final = 1664
"""MaxTupleAttributeNumber in PostgreSQL's access/htup_details.h."""

LSN_MAX: Final = 2**64 - 1

_HINT: Final = (
    "The server, or a proxy before it, does not speak pgoutput protocol version 1 as PostgreSQL does. "
    "Connect straight to the PostgreSQL server; if it is one, keep its log and report this."
)
_EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)

_BEGIN: Final = struct.Struct(">xQqI")
_COMMIT: Final = struct.Struct(">xBQQq")
_XLOG_DATA: Final = struct.Struct(">xQQq")
_KEEPALIVE: Final = struct.Struct(">xQqB")
_STATUS: Final = struct.Struct(">cQQQqB")

XLOG_DATA_HEADER: Final = _XLOG_DATA.size
"""Bytes of an XLogData message before its payload."""


class Unknown(Enum):
    """A value that the message does not carry.

    An unchanged TOASTed value, or a column outside the replica identity in an old key.
    It is never NULL, which is `None`.
    """

    UNKNOWN = "unknown"


UNKNOWN: Final = Unknown.UNKNOWN
Value: TypeAlias = "bytes | Unknown | None"
Key: TypeAlias = "tuple[Value, ...]"


class ReplicaIdentity(Enum):
    """What a table writes to the log about an old row (`relreplident`)."""

    DEFAULT = "d"
    NOTHING = "n"
    FULL = "f"
    INDEX = "i"


class ValueKind(Enum):
    """How a tuple carries a column."""

    NULL = "n"
    UNCHANGED = "u"
    TEXT = "t"
    BINARY = "b"


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction starts; `final_lsn` is where its commit record starts, not its end."""

    final_lsn: int
    committed_us: int
    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    """A transaction ends; `end_lsn` is the only position of it that may be stored or confirmed."""

    flags: int
    commit_lsn: int
    end_lsn: int
    committed_us: int


@dataclass(frozen=True, slots=True)
class Column:
    """One published column; `is_key` when it belongs to the replica identity."""

    is_key: bool
    name: str
    type_oid: int
    type_modifier: int


@dataclass(frozen=True, slots=True)
class Relation:
    """The layout of a table's row messages from here on. An empty `schema` on the wire is pg_catalog."""

    relation_id: int
    schema: str
    name: str
    identity: ReplicaIdentity
    columns: tuple[Column, ...]


@dataclass(frozen=True, slots=True)
class ColumnValue:
    """One column of a tuple: text or binary as it came, `data` empty for the two kinds without bytes."""

    kind: ValueKind
    data: bytes = b""


TupleData: TypeAlias = "tuple[ColumnValue, ...]"


@dataclass(frozen=True, slots=True)
class Insert:
    """A new row."""

    relation_id: int
    new: TupleData


@dataclass(frozen=True, slots=True)
class Update:
    """A changed row. `old` comes only when the identity changed (`old_is_key`) or is FULL."""

    relation_id: int
    old: TupleData | None
    old_is_key: bool
    new: TupleData


@dataclass(frozen=True, slots=True)
class Delete:
    """A row that is gone: its identity columns (`old_is_key`, the others are NULL) or the whole row."""

    relation_id: int
    old: TupleData
    old_is_key: bool


@dataclass(frozen=True, slots=True)
class Truncate:
    """Tables emptied in one statement."""

    relation_ids: tuple[int, ...]
    cascade: bool
    restart_identity: bool


@dataclass(frozen=True, slots=True)
class Origin:
    """The transaction was replicated to this server from elsewhere."""

    lsn: int
    name: str


@dataclass(frozen=True, slots=True)
class Type:
    """A type that is not built in, named before the relation that uses it."""

    type_oid: int
    schema: str
    name: str


@dataclass(frozen=True, slots=True)
class LogicalMessage:
    """`pg_logical_emit_message`. One that is not transactional belongs to no transaction."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


Message: TypeAlias = "Begin | Commit | Relation | Insert | Update | Delete | Truncate | Origin | Type | LogicalMessage"


@dataclass(frozen=True, slots=True)
class XLogData:
    """One pgoutput message in its walsender envelope. `start_lsn` is not an event id: rows can share it."""

    start_lsn: int
    wal_end: int
    sent_us: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Keepalive:
    """The server has read its log up to `wal_end`; it wants an answer now when `reply_requested`."""

    wal_end: int
    sent_us: int
    reply_requested: bool


Frame: TypeAlias = "XLogData | Keepalive"

_NAMES: Final[dict[int, str]] = {
    ord("B"): "Begin",
    ord("C"): "Commit",
    ord("R"): "Relation",
    ord("I"): "Insert",
    ord("U"): "Update",
    ord("D"): "Delete",
    ord("T"): "Truncate",
    ord("O"): "Origin",
    ord("Y"): "Type",
    ord("M"): "Message",
}

_REFUSED: Final[dict[int, tuple[str, str]]] = {
    ord("S"): ("Stream Start", "streaming"),
    ord("E"): ("Stream Stop", "streaming"),
    ord("c"): ("Stream Commit", "streaming"),
    ord("A"): ("Stream Abort", "streaming"),
    ord("b"): ("Begin Prepare", "two_phase"),
    ord("P"): ("Prepare", "two_phase"),
    ord("K"): ("Commit Prepared", "two_phase"),
    ord("r"): ("Rollback Prepared", "two_phase"),
    ord("p"): ("Stream Prepare", "streaming and two_phase"),
}


def lsn_text(lsn: int) -> str:
    """Write a log position as people and PostgreSQL do: `0/16B3748`."""
    assert 0 <= lsn <= LSN_MAX
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def lsn_int(text: str) -> int:
    """Read `0/16B3748`.

    Raises:
        SourceProtocolError: `text` is not two hexadecimal numbers of up to 32 bits each.
    """
    if not re.fullmatch(r"[0-9A-Fa-f]{1,8}/[0-9A-Fa-f]{1,8}", text, re.ASCII):
        raise broken("a log position is not of the form 0/16B3748")
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def utc_time(microseconds: int) -> datetime:
    """Turn a protocol time (microseconds since 2000-01-01 UTC) into a datetime.

    Raises:
        SourceProtocolError: a year outside 1 to 9999.
    """
    try:
        return _EPOCH + timedelta(microseconds=microseconds)
    except OverflowError as exc:
        raise broken("a commit time is outside the years 1 to 9999") from exc


def text(value: bytes) -> str:
    """Decode a value or name that the server converted to our client_encoding, UTF-8.

    Raises:
        SourceProtocolError: not UTF-8. A SQL_ASCII database converts nothing, so this can be the party's data.
    """
    with suppress(UnicodeDecodeError):
        return value.decode()
    # Raised outside the handler: a chained UnicodeDecodeError would carry the bytes, a cell's value, along.
    raise SourceProtocolError(
        "a name or key in the log is not valid UTF-8",
        hint="The party's database has encoding SQL_ASCII, or broken text in a key: repair it there.",
    )


def decode(body: bytes) -> Message:
    """Decode one pgoutput message.

    Args:
        body: the whole message, its type byte first, without the walsender envelope.

    Raises:
        SourceProtocolError: anything but exactly one well-formed message of protocol version 1;
            messages of streaming and two_phase are named with the option that produces them.
    """
    reader = _Reader(body)
    kind = reader.u8()
    decoder = _DECODERS.get(kind)
    if decoder is None:
        raise refused(kind)
    message = decoder(reader)
    reader.end()
    return message


def decode_frame(data: bytes) -> Frame:
    """Decode what a CopyData message of the walsender carries.

    Raises:
        SourceProtocolError: neither XLogData nor a primary keepalive, or a short one.
    """
    kind = data[:1]
    try:
        if kind == b"w":
            start, wal_end, sent = _XLOG_DATA.unpack_from(data)
            return XLogData(start, wal_end, sent, data[XLOG_DATA_HEADER:])
        if kind == b"k":
            wal_end, sent, reply = _KEEPALIVE.unpack(data)
            return Keepalive(wal_end, sent, reply != 0)
    except struct.error as exc:
        raise broken(f"a replication envelope has a wrong length, {len(data)} bytes") from exc
    raise broken(f"unknown replication envelope {kind!r}")


def encode_status(lsn: int, sent_us: int, *, reply_requested: bool = False) -> bytes:
    """Build a standby status update that reports `lsn` as written, flushed and applied.

    One number for all three on purpose: nothing is written here before it is safe in staging, and
    a server that counts us in synchronous_standby_names would believe a larger one.
    """
    assert 0 <= lsn <= LSN_MAX
    return _STATUS.pack(b"r", lsn, lsn, lsn, sent_us, reply_requested)


def refused(kind: int) -> SourceProtocolError:
    """The error for a message type that this connector does not ask for, or that does not exist."""
    name, option = _REFUSED.get(kind, ("", ""))
    if not name:
        return broken(f"unknown pgoutput message type 0x{kind:02x}")
    return SourceProtocolError(
        f"pgoutput message {name} ({chr(kind)!r}) belongs to option {option}, which is not asked for",
        hint=f"Something reads the slot with {option} on (kit functions edited by hand?): "
        "use proto_version 1 without streaming, and a slot made with two_phase off.",
    )


class _Reader:
    """A cursor over one message that cannot leave it."""

    __slots__ = ("_at", "_body")

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def take(self, size: int) -> bytes:
        piece = self._body[self._at : self._at + size]
        if len(piece) != size:
            raise self.broken("ends early")
        self._at += size
        return piece

    def u8(self) -> int:
        return self.take(1)[0]

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def i32(self) -> int:
        return int.from_bytes(self.take(4), "big", signed=True)

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "big")

    def name(self) -> str:
        end = self._body.find(b"\0", self._at)
        if end < 0:
            raise self.broken("has a name without an end")
        piece = self.take(end - self._at)
        self._at += 1
        return text(piece)

    def whole(self, layout: struct.Struct) -> tuple[int, ...]:
        """Unpack a message of fixed size, its type byte included."""
        if len(self._body) != layout.size:
            raise self.broken(f"has {len(self._body)} bytes instead of {layout.size}")
        self._at = layout.size
        return layout.unpack(self._body)

    def end(self) -> None:
        if self._at != len(self._body):
            raise self.broken("goes on after its end")

    def broken(self, what: str) -> SourceProtocolError:
        name = _NAMES.get(self._body[0], "") if self._body else ""
        return broken(f"pgoutput message {name} {what}" if name else f"a pgoutput message {what}")


def _begin(reader: _Reader) -> Begin:
    return Begin(*reader.whole(_BEGIN))


def _commit(reader: _Reader) -> Commit:
    return Commit(*reader.whole(_COMMIT))


def _relation(reader: _Reader) -> Relation:
    relation_id, schema, name = reader.u32(), reader.name() or "pg_catalog", reader.name()
    identity = _IDENTITIES.get(reader.u8())
    if identity is None:
        raise reader.broken("has an unknown replica identity")
    count = _column_count(reader)
    return Relation(relation_id, schema, name, identity, tuple(_column(reader) for _ in range(count)))


def _column(reader: _Reader) -> Column:
    flags = reader.u8()
    if flags > 1:
        raise reader.broken("has unknown column flags")
    return Column(flags == 1, reader.name(), reader.u32(), reader.i32())


def _column_count(reader: _Reader) -> int:
    count = reader.u16()
    if count > COLUMNS_MAX:
        raise reader.broken(f"has {count} columns, more than {COLUMNS_MAX}")
    return count


def _insert(reader: _Reader) -> Insert:
    relation_id = reader.u32()
    _tuple_kind(reader, "N")
    return Insert(relation_id, _tuple(reader))


def _update(reader: _Reader) -> Update:
    relation_id = reader.u32()
    old: TupleData | None = None
    kind = _tuple_kind(reader, "KON")
    if kind != "N":
        old = _tuple(reader)
        _tuple_kind(reader, "N")
    return Update(relation_id, old, kind == "K", _tuple(reader))


def _delete(reader: _Reader) -> Delete:
    relation_id = reader.u32()
    kind = _tuple_kind(reader, "KO")
    return Delete(relation_id, _tuple(reader), kind == "K")


def _tuple_kind(reader: _Reader, allowed: str) -> str:
    kind = chr(reader.u8())
    if kind not in allowed:
        raise reader.broken("has an unknown tuple")
    return kind


def _tuple(reader: _Reader) -> TupleData:
    return tuple(_value(reader) for _ in range(_column_count(reader)))


def _value(reader: _Reader) -> ColumnValue:
    kind = _VALUE_KINDS.get(reader.u8())
    if kind is None:
        raise reader.broken("has an unknown kind of column value")
    if kind is ValueKind.NULL or kind is ValueKind.UNCHANGED:
        return ColumnValue(kind)
    return ColumnValue(kind, reader.take(reader.u32()))


def _truncate(reader: _Reader) -> Truncate:
    count, options = reader.u32(), reader.u8()
    if options > 3:
        raise reader.broken("has unknown options")
    packed = reader.take(4 * count)
    ids = tuple(int.from_bytes(packed[at : at + 4], "big") for at in range(0, len(packed), 4))
    return Truncate(ids, bool(options & 1), bool(options & 2))


def _origin(reader: _Reader) -> Origin:
    return Origin(reader.u64(), reader.name())


def _type(reader: _Reader) -> Type:
    return Type(reader.u32(), reader.name() or "pg_catalog", reader.name())


def _logical_message(reader: _Reader) -> LogicalMessage:
    flags = reader.u8()
    if flags > 1:
        raise reader.broken("has unknown flags")
    lsn, prefix = reader.u64(), reader.name()
    return LogicalMessage(flags == 1, lsn, prefix, reader.take(reader.u32()))


_DECODERS: Final[dict[int, Callable[[_Reader], Message]]] = {
    ord("B"): _begin,
    ord("C"): _commit,
    ord("R"): _relation,
    ord("I"): _insert,
    ord("U"): _update,
    ord("D"): _delete,
    ord("T"): _truncate,
    ord("O"): _origin,
    ord("Y"): _type,
    ord("M"): _logical_message,
}

_IDENTITIES: Final = {ord(identity.value): identity for identity in ReplicaIdentity}
_VALUE_KINDS: Final = {ord(kind.value): kind for kind in ValueKind}


def broken(what: str) -> SourceProtocolError:
    return SourceProtocolError(what, hint=_HINT)
