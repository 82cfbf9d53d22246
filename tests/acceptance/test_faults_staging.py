"""Faults of our own database: conflicts, no room, a lost answer to COMMIT, cut connections, wrong partitions.

Rows 52, 93 to 95 and 97 of the fault matrix.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from proxy import Proxy
from workbench import Workbench
from writers import EachRowOnce

from connector.embedded import Server

Make = Callable[..., Workbench]

PEOPLE = 200
LONGER = "update public.orang set alamat = alamat || ' *' where orang_id = %s"

# A fault that the server raises so many times, then no more: a sequence does not roll back.
FAULT = """
create sequence if not exists public.gangguan;
create or replace function public.ganggu() returns trigger language plpgsql as $$
begin
  if nextval('public.gangguan') <= tg_argv[1]::int then
    raise exception 'gangguan' using errcode = tg_argv[0];
  end if;
  return null;
end
$$;
"""
STATEMENT = """
create trigger gangguan after update on staging.anggota_p1 for each statement
  execute function public.ganggu('{state}', '{times}')
"""
COMMIT = """
create constraint trigger gangguan after update on staging.anggota_p1 deferrable initially deferred for each row
  execute function public.ganggu('{state}', '{times}')
"""


def set_fault(bench: Workbench, how: str, state: str, times: int) -> None:
    with bench.staging() as conn:
        conn.execute(FAULT)
        conn.execute("drop trigger if exists gangguan on staging.anggota_p1")
        conn.execute("select setval('public.gangguan', 1, false)")
        conn.execute(how.format(state=state, times=times).encode())


def streaming(make_workbench: Make, **options: object) -> Workbench:
    bench = make_workbench("uji", people=PEOPLE, **options)
    bench.start()
    bench.await_caught_up("uji")
    return bench


def changed_once(bench: Workbench, before: int) -> None:
    """One change since then: it is counted once, in one entry."""
    bench.check("uji")
    assert bench.totals("uji", "anggota")["updated"] == before + 1
    assert bench.totals("uji", "anggota")["signalled"] == before + 1


def test_a_conflict_in_staging_repeats_the_whole_batch(make_workbench: Make) -> None:
    """Rows 93 and 94: serialization failure, deadlock, lock timeout, no room (at a statement and at the commit), a
    session that was ended: twice each, then it passes. One entry, and the party's log is kept until then."""
    bench = streaming(make_workbench)
    faults = [(STATEMENT, state) for state in ("40001", "40P01", "55P03", "53100", "57P01")] + [(COMMIT, "53100")]
    for done, (how, state) in enumerate(faults):
        set_fault(bench, how, state, times=2)
        bench.parties["uji"].run(LONGER, (done + 1,))
        changed_once(bench, done)
    ended = bench.daemons[-1].named("session_ended")
    assert [line["error"] for line in ended] == ["StagingUnavailable"] * 2 * len(faults)
    assert all(state in line["message"] for (_, state), line in zip(faults, ended[1::2], strict=True))


def test_a_full_staging_is_told_and_goes_on_by_itself(make_workbench: Make) -> None:
    """Row 94: as long as there is no room, the party's server keeps the log, and status says why."""
    bench = streaming(make_workbench)
    party = bench.parties["uji"]
    set_fault(bench, STATEMENT, "53100", times=1_000_000)
    mark = party.log_end()
    party.run(LONGER, (1,))
    bench.await_worker("uji", "retrying")
    assert "53100" in bench.worker("uji")["error"]
    bench.wait_until(lambda: bench.worker("uji")["attempt"] >= 3, "it is tried again")
    assert bench.position("uji") <= mark + 8
    assert party.slot_place() <= mark + 8
    with bench.staging() as conn:
        conn.execute("drop trigger gangguan on staging.anggota_p1")
    changed_once(bench, 0)
    bench.await_worker("uji", "streaming")


def test_a_deadlock_with_a_reader_or_a_migration_repeats_the_batch(make_workbench: Make) -> None:
    """Row 93, with a real one: somebody has the quarantine and wants the party's row; the batch has that row and wants
    the quarantine."""
    bench = make_workbench("uji", people=PEOPLE)
    with bench.staging() as conn:
        # The batch must be the one that finds out: the other side is patient.
        conn.execute(f"alter database {conn.info.dbname} set deadlock_timeout = '2s'".encode())
    bench.start()
    bench.await_caught_up("uji")
    waiting = "select count(*) from pg_locks where relation = 'staging.karantina'::regclass and not granted"
    with bench.staging() as other:
        other.execute("set deadlock_timeout = '10min'")
        with other.transaction():
            other.execute("lock table staging.karantina in access exclusive mode")
            bench.parties["uji"].run(LONGER, (1,))
            bench.wait_until(lambda: bench.query(waiting) != [(0,)], "the batch wants the quarantine")
            other.execute("select from connector.source_offset for update")
    changed_once(bench, 0)
    assert "40P01" in bench.daemons[-1].named("session_ended")[0]["message"]


