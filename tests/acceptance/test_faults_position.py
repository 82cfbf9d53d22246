"""Faults of the position: what was read, stored and confirmed, and who else moves a slot (matrix rows 1 to 8, 13 to 16, 81, 96)."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from workbench import Workbench, wait_until

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


@both
def test_of_two_adjacent_transactions_the_second_is_not_taken_for_the_first(make_workbench: Make, capture: str) -> None:
    """Row 1: the first one's end is the second one's beginning, and the worker dies before it confirms the first."""
    bench = make_workbench("uji", people=PEOPLE, capture=capture)
    daemon = bench.start(failpoints=bench.armed(["after_commit"], "hold"))
    bench.await_caught_up("uji")
    before = bench.totals("uji", "anggota")
    member, rows = 1, 0
    while True:
        bench.arm("after_commit", "hold")
        bench.parties["uji"].run(LONGER, (member,))
        bench.await_reached("after_commit", "hold")
        adjacent = bench.position("uji") == bench.parties["uji"].log_end()
        bench.parties["uji"].run(LONGER, (member + 1,))
        rows += 2
        if adjacent:
            break
        # Somebody else's log came between: let go, and try with two others.
        bench.release("after_commit", "hold")
        bench.await_caught_up("uji")
        member += 2
    daemon.kill_worker("uji")
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
def test_a_blocked_staging_keeps_the_source_waiting_and_alive(make_workbench: Make, capture: str) -> None:
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
def test_a_slot_that_somebody_else_moved_needs_a_resync(make_workbench: Make, capture: str) -> None:
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
    bench.arm("after_confirm", "hold")
    party.run(LONGER, (1,))
    bench.await_reached("after_confirm", "hold")
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
