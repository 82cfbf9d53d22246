"""Crashes: at every place of a batch and of a copy, of a worker alone and of the whole daemon, and at random.

What must hold afterwards is the same each time: staging equals the view, the audit log holds, every batch has one
entry, and each change is counted once. An upsert would hide a double; the counts do not.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping

import pytest
from workbench import Daemon, Workbench
from writers import Anything, EachRowOnce

from connector import failpoint

Make = Callable[..., Workbench]

# A worker that crashes again and again is restarted later and later: few crashes a daemon keep the wait short.
CRASHES_A_DAEMON = 4
PEOPLE = 300
COPY_LIMITS = {"copy_rows": 60}
NOISE = """
    create table if not exists public.lain (t text);
    insert into public.lain select repeat('x', 1000) from generate_series(1, 3000)
"""


def groups(capture: str) -> list[tuple[str, tuple[str, ...]]]:
    """All places, a few a test. Those of a copy do not depend on the capture."""
    names = [name for name in failpoint.NAMES if capture == "pull" or not name.startswith("copy_")]
    return [(capture, tuple(names[at : at + CRASHES_A_DAEMON])) for at in range(0, len(names), CRASHES_A_DAEMON)]


def crash_at(bench: Workbench, name: str, action: str, members: list[int]) -> int:
    """Arm a place and lead the daemon there under live changes of `members`; gives how many were committed."""
    with EachRowOnce(bench.parties["uji"], members) as writer:
        if name == "idle_move":
            writer.finish()  # only log without anything for us leads there
        bench.arm(name, action)
        if name.startswith("copy_"):
            bench.ask("resync", "uji", "anggota")
        while name == "idle_move" and not bench.reached(name, action):
            bench.parties["uji"].run(NOISE)
        bench.await_reached(name, action)
    bench.release(name, action)
    return writer.rows


def assert_each_counted_once(bench: Workbench, party: str, rows: int, before: Mapping[str, int]) -> None:
    """Whatever met a change first has counted it, a batch of signals or a copy's chunk; signals came once each."""
    now = bench.totals(party, "anggota")
    assert now["updated"] + bench.totals(party, "anggota", "copy")["updated"] - before["updated"] == rows
    assert now["signalled"] - before["signalled"] == rows


def begin(make_workbench: Make, capture: str) -> Workbench:
    bench = make_workbench("uji", capture=capture, people=PEOPLE, limits=COPY_LIMITS)
    if capture == "stream":
        # A walsender tells where it stands a few times per timeout; the default is a minute.
        bench.parties["uji"].run(f"alter role {bench.parties['uji'].reader} set wal_sender_timeout = '2s'")
    return bench


def started(bench: Workbench, places: tuple[str, ...], action: str) -> Daemon:
    daemon = bench.start(failpoints=bench.armed(places, action))
    bench.await_state("uji", "streaming")
    return daemon


@pytest.mark.parametrize(("capture", "places"), groups("pull") + groups("stream"))
def test_a_worker_killed_anywhere_is_restarted_and_neither_loses_nor_doubles(
    make_workbench: Make, capture: str, places: tuple[str, ...]
) -> None:
    bench = begin(make_workbench, capture)
    started(bench, places, "kill")
    bench.await_caught_up("uji")
    before = bench.totals("uji", "anggota")
    left = list(range(1, PEOPLE + 1))
    rows = 0
    for name in places:
        rows += crash_at(bench, name, "kill", [left.pop() for _ in range(20)])
        bench.await_obeyed("uji")
    bench.await_caught_up("uji")
    assert_each_counted_once(bench, "uji", rows, before)
    bench.check("uji")
    assert bench.acts("uji").count("history_begun") == 1


@pytest.mark.parametrize(
    ("capture", "places"),
    [*groups("pull"), ("stream", ("after_commit", "before_confirm", "after_confirm", "idle_move"))],
)
def test_a_power_cut_anywhere_neither_loses_nor_doubles(
    make_workbench: Make, capture: str, places: tuple[str, ...]
) -> None:
    bench = begin(make_workbench, capture)
    started(bench, places, "powercut")
    bench.await_caught_up("uji")
    before = bench.totals("uji", "anggota")
    left = list(range(1, PEOPLE + 1))
    rows = 0
    for name in places:
        rows += crash_at(bench, name, "powercut", [left.pop() for _ in range(20)])
        started(bench, places, "powercut")
    bench.await_caught_up("uji")
    assert_each_counted_once(bench, "uji", rows, before)
    bench.check("uji")
    assert bench.acts("uji").count("history_begun") == 1


def copied(bench: Workbench, entity: str) -> tuple[int, int]:
    """Rows and chunks of an entity's copies, as the audit log has them."""
    entries = [entry for entry in bench.entries("uji") if entry["kind"] == "copy"]
    found = [entry["rows"] for entry in entries if [counts["entity"] for counts in entry["entities"]] == [entity]]
    return sum(found), len(found)


