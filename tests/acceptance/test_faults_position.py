"""Faults of the position: what was read, stored and confirmed, and who else moves a slot.

Rows 1 to 8, 13 to 16, 81 and 96 of the fault matrix.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo
from workbench import Workbench

from connector.embedded import Server

Make = Callable[..., Workbench]
both = pytest.mark.parametrize("capture", ["pull", "stream"])

PEOPLE = 200
LONGER = "update public.orang set alamat = alamat || ' *' where orang_id = %s"


def streaming(make_workbench: Make, *names: str, **options: object) -> Workbench:
    """A party (or more) whose first copy is through; its daemon is gone again."""
    bench = make_workbench(*(names or ("uji",)), people=PEOPLE, **options)
    daemon = bench.start()
    for party in bench.parties:
        bench.await_caught_up(party)
    daemon.stop()
    return bench


def resynced(bench: Workbench, party: str = "uji") -> None:
    """Resync, and watch that staging never has fewer rows on the way than it has at the end."""
    least = bench.query("select count(*) from staging.anggota where dihapus_pada is null")[0][0]
    bench.ask("resync", party)

    def done() -> bool:
        assert bench.query("select count(*) from staging.anggota where dihapus_pada is null")[0][0] >= least
        return set(bench.states(party).values()) == {"streaming"}

    bench.wait_until(done, lambda: f"{party} is resynced; it is {bench.states(party)}")
    bench.check(party)


TRIES_MAX = 8


@both
def test_of_two_adjacent_transactions_the_second_is_not_taken_for_the_first(
    make_workbench: Make, pg15: Server, capture: str
) -> None:
    """Row 1: the worker dies between its commit of the first and its confirmation, the second is in the log behind it.

    Whether the first one's end is the second one's beginning to the byte is up to the server's other writers; that case
    is held exactly in tests/unit/test_changes.py. Here it is tried for, and whatever comes must land once.
    """
    # On a server without page checksums, with room on the pages: else reading the first one writes to the log.
    bench = make_workbench("uji", people=PEOPLE, capture=capture, server=pg15)
    party = bench.parties["uji"]
    party.run("alter table public.orang set (fillfactor = 30)")
    party.run("vacuum (full) public.orang")
    party.run("alter table public.orang reset (fillfactor)")
    daemon = bench.start(failpoints=bench.armed(["after_commit"], "hold"))
    bench.await_caught_up("uji")
    before = bench.totals("uji", "anggota")
    adjacent, rows = False, 0
    while not adjacent and rows < 2 * TRIES_MAX:
        bench.hold("after_commit", "uji", LONGER, (rows + 1,))
        adjacent = bench.position("uji") == party.log_end()
        party.run(LONGER, (rows + 2,))
        rows += 2
        if adjacent or rows == 2 * TRIES_MAX:
            daemon.kill_worker("uji")
        else:
            bench.release("after_commit", "hold")
        bench.await_caught_up("uji")
    now = bench.totals("uji", "anggota")
    assert (now["updated"] - before["updated"], now["signalled"] - before["signalled"]) == (rows, rows)
    bench.check("uji")


@both
def test_rows_that_share_one_place_in_the_log_all_arrive_once(make_workbench: Make, capture: str) -> None:
    """Row 2: a COPY of 1,000 rows, applied in slices of 100, killed before its commit."""
    bench = make_workbench("uji", people=PEOPLE, capture=capture, limits={"batch_rows": 100})
    daemon = bench.start(failpoints=bench.armed(["before_commit"], "hold"))
    bench.await_caught_up("uji")
    before = bench.totals("uji", "anggota")
    bench.arm("before_commit", "hold")
    with bench.parties["uji"].connect() as conn, conn.cursor().copy("copy public.orang from stdin") as copy:
        for number in range(10_001, 11_001):
            copy.write_row(
                (number, "3273010101900001", f"K{number}", "SALINAN", "L", "1990-01-01", 1, "JL", "3273011001", "aktif")
            )
    bench.await_reached("before_commit", "hold")
    daemon.kill_worker("uji")
    bench.await_caught_up("uji")
    now = bench.totals("uji", "anggota")
    assert (now["inserted"] - before["inserted"], now["signalled"] - before["signalled"]) == (1000, 1000)
    bench.check("uji")


@both
def test_rows_around_a_logical_message_are_not_lost_at_a_restart(make_workbench: Make, capture: str) -> None:
    """Row 3: messages inside and outside of the transaction; a kill after it is staged and before it is confirmed."""
    bench = make_workbench("uji", people=PEOPLE, capture=capture)
    daemon = bench.start(failpoints=bench.armed(["before_confirm"], "hold"))
    bench.await_caught_up("uji")
    bench.arm("before_confirm", "hold")
    with bench.parties["uji"].connect() as conn:
        for first in (1, 3):
            with conn.transaction():
                conn.execute(LONGER, (first,))
                conn.execute(
                    "select pg_logical_emit_message(true, 'uji', 'x'), pg_logical_emit_message(false, 'uji', 'y')"
                )
                conn.execute(LONGER, (first + 1,))
            conn.execute("select pg_logical_emit_message(true, 'uji', 'z')")
    bench.await_reached("before_confirm", "hold")
    daemon.kill_worker("uji")
    bench.check("uji")
    assert bench.totals("uji", "anggota")["updated"] == 4


@both
def test_p4_the_source_is_never_told_of_more_than_a_blocked_staging_has(make_workbench: Make, capture: str) -> None:
    """Rows 4 and 15: staging is locked for longer than the server's patience. It keeps the connection, it is never
    told of more than staging has, and a kill meanwhile loses nothing."""
    bench = make_workbench("uji", people=PEOPLE, capture=capture)
    party = bench.parties["uji"]
    party.run(f"alter role {party.reader} set wal_sender_timeout = '2s'")
    party.run(f"alter role {party.reader} set idle_session_timeout = '1s'")
    daemon = bench.start()
    bench.await_caught_up("uji")
    with bench.staging() as blocker, blocker.transaction():
        blocker.execute("lock table staging.anggota_p1 in access exclusive mode")
        party.run(LONGER, (1,))
        waiting = "select count(*) from pg_locks where relation = 'staging.anggota_p1'::regclass and not granted"
        bench.wait_until(lambda: bench.query(waiting) != [(0,)], "the batch waits for the lock")
        sessions = sorted(party.ask(SESSIONS, (party.reader,)))
        since = party.ask("select now()")[0][0]

        def patient() -> bool:
            assert party.slot_place() <= bench.position("uji")
            assert sorted(party.ask(SESSIONS, (party.reader,))) == sessions
            return bool(party.ask("select now() > %s + interval '5 seconds'", (since,))[0][0])

        bench.wait_until(patient, "two and a half timeouts have passed")
        assert party.slot_place() <= bench.position("uji")
        daemon.kill_worker("uji")
    bench.check("uji")
    assert bench.totals("uji", "anggota")["updated"] == 1


SESSIONS = "select pid from pg_stat_activity where usename = %s"


@both
def test_p6_a_position_that_cannot_be_trusted_stops_the_party(make_workbench: Make, capture: str) -> None:
    """Row 5: nothing is applied over the gap; the resync mends it beside the rows that are there."""
    bench = streaming(make_workbench, capture=capture)
    party = bench.parties["uji"]
    party.run(LONGER, (1,))
    party.run("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", (party.slot,))
    party.run(LONGER, (2,))
    before = len(bench.entries("uji"))
    daemon = bench.start()
    bench.await_reason("uji", "anggota", "needs_resync", "position_ahead")
    bench.await_worker("uji", "needs_resync")
    assert "resync" in bench.worker("uji")["hint"]
    assert [entry["act"] for entry in bench.entries("uji")[before:]] == ["position_lost"]
    resynced(bench)
    assert len(daemon.named("session_ended")) == 1
    assert bench.acts("uji").count("history_begun") == 2


def test_a_slot_moved_between_two_peeks_is_noticed(make_workbench: Make) -> None:
    """Row 5, while we run: the next peek would show only what comes after the gap."""
    bench = make_workbench("uji", people=PEOPLE)
    party = bench.parties["uji"]
    bench.start(failpoints=bench.armed(["after_confirm"], "hold"))
    bench.await_caught_up("uji")
    bench.hold("after_confirm", "uji", LONGER, (1,))
    party.run(LONGER, (2,))
    party.run("select pg_replication_slot_advance(%s, pg_current_wal_lsn())", (party.slot,))
    party.run(LONGER, (3,))
    bench.release("after_confirm", "hold")
    bench.await_reason("uji", "anggota", "needs_resync", "position_ahead")
    assert bench.totals("uji", "anggota")["updated"] == 1
    resynced(bench)


@both
def test_a_slot_made_anew_under_the_same_name_is_not_ours(make_workbench: Make, capture: str) -> None:
    """Row 6: dropped and made again while we were away."""
    bench = streaming(make_workbench, capture=capture)
    party = bench.parties["uji"]
    party.run("select pg_drop_replication_slot(%s)", (party.slot,))
    party.run(LONGER, (1,))
    party.run("select pg_create_logical_replication_slot(%s, 'pgoutput')", (party.slot,))
    bench.start()
    bench.await_reason("uji", "anggota", "needs_resync", "position_ahead")
    assert bench.totals("uji", "anggota")["updated"] == 0
    resynced(bench)


def test_a_missing_slot_needs_the_kit_and_a_resync(make_workbench: Make) -> None:
    """Row 6, without the recreation; a resync that is asked for before the slot is back waits for it."""
    bench = streaming(make_workbench)
    party = bench.parties["uji"]
    party.run("select pg_drop_replication_slot(%s)", (party.slot,))
    bench.start()
    bench.await_reason("uji", "anggota", "needs_resync", "slot_missing")
    bench.ask("resync", "uji")
    bench.await_worker("uji", "retrying")
    assert "kit" in bench.worker("uji")["hint"]
    party.run(LONGER, (1,))
    party.install_kit()
    bench.await_state("uji", "streaming")
    bench.check("uji")


@both
def test_an_idle_party_s_slot_follows_the_log(make_workbench: Make, capture: str) -> None:
    """Row 13: only tables that do not concern us are written; the server can throw its log away all the same."""
    bench = make_workbench("uji", people=PEOPLE, capture=capture)
    party = bench.parties["uji"]
    party.run(f"alter role {party.reader} set wal_sender_timeout = '2s'")
    bench.start()
    bench.await_caught_up("uji")
    party.run("create table public.lain (t text)")
    entries = len(bench.entries("uji"))
    party.run("insert into public.lain select repeat('x', 1000) from generate_series(1, 5000)")
    mark = party.log_end()
    behind = "select restart_lsn - '0/0'::pg_lsn from pg_replication_slots where slot_name = %s"

    def follows() -> bool:
        # What a busy server logs every 15 seconds: the point that decoding can restart from.
        party.run("select pg_log_standby_snapshot()")
        party.run("insert into public.lain select repeat('x', 1000) from generate_series(1, 1500)")
        return party.slot_place() >= mark and party.ask(behind, (party.slot,))[0][0] >= mark

    bench.wait_until(follows, lambda: f"the slot passes {mark}; it stands at {party.slot_place()}")
    # A session that came back may have looked at its last keys again; it changed nothing.
    told = [counts for entry in bench.entries("uji")[entries:] for counts in entry["entities"]]
    assert [counts for counts in told if counts["inserted"] + counts["updated"] + counts["deleted"]] == []
    bench.check("uji")


def test_a_second_daemon_waits_and_takes_over_when_the_first_is_gone(make_workbench: Make) -> None:
    """Row 8: one works, the other stands by."""
    bench = make_workbench("uji", people=PEOPLE)
    first = bench.start()
    bench.await_caught_up("uji")
    second = bench.start()
    bench.wait_until(lambda: bool(bench.query("select from connector.daemon")[1:]), "the second daemon is there")
    bench.parties["uji"].run(LONGER, (1,))
    bench.check("uji")
    assert not first.named("session_ended")
    assert not second.named("session_ended")
    first.kill()
    bench.parties["uji"].run(LONGER, (2,))
    bench.check("uji")
    assert bench.totals("uji", "anggota")["updated"] == 2


def test_a_daemon_that_slept_through_its_own_replacement_writes_nothing(make_workbench: Make) -> None:
    """Row 8: stopped with a batch in hand, all of it; another daemon takes over; then it wakes up."""
    bench = make_workbench("uji", people=PEOPLE)
    party = bench.parties["uji"]
    first = bench.start(failpoints=bench.armed(["before_begin"], "hold"))
    bench.await_caught_up("uji")
    bench.hold("before_begin", "uji", LONGER, (1,))
    os.killpg(first.process.pid, signal.SIGSTOP)
    second = bench.start()
    bench.check("uji")
    bench.release("before_begin", "hold")
    os.killpg(first.process.pid, signal.SIGCONT)
    bench.wait_until(lambda: bool(first.named("worker_retired")), "the first one knows that it lost")
    party.run(LONGER, (2,))
    bench.check("uji")
    assert not second.named("session_ended")
    assert bench.totals("uji", "anggota")["updated"] == 2


def test_a_batch_of_an_older_epoch_is_refused(make_workbench: Make) -> None:
    """Row 8, where the lock did not hold (a pooler in between): the stored epoch alone decides."""
    bench = make_workbench("uji", people=PEOPLE)
    daemon = bench.start(failpoints=bench.armed(["before_begin"], "hold"))
    bench.await_caught_up("uji")
    bench.hold("before_begin", "uji", LONGER, (1,))
    entries = len(bench.entries("uji"))
    with bench.staging() as conn:
        conn.execute("update connector.source_offset set epoch = epoch + 1")
    bench.release("before_begin", "hold")
    bench.wait_until(lambda: bool(daemon.named("session_ended")), "the batch is refused")
    assert daemon.named("session_ended")[0]["error"] == "Fenced"
    bench.check("uji")
    assert bench.totals("uji", "anggota")["updated"] == 1
    assert len(bench.entries("uji")) - entries <= 2, "the change and the nudge"


def test_a_slot_that_lost_its_log_needs_a_resync_and_harms_no_other_party(
    make_workbench: Make, lone_server: Callable[..., Server]
) -> None:
    """Rows 14 and 16: `max_slot_wal_keep_size` was reached while nobody read. No storm of tries; the others go on."""
    server = lone_server({"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB"})
    bench = make_workbench("uji", "lain", people=PEOPLE, servers={"uji": server})
    party = bench.parties["uji"]
    daemon = bench.start(failpoints=bench.armed(["after_confirm"], "hold"))
    bench.await_caught_up("uji")
    bench.await_caught_up("lain")
    daemon.stop()
    party.run(LONGER, (1,))
    lost = "select wal_status = 'lost' from pg_replication_slots where slot_name = %s"

    def invalidated() -> bool:
        party.run("select pg_switch_wal()")
        party.run("checkpoint")
        return bool(party.ask(lost, (party.slot,))[0][0])

    bench.wait_until(invalidated, "the server gives the slot's log up")
    daemon = bench.start()
    bench.await_reason("uji", "anggota", "needs_resync", "slot_lost")
    bench.await_worker("uji", "needs_resync")
    assert "resync" in bench.worker("uji")["hint"]
    bench.parties["lain"].run(LONGER, (1,))
    bench.check("lain")
    party.remove_kit()
    party.install_kit()
    resynced(bench)
    assert len(daemon.named("session_ended", "uji")) == 1, "it stood still until it was asked to resync"
    party.run(LONGER, (2,))
    bench.check("uji")


@both
def test_a_source_that_crashes_right_after_our_confirm_repeats_and_nothing_is_doubled(
    make_workbench: Make, lone_server: Callable[..., Server], capture: str
) -> None:
    """Row 81: the slot's place is not on disk at once; after an immediate stop it may stand earlier."""
    server = lone_server()
    bench = make_workbench("uji", people=PEOPLE, capture=capture, server=server)
    daemon = bench.start(failpoints=bench.armed(["after_confirm"], "hold"))
    bench.await_caught_up("uji")
    before = bench.totals("uji", "anggota")
    rows = 0
    for member in (1, 2, 3):
        bench.hold("after_confirm", "uji", LONGER, (member,))
        server.stop("immediate")
        bench.release("after_confirm", "hold")
        server.launch()
        rows += 1
        bench.await_caught_up("uji")
    now = bench.totals("uji", "anggota")
    assert (now["updated"] - before["updated"], now["signalled"] - before["signalled"]) == (rows, rows)
    bench.check("uji")
    assert {line["error"] for line in daemon.named("session_ended")} == {"SourceUnavailable"}