def test_a_lost_answer_to_a_commit_is_looked_up_and_never_repeated(
    make_workbench: Make, staging_server: Server
) -> None:
    """Rows 52 and 95: the connection is cut while COMMIT is on its way, or while its answer is. Either way the stored
    position says which, and the change is counted once."""
    with Proxy(staging_server) as proxy:
        bench = streaming(make_workbench, staging_via=proxy.folder)
        for done, delivered in enumerate((True, False, True, False)):
            bench.await_caught_up("uji")
            trap = proxy.set_trap(b"staging.sync_batch", b"commit", delivered=delivered)
            bench.parties["uji"].run(LONGER, (done + 1,))
            bench.wait_until(trap.pulled.is_set, "a COMMIT was cut off")
            changed_once(bench, done)
        assert len(bench.daemons[-1].named("session_ended")) == 4


def test_a_first_copy_survives_lost_answers_to_its_commits(make_workbench: Make, staging_server: Server) -> None:
    """Row 95 in the copy: no row is missing or there twice, whatever became of a chunk's commit."""
    with Proxy(staging_server) as proxy:
        bench = make_workbench("uji", people=PEOPLE, staging_via=proxy.folder, limits={"copy_rows": 30})
        trap = proxy.set_trap(b"copy_chunk", b"commit", delivered=True)
        bench.start()
        bench.wait_until(trap.pulled.is_set, "a chunk's COMMIT was cut off")
        trap = proxy.set_trap(b"copy_chunk", b"commit", delivered=False)
        bench.wait_until(lambda: trap.pulled.is_set() or set(bench.states("uji").values()) == {"streaming"}, "again")
        bench.check("uji")
        assert bench.totals("uji", "anggota", "copy")["inserted"] == PEOPLE


@pytest.mark.parametrize("capture", ["pull", "stream"])
def test_cut_and_stalled_connections_cost_time_and_nothing_else(
    make_workbench: Make, pg18: Server, staging_server: Server, capture: str
) -> None:
    """Connections to the party and to staging are cut under live changes, refused for a while, stalled."""
    people = 3_000
    with Proxy(pg18) as source, Proxy(staging_server) as staging:
        bench = make_workbench(
            "uji", people=people, capture=capture, source_via=source.folder, staging_via=staging.folder
        )
        bench.start()
        bench.await_caught_up("uji")
        before = bench.totals("uji", "anggota")
        with EachRowOnce(bench.parties["uji"], range(1, people + 1), pause_s=0.05) as writer:
            for proxy in (source, staging) * 3:
                epoch, entries = bench.epoch("uji"), len(bench.entries("uji"))
                bench.wait_until(lambda: len(bench.entries("uji")) > entries, "a batch passes")  # noqa: B023 - called at once
                assert proxy.cut() > 0
                bench.wait_until(lambda: bench.epoch("uji") > epoch, "it came back")  # noqa: B023 - called at once
            for proxy in (source, staging):
                proxy.refuse(True)
                proxy.cut()
                bench.wait_until(lambda: told(bench) >= 2, "it is refused")
                proxy.refuse(False)
                proxy.stall()
            staging.flow()
            source.flow()
        bench.await_caught_up("uji")
        now = bench.totals("uji", "anggota")
        assert (now["updated"] - before["updated"], now["signalled"] - before["signalled"]) == (writer.rows,) * 2
        bench.check("uji")


def told(bench: Workbench) -> int:
    """The attempt at which the worker's last session failed."""
    return int(bench.daemons[-1].named("session_ended")[-1]["attempt"])


def test_a_party_id_of_another_party_is_refused(make_workbench: Make) -> None:
    """Row 97: a configuration gives a party the id that another has in staging; nothing of the other's is touched."""
    bench = make_workbench("uji", "lain", people=50)
    assert bench.connector("run", "--once", "--only", "uji").returncode == 0
    rows = bench.query("select md5(string_agg(a::text, '' order by source_key)) from staging.anggota a")
    text = bench.config_path.read_text(encoding="utf-8").replace("parpol_id: 1", "parpol_id: 9")
    bench.config_path.write_text(text.replace("parpol_id: 2", "parpol_id: 1"), encoding="utf-8")
    daemon = bench.start()
    for party, parpol_id in (("uji", 9), ("lain", 1)):
        bench.wait_until(lambda: bool(daemon.named("session_ended", party)), f"{party} is refused")  # noqa: B023
        refusal = daemon.named("session_ended", party)[0]["message"]
        assert f"parpol_id {parpol_id} is not this party's in staging" in refusal
    assert bench.query("select md5(string_agg(a::text, '' order by source_key)) from staging.anggota a") == rows
    assert bench.query("select party, parpol_id from connector.party") == [("uji", 1)]


def test_a_partition_of_something_else_is_not_taken_for_ours(make_workbench: Make) -> None:
    """Row 97: a table of the party's name that belongs to another party stops this party, loudly; others go on."""
    bench = make_workbench("uji", "lain", people=50)
    with bench.staging() as conn:
        conn.execute("create table staging.anggota_p1 partition of staging.anggota for values in (7)")
    daemon = bench.start()
    bench.check("lain")
    bench.wait_until(lambda: bool(daemon.named("party_halted", "uji")), "the party is halted")
    assert "partition of something else" in daemon.named("session_ended", "uji")[-1]["message"]
    assert bench.query("select count(*) from staging.anggota_p1") == [(0,)]
    assert bench.worker("uji")["state"] == "failed"
    assert daemon.alive
