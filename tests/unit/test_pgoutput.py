"""The pgoutput decoder: known bytes in, known messages out, refusals named."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import pytest

from connector.capture.postgres.protocol import (
    COLUMNS_MAX,
    UNKNOWN,
    Begin,
    Column,
    ColumnValue,
    Commit,
    Delete,
    Insert,
    Keepalive,
    Key,
    LogicalMessage,
    Origin,
    Relation,
    ReplicaIdentity,
    Truncate,
    Type,
    Update,
    ValueKind,
    XLogData,
    decode,
    decode_frame,
    encode_status,
    lsn_int,
    lsn_text,
    text,
    utc_time,
)
from connector.capture.postgres.row_keys import KeyExtractor, relation_tag
from connector.errors import SourceProtocolError

RELATION_ID = 0x4001
HEAD = b"\0\0\x40\x01"


def _t(value: bytes) -> bytes:
    return b"t" + struct.pack(">I", len(value)) + value


def _tuple(kind: bytes, *values: bytes) -> bytes:
    return kind + struct.pack(">H", len(values)) + b"".join(values)


def _relation(*keys: bool) -> Relation:
    columns = tuple(Column(is_key, f"c{at}", 25, -1) for at, is_key in enumerate(keys))
    return Relation(RELATION_ID, "public", "kader", ReplicaIdentity.DEFAULT, columns)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"B" + struct.pack(">QqI", 0x16B3748, 7, 731), Begin(0x16B3748, 7, 731)),
        (b"C" + struct.pack(">BQQq", 0, 1, 2, -3), Commit(0, 1, 2, -3)),
        (
            b"R" + HEAD + b"public\0kader\0d\0\x01\x01kader_id\0" + struct.pack(">Ii", 20, -1),
            Relation(RELATION_ID, "public", "kader", ReplicaIdentity.DEFAULT, (Column(True, "kader_id", 20, -1),)),
        ),
        (b"I" + HEAD + _tuple(b"N", _t(b"9")), Insert(RELATION_ID, (ColumnValue(ValueKind.TEXT, b"9"),))),
        (
            b"U" + HEAD + _tuple(b"K", _t(b"1"), b"n") + _tuple(b"N", _t(b"2"), b"u"),
            Update(
                RELATION_ID,
                (ColumnValue(ValueKind.TEXT, b"1"), ColumnValue(ValueKind.NULL)),
                True,
                (ColumnValue(ValueKind.TEXT, b"2"), ColumnValue(ValueKind.UNCHANGED)),
            ),
        ),
        (
            b"D" + HEAD + _tuple(b"O", b"b\0\0\0\x02\xff\0"),
            Delete(RELATION_ID, (ColumnValue(ValueKind.BINARY, b"\xff\0"),), False),
        ),
        (b"T\0\0\0\x02\x03" + HEAD + b"\0\0\0\x05", Truncate((RELATION_ID, 5), True, True)),
        (b"O" + struct.pack(">Q", 42) + b"node_b\0", Origin(42, "node_b")),
        (b"Y" + HEAD + b"public\0mood\0", Type(RELATION_ID, "public", "mood")),
        (b"M\x01" + struct.pack(">Q", 42) + b"p\0\0\0\0\x02hi", LogicalMessage(True, 42, "p", b"hi")),
    ],
)
def test_each_message_type_is_decoded(body: bytes, message: object) -> None:
    assert decode(body) == message


@pytest.mark.parametrize(
    ("kind", "option"),
    [*((kind, "streaming") for kind in "SEcAp"), *((kind, "two_phase") for kind in "bPKrp")],
)
def test_a_message_of_an_option_we_do_not_use_is_refused_with_the_options_name(kind: str, option: str) -> None:
    with pytest.raises(SourceProtocolError) as caught:
        decode(kind.encode() + bytes(20))
    assert option in caught.value.message
    assert option in caught.value.hint


@pytest.mark.parametrize("body", [b"", b"Z", b"\0", b"B", b"B" + bytes(19), b"B" + bytes(21), b"Y\0\0\0\0nameless"])
def test_garbage_is_refused_with_a_hint(body: bytes) -> None:
    with pytest.raises(SourceProtocolError) as caught:
        decode(body)
    assert caught.value.hint


def test_a_length_beyond_the_message_is_refused_without_allocating_it() -> None:
    with pytest.raises(SourceProtocolError, match="ends early"):
        decode(b"I" + HEAD + b"N\0\x01t\xff\xff\xff\xff12")
    with pytest.raises(SourceProtocolError, match="ends early"):
        decode(b"T\xff\xff\xff\xff\0")


def test_more_columns_than_a_tuple_can_have_are_refused() -> None:
    with pytest.raises(SourceProtocolError, match=str(COLUMNS_MAX)):
        decode(b"I" + HEAD + b"N" + struct.pack(">H", COLUMNS_MAX + 1) + b"n" * (COLUMNS_MAX + 1))


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(SourceProtocolError, match="goes on"):
        decode(b"I" + HEAD + _tuple(b"N", b"n") + b"n")


def test_text_that_is_not_utf8_is_refused_without_showing_it() -> None:
    with pytest.raises(SourceProtocolError) as caught:
        text(b"3273015512950007\xff")
    assert "3273" not in repr(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("lsn", [0, 1, 0x16B3748, 2**32, 2**64 - 1])
def test_a_log_position_reads_back(lsn: int) -> None:
    assert lsn_int(lsn_text(lsn)) == lsn


@pytest.mark.parametrize(
    "broken", ["", "0", "/", "0/", "/1", "0/1/2", "g/0", "-1/0", "0/123456789", " 0/1", "0/1\n", "٠/1"]
)
def test_a_malformed_log_position_is_refused(broken: str) -> None:
    with pytest.raises(SourceProtocolError):
        lsn_int(broken)


def test_a_padded_log_position_of_newer_servers_is_the_same_position() -> None:
    assert lsn_int("0/016B3748") == lsn_int("0/16b3748") == 0x16B3748


def test_protocol_time_counts_from_2000() -> None:
    assert utc_time(1_000_000) == datetime(2000, 1, 1, 0, 0, 1, tzinfo=UTC)
    with pytest.raises(SourceProtocolError):
        utc_time(2**63 - 1)


def test_walsender_envelopes_are_decoded() -> None:
    assert decode_frame(b"w" + struct.pack(">QQq", 1, 2, 3) + b"payload") == XLogData(1, 2, 3, b"payload")
    assert decode_frame(b"k" + struct.pack(">QqB", 9, 8, 1)) == Keepalive(9, 8, True)


@pytest.mark.parametrize("data", [b"", b"x", b"w" + bytes(23), b"k" + bytes(16), b"k" + bytes(18)])
def test_a_broken_envelope_is_refused(data: bytes) -> None:
    with pytest.raises(SourceProtocolError):
        decode_frame(data)


def test_a_status_update_reports_one_position_three_times() -> None:
    assert encode_status(5, 6) == b"r" + struct.pack(">QQQqB", 5, 5, 5, 6, 0)


@pytest.mark.parametrize(
    ("keys", "wanted", "body", "touched"),
    [
        ((True,), (0,), b"I" + HEAD + _tuple(b"N", _t(b"7")), (None, (b"7",))),
        ((True,), (0,), b"U" + HEAD + _tuple(b"N", _t(b"7")), (None, (b"7",))),
        ((True, False), (0,), b"D" + HEAD + _tuple(b"K", _t(b"7"), b"n"), ((b"7",), None)),
        ((True, True), (1, 0), b"D" + HEAD + _tuple(b"O", _t(b"a"), _t(b"")), ((b"", b"a"), None)),
        ((True, True), (1,), b"I" + HEAD + _tuple(b"N", _t(b"a"), b"n"), (None, (None,))),
        (
            (True, True),
            (0, 1),
            b"U" + HEAD + _tuple(b"K", _t(b"a"), _t(b"b")) + _tuple(b"N", _t(b"a"), _t(b"c")),
            ((b"a", b"b"), (b"a", b"c")),
        ),
        # the identity moved, but not in the column that is wanted
        (
            (True, True),
            (0,),
            b"U" + HEAD + _tuple(b"K", _t(b"a"), _t(b"b")) + _tuple(b"N", _t(b"a"), _t(b"c")),
            (None, (b"a",)),
        ),
        # an unchanged TOASTed key stands in the old tuple
        (
            (True, True),
            (0,),
            b"U" + HEAD + _tuple(b"K", _t(b"a"), _t(b"b")) + _tuple(b"N", b"u", _t(b"c")),
            (None, (b"a",)),
        ),
    ],
)
def test_wanted_columns_are_taken_from_row_messages(
    keys: tuple[bool, ...], wanted: tuple[int, ...], body: bytes, touched: tuple[Key | None, Key | None]
) -> None:
    assert KeyExtractor(_relation(*keys), wanted)(body) == touched


def test_a_wanted_column_outside_the_identity_has_an_unknown_past_not_a_null_one() -> None:
    extractor = KeyExtractor(_relation(True, False), (0, 1))
    update = b"U" + HEAD + _tuple(b"N", _t(b"1"), _t(b"x"))
    moved = b"U" + HEAD + _tuple(b"K", _t(b"0"), b"n") + _tuple(b"N", _t(b"1"), _t(b"x"))
    deleted = b"D" + HEAD + _tuple(b"K", _t(b"1"), b"n")
    assert extractor(update) == ((b"1", UNKNOWN), (b"1", b"x"))
    assert extractor(moved) == ((b"0", UNKNOWN), (b"1", b"x"))
    assert extractor(deleted) == ((b"1", UNKNOWN), None)


@pytest.mark.parametrize(
    "body",
    [
        b"I" + HEAD + _tuple(b"K", _t(b"7")),
        b"D" + HEAD + _tuple(b"N", _t(b"7")),
        b"D" + HEAD + _tuple(b"K", _t(b"7")) + b"N",
        b"D" + HEAD + _tuple(b"K", _t(b"7")) + _tuple(b"N", _t(b"7")),
        b"U" + HEAD + _tuple(b"K", _t(b"7")),
        b"U" + HEAD + _tuple(b"K", _t(b"7")) + _tuple(b"N", b"n", b"n"),
        b"U" + HEAD + _tuple(b"N", _t(b"7"), _t(b"8")),
        b"U" + HEAD + _tuple(b"N", b"b\0\0\0\0"),
        b"U" + HEAD + _tuple(b"N", b"x"),
        b"U" + HEAD + b"N\0\x01t\0\0\0\x03ab",
        b"U" + HEAD + b"N\0\x01t\0\0",
        b"U" + HEAD + _tuple(b"N", _t(b"7")) + b"!",
        b"T" + HEAD + _tuple(b"N", _t(b"7")),
        b"I" + HEAD,
    ],
)
def test_the_fast_road_refuses_malformed_rows(body: bytes) -> None:
    with pytest.raises(SourceProtocolError):
        KeyExtractor(_relation(True), (0,))(body)


def test_a_relation_tag_is_the_place_of_the_relation_id_in_a_row_message() -> None:
    assert (b"I" + HEAD + b"N")[1:5] == relation_tag(RELATION_ID)