def partition(bench: Workbench) -> tuple[int, int]:
    """Oid and file of the party's members in staging: a truncate or a new table would change them."""
    return bench.query("select oid, relfilenode from pg_class where oid = 'staging.anggota_p1'::regclass")[0]


def live_through(bench: Workbench, places: str, names: tuple[str, ...], action: str) -> Daemon:
    """Run a daemon, another after each power cut, until every armed place was come to; gives one that lives."""

    def over(daemon: Daemon) -> bool:
        return not daemon.alive or all(bench.reached(name, action) for name in names)

    while True:
        daemon = bench.start(failpoints=places)
        bench.wait_until(lambda: over(daemon), "a daemon comes to all armed places")  # noqa: B023 - called at once
        if action == "powercut":
            daemon.process.wait()
        if all(bench.reached(name, action) for name in names):
            return daemon if daemon.alive else bench.start(failpoints=places)


@pytest.mark.parametrize("action", ["kill", "powercut"])
def test_a_copy_killed_in_any_chunk_goes_on_behind_the_last_one(make_workbench: Make, action: str) -> None:
    """First copy and resync, each killed twice in the middle and before and after an end: no row is copied twice,
    rows that were there stay, and changes of the same keys meanwhile win."""
    bench = make_workbench("uji", people=PEOPLE, limits=COPY_LIMITS)
    names = ("copy_chunk_read", "copy_chunk_applied", "copy_before_finish", "copy_after_finish")
    # The third chunk in the life of a worker: a copy of six chunks is killed twice in its middle.
    places = f"{bench.armed(names[:2], f'{action}:3')},{bench.armed(names[2:], action)}"
    kept: list[tuple[int, int]] = []
    for copies in (1, 2):
        for name in names:
            bench.arm(name, action)
        if copies == 2:
            kept.append(partition(bench))
            bench.ask("resync", "uji", "anggota")
        with EachRowOnce(bench.parties["uji"], range(1, 41), pause_s=0.05):
            daemon = live_through(bench, places, names, action)
        bench.check("uji")
        assert copied(bench, "anggota")[0] == copies * PEOPLE
        assert bench.query("select count(*) from staging.anggota where dihapus_pada is null") == [(PEOPLE,)]
        daemon.kill()
        for name in names:
            bench.release(name, action)
    assert partition(bench) == kept[0]
    assert bench.totals("uji", "anggota", "copy")["inserted"] == PEOPLE


def test_a_worker_whose_supervisor_is_killed_ends_and_lets_go_of_its_party(make_workbench: Make) -> None:
    bench = make_workbench("uji")
    first = bench.start()
    bench.await_state("uji", "streaming")
    first.process.kill()
    first.process.wait()
    bench.parties["uji"].run("update public.orang set nama = nama || ' X' where orang_id < 10")
    bench.start()
    bench.check("uji")


def kill_at_random(bench: Workbench, kills: int, seed: int) -> None:
    """So often, at a random moment of a worker's life: kill it, or each fourth time the daemon with all workers."""
    rng = random.Random(seed)
    daemon = bench.start()
    killed = {party: bench.epoch(party) for party in bench.parties}
    for number in range(kills):
        party = rng.choice(tuple(killed))
        moment_s = rng.uniform(0.05, 0.7)
        if rng.random() < 0.8:  # counted from when the worker works again; else from its start
            await_work(bench, party, killed[party])
        time.sleep(moment_s)  # not a wait for a state: the moment is what is random
        if number % 4 == 3 or not daemon.named("worker_started", party):
            killed = {name: bench.epoch(name) for name in killed}
            daemon.kill()
            daemon = bench.start()
        else:
            killed[party] = bench.epoch(party)
            daemon.kill_worker(party)


def await_work(bench: Workbench, party: str, after: int) -> None:
    """A worker has taken the party over since epoch `after`."""
    bench.wait_until(lambda: bench.epoch(party) > after, f"{party} is worked for again")


def assert_random_kills_do_no_harm(make_workbench: Make, kills: int, seed: int) -> None:
    """Two parties: one writes anything at random, the other each row once, so that its counts tell of doubles."""
    bench = make_workbench("acak", "hitung", people=4000, limits={"copy_rows": 500, "delete_share_max": 0.9})
    daemon = bench.start()
    bench.await_caught_up("hitung")
    before = bench.totals("hitung", "anggota")
    daemon.kill()
    with Anything(bench.parties["acak"], seed, 4000), EachRowOnce(bench.parties["hitung"], range(1, 4001)) as counted:
        kill_at_random(bench, kills, seed)
    bench.await_caught_up("hitung")
    assert_each_counted_once(bench, "hitung", counted.rows, before)
    for party in bench.parties:
        bench.check(party)


def test_p1_no_committed_change_is_lost_or_applied_twice_through_kills_at_random(make_workbench: Make) -> None:
    assert_random_kills_do_no_harm(make_workbench, kills=25, seed=20261130)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2])
def test_two_hundred_kills_at_random_moments_do_no_harm(make_workbench: Make, seed: int) -> None:
    assert_random_kills_do_no_harm(make_workbench, kills=200, seed=seed)
