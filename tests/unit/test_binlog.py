"""The binary log's bytes, without a server: MySQL's events, numbers and sets, garbage, and packets cut anywhere."""

from __future__ import annotations

import struct
import uuid
import zlib
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymysqlreplication.gtid import GtidSet

from connector.capture.mysql import protocol, rows, statements, tables
from connector.capture.mysql.changes import ChangeReader, Views
from connector.capture.mysql.gtid import MariaDbGtids, MySqlGtids, Place, parsed, position
from connector.capture.mysql.protocol import HEADER, Kind
from connector.capture.mysql.rows import RowReader, Unreadable
from connector.capture.mysql.statements import Effect
from connector.capture.mysql.tables import Column
from connector.capture.mysql.values import decimal_text, family
from connector.capture.signals import Route, SignalBuffer, Signals
from connector.errors import PositionLost, SourceProtocolError
from connector.events import Position

SERVER = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
VIEWS = Views({"v": {"id": "int(11)"}}, {45: "utf8mb4"})
ROUTES = {("a", "t"): (Route("v", key=(("id", "id"),)),)}


def event(kind: int, body: bytes, *, end: int = 100, flags: int = 0) -> bytes:
    return struct.pack("<IBIIIH", 1_700_000_000, kind, 1, HEADER + len(body), end, flags) + body


def mysql_gtid(number: int) -> bytes:
    return event(Kind.MYSQL_GTID, b"\1" + uuid.UUID(SERVER).bytes + struct.pack("<Q", number) + b"\2" * 17)


def query(text: bytes, kind: int = Kind.QUERY) -> bytes:
    return event(kind, struct.pack("<IIBHH", 1, 0, 1, 0, 0) + b"a\0" + text)


def table_map() -> bytes:
    """`t (id int, nama varchar(20))` in `a`, with the names that FULL metadata adds."""
    names = b"\2id\4nama"
    optional = b"\1\1\0" + b"\2\1\x2d" + bytes([4, len(names)]) + names
    return event(
        Kind.TABLE_MAP,
        b"\7\0\0\0\0\0\1\0\1a\0\1t\0" + bytes([2, tables.LONG, tables.VARCHAR, 2]) + b"\x50\0" + b"\2" + optional,
    )


def row(number: int, name: bytes) -> bytes:
    return b"\0" + struct.pack("<i", number) + bytes([len(name)]) + name


def written(*found: bytes) -> bytes:
    return event(Kind.WRITE_2, b"\7\0\0\0\0\0\1\0\2\0\2\3" + b"".join(found))


def reader() -> tuple[ChangeReader, SignalBuffer]:
    buffer = SignalBuffer(1_000)
    return ChangeReader(ROUTES, VIEWS, buffer, MySqlGtids(), Place("", 0, "x")), buffer


def taken(events: list[bytes]) -> tuple[Signals, ChangeReader, list[bool]]:
    changes, buffer = reader()
    ends = [changes.feed(one) for one in events]
    return buffer.take(Position(changes.transactions, "")), changes, ends


def keys(signals: Signals) -> list[str]:
    return [key for part in signals.keys["v"].slices(100) for key in part]


# -- MySQL's transactions


def test_a_mysql_transaction_is_told_at_its_commit() -> None:
    events = [
        mysql_gtid(5),
        query(b"BEGIN"),
        table_map(),
        written(row(1, b"x"), row(-2, b"")),
        event(Kind.XID, b"\0" * 8),
    ]
    signals, changes, ends = taken(events)
    assert keys(signals) == ["1", "-2"]
    assert ends == [False, False, False, False, True]
    assert changes.gtids.text() == f"{SERVER}:5"
    assert (signals.transactions, changes.transactions) == (1, 1)


def test_mysqls_ddl_ends_with_its_statement() -> None:
    signals, changes, ends = taken([mysql_gtid(1), query(b"TRUNCATE TABLE t"), mysql_gtid(2), query(b"DROP TABLE x")])
    assert signals.whole == {"v"}
    assert ends == [False, True, False, True]
    assert changes.gtids.text() == f"{SERVER}:1-2"


def test_what_mysql_packs_or_logs_in_part_has_every_view_read_whole() -> None:
    signals, _, ends = taken([mysql_gtid(1), event(Kind.PAYLOAD, b"\0" * 9)])
    assert signals.whole == {"v"}
    assert ends[-1]
    signals, _, _ = taken([mysql_gtid(1), query(b"BEGIN"), event(Kind.PARTIAL_UPDATE, b"\0" * 9), event(Kind.XID, b"")])
    assert signals.whole == {"v"}
    signals, _, _ = taken([mysql_gtid(1), query(b"BEGIN"), event(200, b"?"), event(Kind.XID, b"")])
    assert signals.whole == {"v"}, "an event that nobody knows may be anything"
    signals, _, _ = taken([event(200, b"?", flags=protocol.IGNORABLE)])
    assert not signals.whole


