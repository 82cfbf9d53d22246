"""Findings over sets and counts follow a running daemon, beside its batches."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from workbench import Workbench

Make = Callable[..., Workbench]

COPY = """
insert into public.orang
select 90001, nik, '3273.X', nama, jk, tgl_lahir, kerja_id, alamat, kel_kode, 'aktif'
  from public.orang where orang_id = 11
"""
FINDINGS = "select jenis, parpol_id, source_key from sipol.temuan where jenis like 'GANDA%' order by 1, 2, 3"
COUNTS = "select parpol_id, anggota, bersih, identik, eksternal from staging.hitungan where anggota > 0 order by 1"


@pytest.mark.slow
def test_findings_follow_the_daemon(make_workbench: Make) -> None:
    bench = make_workbench("alfa", "beta", people=50)
    bench.parties["beta"].run("update public.orang set nik = '3273019912950007' where orang_id <> 11")
    bench.parties["beta"].run("update public.orang set status = 'mundur' where orang_id not in (11)")
    bench.start()
    for party in bench.parties:
        bench.await_caught_up(party)
    external = [("GANDA_EKSTERNAL", 1, "11"), ("GANDA_EKSTERNAL", 2, "11")]
    bench.wait_until(
        lambda: bench.query(FINDINGS) == external, lambda: f"findings of the copies: {bench.query(FINDINGS)}"
    )
    bench.parties["alfa"].run(COPY)
    bench.wait_until(
        lambda: bench.query(COUNTS) == [(1, 51, 49, 1, 2), (2, 1, 0, 0, 1)],
        lambda: f"both copies are external, one is extra: {bench.query(COUNTS)}",
    )
    bench.parties["beta"].run("update public.orang set status = 'mundur'")
    bench.parties["alfa"].run("delete from public.orang where orang_id = 90001")
    bench.wait_until(lambda: bench.query(FINDINGS) == [], lambda: f"no finding is left: {bench.query(FINDINGS)}")
    bench.wait_until(lambda: bench.query(COUNTS) == [(1, 50, 50, 0, 0)], lambda: f"{bench.query(COUNTS)}")


def test_a_run_once_counts_too(make_workbench: Make) -> None:
    bench = make_workbench("uji", people=50)
    assert bench.connector("run", "--once").returncode == 0
    done = bench.connector("readiness", "uji", "--count", "--json")
    assert done.returncode == 0, done.stderr
    regencies = {one["kode"]: one for one in json.loads(done.stdout)["result"]["regencies"]}
    assert (regencies["32.73"]["diterima"], regencies["32.73"]["bersih"]) == (50, 50)
