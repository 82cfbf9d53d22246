"""Debezium's JSON, as its converters of 3.6 wrote it against PostgreSQL 16, becomes events; events become signals."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from connector.capture.debezium.events import Dialect, EventReader, Record, Table, operation
from connector.capture.debezium.frames import FRAME_BYTES_MAX, Splitter, pack, parse, receive
from connector.capture.debezium.properties import Followed, followed, pattern, topic
from connector.capture.debezium.touched import Touched
from connector.capture.signals import Match, Route, Routes, Signals
from connector.errors import SourceMisconfigured, SourceProtocolError
from connector.events import Position

TABLES = {"sipol.public.orang": Table(0, ("id", "kerja")), "sipol.public.wilayah": Table(1, ())}
TEXT, NUMBER = {"type": "string"}, {"type": "int64"}


def key(fields: dict[str, dict[str, Any]], **values: object) -> str:
    schema = {"type": "struct", "fields": [{**kind, "optional": True, "field": name} for name, kind in fields.items()]}
    return json.dumps({"schema": schema, "payload": values}, separators=(",", ":"))


def row(operation: str, **facts: object) -> str:
    return json.dumps(
        {"before": facts, "after": None, "source": {"schema": "public", "lsn": 5}, "op": operation, "ts_ms": 1},
        separators=(",", ":"),
    )


def end(number: int, lsn: int) -> Record:
    value = {"status": "END", "id": f"{number}:{lsn}", "event_count": 1, "ts_ms": 946_684_800_123}
    return Record("sipol.transaction", "{}", json.dumps(value, separators=(",", ":")), False)


def orang(operation: str, identity: object, kerja: object, *, moved: bool = False) -> Record:
    keyed = key({"id": NUMBER, "kerja": TEXT}, id=identity, kerja=kerja)
    return Record("sipol.public.orang", keyed, row(operation), moved)


def read(*records: Record) -> tuple[list[Any], int]:
    return EventReader("sipol", TABLES, Dialect()).batch(records)


def test_rows_of_one_kind_go_together_and_ends_keep_their_place() -> None:
    events, last = read(
        orang("c", 1, "a"), orang("u", 2, None), orang("d", 3, "b", moved=True), orang("c", 4, "b"), orang("d", 5, "x"),
        end(731, 1_000), orang("c", 6, "c"),
    )  # fmt: skip
    assert events == [
        ["k", 0, [["1", "a"], ["2", None]]],
        ["o", 0, [["3", "b"]]],
        ["k", 0, [["4", "b"]]],
        ["d", 0, [["5", "x"]]],
        ["e", 1_000, 731, 123_000],
        ["k", 0, [["6", "c"]]],
    ]
    assert last == 5


def test_a_truncate_and_a_table_without_a_key_path_are_whole() -> None:
    truncate = Record("sipol.public.orang", "null", row("t"), False)
    events, last = read(truncate, Record("sipol.public.wilayah", key({"kode": TEXT}, kode="x"), row("c"), False))
    assert events == [["w", 0], ["w", 1]]
    assert last == -1


def test_only_messages_outside_transactions_are_marks() -> None:
    outside = {"op": "m", "source": {"lsn": 77}, "transaction": None}
    inside = {"op": "m", "source": {"lsn": 78}, "transaction": {"id": "1:2"}}
    events, last = read(*(Record("sipol.message", "{}", json.dumps(value), False) for value in (outside, inside)))
    assert events == [["m", 77]]
    assert last == 0


def test_strange_topics_and_begins_say_nothing() -> None:
    begin = Record("sipol.transaction", "{}", '{"status":"BEGIN","id":"1:2","ts_ms":1}', False)
    assert read(begin, Record("sipol.public.lain", "x", "y", False), Record("__heartbeat", "", "", False)) == ([], -1)


def test_a_value_that_looks_like_an_operation_is_none() -> None:
    assert operation(row("d", nama='x","op":"c')) == "d"
    assert operation(row("u", op="c")) == "u"
    assert operation("{}") == ""


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ({"type": "int16"}, -5, "-5"),
        ({"type": "string"}, "0.0010", "0.0010"),
        ({"type": "string"}, "POSITIVE_INFINITY", 0),
        ({"type": "boolean"}, True, "t"),
        ({"type": "boolean"}, False, "f"),
        ({"type": "bytes"}, "3q2+7w==", "\\xdeadbeef"),
        ({"type": "double"}, 0.1, 0),
        ({"type": "string", "name": "io.debezium.data.Uuid"}, "a0ee", "a0ee"),
        ({"type": "string", "name": "io.debezium.data.Json"}, "{}", 0),
        ({"type": "int32", "name": "io.debezium.time.Date"}, 20_151, "2025-03-04"),
        ({"type": "int32", "name": "io.debezium.time.Date"}, 2**31 - 1, 0),
        ({"type": "int64", "name": "io.debezium.time.MicroTimestamp"}, 1732449600000001, "2024-11-24 12:00:00.000001"),
        ({"type": "int64", "name": "io.debezium.time.MicroTimestamp"}, -62_135_596_800_000_000, "0001-01-01 00:00:00"),
        ({"type": "int64", "name": "io.debezium.time.MicroTimestamp"}, 2**63 - 1, 0),
        ({"type": "string", "name": "io.debezium.time.ZonedTimestamp"}, "2024-11-24T05:00:00.120000Z",
         "2024-11-24 05:00:00.12+00"),
        ({"type": "string", "name": "io.debezium.time.ZonedTimestamp"}, "2024-11-24T05:00:00.000000Z",
         "2024-11-24 05:00:00+00"),
        ({"type": "string", "name": "io.debezium.time.ZonedTimestamp"}, "+12024-11-24T05:00:00Z", 0),
    ],
)  # fmt: skip
def test_a_key_s_text_is_what_the_view_shows_or_unknown(kind: dict[str, Any], value: object, text: object) -> None:
    record = Record("sipol.public.orang", key({"id": kind, "kerja": TEXT}, id=value, kerja="k"), row("c"), False)
    assert read(record)[0] == [["k", 0, [[text, "k"]]]]


def test_a_column_whose_type_changes_between_two_events_is_read_by_its_own_type() -> None:
    first = orang("c", 20_151, "k")
    fields = {"id": {"type": "int32", "name": "io.debezium.time.Date"}, "kerja": TEXT}
    second = Record("sipol.public.orang", key(fields, id=20_151, kerja="k"), row("c"), False)
    assert read(first, second)[0] == [["k", 0, [["20151", "k"], ["2025-03-04", "k"]]]]


def test_text_that_looks_like_a_payload_stays_text() -> None:
    assert read(orang("c", 1, 'x,"payload":{}'))[0] == [["k", 0, [["1", 'x,"payload":{}']]]]


# -- frames


def test_frames_come_whole_however_they_are_cut() -> None:
    sent = [["events", [["k", 0, [["é😀\n", None, 0]]]]], ["ready", 17], []]
    stream = b"".join(pack(value) for value in sent)
    for size in (1, 3, 7, len(stream)):
        splitter = Splitter()
        parts = [stream[at : at + size] for at in range(0, len(stream), size)]
        assert [parse(body) for part in parts for body in splitter.feed(part)] == sent
    source = io.BytesIO(stream)
    assert [receive(source) for _ in range(4)] == [*sent, None]


def test_what_is_no_frame_is_refused() -> None:
    absurd = (FRAME_BYTES_MAX + 1).to_bytes(4, "big")
    with pytest.raises(ValueError, match="length"):
        Splitter().feed(absurd)
    with pytest.raises(ValueError, match="length"):
        receive(io.BytesIO(absurd))
    assert receive(io.BytesIO(b"\0\0\0\5ab")) is None


# -- signals

ROUTES: Routes = {
    ("public", "orang"): (
        Route("anggota", key=(("orang_id", "id"),)),
        Route("pengurus", match=(("kerja_id", "kerja"),)),
    ),
    ("public", "wilayah"): (Route("kantor"),),
}
KERJA = Match("pengurus", ("kerja_id",))


def touched(*events: list[Any], after: int = 0, nulls: frozenset[int] = frozenset()) -> Touched:
    found = Touched(ROUTES, followed(ROUTES), 100, after, nulls)
    found.feed(events)
    return found


def keys(signals: Signals) -> list[str]:
    return [key for part in signals.keys["anggota"].slices(10) for key in part] if "anggota" in signals.keys else []


def matches(signals: Signals) -> list[str]:
    return [key for part in signals.matches[KERJA].slices(10) for key in part] if KERJA in signals.matches else []


def test_keys_go_through_their_routes() -> None:
    signals = touched(["k", 0, [["1", "a"]]], ["o", 0, [["2", "b"]]], ["e", 9, 7, 5]).take(Position(9, "9"))
    assert (keys(signals), matches(signals), signals.whole) == (["1", "2"], ["a", "b"], frozenset())
    assert signals.xids == (7,)


def test_a_deleted_joined_row_and_an_unknown_part_are_whole() -> None:
    assert touched(["d", 0, [["1", "a"]]], ["e", 9, 7, 5]).take(Position(9, "9")).whole == {"pengurus"}
    assert touched(["k", 0, [[0, "a"]]], ["e", 9, 7, 5]).take(Position(9, "9")).whole == {"anggota"}
    assert touched(["w", 1], ["e", 9, 7, 5]).take(Position(9, "9")).whole == {"kantor"}


def test_a_joined_row_that_is_joined_to_others_now_is_whole_and_one_that_stays_is_not() -> None:
    moved = touched(["o", 0, [["1", "a"]]], ["k", 0, [["1", "b"]]], ["e", 9, 7, 5]).take(Position(9, "9"))
    assert matches(moved) == ["a", "b"]
    assert moved.whole == {"pengurus"}
    other = touched(["o", 0, [["1", "a"]]], ["k", 0, [["2", "a"], ["3", "b"]]], ["e", 9, 7, 5]).take(Position(9, "9"))
    assert other.whole == frozenset(), "another column of the key changed"
    outer = {("public", "orang"): (Route("pengurus", match=(("kerja_id", "kerja"),), stays=True),)}
    stays = Touched(outer, (Followed("public", "orang", ("kerja",)),), 10, 0)
    stays.feed([["d", 0, [["a"]]], ["e", 9, 7, 5]])
    assert stays.take(Position(9, "9")).whole == frozenset()


def test_a_null_is_one_where_the_row_is_there_or_comes_whole() -> None:
    there = touched(["k", 0, [["1", None]]], ["e", 9, 7, 5]).take(Position(9, "9"))
    assert (keys(there), matches(there), there.whole) == (["1"], [], frozenset())
    old = touched(["o", 0, [["1", None]]], ["e", 9, 7, 5]).take(Position(9, "9"))
    assert old.whole == {"pengurus"}
    full = touched(["o", 0, [["1", None]]], ["e", 9, 7, 5], nulls=frozenset({0})).take(Position(9, "9"))
    assert full.whole == frozenset()


def test_what_ended_at_or_below_the_position_is_dropped_and_nothing_beyond_it() -> None:
    replay = [["k", 0, [["1", "a"]]], ["e", 9, 7, 5], ["k", 0, [["2", "a"]]], ["e", 10, 8, 5]]
    found = touched(*replay, ["k", 0, [["3", "b"]]], ["e", 11, 9, 6], after=10)
    assert found.covered == 11
    signals = found.take(Position(11, "11"))
    assert (keys(signals), matches(signals), signals.xids) == (["3"], ["b"], (9,))


def test_a_mark_moves_the_position_between_transactions_only() -> None:
    assert touched(["e", 9, 7, 5], ["m", 20]).covered == 20
    assert touched(["e", 9, 7, 5], ["k", 0, [["1", "a"]]], ["m", 20]).covered == 9
    assert touched(["m", 5], after=8).covered == 8


@pytest.mark.parametrize("event", [[], ["k", 0], ["k", 9, [["1", "a"]]], ["e", "x", 1, 1], ["k", 0, [["1"]]], ["z", 1]])
def test_what_no_child_says_is_a_protocol_error(event: list[Any]) -> None:
    with pytest.raises(SourceProtocolError):
        touched(event)


# -- what Debezium is told


def test_a_table_is_named_by_a_pattern_that_fits_nothing_else() -> None:
    assert pattern("public", "kader") == "public\\.kader"
    assert pattern("a,b", "c:d e.f") == "a\\x{2c}b\\.c\\x{3a}d\\x{20}e\\x{2e}f"


def test_tables_that_share_a_topic_and_columns_that_cannot_be_told_are_refused() -> None:
    assert topic(Followed("public", "ka der", ())) == "sipol.public.ka_der"
    with pytest.raises(SourceMisconfigured, match="cannot tell"):
        followed({("public", "ka der"): (Route("anggota"),), ("public", "ka_der"): (Route("anggota"),)})
    with pytest.raises(SourceMisconfigured, match="column"):
        followed({("public", "kader"): (Route("anggota", key=(("id", "no urut"),)),)})
