"""After a stage has closed nothing more is accepted, nothing is lost, and the state says why."""

from __future__ import annotations

from collections.abc import Callable

from workbench import Workbench

Make = Callable[..., Workbench]


def calendar(bench: Workbench, statement: str) -> None:
    with bench.staging() as conn:
        conn.execute(statement.encode())


def test_a_closed_stage_holds_its_entities_until_one_is_open(make_workbench: Make) -> None:
    bench = make_workbench("uji")
    bench.start()
    bench.await_caught_up("uji")
    calendar(
        bench,
        "insert into staging.ref_tahapan (tahapan, dibuka, ditutup, dasar, entity)"
        " values ('PERBAIKAN', now() - interval '1 day', now(), 'uji', '{anggota}')",
    )
    bench.await_reason("uji", "anggota", "held", "stage_closed")
    (hint,) = bench.query("select hint from connector.entity where entity = 'anggota'")
    assert "stage PERBAIKAN closed at" in hint[0]
    party = bench.parties["uji"]
    party.run("update public.orang set nama = 'TERLAMBAT' where orang_id = 3")
    party.run("update public.papan_orang set jabatan = 'KETUA' where orang_id = 8")
    bench.wait_until(lambda: bench.staged("uji", "pengurus", "jabatan", "2|8") == "KETUA", "pengurus goes on")
    assert bench.staged("uji", "anggota", "nama", "3") != "TERLAMBAT"
    assert ("3",) in bench.query("select source_key from connector.parked where entity = 'anggota'")
    calendar(bench, "update staging.ref_tahapan set ditutup = now() + interval '1 day'")
    bench.await_reason("uji", "anggota", "streaming")
    bench.check("uji")
    assert bench.staged("uji", "anggota", "nama", "3") == "TERLAMBAT"
    assert [act for act in bench.acts("uji") if act in ("held", "released")] == ["held", "released"]
