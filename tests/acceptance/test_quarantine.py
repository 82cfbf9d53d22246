"""Refused rows under a running daemon: read again when asked, and never more of them than the budget."""

from __future__ import annotations

from collections.abc import Callable

from workbench import Workbench

Make = Callable[..., Workbench]

NEW_REGION = """
insert into staging.ref_wilayah (kode, tingkat, nama, jenis, induk, kode_polos, nama_norm, dasar) values
  ('98', 1, 'UJI', 'PROVINSI', null, '98', 'UJI', 'uji'),
  ('98.01', 2, 'UJI', 'KABUPATEN', '98', '9801', 'UJI', 'uji'),
  ('98.01.01', 3, 'UJI', 'DISTRIK', '98.01', '980101', 'UJI', 'uji'),
  ('98.01.01.2001', 4, 'UJI', 'DESA', '98.01.01', '9801012001', 'UJI', 'uji')
"""


def refused(bench: Workbench) -> list[tuple[object, ...]]:
    return bench.query("select source_key, reasons[1] from staging.karantina order by source_key")


def test_replay_reads_refused_rows_again_in_key_order(make_workbench: Make) -> None:
    bench = make_workbench("uji")
    bench.start()
    bench.parties["uji"].run("update public.orang set kel_kode = '9801012001' where orang_id in (7, 5, 100)")
    bench.await_caught_up("uji")
    bench.await_state("uji", "streaming")
    assert refused(bench) == [("100", "REGION_UNKNOWN"), ("5", "REGION_UNKNOWN"), ("7", "REGION_UNKNOWN")]
    bench.query("with new as (" + NEW_REGION + " returning 1) select count(*) from new")
    bench.ask("replay", "uji", "anggota")
    bench.await_obeyed("uji")
    bench.check("uji")
    assert refused(bench) == []
    assert bench.acts("uji")[-2:] == ["replay", "drain"]


def test_too_many_refused_rows_hold_the_entity_and_not_the_others(make_workbench: Make) -> None:
    bench = make_workbench("uji", limits={"quarantine_rows_max": 5})
    bench.start()
    bench.await_caught_up("uji")
    party = bench.parties["uji"]
    party.run("update public.orang set nik = 'x' where orang_id between 1 and 5")
    bench.await_caught_up("uji")
    assert len(refused(bench)) == 5
    party.run("update public.orang set nik = 'x' where orang_id = 6")
    bench.await_reason("uji", "anggota", "held", "quarantine_budget")
    assert len(refused(bench)) == 5, "nothing of the batch over the budget stays"
    party.run("update public.papan_orang set jabatan = 'KETUA' where orang_id = 8")
    bench.wait_until(lambda: bench.staged("uji", "pengurus", "jabatan", "2|8") == "KETUA", "pengurus goes on")
    bench.ask("resume", "uji", "anggota")
    bench.await_obeyed("uji")
    bench.await_reason("uji", "anggota", "held", "quarantine_budget")
    party.run(
        "update public.orang set nik = '327301' || lpad((1 + orang_id % 28)::text, 2, '0') || '0190'"
        " || lpad(orang_id::text, 4, '0') where orang_id <= 6"
    )
    bench.ask("resume", "uji", "anggota")
    bench.await_reason("uji", "anggota", "streaming")
    bench.check("uji")
    assert refused(bench) == []


def test_a_first_copy_over_the_budget_is_held_and_goes_on_where_it_was(make_workbench: Make) -> None:
    bench = make_workbench("uji", people=1200, limits={"quarantine_rows_max": 3})
    party = bench.parties["uji"]
    party.run("update public.orang set jk = '?' where orang_id between 700 and 710")
    bench.start()
    bench.await_reason("uji", "anggota", "held", "quarantine_budget")
    party.run("update public.orang set jk = 'P' where orang_id between 700 and 710")
    bench.ask("resume", "uji", "anggota")
    bench.await_reason("uji", "anggota", "streaming")
    bench.check("uji")
    assert bench.acts("uji").count("copy_begun") == 0, "the copy that history_begun began went on"
    assert bench.totals("uji", "anggota", "copy")["inserted"] == 1200
