"""Faults of transactions: their shapes, their size, and when they become visible.

Rows 21, 35, 74 to 80 and 87 of the fault matrix. Where nothing else is said, one party is pulled and one streamed.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from workbench import PEOPLE as PEOPLE_SQL
from workbench import UjiParty, Workbench, wait_until
from writers import Waiting

from connector.embedded import Server

Make = Callable[..., Workbench]

PEOPLE = 300
LONGER = "update public.orang set alamat = alamat || ' *' where orang_id = %s"


def pair(make_workbench: Make, *others: str, **options: object) -> Workbench:
    """A pulled and a streamed party that stream already."""
    options = {"people": PEOPLE, "captures": {"alir": "stream"}, **options}
    bench = make_workbench("tarik", "alir", *others, **options)
    for party in bench.parties.values():
        if party.capture == "stream":
            party.run(f"alter role {party.reader} set wal_sender_timeout = '5s'")
    bench.start()
    for name in bench.parties:
        bench.await_caught_up(name)
    return bench


def run_all(bench: Workbench, *statements: str) -> None:
    """The same at each party, as one transaction."""
    for party in bench.parties.values():
        with party.connect() as conn, conn.transaction():
            for statement in statements:
                conn.execute(statement.encode())


def check_all(bench: Workbench) -> None:
    for name in bench.parties:
        bench.check(name)


def test_keys_that_change_places_lose_no_row(make_workbench: Make) -> None:
    """Row 21: a range of keys moves up by one, two keys are swapped, a key is deleted and used again."""
    # Each move takes a key away, and here most keys move: the brake would want an approval.
    bench = pair(make_workbench, limits={"delete_share_max": 1.0})
    run_all(
        bench,
        "update public.orang set orang_id = -orang_id - 1 where orang_id between 1 and 100",
        "update public.orang set orang_id = -orang_id where orang_id < 0 and orang_id > -101",
        "delete from public.orang where orang_id = 101",
        "update public.orang set orang_id = 101 where orang_id = -101",
    )
    run_all(
        bench,
        "update public.orang set orang_id = -1 where orang_id = 200",
        "update public.orang set orang_id = 200 where orang_id = 201",
        "update public.orang set orang_id = 201 where orang_id = -1",
    )
    run_all(
        bench,
        "delete from public.orang where orang_id = 250",
        "insert into public.orang select 250, nik, 'X', 'BARU', 'P', tgl_lahir, 1, 'JL', kel_kode, 'aktif'"
        " from public.orang where orang_id = 251",
    )
    check_all(bench)
    for name in bench.parties:
        assert bench.staged(name, "anggota", "nama", "250") == "BARU"
        assert bench.staged(name, "anggota", "nama", "1") is None


def test_a_row_that_enters_and_leaves_a_view_s_filter_is_inserted_and_deleted(make_workbench: Make) -> None:
    """Row 76: turns true, changes, turns false, in transactions of their own and in a single one."""
    bench = pair(make_workbench)
    before = {name: bench.totals(name, "anggota") for name in bench.parties}
    run_all(bench, "update public.orang set status = 'mundur' where orang_id = 1")
    check_all(bench)
    run_all(bench, "update public.orang set nama = 'TAK TAMPAK' where orang_id = 1")
    check_all(bench)
    run_all(bench, "update public.orang set status = 'aktif' where orang_id = 1")
    check_all(bench)
    run_all(
        bench,
        "update public.orang set status = 'mundur' where orang_id = 2",
        "update public.orang set nama = 'LAGI' where orang_id = 2",
        "update public.orang set status = 'aktif' where orang_id = 2",
    )
    check_all(bench)
    for name in bench.parties:
        now = bench.totals(name, "anggota") - before[name]
        assert {count: now[count] for count in ("inserted", "updated", "deleted", "absent", "signalled")} == {
            # Back from the dead is an update: the row's history goes on.
            "inserted": 0, "updated": 2, "deleted": 1, "absent": 1, "signalled": 4,
        }  # fmt: skip


def test_p2_a_transaction_is_seen_whole_or_not_at_all_and_staging_ends_equal_to_the_view(make_workbench: Make) -> None:
    """Row 77: killed between two views; one audit entry holds them all, and a reader of staging never sees half."""
    bench = make_workbench("uji", people=PEOPLE)
    daemon = bench.start(failpoints=bench.armed(["after_fetch"], "hold"))
    bench.await_caught_up("uji")
    entries = len(bench.entries("uji"))
    bench.arm("after_fetch", "hold")
    with bench.parties["uji"].connect() as conn, conn.transaction():
        conn.execute("update public.papan_orang set jabatan = 'SERENTAK'")
        conn.execute(
            "update public.orang set alamat = 'SERENTAK' where orang_id in (select orang_id from public.papan_orang)"
        )
    bench.await_reached("after_fetch", "hold")
    assert seen_together(bench) == {(0, 0)}
    daemon.kill_worker("uji")
    people = PEOPLE // 10
    seen: set[tuple[int, int]] = set()

    def over() -> bool:
        seen.update(seen_together(bench))
        return (people, people) in seen

    bench.wait_until(over, lambda: f"both views changed; seen: {seen}")
    assert seen <= {(0, 0), (people, people)}
    bench.check("uji")
    whole = [
        {counts["entity"] for counts in entry["entities"] if counts["updated"]}
        for entry in bench.entries("uji")[entries:]
    ]
    assert whole.count({"anggota", "pengurus"}) == 1
    assert {"anggota"} not in whole
    assert {"pengurus"} not in whole


def seen_together(bench: Workbench) -> set[tuple[int, int]]:
    """What one statement of Sipol's sees of both entities."""
    return set(
        bench.query(
            "select (select count(*) from sipol.anggota where alamat = 'SERENTAK'),"
            " (select count(*) from sipol.pengurus where jabatan = 'SERENTAK')"
        )
    )