def test_a_hole_that_the_server_admits_is_a_loss_and_no_gtid_is_no_place() -> None:
    changes, _ = reader()
    with pytest.raises(PositionLost):
        changes.feed(event(Kind.INCIDENT, b"\1\0\0"))
    for kind in (Kind.MYSQL_ANONYMOUS, Kind.MYSQL_TAGGED_GTID):
        with pytest.raises(SourceProtocolError):
            changes.feed(event(kind, b"\0" * 30))


def test_half_a_transaction_that_a_crash_left_is_forgotten() -> None:
    format_description = event(Kind.FORMAT, b"\4\0" + b"\0" * 60 + b"\0" + b"\0" * 4)
    changes, _ = reader()
    for one in (mysql_gtid(1), query(b"BEGIN"), table_map(), written(row(1, b"x"))):
        changes.feed(one)
    changes.feed(format_description)
    assert not changes.in_transaction
    assert changes.gtids.text() == ""
    changes.feed(mysql_gtid(1))


def test_a_damaged_event_is_noticed_by_its_checksum() -> None:
    changes, _ = reader()
    changes.checksums(True)
    body = query(b"BEGIN")
    whole = body[:9] + struct.pack("<I", len(body) + 4) + body[13:]
    changes.feed(whole + struct.pack("<I", zlib.crc32(whole)))
    with pytest.raises(SourceProtocolError, match="checksum"):
        changes.feed(whole[:-1] + b"X" + struct.pack("<I", zlib.crc32(whole)))


def test_a_file_longer_than_four_gib_keeps_its_order() -> None:
    changes, _ = reader()
    for number, end in ((1, 4_000_000_000), (2, 100)):
        for one in (mysql_gtid(number), query(b"BEGIN"), event(Kind.XID, b"", end=end)):
            changes.feed(one)
    assert changes.place.offset == (1 << 32) + 100


# -- rows


COLUMNS = (Column("id", tables.LONG), Column("nama", tables.VARCHAR, 80), Column("harga", tables.NEWDECIMAL, 10, 2))


@given(st.binary(max_size=60), st.sampled_from(sorted(rows.ROWS)))
def test_garbage_for_rows_is_unreadable_and_nothing_else(data: bytes, kind: int) -> None:
    with suppress(Unreadable, SourceProtocolError):
        list(RowReader(COLUMNS, (0,)).changes(event(kind, data), kind))


@given(st.binary(max_size=80))
def test_garbage_for_a_table_is_a_protocol_error_and_nothing_else(data: bytes) -> None:
    with suppress(SourceProtocolError):
        tables.parse(event(Kind.TABLE_MAP, data), mariadb=True)


@given(st.binary(max_size=60), st.integers(0, 255))
def test_garbage_for_an_event_is_one_of_our_errors(data: bytes, kind: int) -> None:
    changes, _ = reader()
    for garbage in (event(kind, data), data):
        with suppress(SourceProtocolError, PositionLost):
            changes.feed(garbage)


@given(st.lists(st.tuples(st.integers(-(2**31), 2**31 - 1), st.binary(max_size=40)), min_size=1, max_size=8))
def test_rows_give_the_wanted_columns_whatever_stands_between(found: list[tuple[int, bytes]]) -> None:
    price = b"\x80\0\0\1\x2a"
    body = b"\7\0\0\0\0\0\1\0\2\0\3\7" + b"".join(row(number, name) + price for number, name in found)
    read = RowReader(COLUMNS, (2, 0)).changes(event(Kind.DELETE_2, body), Kind.DELETE_2)
    assert list(read) == [((price, struct.pack("<i", number)), None) for number, _ in found]


@pytest.mark.parametrize(
    ("text", "precision", "scale"),
    [("0.00", 10, 2), ("-1.50", 10, 2), ("12345678.90", 10, 2), ("-999999999999999999", 18, 0), ("0.000000001", 12, 9)],
)
def test_a_decimal_is_its_digits(text: str, precision: int, scale: int) -> None:
    assert decimal_text(packed(text, precision, scale), precision, scale) == text


