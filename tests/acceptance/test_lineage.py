"""Views whose base tables nobody declared: the connector reads in their definitions what to follow.

Row 83 of the fault matrix is here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from workbench import DDL, MAPPING, MEMBERS, PEOPLE, Layout, Workbench

from connector.capture.postgres.kit import kit_sql
from connector.capture.postgres.kit_request import KitTable

Make = Callable[..., Workbench]

PEOPLE_MAX = 60
# Beside the members' tables: a table that no column of the view gives away, and one that no view reads yet.
MORE = """
create table public.pengaturan (nama text primary key, nilai text not null);
insert into public.pengaturan values ('awalan', 'JL');
create table public.gelar (orang_id int primary key, gelar text not null);
create or replace view ekspor.v_anggota with (security_barrier) as
  select o.orang_id, o.nik, o.no_kta, o.nama, o.jk, o.tgl_lahir, o.kerja_id, k.nama_kerja,
         s.nilai || ' ' || o.alamat as alamat, o.kel_kode
    from public.orang o left join public.kerja k using (kerja_id)
    join public.pengaturan s on s.nama = 'awalan' where o.status = 'aktif';
"""
WITH_TITLES = """
create or replace view ekspor.v_anggota with (security_barrier) as
  select o.orang_id, o.nik, o.no_kta, o.nama || coalesce(' ' || g.gelar, '') as nama, o.jk, o.tgl_lahir, o.kerja_id,
         k.nama_kerja, s.nilai || ' ' || o.alamat as alamat, o.kel_kode
    from public.orang o left join public.kerja k using (kerja_id) left join public.gelar g using (orang_id)
    join public.pengaturan s on s.nama = 'awalan' where o.status = 'aktif'
"""
UNDECLARED = re.sub(r"    lineage:\n(      - .*\n)+", "", MAPPING)
LAYOUT = Layout(
    DDL + MORE + PEOPLE.replace("%s::int", "{}").replace("%%", "%").format(1, PEOPLE_MAX)
    + "insert into public.papan_orang select 1 + g % 7, g, 'ANGGOTA' from generate_series(1, 9) g;",
    UNDECLARED,
    (*MEMBERS.tables, KitTable("public", "pengaturan", ("nama",))),
    MEMBERS.views, MEMBERS.nudge,
)  # fmt: skip


def looks(bench: Workbench, entity: str) -> int:
    """How often an entity was read whole after its first copy."""
    begun = [entry for entry in bench.entries("uji") if entry.get("act") == "copy_begun"]
    return sum(entry["entity"] == entity for entry in begun)


def followed(make_workbench: Make) -> Workbench:
    bench = make_workbench("uji", layout=LAYOUT)
    bench.start()
    bench.await_caught_up("uji")
    return bench


def test_a_view_is_followed_by_its_definition(make_workbench: Make) -> None:
    bench = followed(make_workbench)
    party = bench.parties["uji"]
    derived = {line["entity"]: line for line in bench.daemons[0].named("lineage_derived", "uji")}
    assert derived["anggota"]["whole"] == ["public.pengaturan"]
    assert derived["pengurus"]["whole"] == []
    party.run("update public.kerja set nama_kerja = 'NELAYAN' where kerja_id = 1")
    party.run("update public.orang set status = 'mundur' where orang_id = 3")
    party.run("update public.orang set kerja_id = 2 where orang_id in (4, 6)")
    party.run("update public.orang set nama = 'BUDI' where orang_id = 5")
    party.run("update public.papan_orang set jabatan = 'KETUA' where orang_id = 5")
    party.run("delete from public.papan_orang where orang_id = 7")
    bench.check("uji")
    assert bench.staged("uji", "pengurus", "nama", "6|5") == "BUDI"
    assert looks(bench, "anggota") == looks(bench, "pengurus") == 0
    assert not bench.daemons[0].named("lineage_incomplete")


def test_a_table_without_a_path_has_the_view_looked_at_once_a_burst(make_workbench: Make) -> None:
    """Row 83: no column of the view tells whom the table touches; every row that it touches is right in the end."""
    bench = followed(make_workbench)
    party = bench.parties["uji"]
    with party.connect() as conn:
        for number in range(20):
            conn.execute("update public.pengaturan set nilai = %s where nama = 'awalan'", (f"JALAN {number}",))
            conn.execute("update public.orang set no_kta = no_kta || '*' where orang_id = %s", (number + 1,))
    bench.check("uji")
    assert bench.staged("uji", "anggota", "alamat", "60") == "JALAN 19 JL MAWAR 60"
    assert looks(bench, "anggota") == 1
    assert looks(bench, "pengurus") == 0


def test_a_replaced_view_is_followed_by_its_new_definition(make_workbench: Make) -> None:
    """Without a restart; a table that the kit does not know yet is told, and followed once the kit was run again."""
    bench = followed(make_workbench)
    party, daemon = bench.parties["uji"], bench.daemons[0]
    party.run(WITH_TITLES)
    bench.wait_until(lambda: bool(daemon.named("table_not_published")), "the new definition is noticed")
    assert daemon.named("table_not_published")[0]["table"] == "public.gelar"
    request = party.kit_request()
    party.run_script(kit_sql(replace(request, tables=(*request.tables, KitTable("public", "gelar", ("orang_id",))))))
    bench.check("uji")
    before = looks(bench, "anggota")
    party.run("insert into public.gelar values (8, 'S.H.'), (9, 'M.Sc.')")
    party.run("update public.gelar set gelar = 'Dr.' where orang_id = 9")
    party.run("delete from public.gelar where orang_id = 8")
    bench.check("uji")
    assert str(bench.staged("uji", "anggota", "nama", "9")).endswith(" Dr.")
    assert looks(bench, "anggota") == before
    assert not daemon.named("session_ended")