def test_only_what_was_committed_arrives(make_workbench: Make, lone_server: Callable[..., Server]) -> None:
    """Row 74: savepoints rolled back, 1,000 subtransactions, prepared transactions committed and rolled back."""
    bench = pair(make_workbench, server=lone_server({"max_prepared_transactions": "10"}))
    before = {name: bench.totals(name, "anggota") for name in bench.parties}
    run_all(
        bench,
        "update public.orang set nama = 'TETAP' where orang_id = 1",
        "savepoint a",
        "update public.orang set nama = 'BATAL' where orang_id in (1, 2)",
        "rollback to savepoint a",
        SUBTRANSACTIONS,
    )
    for name, party in bench.parties.items():
        for member, end in ((3, "commit"), (4, "rollback")):
            with party.connect() as conn:
                conn.execute("begin")
                conn.execute("update public.orang set nama = 'SIAP' where orang_id = %s", (member,))
                conn.execute(f"prepare transaction '{name}{member}'".encode())
            bench.await_caught_up(name)
            assert bench.staged(name, "anggota", "nama", str(member)) != "SIAP"
            party.run(f"{end} prepared '{name}{member}'")
    check_all(bench)
    for name in bench.parties:
        assert bench.staged(name, "anggota", "nama", "1") == "TETAP"
        assert bench.staged(name, "anggota", "nama", "3") == "SIAP"
        now = bench.totals(name, "anggota") - before[name]
        assert (now["updated"], now["signalled"]) == (102, 102)


SUBTRANSACTIONS = """
do $$
begin
  for n in 1..1000 loop
    begin
      update public.orang set alamat = 'SUB ' || n where orang_id = 101 + n % 200;
      if n % 2 = 1 then raise exception 'batal'; end if;
    exception when raise_exception then null;
    end;
  end loop;
end
$$
"""


def test_a_delete_of_everything_waits_for_an_approval(make_workbench: Make) -> None:
    """Rows 35 and 75: DELETE and TRUNCATE pull the brake; the log goes on, and an approval lets them pass."""
    bench = pair(make_workbench)
    tarik, alir = bench.parties.values()
    with tarik.connect() as conn, conn.transaction():
        conn.execute("insert into public.kerja values (9, 'NELAYAN')")
        conn.execute("delete from public.orang")
    with alir.connect() as conn, conn.transaction():
        conn.execute("truncate public.orang cascade")
        conn.execute("insert into public.kerja values (9, 'NELAYAN')")
    for name, party in bench.parties.items():
        bench.await_reason(name, "anggota", "held", "delete_brake")
        assert bench.query("select count(*) from sipol.anggota where parpol_id = %s", (party.parpol_id,)) == [(PEOPLE,)]
        # The log is not held with it.
        mark = party.log_end()
        party.run("update public.kerja set nama_kerja = nama_kerja || ' X' where kerja_id = 9")
        bench.wait_until(lambda: party.slot_place() >= mark, "the slot goes on")  # noqa: B023 - called at once
        party.run(
            "insert into public.orang values (1, '3273010101900001', 'K', 'KEMBALI', 'L', '1990-01-01', 1, 'JL',"
            " '3273011001', 'aktif')"
        )
        bench.await_reason(name, "pengurus", "held", "delete_brake")
        bench.ask("approve", name)
        bench.await_state(name, "streaming")
        bench.check(name)
        assert bench.query("select source_key from sipol.anggota where parpol_id = %s", (party.parpol_id,)) == [("1",)]
        assert "brake_on" in bench.acts(name)