@both
def test_a_staging_restored_from_a_backup_is_resynced_and_not_emptied(make_workbench: Make, capture: str) -> None:
    """Row 96: the source was told to forget what this staging never had."""
    bench = streaming(make_workbench, capture=capture)
    party = bench.parties["uji"]
    with bench.staging() as conn:
        current = conn.info.dbname
    backup = f"{current}_cadangan"
    with psycopg.connect(bench.staging_dsn, dbname="postgres", autocommit=True) as conn:
        conn.execute(sql.SQL("create database {} template {}").format(sql.Identifier(backup), sql.Identifier(current)))
    try:
        daemon = bench.start()
        party.run(LONGER, (1,))
        party.run("delete from public.orang where orang_id = 2")
        bench.check("uji")
        daemon.stop()
        bench.use_staging(make_conninfo(bench.staging_dsn, dbname=backup))
        daemon = bench.start()
        bench.await_reason("uji", "anggota", "needs_resync", "position_ahead")
        assert bench.staged("uji", "anggota", "nama", "2") is not None
        bench.ask("resync", "uji")
        bench.await_state("uji", "streaming")
        bench.check("uji")
        assert bench.staged("uji", "anggota", "nama", "2") is None
        assert bench.acts("uji").count("history_begun") == 2
        daemon.kill()
    finally:
        with psycopg.connect(bench.staging_dsn, dbname="postgres", autocommit=True) as conn:
            conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(backup)))


