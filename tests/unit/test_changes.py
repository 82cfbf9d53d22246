"""pgoutput messages become signals: every view key that may have changed, whole transactions, none twice."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from connector.capture.postgres.changes import ChangeReader
from connector.capture.signals import Match, Route, Routes, SignalBuffer, Signals
from connector.errors import SourceMisconfigured, SourceProtocolError
from connector.events import Position

ORANG, KERJA, PAPAN, ASING = 1, 2, 3, 4
ROUTES: Routes = {
    ("public", "orang"): (
        Route("anggota", key=(("orang_id", "id"),)),
        Route("pengurus", match=(("orang_id", "id"),)),
    ),
    ("public", "kerja"): (Route("anggota", match=(("kerja_id", "kerja_id"),)),),
    # In the view's order, which is not the table's.
    ("public", "papan"): (Route("pengurus", key=(("papan", "papan_id"), ("orang", "orang_id"))),),
    ("public", "lain"): (Route("kantor"),),
}

Value = str | bytes | None


def begin(final: int, xid: int = 700, at_us: int = 1_000_000) -> bytes:
    return b"B" + struct.pack(">QqI", final, at_us, xid)


def commit(start: int, end: int, at_us: int = 1_000_000) -> bytes:
    return b"C" + struct.pack(">BQQq", 0, start, end, at_us)


def relation(number: int, name: str, *columns: str, keys: Sequence[str] | None = None) -> bytes:
    head = b"R" + struct.pack(">I", number) + b"public\0" + name.encode() + b"\0d" + struct.pack(">H", len(columns))
    keyed = columns if keys is None else keys
    return head + b"".join(
        bytes((name in keyed,)) + name.encode() + b"\0" + struct.pack(">Ii", 25, -1) for name in columns
    )


def values(cells: Sequence[Value]) -> bytes:
    parts = [struct.pack(">H", len(cells))]
    for cell in cells:
        data = cell.encode() if isinstance(cell, str) else cell
        parts.append(b"n" if data is None else b"t" + struct.pack(">I", len(data)) + data)
    return b"".join(parts)


def insert(number: int, *new: Value) -> bytes:
    return b"I" + struct.pack(">I", number) + b"N" + values(new)


def update(number: int, *new: Value, old: Sequence[Value] | None = None) -> bytes:
    before = b"" if old is None else b"K" + values(old)
    return b"U" + struct.pack(">I", number) + before + b"N" + values(new)


def delete(number: int, *old: Value) -> bytes:
    return b"D" + struct.pack(">I", number) + b"K" + values(old)


def truncate(*numbers: int) -> bytes:
    return b"T" + struct.pack(">IB", len(numbers), 0) + struct.pack(f">{len(numbers)}I", *numbers)


RELATIONS = (
    relation(ORANG, "orang", "id"),
    relation(KERJA, "kerja", "kerja_id"),
    relation(PAPAN, "papan", "orang_id", "papan_id"),
    relation(ASING, "asing", "id"),
)


class Log:
    """A reader, and what it has gathered."""

    def __init__(self, after: int = 0, routes: Routes = ROUTES) -> None:
        self.buffer = SignalBuffer(1_000)
        self.reader = ChangeReader(routes, self.buffer, after)

    def feed(self, *messages: bytes) -> None:
        for message in messages:
            self.reader.feed(message)

    def transaction(self, *rows: bytes, at: int = 100, xid: int = 700) -> Signals:
        self.feed(begin(at, xid), *RELATIONS, *rows, commit(at, at + 50))
        return self.take()

    def take(self) -> Signals:
        return self.buffer.take(Position(0, "0/0"))


def keys(signals: Signals, entity: str) -> list[str]:
    return [key for part in signals.keys[entity].slices(1_000) for key in part] if entity in signals.keys else []


def matched(signals: Signals, entity: str, *columns: str) -> list[str]:
    found = signals.matches.get(Match(entity, columns))
    return [] if found is None else [key for part in found.slices(1_000) for key in part]


def test_inserts_updates_and_deletes_name_their_key() -> None:
    signals = Log().transaction(insert(ORANG, "1"), update(ORANG, "2"), delete(ORANG, "3"))
    assert keys(signals, "anggota") == ["1", "2", "3"]
    assert signals.whole == {"pengurus"}, "a joined row that is gone cannot be found by its value"


def test_a_changed_key_names_the_new_and_the_old() -> None:
    signals = Log().transaction(update(ORANG, "2", old=["1"]))
    assert sorted(keys(signals, "anggota")) == ["1", "2"]
    assert sorted(matched(signals, "pengurus", "orang_id")) == ["1", "2"]


def test_a_composite_key_stands_in_the_views_order() -> None:
    signals = Log().transaction(insert(PAPAN, "7", "a|b"), update(PAPAN, "8", "c", old=["7", "c"]))
    assert keys(signals, "pengurus") == ["a\\|b|7", "c|8", "c|7"]


def test_a_joined_tables_change_names_the_values_to_look_for() -> None:
    signals = Log().transaction(insert(KERJA, "1"), update(KERJA, "3"))
    assert matched(signals, "anggota", "kerja_id") == ["1", "3"]
    assert not signals.whole


def test_rows_that_leave_with_a_joined_row_are_found_by_a_look_at_all_of_them() -> None:
    """With an inner join they leave the view when the row goes, and when it is joined to others."""
    assert Log().transaction(delete(KERJA, "2")).whole == {"anggota"}
    moved = Log().transaction(update(KERJA, "3", old=["2"]))
    assert moved.whole == {"anggota"}
    assert matched(moved, "anggota", "kerja_id") == ["2", "3"]
    assert not Log().transaction(delete(KERJA, None)).whole, "a NULL was joined to nothing"


def test_rows_that_stay_whatever_becomes_of_a_joined_row_are_found_by_its_value() -> None:
    routes = {("public", "kerja"): (Route("anggota", match=(("kerja_id", "kerja_id"),), stays=True),)}
    signals = Log(routes=routes).transaction(delete(KERJA, "2"), update(KERJA, "3", old=["4"]))
    assert matched(signals, "anggota", "kerja_id") == ["2", "4", "3"]
    assert not signals.whole


def test_a_table_without_a_path_to_the_key_touches_every_row() -> None:
    lain = relation(9, "lain", "x")
    assert Log().transaction(lain, update(9, "1")).whole == {"kantor"}


def test_a_truncate_touches_every_row_of_every_entity_of_its_tables() -> None:
    assert Log().transaction(truncate(ORANG, ASING)).whole == {"anggota", "pengurus"}
    assert Log().transaction(truncate(ASING)).empty


def test_a_table_that_no_view_shows_touches_nothing() -> None:
    signals = Log().transaction(insert(ASING, "1"), update(ASING, "2"), delete(ASING, "3"))
    assert signals.empty
    assert signals.transactions == 1


def test_a_null_key_names_nothing_since_no_such_row_can_be_staged() -> None:
    signals = Log().transaction(insert(PAPAN, None, "1"), insert(KERJA, None))
    assert signals.keys.keys() <= {"pengurus"}
    assert keys(signals, "pengurus") == []
    assert matched(signals, "anggota", "kerja_id") == []


@pytest.mark.parametrize("row", [insert(ORANG, b"\xff"), update(ORANG, "1", old=[b"\xff"]), delete(ORANG, b"caf\xe9")])
def test_a_key_that_is_no_text_touches_every_row_since_the_view_cannot_be_asked_for_it(row: bytes) -> None:
    assert "anggota" in Log().transaction(row).whole


def test_a_joined_value_that_is_no_text_touches_every_row() -> None:
    assert Log().transaction(insert(KERJA, b"\xff")).whole == {"anggota"}


def test_an_old_key_that_the_log_does_not_carry_touches_every_row() -> None:
    # `papan_id` is outside the replica identity: what it was before the update is not in the log.
    blind = relation(PAPAN, "papan", "orang_id", "papan_id", keys=["orang_id"])
    signals = Log().transaction(blind, update(PAPAN, "7", "1"))
    assert signals.whole == {"pengurus"}
    assert keys(signals, "pengurus") == ["1|7"]


def test_an_old_joined_value_that_the_log_does_not_carry_touches_every_row() -> None:
    blind = relation(KERJA, "kerja", "kerja_id", keys=[])
    signals = Log().transaction(blind, update(KERJA, "3"))
    assert signals.whole == {"anggota"}
    assert matched(signals, "anggota", "kerja_id") == ["3"]


def test_a_relation_sent_again_counts_from_there_on() -> None:
    log = Log()
    log.feed(begin(100), relation(ORANG, "orang", "id"), insert(ORANG, "1"))
    log.feed(relation(ORANG, "orang", "nama", "id", keys=["id"]), insert(ORANG, "SITI", "2"), commit(100, 150))
    assert keys(log.take(), "anggota") == ["1", "2"]


def test_a_column_that_the_publication_lacks_is_told_by_name() -> None:
    with pytest.raises(SourceMisconfigured, match=r"orang_id of public\.papan") as caught:
        Log().transaction(relation(PAPAN, "papan", "papan_id"))
    assert "connector kit" in caught.value.hint


def test_transactions_are_told_with_their_ids_and_commit_times() -> None:
    log = Log()
    log.feed(begin(100, 7, 1), commit(100, 150, 1_000_000), begin(150, 4_000_000_000, 1), commit(150, 200, 2_000_000))
    signals = log.take()
    assert signals.xids == (7, 4_000_000_000)
    assert signals.committed_first == datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=1)
    assert signals.committed_last == datetime(2000, 1, 1, tzinfo=UTC) + timedelta(seconds=2)


def test_only_a_commit_ends_a_transaction() -> None:
    log = Log()
    ends = [log.reader.feed(message) for message in (begin(100), RELATIONS[0], insert(ORANG, "1"), commit(100, 150))]
    assert [end.end_lsn if end else None for end in ends] == [None, None, None, 150]


def test_a_reader_knows_whether_it_stands_inside_a_transaction() -> None:
    inside = []
    log = Log()
    for message in (begin(100), RELATIONS[0], commit(100, 150)):
        log.feed(message)
        inside.append(log.reader.in_transaction)
    assert inside == [True, True, False]


def test_what_committed_up_to_the_position_is_dropped() -> None:
    log = Log(after=150)
    assert log.transaction(insert(ORANG, "1"), truncate(ORANG), at=100).transactions == 0
    assert keys(log.transaction(insert(ORANG, "2"), at=160), "anggota") == ["2"]


def test_a_commit_that_starts_where_the_position_is_was_not_seen_yet() -> None:
    # A commit's end is the next transaction's first place: comparing events by place has lost rows elsewhere.
    assert keys(Log(after=150).transaction(insert(ORANG, "2"), at=150), "anggota") == ["2"]


def test_a_transaction_that_is_sent_again_lands_once() -> None:
    log = Log()
    sent = (begin(100), *RELATIONS, insert(ORANG, "1"), commit(100, 150))
    log.feed(*sent, *sent, begin(150), insert(ORANG, "2"), commit(150, 200), *sent)
    signals = log.take()
    assert signals.transactions == 2
    assert keys(signals, "anggota") == ["1", "2"]


def test_a_relation_learnt_in_a_dropped_transaction_holds_for_the_next() -> None:
    log = Log(after=150)
    log.feed(
        begin(100), *RELATIONS, insert(ORANG, "1"), commit(100, 150), begin(160), insert(ORANG, "2"), commit(160, 170)
    )
    assert keys(log.take(), "anggota") == ["2"]


def test_messages_that_touch_no_row_are_passed_over() -> None:
    origin = b"O" + struct.pack(">Q", 5) + b"tempat lain\0"
    kind = b"Y" + struct.pack(">I", 99) + b"public\0suasana\0"
    note = b"M" + struct.pack(">BQ", 1, 5) + b"catatan\0" + struct.pack(">I", 2) + b"hi"
    assert keys(Log().transaction(origin, kind, note, insert(ORANG, "1")), "anggota") == ["1"]


@pytest.mark.parametrize(
    "messages",
    [
        [insert(ORANG, "1")],
        [RELATIONS[0], insert(ORANG, "1")],
        [begin(100), insert(ORANG, "1")],
        [begin(100), begin(200)],
        [commit(100, 150)],
        [begin(100), commit(100, 150), commit(100, 150)],
        [begin(100), RELATIONS[0], insert(ORANG, "1", "2")],
        [begin(100), RELATIONS[0], insert(ORANG, "1")[:-1]],
        [b"?"],
        [b""],
    ],
)
def test_messages_out_of_place_are_the_servers_fault(messages: list[bytes]) -> None:
    with pytest.raises(SourceProtocolError):
        Log().feed(*messages)
