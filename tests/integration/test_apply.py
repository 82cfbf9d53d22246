"""Applying to a real staging database: what each key becomes, what is written and what is not, and what is refused."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest
from staged import KEYS, Staged, block, plan, position

from connector.audit import log as audit_log
from connector.audit import verify
from connector.embedded import Server
from connector.errors import (
    ConnectorError,
    EntityHeld,
    Fenced,
    SourceProtocolError,
    StagingError,
    StagingIncompatible,
    StagingUnavailable,
    StaleRead,
)
from connector.events import KEY_BYTES_MAX, EntityState, EntryKind, Outcome, SourceIdentity, source_key
from connector.runtime.acts import act
from connector.staging import offsets, session
from connector.staging.batch import BRAKE_ROWS_MIN, Read
from connector.staging.party import PartyStaging, Standing
from connector.staging.plan import JOURNAL_KEYS
from connector.view.blocks import Block
from tests.conftest import drop_database, new_database

DEADLINE_S = 60.0


@pytest.fixture(scope="module")
def shared_dsn(staging_server: Server, staging_template: str) -> Iterator[str]:
    """One staging database for all tests here: each has a party of its own in it."""
    name = new_database(staging_server, "apply", staging_template)
    yield staging_server.dsn(name)
    drop_database(staging_server, name)


@pytest.fixture
def make(shared_dsn: str) -> Iterator[Callable[..., Staged]]:
    made: list[Staged] = []

    def make(key_width: int = 1) -> Staged:
        made.append(Staged(shared_dsn, key_width))
        made[-1].attach()
        return made[-1]

    yield make
    for staged in made:
        staged.close()


@pytest.fixture
def staged(make: Callable[..., Staged]) -> Staged:
    return make()


def counts(outcome: Outcome) -> dict[str, int]:
    """The counts that are not zero."""
    names = ("signalled", "read", "inserted", "updated", "unchanged", "quarantined", "deleted", "absent", "parked")
    return {name: getattr(outcome, name) for name in names if getattr(outcome, name)}


# -- what each key becomes


def test_new_rows_are_inserted_and_sipol_sees_them(staged: Staged) -> None:
    outcome = staged.signal([("1", "a", "n1"), ("2", "b", None)])
    assert counts(outcome) == {"signalled": 2, "read": 2, "inserted": 2}
    assert staged.live() == {"1": ("a", "n1"), "2": ("b", None)}
    assert staged.feed() == [("1", "upsert"), ("2", "upsert")]
    assert staged.entity()["live_rows"] == 2


def test_a_changed_row_is_updated(staged: Staged) -> None:
    staged.signal([("1", "a", "n1"), ("2", "b", "n2")])
    outcome = staged.signal([("1", "a", "n1 baru")])
    assert counts(outcome) == {"signalled": 1, "read": 1, "updated": 1}
    assert staged.live() == {"1": ("a", "n1 baru"), "2": ("b", "n2")}
    assert staged.feed()[2:] == [("1", "upsert")]


def test_an_unchanged_row_is_not_written_at_all(staged: Staged) -> None:
    rows = [(str(number), "a", None if number % 2 else "n") for number in range(50)]
    staged.signal(rows)
    before, feed = staged.versions(), staged.feed()
    outcome = staged.signal(rows)
    assert counts(outcome) == {"signalled": 50, "read": 50, "unchanged": 50}
    assert staged.versions() == before
    assert staged.feed() == feed
    changed = staged.signal([*rows[:-1], ("49", "a", "lain")])
    assert counts(changed) == {"signalled": 50, "read": 50, "unchanged": 49, "updated": 1}
    after = staged.versions()
    assert {key for key in before if before[key] != after[key]} == {"49"}


def test_null_and_empty_text_are_two_values(staged: Staged) -> None:
    staged.signal([("1", "a", None)])
    assert counts(staged.signal([("1", "a", "")])) == {"signalled": 1, "read": 1, "updated": 1}
    assert staged.live() == {"1": ("a", "")}
    assert counts(staged.signal([("1", "", "")])) == {"signalled": 1, "read": 1, "updated": 1}


def test_a_new_finding_alone_is_a_change(staged: Staged) -> None:
    staged.signal([("1", "a", "periksa"), ("2", "a", "n")])
    rows = staged.query("select source_key, indikasi from sipol.dokumen where parpol_id = %(parpol)s order by 1")
    assert rows == [("1", ["INDIKASI_PERIKSA"]), ("2", None)]


def test_a_signalled_key_that_the_view_lost_becomes_a_tombstone(staged: Staged) -> None:
    staged.signal([("1", "a", "n"), ("2", "b", "n")])
    outcome = staged.signal([("1", "a", "n")], "2")
    assert counts(outcome) == {"signalled": 2, "read": 1, "unchanged": 1, "deleted": 1}
    assert staged.live().keys() == {"1"}
    assert staged.query(
        "select source_key, alasan_hapus, dihapus_pada is not null, pemilik_source_key from staging.dokumen"
        " where parpol_id = %(parpol)s and dihapus_pada is not null"
    ) == [("2", "HILANG_DARI_VIEW", True, "b")]
    assert staged.feed()[2:] == [("2", "hapus")]
    assert staged.entity()["live_rows"] == 1


def test_a_tombstone_that_is_signalled_again_is_absent_and_not_written(staged: Staged) -> None:
    staged.signal([("1", "a", "n")])
    staged.signal([], "1")
    before = staged.versions()
    assert counts(staged.signal([], "1")) == {"signalled": 1, "absent": 1}
    assert staged.versions() == before


def test_a_key_that_neither_side_has_is_absent(staged: Staged) -> None:
    assert counts(staged.signal([], "tiada")) == {"signalled": 1, "absent": 1}
    assert staged.feed() == []


@pytest.mark.parametrize("number", ["n", "lain"])
def test_a_row_that_comes_back_is_revived_even_where_it_says_the_same(staged: Staged, number: str) -> None:
    staged.signal([("1", "a", "n")])
    staged.signal([], "1")
    assert counts(staged.signal([("1", "a", number)])) == {"signalled": 1, "read": 1, "updated": 1}
    assert staged.live() == {"1": ("a", number)}
    assert staged.query("select dihapus_pada, alasan_hapus from staging.dokumen where parpol_id = %(parpol)s") == [
        (None, None)
    ]
    assert staged.feed() == [("1", "upsert"), ("1", "hapus"), ("1", "upsert")]
    assert staged.entity()["live_rows"] == 1


def test_a_changed_key_is_one_row_gone_and_one_row_new(staged: Staged) -> None:
    staged.signal([("1", "a", "n")])
    assert counts(staged.signal([("2", "a", "n")], "1")) == {"signalled": 2, "read": 1, "inserted": 1, "deleted": 1}
    assert staged.live() == {"2": ("a", "n")}


# -- quarantine


def test_a_bad_row_costs_itself_and_says_why_without_a_value(staged: Staged) -> None:
    outcome = staged.signal([("1", "a", "n"), ("2", "b", "buruk"), ("3", None, "n"), ("4", "d", "x" * 81)])
    assert counts(outcome) == {"signalled": 4, "read": 4, "inserted": 1, "quarantined": 3}
    assert outcome.reasons == {"CODE_UNKNOWN": 1, "REQUIRED": 1, "TOO_LONG": 1}
    assert staged.live().keys() == {"1"}
    assert staged.quarantine() == {"2": (["CODE_UNKNOWN"], 1), "3": (["REQUIRED"], 1), "4": (["TOO_LONG"], 1)}
    columns = staged.query("select source_key, columns from staging.karantina where parpol_id = %(parpol)s order by 1")
    assert columns == [("2", ["nomor"]), ("3", ["pemilik_source_key"]), ("4", ["nomor"])]


def test_a_bad_version_leaves_the_last_good_one_and_a_good_one_frees_the_key(staged: Staged) -> None:
    staged.signal([("1", "a", "n")])
    before = staged.versions()
    assert counts(staged.signal([("1", "a", "buruk")])) == {"signalled": 1, "read": 1, "quarantined": 1}
    assert staged.live() == {"1": ("a", "n")}
    assert staged.versions() == before
    assert counts(staged.signal([("1", "a", "n")])) == {"signalled": 1, "read": 1, "unchanged": 1}
    assert staged.quarantine() == {}


def test_a_refused_row_that_goes_away_leaves_the_quarantine(staged: Staged) -> None:
    staged.signal([("1", "a", "buruk"), ("2", "a", "n")])
    staged.signal([("2", "a", "buruk")])
    assert counts(staged.signal([], "1", "2")) == {"signalled": 2, "absent": 1, "deleted": 1}
    assert staged.quarantine() == {}
    assert staged.live() == {}


def test_a_row_refused_again_keeps_when_it_was_first_seen(staged: Staged) -> None:
    staged.signal([("1", "a", "buruk")])
    (first,) = staged.query("select first_seen, last_seen from staging.karantina where parpol_id = %(parpol)s")
    staged.signal([("1", None, "n")])
    (second,) = staged.query("select first_seen, last_seen from staging.karantina where parpol_id = %(parpol)s")
    assert second[0] == first[0] < second[1]
    assert staged.quarantine() == {"1": (["REQUIRED"], 1)}


def test_of_a_key_that_the_view_has_twice_neither_row_wins(staged: Staged) -> None:
    outcome = staged.signal([("1", "a", "n"), ("1", "b", "n"), ("2", "c", "n"), ("1", "a", "buruk")])
    assert counts(outcome) == {"signalled": 2, "read": 2, "inserted": 1, "quarantined": 1}
    assert staged.live().keys() == {"2"}
    assert staged.quarantine() == {"1": (["DUPLICATE_KEY"], 3)}
    assert outcome.reasons == {"DUPLICATE_KEY": 3}
    assert counts(staged.signal([("1", "b", "n")])) == {"signalled": 1, "read": 1, "inserted": 1}
    assert staged.quarantine() == {}


def test_a_live_row_stays_as_it_was_while_its_key_is_doubled(staged: Staged) -> None:
    staged.signal([("1", "a", "n")])
    staged.signal([("1", "a", "x"), ("1", "a", "y")])
    assert staged.live() == {"1": ("a", "n")}


def test_rows_without_a_key_are_counted_and_kept_apart(staged: Staged) -> None:
    with staged.batch(EntryKind.COPY) as batch:
        batch.apply(staged.plan, [block([(None, "a", "n"), (None, "b", "n"), ("1", "c", "n")])])
        (outcome,) = batch.outcomes()
    assert counts(outcome) == {"read": 3, "inserted": 1, "quarantined": 2}
    assert staged.quarantine() == {"": (["NULL_KEY"], 2)}
    assert staged.live().keys() == {"1"}


def test_rows_that_the_byte_check_refused_are_quarantined_under_their_key(staged: Staged) -> None:
    rows: list[list[str | bytes | None]] = [["1", "a", "n"], ["2", b"\xff\xfe", "n"], ["3", "a\0b", "n"]]
    outcome = staged.signal(rows)
    assert counts(outcome) == {"signalled": 3, "read": 3, "inserted": 1, "quarantined": 2}
    assert staged.quarantine() == {"2": (["INVALID_UTF8"], 1), "3": (["NUL_CHARACTER"], 1)}


@pytest.mark.parametrize("width", [1, 2])
def test_a_key_too_long_for_an_index_is_quarantined_and_the_batch_balances(
    make: Callable[..., Staged], width: int
) -> None:
    """Random letters, since an index would compress others; and two that differ at their very end."""
    staged = make(width)
    noise = random.Random(width).randbytes(4 * KEY_BYTES_MAX).hex()
    keys = [(noise[: 3 * KEY_BYTES_MAX] + last,) + ("|" * KEY_BYTES_MAX,) * (width - 1) for last in "ab"]
    rows = [(*key, "a", "n") for key in keys] + [(*("1",) * width, "a", "n")]
    outcome = staged.signal(rows)
    assert counts(outcome) == {"signalled": 3, "read": 3, "inserted": 1, "quarantined": 2}
    assert len(staged.quarantine()) == 2
    gone = staged.signal([], *(source_key(key) for key in keys))
    assert counts(gone) == {"signalled": 2, "absent": 2}
    assert staged.quarantine() == {}
    with staged.batch() as batch:
        batch.park(staged.plan, [source_key(key) for key in keys])
    assert staged.staging.parked() == {"dokumen": 2}
    assert staged.entity()["rescan_since"] is not None, "by a cut key nothing can be asked for"


def test_one_bad_row_in_ten_thousand_costs_one_row(staged: Staged) -> None:
    rows: list[list[str | bytes | None]] = [[str(number), "a", "n"] for number in range(10_000)]
    cells: list[str | bytes] = ["buruk", "x" * 81, b"\xff", "a\0b"]
    for number, bad in enumerate(cells):
        rows[number * 2_000][2] = bad
    rows[9_000][1] = None
    outcome = staged.signal(rows)
    assert counts(outcome) == {"signalled": 10_000, "read": 10_000, "inserted": 9_995, "quarantined": 5}
    reasons = {key: reasons for key, (reasons, _) in staged.quarantine().items()}
    assert reasons == {
        "0": ["CODE_UNKNOWN"], "2000": ["TOO_LONG"], "4000": ["INVALID_UTF8"], "6000": ["NUL_CHARACTER"],
        "9000": ["REQUIRED"],
    }  # fmt: skip


# -- a batch


def test_the_batch_record_and_the_entities_counters_say_what_was_done(staged: Staged) -> None:
    staged.signal([("1", "a", "n"), ("2", "a", "n"), ("3", "a", "buruk")])
    staged.signal([("1", "a", "n"), ("2", "a", "x")], "3", "4")
    staged.signal([], "2")
    columns = ("signalled", "read", "inserted", "updated", "unchanged", "deleted", "absent", "quarantined")
    batches = [batch for batch in staged.batches() if batch["kind"] == "signals"]
    assert [tuple(batch[name] for name in columns) for batch in batches] == [
        (3, 3, 2, 0, 0, 0, 0, 1),
        (4, 2, 0, 1, 1, 0, 2, 0),
        (1, 0, 0, 0, 0, 1, 0, 0),
    ]
    entity = staged.entity()
    assert [entity[name] for name in columns] == [sum(batch[name] for batch in batches) for name in columns]
    assert (entity["live_rows"], entity["mapping_version"]) == (1, "1")


def test_every_row_says_which_batch_position_and_mapping_it_is_from(staged: Staged) -> None:
    staged.signal([("1", "a", "n")])
    staged.plan = plan(staged.party, staged.parpol_id, version="2")
    staged.signal([("2", "a", "n")])
    last = staged.batches()[-1]
    rows = staged.query(
        "select source_key, mapping_version, read_position, sync_batch_id from staging.dokumen"
        " where parpol_id = %(parpol)s order by 1"
    )
    assert [row[:2] for row in rows] == [("1", "1"), ("2", "2")]
    assert rows[1][2] > rows[0][2] > 0
    assert rows[1][3] == last["id"]
    assert last["mapping_digest"] == "digest of 2"


def test_the_slices_of_a_batch_add_up(staged: Staged) -> None:
    """Also where a key that was spilled to disk comes in two of them."""
    staged.signal([("9", "a", "n"), ("8", "a", "n")])
    with staged.batch() as batch:
        batch.apply(staged.plan, [block([("1", "a", "n"), ("2", "a", "n")])], ["1", "2", "9"])
        batch.apply(staged.plan, [block([("1", "a", "n"), ("3", "a", "buruk")])], ["1", "3", "9"])
        batch.apply(staged.plan, [], [])
        batch.apply(staged.plan, [block([("8", "a", "x")]), block([("4", "a", "n")])], ["4", "8"])
        (outcome,) = batch.outcomes()
    assert counts(outcome) == {
        "signalled": 8, "read": 6, "inserted": 3, "updated": 1, "unchanged": 1, "quarantined": 1, "deleted": 1,
        "absent": 1,
    }  # fmt: skip
    assert staged.live().keys() == {"1", "2", "4", "8"}
    assert staged.feed()[2:] == [(key, op) for key, op in staged.feed()[2:] if (key == "9") == (op == "hapus")]
    assert sorted(key for key, _ in staged.feed()[2:]) == ["1", "2", "4", "8", "9"]


def test_a_batch_larger_than_a_journal_row_is_fed_whole(staged: Staged) -> None:
    keys = [str(number) for number in range(JOURNAL_KEYS + 10)]
    staged.signal([(key, "a", "n") for key in keys])
    assert sorted(key for key, _ in staged.feed()) == sorted(keys)
    staged.signal([], *keys)
    assert staged.feed()[len(keys) :] == [(key, "hapus") for key, _ in staged.feed()[len(keys) :]]
    assert len(staged.feed()) == 2 * len(keys)


def test_parties_with_the_same_keys_do_not_meet(make: Callable[..., Staged]) -> None:
    one, other = make(), make()
    one.signal([("1", "satu", "n")])
    other.signal([("1", "dua", "n")])
    one.signal([], "1")
    assert one.live() == {}
    assert other.live() == {"1": ("dua", "n")}
    assert other.feed() == [("1", "upsert")]


def test_an_entry_and_its_batch_are_one(staged: Staged) -> None:
    staged.signal([("1", "a", "n")])
    batch = staged.batches()[-1]
    (entry,) = (entry for entry in audit_log.read(staged.conn, staged.party) if entry.seq == batch["audit_seq"])
    fields = entry.fields()
    assert fields["entities"] == [
        {
            "entity": "dokumen", "signalled": 1, "read": 1, "inserted": 1, "updated": 0, "unchanged": 0,
            "quarantined": 0, "deleted": 0, "absent": 0, "parked": 0, "reasons": {},
            "mapping_version": "1", "mapping_digest": "digest of 1",
            "batch": batch["id"],
            "commitment": fields["entities"][0]["commitment"],  # type: ignore[index, call-overload]
        }
    ]  # fmt: skip
    heads = {party: head for party, head in audit_log.heads(staged.conn).items() if party == staged.party}
    assert not verify.verify(audit_log.read(staged.conn, staged.party), heads).breaches


# -- what is refused, whole


def nothing_happened(staged: Staged, act: Callable[[], object], *expected: type[ConnectorError]) -> ConnectorError:
    """The act fails so, and leaves no trace: no row, no entry, no position."""

    def state() -> list[object]:
        return [
            staged.versions(), staged.quarantine(), staged.batches(), staged.staging.stored(), staged.staging.parked(),
            len(list(audit_log.read(staged.conn, staged.party))), staged.feed(),
        ]  # fmt: skip

    before = state()
    with pytest.raises(expected) as caught:
        act()
    assert state() == before
    return caught.value


def test_a_batch_that_does_not_balance_is_refused(staged: Staged) -> None:
    """A row that nobody asked for, or a key asked for twice: something is wrong between reading and writing."""
    error = nothing_happened(
        staged, lambda: staged.signal([("1", "a", "n"), ("2", "a", "n")], keys=["1"]), StagingError
    )
    assert "does not balance" in str(error)
    nothing_happened(staged, lambda: staged.signal([("1", "a", "n")], keys=["1", "1"]), StagingError)


def test_an_error_in_the_middle_leaves_nothing(staged: Staged) -> None:
    def fail() -> None:
        with staged.batch() as batch:
            batch.apply(staged.plan, [block([("1", "a", "buruk"), ("2", "a", "n")])], ["1", "2"])
            batch.park(staged.plan, ["3"])
            raise EntityHeld("dokumen", "view_missing", "")

    nothing_happened(staged, fail, EntityHeld)
    assert counts(staged.signal([("2", "a", "n")])) == {"signalled": 1, "read": 1, "inserted": 1}


def test_rows_that_break_off_leave_nothing_and_the_session_goes_on(staged: Staged) -> None:
    def blocks() -> Iterator[Block]:
        yield block([("1", "a", "n")])
        raise EntityHeld("dokumen", "permission_denied", "")

    def fail() -> None:
        with staged.batch() as batch:
            batch.apply(staged.plan, blocks(), ["1"])

    nothing_happened(staged, fail, EntityHeld)
    staged.signal([("1", "a", "n")])


def test_rows_of_unequal_width_are_the_partys_servers_fault(staged: Staged) -> None:
    # Three rows with as many cells as three rows have.
    crooked = Block(b"1\ta\tn\tx\n2\tb\n3\tc\tn\n", 3, "3")

    def fail() -> None:
        with staged.batch() as batch:
            batch.apply(staged.plan, [crooked], ["1", "2", "3"])

    nothing_happened(staged, fail, SourceProtocolError)


def test_deletes_beyond_the_share_are_held(staged: Staged) -> None:
    keys = [str(number) for number in range(100)]
    staged.signal([(key, "a", "n") for key in keys])

    def delete(count: int, share: float) -> None:
        with staged.batch() as batch:
            batch.apply(staged.plan, [], keys[:count])
            batch.check_brake(staged.plan, share)

    held = nothing_happened(staged, lambda: delete(31, 0.30), EntityHeld)
    assert isinstance(held, EntityHeld)
    assert (held.reason, held.message) == ("delete_brake", "31 of 100 rows would be deleted")
    assert "connector approve" in held.hint
    delete(30, 0.30)
    assert len(staged.live()) == 70
    delete(30 + BRAKE_ROWS_MIN, 0.0)
    assert len(staged.live()) == 70 - BRAKE_ROWS_MIN, "so few rows say nothing"


def test_an_operator_may_let_deletes_pass(staged: Staged) -> None:
    keys = [str(number) for number in range(100)]
    staged.signal([(key, "a", "n") for key in keys])
    with staged.batch(EntryKind.CONTROL) as batch:
        staged.staging.set_state(batch, "dokumen", Standing(EntityState.STREAMING, brake_off=True))
    with staged.batch() as batch:
        batch.apply(staged.plan, [], keys)
        batch.check_brake(staged.plan, 0.1)
    assert staged.live() == {}


def test_a_daemon_that_was_taken_over_writes_nothing_any_more(staged: Staged) -> None:
    staged.signal([("1", "a", "n")])
    # What a take-over does. Its lock fell to the other one while this daemon was cut off from the server.
    staged.conn.execute("update connector.source_offset set epoch = epoch + 1 where party = %s", (staged.party,))
    nothing_happened(staged, lambda: staged.signal([("1", "a", "zombie")]), Fenced)
    nothing_happened(staged, lambda: staged.staging.move_idle(staged.place()), Fenced)


def test_a_second_daemon_waits_for_the_first_to_end(staged: Staged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offsets, "CLAIM_WAIT_S", 0.05)
    with pytest.raises(Fenced) as caught:
        staged.open()
    assert caught.value.place == staged.party
    staged.staging.close()
    with closing(staged.open()) as second:
        assert second.stored().epoch == 2


def test_two_parties_cannot_share_a_number(staged: Staged, shared_dsn: str) -> None:
    with pytest.raises(Fenced, match="is not this party's"):
        PartyStaging(shared_dsn, "lain", staged.parpol_id, "NASIONAL", KEYS)
    with pytest.raises(Fenced, match="is not this party's"):
        PartyStaging(shared_dsn, staged.party, 30_000, "NASIONAL", KEYS)


def test_an_older_read_never_overwrites_a_newer_one(staged: Staged) -> None:
    staged.signal([("1", "a", "baru")])
    newest = staged.staging.stored().read_position

    def apply(read: Read) -> None:
        with staged.batch(read=read) as batch:
            batch.apply(staged.plan, [block([("1", "a", "lama")])], ["1"])

    nothing_happened(staged, lambda: apply(Read(newest - 1)), StaleRead)
    apply(Read(newest))
    assert staged.staging.stored().read_position == newest
    apply(Read(1, ordered=False))
    assert staged.staging.stored().read_position == newest, "what has no order moves no order"


def test_a_position_never_moves_back(staged: Staged) -> None:
    staged.signal([("1", "a", "n")])
    stored = staged.staging.stored().position
    assert stored is not None
    back = position(stored.ordinal - 1)

    def apply() -> None:
        with staged.batch(to=back, read=Read(stored.ordinal + 1)) as batch:
            batch.apply(staged.plan, [block([("1", "a", "x")])], ["1"])

    nothing_happened(staged, apply, StaleRead)
    nothing_happened(staged, lambda: staged.staging.move_idle(back), StaleRead)
    staged.staging.move_idle(stored)
    assert staged.staging.stored().position == stored


def test_rows_that_change_behind_a_batch_make_it_start_again(staged: Staged) -> None:
    """Somebody repairs a row by hand while a batch waits for it: the batch does not overwrite what it did not see."""
    staged.signal([("1", "a", "n"), ("2", "a", "n")])
    errors: list[BaseException] = []

    def apply() -> None:
        try:
            staged.signal([("1", "a", "x"), ("2", "a", "x")])
        except ConnectorError as error:
            errors.append(error)

    with psycopg.connect(staged.dsn) as hand:
        hand.execute(
            "update staging.dokumen set nomor = 'tangan' where parpol_id = %s and source_key = '2'", (staged.parpol_id,)
        )
        applying = threading.Thread(target=apply)
        applying.start()
        until(lambda: staged.query("select 1 from pg_stat_activity where wait_event_type = 'Lock'") != [])
        hand.commit()
        applying.join(DEADLINE_S)
    assert [type(error) for error in errors] == [StagingUnavailable]
    assert staged.live() == {"1": ("a", "n"), "2": ("a", "tangan")}
    staged.signal([("1", "a", "x"), ("2", "a", "x")])
    assert staged.live() == {"1": ("a", "x"), "2": ("a", "x")}


def until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < deadline


def test_a_lost_connection_leaves_nothing_and_is_to_be_tried_again(staged: Staged) -> None:
    staged.signal([("1", "a", "n")])

    def cut() -> None:
        with staged.batch() as batch:
            batch.apply(staged.plan, [block([("1", "a", "x")])], ["1"])
            staged.conn.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity where application_name = %s",
                (f"connector {staged.party}",),
            )

    with pytest.raises(StagingUnavailable):
        cut()
    assert staged.live() == {"1": ("a", "n")}
    with closing(staged.open()) as again:
        assert again.stored().position is not None


ERRORS: dict[str, type[ConnectorError]] = {
    **dict.fromkeys(("08006", "40001", "40P01", "53100", "53200", "55P03"), StagingUnavailable),
    **dict.fromkeys(("57014", "57P01", "58030", "25P03"), StagingUnavailable),
    **dict.fromkeys(("42501", "42P01", "42703", "3F000"), StagingIncompatible),
    **dict.fromkeys(("23505", "23514", "22001", "22P02", "54000"), StagingError),
}


@pytest.mark.parametrize("state", ERRORS)
def test_each_error_of_the_server_has_its_class(shared_dsn: str, state: str) -> None:
    def fail(conn: psycopg.Connection) -> None:
        with session.translated("menguji"):
            conn.execute(f"do $$ begin raise exception 'NIK 3171' using errcode = '{state}'; end $$".encode())

    with closing(session.connect(shared_dsn)) as conn, pytest.raises(ConnectorError) as caught:
        fail(conn)
    assert type(caught.value) is ERRORS[state]
    assert state in str(caught.value)
    assert "3171" not in str(caught.value)


# -- positions


def test_an_idle_stretch_is_covered_by_the_entry_after_it(staged: Staged) -> None:
    """Whatever comes between: a control act moves no position, and leaves no gap in what the entries cover."""
    staged.signal([("1", "a", "n")])
    begun = staged.staging.stored()
    idle = staged.place()
    staged.staging.move_idle(idle)
    moved = staged.staging.stored()
    assert (moved.position, moved.audited) == (idle, begun.audited)
    with act(staged.staging, staged.party, {"act": "pause", "entity": "dokumen"}):
        pass
    assert staged.staging.stored().audited == begun.audited
    staged.signal([("2", "a", "n")])
    entries = [entry.fields() for entry in audit_log.read(staged.conn, staged.party)]
    covered = [(entry["position_from"], entry["position_to"]) for entry in entries if "position_from" in entry]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(covered))
    assert covered[-1][0] == (begun.audited.text if begun.audited else None)


def test_a_new_history_begins_where_it_says_and_forgets_how_far_reads_were(staged: Staged) -> None:
    staged.signal([("1", "a", "n")])
    identity = SourceIdentity("7000000000000000001", 3, "sipol_uji")
    with act(staged.staging, staged.party, {"act": "history_begun"}) as batch:
        staged.staging.restart(batch, position(5), identity)
    stored = staged.staging.stored()
    assert (stored.position, stored.audited, stored.identity, stored.read_position) == (
        position(5),
        position(5),
        identity,
        0,
    )


# -- parked keys


def test_parked_keys_are_kept_once_and_given_back_in_slices(staged: Staged) -> None:
    with staged.batch() as batch:
        batch.park(staged.plan, ["3", "1", "a|b\\", "", "\n", "\\N"])
        (outcome,) = batch.outcomes()
    assert counts(outcome) == {"signalled": 6, "parked": 6}
    with staged.batch() as batch:
        batch.park(staged.plan, ["1", "4"])
    assert staged.staging.parked() == {"dokumen": 7}
    slices = list(staged.staging.parked_keys("dokumen", slice_rows=3))
    assert [len(part) for part in slices] == [3, 3, 1]
    assert sorted(key for part in slices for key in part) == sorted(["3", "1", "a|b\\", "", "\n", "\\N", "4"])
    with staged.batch() as batch:
        for part in staged.staging.parked_keys("dokumen", slice_rows=3):
            batch.apply(staged.plan, [block([(key, "a", "n") for key in part if key != "4"])], part)
        batch.unpark(staged.plan)
    assert staged.staging.parked() == {}
    assert len(staged.live()) == 6


# -- copies


@pytest.fixture
def new_party(shared_dsn: str) -> Iterator[Staged]:
    """One that was never copied."""
    staged = Staged(shared_dsn)
    yield staged
    staged.close()


def test_a_first_copy_is_seen_when_it_is_whole(new_party: Staged) -> None:
    with new_party.batch(EntryKind.COPY) as batch:
        assert new_party.staging.begin_copy(batch, new_party.plan), "in bulk"
    for number in range(3):
        with new_party.batch(EntryKind.COPY) as batch:
            rows = [(f"{number}-{row}", "a", "buruk" if row == 5 else "n") for row in range(10)]
            batch.apply(new_party.plan, [block([*rows, (f"{number}-9", "a", "dua")])], fresh=True)
            new_party.staging.note_chunk(batch, "dokumen", rows[-1][0], 10)
        assert new_party.live() == {}
    status = new_party.staging.entities()["dokumen"]
    assert (status.copy_after, status.copy_rows, status.bulk, status.state) == ("2-9", 30, True, EntityState.COPYING)
    with new_party.batch(EntryKind.COPY) as batch:
        new_party.staging.attach(batch, new_party.plan)
    assert len(new_party.live()) == 24
    assert new_party.quarantine()["0-9"] == (["DUPLICATE_KEY"], 2)
    assert sorted(new_party.quarantine()) == ["0-5", "0-9", "1-5", "1-9", "2-5", "2-9"]
    assert new_party.entity()["live_rows"] == 24
    assert len(new_party.feed()) == 24
    indexes = new_party.query(
        "select indisprimary, inhparent is not null from pg_index left join pg_inherits on inhrelid = indexrelid"
        " where indrelid = ('staging.dokumen_p' || %(parpol)s)::regclass"
    )
    assert indexes == [(True, True)], "its one index is part of the contract's primary key"
    assert counts(new_party.signal([("0-0", "a", "n"), ("0-1", "a", "x")])) == {
        "signalled": 2, "read": 2, "unchanged": 1, "updated": 1,
    }  # fmt: skip


def test_lanes_load_side_by_side_and_commit_in_turn(new_party: Staged) -> None:
    with new_party.batch(EntryKind.COPY) as batch:
        new_party.staging.begin_copy(batch, new_party.plan)
    lanes = [new_party.staging.open_lane() for _ in range(2)]
    for number, lane in enumerate(lanes):
        lane.begin(new_party.plan, [block([(f"{number}-{row}", "a", "n") for row in range(5)])], Read(1, ordered=False))
    for lane in lanes:
        with lane.turn() as batch:
            audit_log.append(batch.transaction, new_party.party, batch.facts(None))
            batch.advance(None, 1)
    rows = new_party.conn.execute(f"select count(*) from staging.dokumen_p{new_party.parpol_id}".encode()).fetchone()
    assert rows == (10,)
    for lane in lanes:
        lane.begin(new_party.plan, [block([("x", "a", "n")])], Read(1, ordered=False))
    new_party.conn.execute("update connector.source_offset set epoch = epoch + 1 where party = %s", (new_party.party,))
    for lane in lanes:
        with pytest.raises(Fenced), lane.turn():
            pass
        lane.close()
    rows = new_party.conn.execute(f"select count(*) from staging.dokumen_p{new_party.parpol_id}".encode()).fetchone()
    assert rows == (10,)


def test_a_first_copy_that_begins_again_begins_from_nothing(new_party: Staged) -> None:
    for number in ("buruk", "n"):
        with new_party.batch(EntryKind.COPY) as batch:
            assert new_party.staging.begin_copy(batch, new_party.plan)
        with new_party.batch(EntryKind.COPY) as batch:
            batch.apply(new_party.plan, [block([("1", "a", number), (number, "a", "n")])], fresh=True)
    with new_party.batch(EntryKind.COPY) as batch:
        new_party.staging.attach(batch, new_party.plan)
    assert new_party.live().keys() == {"1", "n"}
    assert new_party.quarantine() == {}, "what was refused by the copy that was given up is good now"
    assert new_party.entity()["live_rows"] == 2


def test_a_table_in_the_way_is_not_taken_for_a_partition(new_party: Staged, make: Callable[..., Staged]) -> None:
    other = make()
    name = f"dokumen_p{new_party.parpol_id}"
    other.conn.execute(f"alter table staging.dokumen_p{other.parpol_id} rename to {name}".encode())

    def begin() -> None:
        with new_party.batch(EntryKind.COPY) as batch:
            new_party.staging.begin_copy(batch, new_party.plan)

    try:
        with pytest.raises(StagingError, match="partition of something else"):
            begin()
    finally:
        other.conn.execute(f"alter table staging.{name} rename to dokumen_p{other.parpol_id}".encode())


def test_a_resync_parks_what_it_did_not_meet_good_or_refused(staged: Staged) -> None:
    staged.signal([(str(number), "a", "n") for number in range(6)])
    staged.signal([("9", "a", "buruk"), ("8", "a", "buruk"), ("5", "a", "buruk")], "4")
    with staged.batch(EntryKind.COPY) as batch:
        assert not staged.staging.begin_copy(batch, staged.plan), "beside the rows that are there"
    generation = staged.entity()["generation"]
    for rows in ([("0", "a", "n"), ("1", "a", "x")], [("7", "a", "n"), ("8", "a", "buruk"), (None, "a", "n")]):
        with staged.batch(EntryKind.COPY) as batch:
            batch.apply(staged.plan, [block(rows)], generation=generation)
    assert staged.staging.seen_rows("dokumen", generation) == 4
    with staged.batch(EntryKind.COPY) as batch:
        parked, live = staged.staging.park_unseen(batch, staged.plan, generation)
    assert (parked, live) == (3, 6)
    keys = [key for part in staged.staging.parked_keys("dokumen", slice_rows=10) for key in part]
    assert sorted(keys) == ["2", "3", "5", "9"], "9 was never good, and may have left the view all the same"
    assert staged.entity()["pending_deletes"] == 3
    assert staged.staging.seen_rows("dokumen", generation) == 0
    with staged.batch() as batch:
        batch.apply(staged.plan, [block([("2", "a", "n")])], keys)
        batch.unpark(staged.plan)
    assert staged.live().keys() == {"0", "1", "2", "7"}
    assert staged.quarantine() == {"8": (["CODE_UNKNOWN"], 1), "": (["NULL_KEY"], 1)}


def test_rows_without_a_key_are_counted_anew_by_each_copy(staged: Staged) -> None:
    with staged.batch(EntryKind.COPY) as batch:
        batch.apply(staged.plan, [block([(None, "a", "n")])])
    staged.signal([("", "a", "buruk")])
    with staged.batch(EntryKind.COPY) as batch:
        staged.staging.begin_copy(batch, staged.plan)
    assert staged.quarantine() == {"": (["CODE_UNKNOWN"], 1)}, "a key that is an empty text is a key"


def test_a_rescan_that_is_wanted_twice_is_one_and_is_done_by_a_copy(staged: Staged) -> None:
    for _ in range(2):
        with staged.batch() as batch:
            batch.want_rescan("dokumen")
    assert staged.staging.entities()["dokumen"].rescan_since is not None
    with staged.batch(EntryKind.COPY) as batch:
        staged.staging.begin_copy(batch, staged.plan)
    assert staged.staging.entities()["dokumen"].rescan_since is None


# -- hostile values


HOSTILE = [
    "'); drop table staging.dokumen; --", "%s %(party)s {}", "\\", "\\N", "\\.", "a\tb\nc\rd", '"', "'", "$$",
    "é😀\u202e", "", " ", "NULL", "\x01\x1b[31m", "|", "a|b\\|",
]  # fmt: skip


def test_values_and_keys_arrive_as_they_are_whatever_they_look_like(make: Callable[..., Staged]) -> None:
    staged = make(2)
    rows = [(one, other, one + other, other) for one in HOSTILE for other in HOSTILE]
    outcome = staged.signal(rows)
    assert outcome.inserted == len(rows)
    assert staged.live() == {source_key(row[:2]): (row[2], row[3]) for row in rows}
    assert {key for key, _ in staged.feed()} == staged.live().keys()
    assert staged.signal(rows).unchanged == len(rows)
    gone = staged.signal([], *(source_key(row[:2]) for row in rows))
    assert gone.deleted == len(rows)


def test_a_huge_value_is_a_value(staged: Staged) -> None:
    huge = "é" * 2_000_000
    assert staged.signal([("1", huge, "n")]).inserted == 1
    assert staged.live()["1"][0] == huge
    assert staged.signal([("1", huge, "n")]).unchanged == 1
    assert staged.signal([("1", huge + "x", "n")]).updated == 1


def test_a_nul_in_a_key_is_refused_whole(staged: Staged) -> None:
    # No PostgreSQL log carries one; a server that sends it is not one.
    nothing_happened(staged, lambda: staged.signal([], "a\0b"), ConnectorError)


@pytest.mark.parametrize("party", ["x'; drop table staging.dokumen; --", 'a"b', "é😀", "%s"])
def test_a_party_of_any_name_has_its_own_rows(shared_dsn: str, party: str) -> None:
    staged = Staged(shared_dsn)
    staged.close()
    staged.party = f"{party}{staged.parpol_id}"
    staged.parpol_id += 10_000
    staged.plan = plan(staged.party, staged.parpol_id)
    staged.staging = staged.open()
    staged.conn = psycopg.connect(shared_dsn, autocommit=True)
    staged.attach()
    staged.signal([("1", "a", "n")])
    assert staged.live() == {"1": ("a", "n")}
    assert staged.entity()["party"] == staged.party
    staged.close()


def test_small_batches_share_a_plan_until_the_partition_has_grown(staged: Staged) -> None:
    """Planning takes longer than a small batch; a plan for a few rows would be a bad one for many."""

    def plans() -> tuple[int, bool]:
        with staged.staging.batch(EntryKind.SIGNALS, Read(None)) as batch:
            found = batch.transaction.execute(
                "select count(*), bool_or(generic_plans > 0) from pg_prepared_statements"
                " where statement like '%written_i%'"
            ).fetchone()
        assert found is not None
        return found[0], found[1]

    for number in range(8):
        staged.signal([(str(number), "a", "n")])
    assert plans() == (1, True)
    staged.signal([(str(number), "a", "n") for number in range(10, 1_500)])
    assert plans() == (1, True), "a large batch is planned for itself"
    staged.signal([("8", "a", "n")])
    assert plans() == (2, True)


@pytest.mark.parametrize(
    ("asked", "kept"), [("off", "on"), ("on", "on"), ("local", "local"), ("remote_apply", "remote_apply")]
)
def test_p4_a_commit_of_ours_is_on_disk_whatever_the_servers_default(staging_dsn: str, asked: str, kept: str) -> None:
    """The source is told of what was committed: a crash of staging must not take it back."""
    with closing(session.connect(f"{staging_dsn} options='-c synchronous_commit={asked}'")) as conn:
        assert conn.execute("show synchronous_commit").fetchone() == (kept,)
