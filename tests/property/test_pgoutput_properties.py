"""decode(encode(x)) is x; the fast road agrees with the reference; garbage gives one error class only."""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from connector.capture.postgres.protocol import (
    UNKNOWN,
    Begin,
    Column,
    ColumnValue,
    Commit,
    Delete,
    Insert,
    Key,
    LogicalMessage,
    Message,
    Origin,
    Relation,
    ReplicaIdentity,
    Truncate,
    TupleData,
    Type,
    Update,
    Value,
    ValueKind,
    decode,
    decode_frame,
)
from connector.capture.postgres.row_keys import KeyExtractor
from connector.errors import SourceProtocolError

QUICK = settings(max_examples=200, deadline=None)

# -- the encoder, test side only ------------------------------------------------------------------


def _encode_tuple(data: TupleData) -> bytes:
    parts = [struct.pack(">H", len(data))]
    for value in data:
        parts.append(value.kind.value.encode())
        if value.kind in (ValueKind.TEXT, ValueKind.BINARY):
            parts.append(struct.pack(">I", len(value.data)) + value.data)
    return b"".join(parts)


def _old(data: TupleData, is_key: bool) -> bytes:
    return (b"K" if is_key else b"O") + _encode_tuple(data)


def _z(name: str) -> bytes:
    return name.encode() + b"\0"


def encode(message: Message) -> bytes:
    match message:
        case Begin(final_lsn, committed_us, xid):
            return b"B" + struct.pack(">QqI", final_lsn, committed_us, xid)
        case Commit(flags, commit_lsn, end_lsn, committed_us):
            return b"C" + struct.pack(">BQQq", flags, commit_lsn, end_lsn, committed_us)
        case Relation(relation_id, schema, name, identity, columns):
            wire_schema = "" if schema == "pg_catalog" else schema
            head = struct.pack(">I", relation_id) + _z(wire_schema) + _z(name) + identity.value.encode()
            body = b"".join(
                bytes([c.is_key]) + _z(c.name) + struct.pack(">Ii", c.type_oid, c.type_modifier) for c in columns
            )
            return b"R" + head + struct.pack(">H", len(columns)) + body
        case Insert(relation_id, new):
            return b"I" + struct.pack(">I", relation_id) + b"N" + _encode_tuple(new)
        case Update(relation_id, old, old_is_key, new):
            before = b"" if old is None else _old(old, old_is_key)
            return b"U" + struct.pack(">I", relation_id) + before + b"N" + _encode_tuple(new)
        case Delete(relation_id, old, old_is_key):
            return b"D" + struct.pack(">I", relation_id) + _old(old, old_is_key)
        case Truncate(ids, cascade, restart):
            return b"T" + struct.pack(f">IB{len(ids)}I", len(ids), cascade | restart << 1, *ids)
        case Origin(lsn, name):
            return b"O" + struct.pack(">Q", lsn) + _z(name)
        case Type(type_oid, schema, name):
            return b"Y" + struct.pack(">I", type_oid) + _z("" if schema == "pg_catalog" else schema) + _z(name)
        case LogicalMessage(transactional, lsn, prefix, content):
            head = b"M" + struct.pack(">BQ", transactional, lsn) + _z(prefix)
            return head + struct.pack(">I", len(content)) + content


# -- strategies -----------------------------------------------------------------------------------

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
i64 = st.integers(-(2**63), 2**63 - 1)
names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=12)
schemas = names.map(lambda name: name or "pg_catalog")


def values(*kinds: ValueKind) -> st.SearchStrategy[ColumnValue]:
    bare = [st.just(ColumnValue(kind)) for kind in kinds if kind in (ValueKind.NULL, ValueKind.UNCHANGED)]
    full = [
        st.builds(ColumnValue, st.just(kind), st.binary(max_size=20))
        for kind in kinds
        if kind in (ValueKind.TEXT, ValueKind.BINARY)
    ]
    return st.one_of(*bare, *full)


def rows(width: int | None, *kinds: ValueKind) -> st.SearchStrategy[TupleData]:
    low, high = (0, 6) if width is None else (width, width)
    return st.lists(values(*kinds), min_size=low, max_size=high).map(tuple)


def row_messages(
    relation_id: st.SearchStrategy[int], width: int | None, *kinds: ValueKind
) -> st.SearchStrategy[Insert | Update | Delete]:
    row = rows(width, *kinds)
    return st.one_of(
        st.builds(Insert, relation_id, row),
        st.builds(Update, relation_id, st.none(), st.just(False), row),
        st.builds(Update, relation_id, row, st.booleans(), row),
        st.builds(Delete, relation_id, row, st.booleans()),
    )


