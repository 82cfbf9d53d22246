"""`audit verify --deep` looks at the staged rows themselves and names those that somebody changed by hand."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from workbench import Workbench

Make = Callable[..., Workbench]


def verify(bench: Workbench, code: int = 0) -> dict[str, Any]:
    done = bench.connector("audit", "verify", "--deep", "--json")
    assert done.returncode == code, done.stdout + done.stderr
    envelope = json.loads(done.stdout)
    assert isinstance(envelope, dict)
    return envelope


def suspects(bench: Workbench) -> list[tuple[str, str, int, list[str]]]:
    told = verify(bench, 1)
    assert told["error"]["kind"] == "rows_changed"
    rows = told["result"]["rows"]
    return [(one["entity"], s["what"], s["rows"], s["keys"]) for one in rows for s in one["suspects"]]


def test_rows_changed_behind_the_connector_s_back_are_found(make_workbench: Make) -> None:
    bench = make_workbench("uji")
    assert bench.connector("run", "--once").returncode == 0
    bench.parties["uji"].run(
        "update public.orang set nama = 'LAIN' where orang_id < 20; delete from public.orang where orang_id = 299"
    )
    assert bench.connector("run", "--once").returncode == 0
    told = verify(bench)
    assert "all fit" in told["summary"]
    assert sum(one["rows"] for one in told["result"]["rows"]) == 330
    assert [one["skipped"] for one in told["result"]["rows"]] == [0, 0]

    with bench.staging() as conn:
        conn.execute("update staging.anggota set nik = '3273010101900099' where source_key = '7'")
        assert suspects(bench) == [("anggota", "cells are not those that the batch wrote", 1, ["7"])]
        conn.execute("update staging.anggota set row_hash = '\\x0011223344556677' where source_key = '7'")
        assert suspects(bench)[0][2:] == (1, ["7"])
        conn.execute("delete from staging.anggota where source_key = '7'")
        assert suspects(bench) == [("anggota", "298 live rows, and the batches left 299", 1, [])]
        conn.execute(
            "create temp table copied as select * from staging.anggota where source_key = '8';"
            " update copied set source_key = 'forged'; insert into staging.anggota select * from copied"
        )
        assert suspects(bench) == [("anggota", "no batch wrote them", 1, ["forged"])]
        conn.execute("update staging.anggota set sync_batch_id = 999999 where source_key = 'forged'")
        assert suspects(bench) == [("anggota", "no batch wrote them", 1, ["forged"])]
