"""Somebody with every right on the staging server changes the audit log; verification finds it at that entry.

Each test is one thing such a person would do with SQL, after switching off the guards that refuse it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

import psycopg
import pytest

from connector.audit import log
from connector.audit.entry import GENESIS, StoredEntry, chain_hash
from connector.audit.verify import Anchor, Breach
from connector.embedded import Server
from connector.ops import audit as ops
from connector.resources import schema_path
from connector.staging import session
from tests.conftest import drop_database, new_database
from tests.fixtures.entries import facts

LENGTH = 8

Tamper = Callable[[psycopg.Connection], object]


@pytest.fixture(scope="module")
def audited_template(staging_server: Server, staging_template: str) -> Iterator[str]:
    """Two parties with eight entries each, and a batch's record beside each entry."""
    name = new_database(staging_server, "audited", staging_template)
    with session.connect(staging_server.dsn(name)) as conn:
        for place in range(1, LENGTH + 1):
            for parpol_id, party in enumerate(("alfa", "beta"), 1):
                with conn.transaction():
                    seq = log.append(conn, party, facts(place))
                    conn.execute(
                        """
                        insert into staging.sync_batch
                               (party, parpol_id, entity, kind, audit_seq, started_at, ended_at)
                        values (%s, %s, 'anggota', 'copy', %s, now(), now())
                        """,
                        (party, parpol_id, seq),
                    )
    yield name
    drop_database(staging_server, name)


@pytest.fixture
def conn(staging_server: Server, audited_template: str) -> Iterator[psycopg.Connection]:
    """A superuser's session with the guards switched off."""
    name = new_database(staging_server, "tampered", audited_template)
    with session.connect(staging_server.dsn(name)) as opened:
        opened.execute("alter table audit.entry disable trigger all")
        opened.execute("alter table audit.head disable trigger all")
        yield opened
    drop_database(staging_server, name)


def breaches(conn: psycopg.Connection, *noted: Anchor) -> list[tuple[str, int]]:
    return [(breach.party, breach.seq) for breach in verdict(conn, *noted)]


def verdict(conn: psycopg.Connection, *noted: Anchor) -> tuple[Breach, ...]:
    return ops.verify_log(conn, noted=noted).verdict.breaches


def entries(conn: psycopg.Connection, party: str = "alfa") -> list[StoredEntry]:
    return list(log.read(conn, party))


def put(conn: psycopg.Connection, changed: Sequence[StoredEntry]) -> None:
    """Overwrite rows by party and number."""
    for entry in changed:
        conn.execute(
            "update audit.entry set body = %s, prev_hash = %s, hash = %s, at = %s where party = %s and seq = %s",
            (entry.body, entry.prev_hash, entry.hash, entry.at, entry.party, entry.seq),
        )


def rechain(conn: psycopg.Connection, start: int, *, head: bool) -> None:
    """Write alfa's log anew from entry `start` on: other counts, every hash and link right."""
    read = entries(conn)
    conn.execute("delete from audit.entry where party = 'alfa' and seq >= %s", (start,))
    previous = read[start - 2].hash if start > 1 else GENESIS
    conn.execute("update audit.head set seq = %s, hash = %s where party = 'alfa'", (start - 1, previous))
    for place in range(start, LENGTH + 1):
        with conn.transaction():
            log.append(conn, "alfa", facts(place, transactions=7))
    if not head:
        conn.execute("update audit.head set hash = %s where party = 'alfa'", (read[-1].hash,))


def test_an_untouched_log_verifies(conn: psycopg.Connection) -> None:
    verified = ops.verify_log(conn)
    assert verified.verdict.entries == {"alfa": LENGTH, "beta": LENGTH}
    assert verified.verdict.breaches == ()
    assert verified.heads["alfa"] == (LENGTH, entries(conn)[-1].hash)