def packed(text: str, precision: int, scale: int) -> bytes:
    """MySQL's form, written from its description."""
    whole, _, fraction = text.lstrip("-").partition(".")
    digits, data = whole.zfill(precision - scale), b""
    odd = len(digits) % 9
    for part in filter(None, [digits[:odd], *(digits[at : at + 9] for at in range(odd, len(digits), 9))]):
        data += int(part).to_bytes(tables.decimal_bytes(len(part)), "big")
    for part in (fraction[at : at + 9] for at in range(0, len(fraction), 9)):
        data += int(part).to_bytes(tables.decimal_bytes(len(part)), "big")
    if text.startswith("-"):
        data = bytes(byte ^ 0xFF for byte in data)
    return bytes([data[0] ^ 0x80]) + data[1:]


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("bigint(20) unsigned", "int"), ("varchar(20) utf8mb4_general_ci", "text"), ("decimal(10,2)", "decimal 2"),
        ("timestamp(6)", "moment 6"), ("datetime", "moment 0"), ("enum('a','b') latin1_bin", ""), ("uuid", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_a_views_type_has_a_kind_of_text_or_none(kind: str, found: str) -> None:
    assert family(kind) == found


# -- statements


@pytest.mark.parametrize(
    ("text", "effect"),
    [
        (b"BEGIN", Effect.BEGIN), (b"COMMIT", Effect.END), (b"rollback", Effect.END), (b"ROLLBACK TO `s`", Effect.NONE),
        (b"/* apa */ -- itu\n update t set a = 1", Effect.ROWS), (b"(select 1) union select f()", Effect.ROWS),
        (b"/*!40000 ALTER TABLE t DISABLE KEYS */", Effect.NAMED), (b"/*M!100300 truncate t */", Effect.NAMED),
        (b"XA START X'61',X'',1", Effect.BEGIN), (b"XA END X'61'", Effect.NONE), (b"XA COMMIT X'61'", Effect.PREPARED),
        (b"create or replace table t (a int)", Effect.NAMED), (b"create user x", Effect.NONE),
        (b"\xff\xfe", Effect.NAMED),
    ],
)  # fmt: skip
def test_a_statement_is_judged_by_its_first_words(text: bytes, effect: Effect) -> None:
    assert statements.effect(text) is effect


def test_names_are_found_in_quotes_in_any_letters_and_with_their_schema() -> None:
    names = statements.Names([("partai", "orang"), ("partai", "anéh`x")])
    assert names.named(b"DROP TABLE `PARTAI`.`ORANG`") == {("partai", "orang")}
    assert names.named("truncate `anéh``x`".encode("latin-1")) == {("partai", "anéh`x")}
    assert names.named(b"drop database partai") == {("partai", "orang"), ("partai", "anéh`x")}
    assert not names.named(b"drop table lain")


# -- packets and positions


@given(st.lists(st.binary(max_size=40), max_size=8), st.data())
def test_packets_come_out_whole_wherever_the_bytes_are_cut(payloads: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(len(one).to_bytes(3, "little") + b"\0" + one for one in payloads)
    packets, found = protocol.Packets(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        found += packets.feed(stream[:size])
        stream = stream[size:]
    assert found == payloads


def test_an_event_too_large_to_keep_is_cut_and_the_next_one_is_whole() -> None:
    part = b"x" * 0xFF_FFFF
    stream = b"\xff\xff\xff\0" + part + b"\3\0\0\1yyy" + b"\2\0\0\0zz"
    assert protocol.Packets().feed(stream) == [part + b"yyy", b"zz"]
    assert protocol.Packets(bytes_max=10).feed(stream) == [b"x" * 10, b"zz"]


intervals = st.lists(st.tuples(st.integers(1, 500), st.integers(0, 50)), min_size=1, max_size=5)


@given(st.dictionaries(st.uuids().map(str), intervals, max_size=3))
def test_a_set_of_mysql_gtids_is_what_the_library_makes_of_it(sets: dict[str, list[tuple[int, int]]]) -> None:
    found = MySqlGtids()
    for server, parts in sets.items():
        for first, size in parts:
            for number in range(first, first + size + 1):
                found.add(server, number)
    assert MySqlGtids.parse(found.text()).of == found.of
    library: Any = GtidSet(found.text())
    assert library.encoded() == found.encoded() or len(sets) > 1
    assert len(library.encoded()) == len(found.encoded())
    assert not found.lacks(found)


def test_positions_are_parsed_as_they_are_written() -> None:
    gtids = MariaDbGtids.parse("5-2-7, 0-1-100")
    assert gtids.count() == 107
    assert not gtids.lacks(MariaDbGtids.parse("0-9-100"))
    assert gtids.lacks(MariaDbGtids.parse("0-1-101"))
    assert gtids.lacks(MariaDbGtids.parse("1-1-1"))
    place = Place("mariadb-bin.000012", 3_000_000_000, "1")
    written_down = position(4, gtids, place)
    assert written_down.text == "0-1-100,5-2-7 at mariadb-bin.000012:3000000000 of 1"
    assert parsed(written_down) == ("0-1-100,5-2-7", place)
    assert parsed(position(0, MariaDbGtids(), place))[0] == ""
    assert place.order < Place("mariadb-bin.000013", 4, "1").order
    with pytest.raises(PositionLost) as caught:
        parsed(Position(7, "outbox 7"))
    assert caught.value.reason == "identity_changed"
    for text in ("0-1", "x", f"{SERVER}:a"):
        with pytest.raises(ValueError, match="GTIDs"):
            MariaDbGtids.parse(text)
        with pytest.raises(ValueError, match="GTIDs"):
            MySqlGtids.parse(text)