def test_what_was_read_and_then_lost_in_a_crash_of_the_source_is_read_again(
    make_workbench: Make, lone_server: Callable[..., Server]
) -> None:
    """Row 81, with `synchronous_commit = off`: a re-read sees a commit that is in no log on disk. The crash takes it
    back, and nothing in the log will say so."""
    server = lone_server({"wal_writer_delay": "10s", "wal_buffers": "4MB"})
    bench = make_workbench("uji", people=PEOPLE, server=server)
    party = bench.parties["uji"]
    party.run("create table public.lain (t text)")
    bench.start(failpoints=bench.armed(["after_read"], "hold"))
    bench.await_caught_up("uji")
    bench.hold("after_read", "uji", LONGER, (1,))
    with party.connect() as conn:
        conn.execute("set synchronous_commit = off")
        conn.execute("update public.orang set nama = 'TAK TERTULIS' where orang_id = 1")
        conn.execute("insert into public.lain select repeat('x', 1000) from generate_series(1, 300)")
    bench.release("after_read", "hold")
    bench.wait_until(lambda: bench.staged("uji", "anggota", "nama", "1") == "TAK TERTULIS", "it is staged")
    server.stop("immediate")
    server.launch()
    assert party.ask("select nama from public.orang where orang_id = 1") == [("ORANG B",)]
    bench.wait_until(lambda: "reads_doubted" in bench.acts("uji"), "the loss is noticed")
    bench.check("uji")
    party.run(LONGER, (2,))
    bench.check("uji")