def test_the_guards_refuse_all_this_while_they_are_on(conn: psycopg.Connection) -> None:
    conn.execute("alter table audit.entry enable trigger entry_is_append_only")
    for statement in ("update audit.entry set at = now()", "delete from audit.entry", "truncate audit.entry"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute(statement)


FLIP = "update audit.entry set {0} = set_byte({0}, {1}, get_byte({0}, {1}) # 1) where party = 'alfa' and seq = 4"


@pytest.mark.parametrize(
    "statement",
    [
        FLIP.format("body", 0),
        FLIP.format("body", 200),
        FLIP.format("hash", 31),
        FLIP.format("prev_hash", 0),
        "update audit.entry set body = body || ' '::bytea where party = 'alfa' and seq = 4",
        "update audit.entry set body = '' where party = 'alfa' and seq = 4",
        "update audit.entry set at = at + interval '1 microsecond' where party = 'alfa' and seq = 4",
        """update audit.entry set body = convert_to(replace(convert_from(body, 'UTF8'),
                  '"inserted":13', '"inserted":12'), 'UTF8') where party = 'alfa' and seq = 4""",
        """update audit.entry set body = convert_to((convert_from(body, 'UTF8')::jsonb)::text, 'UTF8')
            where party = 'alfa' and seq = 4""",
        "delete from audit.entry where party = 'alfa' and seq = 4",
        "delete from audit.entry where party = 'alfa' and seq between 4 and 6",
    ],
    ids=[
        "first byte", "a byte in the middle", "hash", "link", "appended space", "emptied", "time", "a count",
        "same JSON spelled otherwise", "deleted", "three deleted",
    ],
)  # fmt: skip
def test_a_change_of_one_entry_is_found_at_that_entry(conn: psycopg.Connection, statement: str) -> None:
    changed = conn.execute(statement.encode())
    assert changed.rowcount > 0
    assert breaches(conn) == [("alfa", 4)]


def test_a_count_changed_and_the_entry_rehashed_is_found_at_the_next_link(conn: psycopg.Connection) -> None:
    entry = entries(conn)[3]
    body = entry.body.replace(b'"inserted":13', b'"inserted":12').replace(b'"unchanged":0', b'"unchanged":1')
    assert body != entry.body
    put(conn, [StoredEntry("alfa", 4, body, entry.prev_hash, chain_hash(entry.prev_hash, body), entry.at)])
    assert breaches(conn) == [("alfa", 5)]


def test_a_count_changed_so_that_it_does_not_balance_is_found_however_well_it_is_hashed(
    conn: psycopg.Connection,
) -> None:
    entry = entries(conn)[3]
    body = entry.body.replace(b'"inserted":13', b'"inserted":12')
    put(conn, [StoredEntry("alfa", 4, body, entry.prev_hash, chain_hash(entry.prev_hash, body), entry.at)])
    (found,) = verdict(conn)
    assert (found.seq, found.what) == (4, "rows read of anggota do not balance")


def test_two_entries_exchanged_are_found_at_the_first(conn: psycopg.Connection) -> None:
    read = entries(conn)
    third, sixth = read[2], read[5]
    put(conn, [
        StoredEntry("alfa", 3, sixth.body, sixth.prev_hash, sixth.hash, sixth.at),
        StoredEntry("alfa", 6, third.body, third.prev_hash, third.hash, third.at),
    ])  # fmt: skip
    assert breaches(conn) == [("alfa", 3)]


def test_two_parties_entries_exchanged_are_found_in_both(conn: psycopg.Connection) -> None:
    alfa, beta = entries(conn)[4], entries(conn, "beta")[4]
    put(conn, [
        StoredEntry("alfa", 5, beta.body, beta.prev_hash, beta.hash, beta.at),
        StoredEntry("beta", 5, alfa.body, alfa.prev_hash, alfa.hash, alfa.at),
    ])  # fmt: skip
    assert breaches(conn) == [("alfa", 5), ("beta", 5)]


def test_an_entry_pushed_in_between_is_found_at_its_number(conn: psycopg.Connection) -> None:
    third = entries(conn)[2]
    forged = third.body.replace(b'"seq":3', b'"seq":4')
    conn.execute("update audit.entry set seq = seq + 100 where party = 'alfa' and seq >= 4")
    conn.execute("update audit.entry set seq = seq - 99 where party = 'alfa' and seq >= 100")
    conn.execute("insert into audit.entry values ('alfa', 4, %s, %s, %s, %s)",
                 (forged, third.hash, chain_hash(third.hash, forged), third.at))  # fmt: skip
    assert breaches(conn) == [("alfa", 4)]


def test_an_entry_twice_under_one_number_is_found_there(conn: psycopg.Connection) -> None:
    conn.execute("alter table audit.entry drop constraint entry_pkey")
    conn.execute("insert into audit.entry select * from audit.entry where party = 'alfa' and seq = 4")
    assert breaches(conn) == [("alfa", 4)]


def test_an_entry_forged_behind_the_end_is_found(conn: psycopg.Connection) -> None:
    """It is linked and hashed as it should be; the head does not know it."""
    conn.execute("create temp table kept as select * from audit.head")
    with conn.transaction():
        log.append(conn, "alfa", facts(LENGTH + 1))
    conn.execute("update audit.head h set seq = k.seq, hash = k.hash from kept k where k.party = h.party")
    assert breaches(conn) == [("alfa", LENGTH + 1)]


def test_entries_cut_off_the_end_are_found_at_the_first_of_them(conn: psycopg.Connection) -> None:
    conn.execute("delete from audit.entry where party = 'alfa' and seq > 6")
    assert breaches(conn) == [("alfa", 7)]


def test_entries_cut_off_with_their_head_are_found_by_the_batches_that_wrote_them(conn: psycopg.Connection) -> None:
    conn.execute("delete from audit.entry where party = 'alfa' and seq > 6")
    conn.execute("update audit.head h set seq = 6, hash = e.hash from audit.entry e"
                 " where h.party = 'alfa' and e.party = 'alfa' and e.seq = 6")  # fmt: skip
    (found,) = verdict(conn)
    assert (found.party, found.seq) == ("alfa", 7)
    assert "batches" in found.what


def test_a_whole_log_removed_with_its_head_is_found_by_its_batches(conn: psycopg.Connection) -> None:
    conn.execute("delete from audit.entry where party = 'alfa'")
    conn.execute("delete from audit.head where party = 'alfa'")
    assert breaches(conn) == [("alfa", 1)]


def test_a_head_that_was_moved_or_removed_is_found(conn: psycopg.Connection) -> None:
    conn.execute("update audit.head set seq = 99 where party = 'alfa'")
    conn.execute("delete from audit.head where party = 'beta'")
    assert breaches(conn) == [("alfa", LENGTH + 1), ("beta", LENGTH)]


def test_a_log_written_anew_from_its_middle_is_found_by_its_head(conn: psycopg.Connection) -> None:
    rechain(conn, 4, head=False)
    (found,) = verdict(conn)
    assert (found.party, found.seq) == ("alfa", LENGTH)
    assert "written anew" in found.what


def test_a_log_written_anew_with_its_head_is_found_only_by_what_was_noted_elsewhere(conn: psycopg.Connection) -> None:
    """Stated, not hoped: inside the database this cannot be seen."""
    before = entries(conn)
    rechain(conn, 4, head=True)
    assert breaches(conn) == []
    assert breaches(conn, Anchor("alfa", 3, before[2].hash, "a note")) == []
    assert breaches(conn, Anchor("alfa", 6, before[5].hash, "a note")) == [("alfa", 6)]


def test_a_guard_that_is_switched_off_is_told(conn: psycopg.Connection) -> None:
    """Off or made ordinary again: `session_replication_role` would get past an ordinary trigger."""
    assert ops.verify_log(conn).guards_off == ("entry_is_append_only", "head_is_never_removed")
    conn.execute("alter table audit.head enable always trigger head_is_never_removed")
    conn.execute("alter table audit.entry enable trigger entry_is_append_only")
    assert ops.verify_log(conn).guards_off == ("entry_is_append_only",)
    conn.execute("drop trigger entry_is_append_only on audit.entry")
    assert ops.verify_log(conn).guards_off == ("entry_is_append_only",)
    assert breaches(conn) == []


def test_verification_of_one_party_is_not_disturbed_by_another(conn: psycopg.Connection) -> None:
    conn.execute(FLIP.format("body", 3).encode())
    assert ops.verify_log(conn, "beta").verdict.breaches == ()
    assert ops.verify_log(conn, "beta").verdict.entries == {"beta": LENGTH}


def test_a_daemon_that_appends_meanwhile_does_not_disturb_verification(
    conn: psycopg.Connection, staging_server: Server
) -> None:
    """Entries and heads are of one snapshot."""
    dsn = staging_server.dsn(conn.info.dbname)

    def appending(read: Iterator[StoredEntry], _: int) -> Iterator[StoredEntry]:
        with session.connect(dsn) as daemon, daemon.transaction():
            log.append(daemon, "alfa", facts(LENGTH + 1))
        yield from read

    verified = ops.verify_log(conn, watch=appending)
    assert (verified.verdict.entries["alfa"], verified.verdict.breaches) == (LENGTH, ())
    assert ops.verify_log(conn).verdict.entries["alfa"] == LENGTH + 1


# ------------------------------------------------------------------------------------------------- append


def test_an_entry_of_a_transaction_that_is_rolled_back_leaves_no_gap(conn: psycopg.Connection) -> None:
    with conn.transaction(force_rollback=True):
        assert log.append(conn, "alfa", facts(LENGTH + 1)) == LENGTH + 1
    with conn.transaction():
        assert log.append(conn, "alfa", facts(LENGTH + 1)) == LENGTH + 1
    assert breaches(conn) == []


def test_several_entries_of_one_transaction_and_a_new_party_s_first(conn: psycopg.Connection) -> None:
    with conn.transaction():
        assert [log.append(conn, "gama", facts(place)) for place in (1, 2, 3)] == [1, 2, 3]
    verified = ops.verify_log(conn)
    assert (verified.verdict.entries["gama"], verified.verdict.breaches) == (3, ())


def test_outside_a_transaction_nothing_is_appended(conn: psycopg.Connection) -> None:
    with pytest.raises(AssertionError):
        log.append(conn, "alfa", facts(LENGTH + 1))
    assert breaches(conn) == []


# ------------------------------------------------------------------------------------------------- the published query


def published_query() -> bytes:
    (query,) = re.findall(r"^```sql\n(.*?)^```$", schema_path("audit-entry.md").read_text(), re.MULTILINE | re.DOTALL)
    return str(query).encode()


@pytest.mark.parametrize(
    ("statement", "found"),
    [
        ("select 1", []),
        (FLIP.format("body", 9), [("alfa", 4)]),
        (FLIP.format("hash", 9), [("alfa", 4), ("alfa", 5)]),
        ("delete from audit.entry where party = 'beta' and seq = 1", [("beta", 2)]),
    ],
)
def test_the_query_for_auditors_finds_the_same(
    conn: psycopg.Connection, statement: str, found: list[tuple[str, int]]
) -> None:
    conn.execute(statement.encode())
    assert conn.execute(published_query()).fetchall() == found
