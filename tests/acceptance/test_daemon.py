"""The daemon as an operator runs it: a first copy, live changes, a stop, a restart."""

from __future__ import annotations

from collections.abc import Callable

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from workbench import Workbench

Make = Callable[..., Workbench]

CHANGES = """
update public.orang set nama = nama || ' X' where orang_id between 1 and 20;
update public.orang set status = 'mundur' where orang_id between 21 and 25;
delete from public.orang where orang_id between 26 and 30;
update public.orang set orang_id = orang_id + 100000 where orang_id between 31 and 35;
update public.kerja set nama_kerja = 'PEDAGANG' where kerja_id = 2;
update public.orang set nik = '3.27301E+15' where orang_id = 40;
insert into public.orang select 500000, nik, 'baru', 'BARU', 'P', tgl_lahir, 1, 'JL BARU', kel_kode, 'aktif'
  from public.orang where orang_id = 41;
insert into public.papan_orang values (99, 500000, 'KETUA');
update public.papan_orang set papan_id = 50 where orang_id = 7;
"""


@pytest.mark.parametrize("capture", ["pull", "stream"])
def test_first_copy_and_live_changes_end_equal_to_the_view(make_workbench: Make, capture: str) -> None:
    bench = make_workbench("uji", capture=capture)
    bench.start()
    bench.await_state("uji", "streaming")
    bench.check("uji")
    bench.parties["uji"].run(CHANGES)
    bench.check("uji")
    refused = bench.query("select source_key, reasons from staging.karantina")
    assert [(key, reasons[0]) for key, reasons in refused] == [("40", "NIK_FORMAT")]
    bench.parties["uji"].run("update public.orang set nik = '3273010101900040' where orang_id = 40")
    bench.check("uji")
    assert bench.query("select count(*) from staging.karantina") == [(0,)]


def test_once_drains_and_exits(make_workbench: Make) -> None:
    bench = make_workbench("uji")
    done = bench.connector("run", "--once", "--json")
    assert done.returncode == 0, done.stderr
    assert bench.differences("uji") == {}
    bench.parties["uji"].run(CHANGES)
    assert bench.connector("run", "--once").returncode == 0
    assert bench.differences("uji") == {}
    bench.check_evidence("uji")


def test_once_gives_up_on_a_worker_that_ends_each_time(make_workbench: Make) -> None:
    bench = make_workbench("uji", people=20)
    daemon = bench.start("--once", failpoints="before_commit=kill")
    bench.wait_until(lambda: not daemon.alive, "the run ends")
    assert daemon.process.returncode == 1
    assert [line["party"] for line in daemon.named("party_halted")] == ["uji"]


def test_sigterm_ends_cleanly_and_the_next_start_goes_on(make_workbench: Make) -> None:
    bench = make_workbench("uji")
    daemon = bench.start()
    bench.await_state("uji", "streaming")
    assert daemon.stop() == 0
    bench.parties["uji"].run(CHANGES)
    bench.start()
    bench.check("uji")
    # No second copy: the stream went on where it was.
    assert [entry["act"] for entry in bench.entries("uji") if entry.get("act") == "history_begun"] == ["history_begun"]


def test_a_daemon_that_owns_nothing_does_all_its_work(make_workbench: Make) -> None:
    bench = make_workbench("uji")
    owner = bench.staging_dsn
    login = f"daemon_{conninfo_to_dict(owner)['dbname']}"
    with psycopg.connect(owner, autocommit=True) as conn:
        conn.execute(sql.SQL("create role {} login in role sipol_daemon").format(sql.Identifier(login)))
    try:
        bench.use_staging(make_conninfo(owner, user=login))
        daemon = bench.start()
        bench.await_state("uji", "streaming")
        bench.parties["uji"].run(CHANGES)
        bench.use_staging(owner)
        bench.check("uji")
        bench.ask("resync", "uji")
        bench.await_obeyed("uji")
        bench.await_state("uji", "streaming")
        bench.check("uji")
        assert [line for line in daemon.events() if line["level"] == "error"] == []
        assert daemon.stop() == 0
    finally:
        bench.close()
        with psycopg.connect(owner, autocommit=True) as conn:
            conn.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(login)))
