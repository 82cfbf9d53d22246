"""The delete brake: a dropped WHERE clause erases nobody, and who approves sees what would go, region by region."""

from __future__ import annotations

from collections.abc import Callable

from workbench import Workbench

Make = Callable[..., Workbench]

WHERE = "32.73 60, 32.01 40"


def hint(bench: Workbench) -> str:
    ((text,),) = bench.query("select hint from connector.entity where entity = 'anggota'")
    return str(text)


def test_a_batch_over_the_share_is_held_and_says_where_the_rows_are(make_workbench: Make) -> None:
    bench = make_workbench("uji")
    bench.parties["uji"].run("update public.orang set kel_kode = '3201012001' where orang_id <= 40")
    bench.start()
    bench.await_caught_up("uji")
    bench.parties["uji"].run("update public.orang set status = 'mundur' where orang_id <= 100")
    bench.await_reason("uji", "anggota", "held", "delete_brake")
    assert f"100 of 300 rows would be deleted; by region: {WHERE}" in hint(bench)
    told = bench.connector("approve", "uji", "--yes")
    assert told.returncode == 0
    bench.await_reason("uji", "anggota", "streaming")
    bench.check("uji")


def test_a_resync_over_the_share_says_so_too(make_workbench: Make) -> None:
    bench = make_workbench("uji")
    bench.start()
    bench.await_caught_up("uji")
    bench.parties["uji"].run(
        "create or replace view ekspor.v_anggota with (security_barrier) as"
        " select o.orang_id, o.nik, o.no_kta, o.nama, o.jk, o.tgl_lahir, o.kerja_id, k.nama_kerja, o.alamat, o.kel_kode"
        " from public.orang o left join public.kerja k using (kerja_id) where o.status = 'aktif' and o.orang_id > 50"
    )
    bench.await_reason("uji", "anggota", "held", "delete_brake")
    assert "50 of 300 rows are no longer in the view; by region: 32.73 50:" in hint(bench)