columns = st.builds(Column, st.booleans(), names, u32, st.integers(-(2**31), 2**31 - 1))
messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Begin, u64, i64, u32),
    st.builds(Commit, st.integers(0, 255), u64, u64, i64),
    st.builds(
        Relation, u32, schemas, names, st.sampled_from(ReplicaIdentity), st.lists(columns, max_size=5).map(tuple)
    ),
    row_messages(u32, None, *ValueKind),
    st.builds(Truncate, st.lists(u32, max_size=4).map(tuple), st.booleans(), st.booleans()),
    st.builds(Origin, u64, names),
    st.builds(Type, u32, schemas, names),
    st.builds(LogicalMessage, st.booleans(), u64, names, st.binary(max_size=30)),
)


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Relation, tuple[int, ...], Insert | Update | Delete]:
    """A relation, the columns wanted of it, and a row message of it."""
    width = draw(st.integers(1, 5))
    flags = draw(st.lists(st.booleans(), min_size=width, max_size=width))
    relation = Relation(
        7, "s", "t", ReplicaIdentity.INDEX, tuple(Column(is_key, f"c{at}", 25, -1) for at, is_key in enumerate(flags))
    )
    wanted = draw(st.lists(st.integers(0, width - 1), min_size=1, max_size=width, unique=True))
    kinds = (ValueKind.TEXT, ValueKind.NULL, ValueKind.UNCHANGED)
    return relation, tuple(wanted), draw(row_messages(st.just(7), width, *kinds))


# -- the reference for the fast road: what the contract says, over decoded messages -----------------


def _plain(value: ColumnValue) -> Value:
    match value.kind:
        case ValueKind.NULL:
            return None
        case ValueKind.UNCHANGED:
            return UNKNOWN
        case _:
            return value.data


def _key(data: TupleData, wanted: tuple[int, ...], visible: Callable[[int], bool]) -> Key:
    return tuple(_plain(data[index]) if visible(index) else UNKNOWN for index in wanted)


def reference(relation: Relation, wanted: tuple[int, ...], message: Message) -> tuple[Key | None, Key | None]:
    def in_identity(index: int) -> bool:
        return relation.columns[index].is_key

    def always(_index: int) -> bool:
        return True

    match message:
        case Insert(_, new):
            return None, _key(new, wanted, always)
        case Delete(_, old, old_is_key):
            return _key(old, wanted, in_identity if old_is_key else always), None
        case Update(_, None, _, new):
            before = _key(new, wanted, in_identity)
            unsure = not all(in_identity(index) for index in wanted)
            return (before if unsure else None), _key(new, wanted, always)
        case Update(_, old, old_is_key, new):
            assert old is not None
            before = _key(old, wanted, in_identity if old_is_key else always)
            after = tuple(
                was if now is UNKNOWN else now for was, now in zip(before, _key(new, wanted, always), strict=True)
            )
            return (None if before == after and UNKNOWN not in before else before), after
        case _:
            raise AssertionError(message)


# -- the properties ---------------------------------------------------------------------------------


@QUICK
@given(messages)
def test_decode_of_encode_is_identity(message: Message) -> None:
    assert decode(encode(message)) == message


@QUICK
@given(layouts())
def test_the_fast_road_agrees_with_the_reference(case: tuple[Relation, tuple[int, ...], Message]) -> None:
    relation, wanted, message = case
    assert KeyExtractor(relation, wanted)(encode(message)) == reference(relation, wanted, message)


def only_protocol_errors(body: bytes) -> Message | None:
    try:
        return decode(body)
    except SourceProtocolError:
        return None


@QUICK
@given(st.binary(max_size=80))
def test_random_bytes_give_a_protocol_error_or_a_message(body: bytes) -> None:
    only_protocol_errors(body)
    with suppress(SourceProtocolError):
        decode_frame(body)


@QUICK
@given(messages, st.data())
def test_a_truncated_message_is_always_refused(message: Message, data: st.DataObject) -> None:
    body = encode(message)
    cut = data.draw(st.integers(0, len(body) - 1))
    assert only_protocol_errors(body[:cut]) is None


@QUICK
@given(messages, st.binary(min_size=1, max_size=4))
def test_a_message_that_goes_on_is_always_refused(message: Message, tail: bytes) -> None:
    assert only_protocol_errors(encode(message) + tail) is None


def _mutated(body: bytes, data: st.DataObject) -> bytes:
    mutated = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    return bytes(mutated[: data.draw(st.integers(1, len(mutated)))])


@QUICK
@given(messages, st.data())
def test_a_mutated_message_gives_a_protocol_error_or_a_message(message: Message, data: st.DataObject) -> None:
    only_protocol_errors(_mutated(encode(message), data))


@QUICK
@given(layouts(), st.data())
def test_the_fast_road_accepts_no_row_that_the_reference_refuses(
    case: tuple[Relation, tuple[int, ...], Message], data: st.DataObject
) -> None:
    relation, wanted, message = case
    body = encode(message)
    # The relation id stays: the caller picked the extractor by it.
    mutated = body[:1] + _mutated(body[1:], data) if data.draw(st.booleans()) else _mutated(body, data)
    mutated = mutated[:1] + body[1:5] + mutated[5:]
    try:
        touched = KeyExtractor(relation, wanted)(mutated)
    except SourceProtocolError:
        return
    assert touched == reference(relation, wanted, decode(mutated))