@contextmanager
def standby_missing(server: Server) -> Iterator[None]:
    """Commits wait for a standby that does not exist; until the end of the block, when they are let go."""
    server.configure(synchronous_standby_names="hilang")
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute("select pg_reload_conf()")
        wait_until(
            lambda: conn.execute("show synchronous_standby_names").fetchone() == ("hilang",), "the server has read it"
        )
        try:
            yield
        finally:
            server.configure(synchronous_standby_names="")
            conn.execute("select pg_reload_conf()")


def await_lagging(bench: Workbench, party: UjiParty, commits: int) -> None:
    waiting = "select count(*) from pg_stat_activity where wait_event = 'SyncRep' and datname = current_database()"
    bench.wait_until(lambda: party.ask(waiting) == [(commits,)], f"{commits} commits wait for the standby")


def await_gates(bench: Workbench, *parties: UjiParty) -> None:
    """Workers have read commits that they cannot see, and say so."""
    names = {party.name for party in parties}
    bench.wait_until(
        lambda: {line["party"] for line in bench.daemons[-1].named("commit_not_visible")} >= names,
        "the workers say that they wait for what they have read",
    )


def test_what_is_decoded_before_it_is_visible_is_waited_for(
    make_workbench: Make, lone_server: Callable[..., Server]
) -> None:
    """Rows 78 and 79: a synchronous standby that does not exist. A plain transaction, one of 1,000 subtransactions and
    a prepared one are in the log and in no snapshot: nothing is stored early, the position stays before them, a party
    on another server does not wait, and all of it arrives once it can be seen."""
    server = lone_server({"max_prepared_transactions": "10"})
    bench = pair(make_workbench, "lain", servers={"tarik": server, "alir": server})
    lagging = [bench.parties["tarik"], bench.parties["alir"]]
    marks: dict[str, int] = {}
    for party in lagging:
        with party.connect() as conn:
            conn.execute("begin")
            conn.execute("update public.orang set nama = 'SIAP' where orang_id = 3")
            conn.execute(f"prepare transaction '{party.name}'".encode())
    # The standby is given up first, or those who wait for it would not end.
    with ExitStack() as waiting, standby_missing(server):
        for party in lagging:
            waiting.enter_context(Waiting(party, "update public.orang set nama = 'BIASA' where orang_id = 1"))
            await_lagging(bench, party, 1)
            marks[party.name] = party.log_end()
            waiting.enter_context(Waiting(party, SUBTRANSACTIONS))
            waiting.enter_context(Waiting(party, f"commit prepared '{party.name}'"))
            await_lagging(bench, party, 3)
        await_gates(bench, *lagging)
        bench.parties["lain"].run(LONGER, (1,))
        bench.check("lain")
        for party in lagging:
            assert [bench.staged(party.name, "anggota", "nama", key) for key in ("1", "3")] == ["ORANG B", "ORANG D"]
            assert bench.position(party.name) < marks[party.name], "before the first of the three"
    for party in lagging:
        bench.check(party.name)
        assert [bench.staged(party.name, "anggota", "nama", key) for key in ("1", "3")] == ["BIASA", "SIAP"]


def test_transaction_ids_that_wrap_around_stop_nobody(make_workbench: Make, lone_server: Callable[..., Server]) -> None:
    """Row 80: commits on both sides of the 32-bit wrap, decoded before they are visible, arrive once each."""
    server = lone_server({"autovacuum": "off"})
    age(server, left=1_500)
    bench = pair(make_workbench, server=server)
    before = {name: bench.totals(name, "anggota") for name in bench.parties}
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        while (
            row := conn.execute("select (pg_current_xact_id()::text::bigint % 4294967296)::bigint").fetchone()
        ) is not None:
            if row[0] >= 2**32 - 3:
                break
    with ExitStack() as waiting, standby_missing(server):
        for member in range(1, 6):
            for party in bench.parties.values():
                waiting.enter_context(
                    Waiting(party, f"update public.orang set nama = 'LEWAT' where orang_id = {member}")
                )
                await_lagging(bench, party, member)
        await_gates(bench, *bench.parties.values())
        for name in bench.parties:
            assert bench.staged(name, "anggota", "nama", "1") == "ORANG B"
    check_all(bench)
    assert bench.parties["tarik"].ask("select pg_current_xact_id()::text::bigint % 4294967296 < 1000000") == [(True,)]
    for name in bench.parties:
        now = bench.totals(name, "anggota") - before[name]
        assert (now["updated"], now["signalled"]) == (5, 5)


def age(server: Server, left: int) -> None:
    """Make the cluster one that has used up its 32-bit transaction ids but so many, in the fourth round."""
    for database in ("postgres", "template1"):
        with psycopg.connect(server.dsn(database), autocommit=True) as conn:
            conn.execute("vacuum (freeze)")
    server.stop()
    following = 2**32 - left
    subprocess.run(
        [server.binaries / "pg_resetwal", "-D", server.data,
         "-e", "3", "-x", str(following), "-u", str(following - 1000)],
        user=server.account.uid, group=server.account.gid, cwd="/", check=True, capture_output=True,
        extra_groups=[] if server.account.uid is not None else None,
    )  # fmt: skip
    # The commit log's file that the server expects there: 32 pages of 32,768 transactions, none of them.
    commits = server.data / "pg_xact" / f"{following // (32 * 32_768):04X}"
    commits.write_bytes(bytes(32 * 8192))
    server.account.own(commits)
    server.launch()


def test_a_transaction_left_open_holds_nobody_up_and_is_not_lost(make_workbench: Make) -> None:
    """Row 87: megabytes and many commits beside it; it arrives when it commits, its savepoints as they ended."""
    bench = pair(make_workbench)
    with ExitStack() as open_ones:
        for party in bench.parties.values():
            conn = open_ones.enter_context(party.connect())
            conn.execute("begin")
            conn.execute("update public.orang set nama = 'LAMA' where orang_id = 1")
            party.run("create table public.lain (t text)")
            for member in range(10, 30):
                party.run("insert into public.lain select repeat('x', 1000) from generate_series(1, 300)")
                party.run(LONGER, (member,))
            bench.check(party.name)
            assert bench.staged(party.name, "anggota", "nama", "1") == "ORANG B"
            conn.execute("commit")
    check_all(bench)
    for name in bench.parties:
        assert bench.staged(name, "anggota", "nama", "1") == "LAMA"


def memory_kb(pid: int) -> int:
    """The most memory a process has ever had in use."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


MEMORY_KB_MAX = 200 * 1024


def assert_a_large_transaction_passes(make_workbench: Make, capture: str, people: int) -> None:
    """Insert, then change, then delete: whole, atomic, in bounded memory; the delete under the brake."""
    bench = make_workbench("uji", people=10, capture=capture, limits={"keys_in_memory": 20_000, "copy_rows": 50_000})
    party = bench.parties["uji"]
    daemon = bench.start()
    bench.await_caught_up("uji")
    party.run(PEOPLE_SQL, (11, people))
    bench.await_caught_up("uji", LONG_S)
    entries = len(bench.entries("uji"))
    party.run("update public.orang set alamat = 'JL SERENTAK ' || orang_id")
    bench.await_caught_up("uji", LONG_S)
    large = [entry for entry in bench.entries("uji")[entries:] if any(c["updated"] for c in entry["entities"])]
    assert [[c["updated"] for c in entry["entities"] if c["entity"] == "anggota"] for entry in large] == [[people]]
    assert bench.differences("uji") == {}
    party.run("delete from public.orang where orang_id > 10")
    bench.await_reason("uji", "anggota", "held", "delete_brake", LONG_S)
    assert bench.query("select count(*) from sipol.anggota") == [(people,)]
    bench.ask("approve", "uji", "anggota")
    bench.await_reason("uji", "anggota", "streaming")
    bench.await_caught_up("uji", LONG_S)
    assert bench.query("select count(*) from sipol.anggota") == [(10,)]
    bench.check("uji")
    assert not daemon.named("session_ended"), "one session did it all"
    assert memory_kb(daemon.worker_pid("uji")) < MEMORY_KB_MAX


LONG_S = 1_200.0


@pytest.mark.slow
@pytest.mark.parametrize(("capture", "people"), [("pull", 150_000), ("stream", 100_000)])
def test_a_large_transaction_passes_whole_in_bounded_memory(make_workbench: Make, capture: str, people: int) -> None:
    """Row 35."""
    assert_a_large_transaction_passes(make_workbench, capture, people)


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("capture", ["pull", "stream"])
def test_a_transaction_of_two_million_changes_passes_whole_in_bounded_memory(
    make_workbench: Make, capture: str
) -> None:
    """Row 35."""
    assert_a_large_transaction_passes(make_workbench, capture, 2_000_000)
