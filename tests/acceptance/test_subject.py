"""A person's request: found everywhere, copied out, erased for good, and the evidence stays whole."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable
from typing import Any

from workbench import Workbench

Make = Callable[..., Workbench]

# The workbench's person number 40, who also sits on a board.
NIK = "3273011301900041"


def told(bench: Workbench, *arguments: str, code: int = 0) -> Any:
    done = bench.connector("subject", *arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    assert NIK not in done.stdout + done.stderr
    return json.loads(done.stdout)


def traces(bench: Workbench) -> list[str]:
    """Tables of ours that still hold the number anywhere."""
    found = []
    for schema, table in bench.query(
        "select schemaname, tablename from pg_tables where schemaname in ('staging', 'connector', 'audit')"
        " and tablename not like 'ref%'"
    ):
        if bench.query(f"select exists (select from {schema}.{table} t where t::text like '%{NIK}%')") == [(True,)]:
            found.append(f"{schema}.{table}")
    return found


def test_a_person_is_found_exported_and_erased(make_workbench: Make) -> None:
    bench = make_workbench("uji")
    bench.start()
    bench.await_caught_up("uji")
    assert bench.staged("uji", "anggota", "nik", "40") == NIK
    assert traces(bench)

    found = told(bench, "find", "--nik", "3273.0113-0190 0041")["result"]
    assert [(one["party"], one["entity"], one["key"], one["kind"]) for one in found["places"]] == [
        ("uji", "anggota", "40", "staged")
    ]
    assert found["audit_entries"] == []

    out = bench.folder / "salinan.json"
    told(bench, "export", "--nik", NIK, "--out", str(out), "--reason", "permohonan 1/2026")
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    ((row,),) = ([one["row"]] for one in json.loads(out.read_text(encoding="utf-8")))
    assert (row["nik"], row["source_key"]) == (NIK, "40")
    assert not {"row_hash", "nik_hmac"} & row.keys()
    assert told(bench, "export", "--nik", NIK, "--out", str(out), "--reason", "2", code=3)["error"]["hint"]

    refused = told(bench, "erase", "--nik", NIK, "--reason", "permohonan 2/2026", "--yes", code=1)
    assert refused["error"]["kind"] == "still_sent"
    bench.parties["uji"].run("update public.orang set status = 'mundur' where orang_id = 40")
    bench.await_caught_up("uji")
    looked = told(bench, "erase", "--nik", NIK, "--reason", "permohonan 2/2026", code=2)
    assert "1 deleted at 1 parties" in looked["error"]["message"]
    done = told(bench, "erase", "--nik", NIK, "--reason", "permohonan 2/2026", "--yes", "--wait", "60")
    assert done["result"]["outcomes"] == ["anggota: 0 staged and 1 deleted rows are erased: done"]
    bench.wait_until(lambda: traces(bench) == [], lambda: f"nothing holds the number; {traces(bench)} do")
    assert told(bench, "find", "--nik", NIK)["result"]["places"] == []
    bench.check("uji")
    acts = [entry for entry in bench.entries("uji") if entry.get("act") in ("export", "erase")]
    assert [(act["act"], act["args"]) for act in acts] == [
        ("export", {"reason": "permohonan 1/2026", "rows": 1}),
        ("erase", {"reason": "permohonan 2/2026", "rows": 1}),
    ]


def test_a_row_that_is_still_sent_is_erased_only_when_told_and_leaves_the_feed(make_workbench: Make) -> None:
    bench = make_workbench("uji")
    bench.start()
    bench.await_caught_up("uji")
    (before,) = bench.query("select live_rows from connector.entity where entity = 'anggota'")
    (start,) = bench.query("select sipol.perubahan_kini()")
    told(bench, "erase", "--nik", NIK, "--reason", "3", "--live", "--yes", "--wait", "60")
    assert bench.staged("uji", "anggota", "nama", "40") is None
    assert bench.query("select live_rows from connector.entity where entity = 'anggota'") == [(before[0] - 1,)]
    feed = "select entity, source_key, operation from sipol.perubahan(%s)"
    assert ("anggota", "40", "hapus") in bench.query(feed, start)
    bench.check_evidence("uji")
    # State replication: what the view still says comes back when it is read again.
    bench.parties["uji"].run("update public.orang set alamat = 'JL LAIN' where orang_id = 40")
    bench.check("uji")


def test_what_was_typed_is_never_repeated(make_workbench: Make) -> None:
    bench = make_workbench("uji", people=10)
    assert bench.connector("migrate").returncode == 0
    for arguments in (
        ("find", "--nik", NIK + "1"),
        ("erase", "--nik", NIK, "--reason", f"orang {NIK}"),
    ):
        done = bench.connector("subject", *arguments, "--json")
        assert done.returncode == 2
        assert NIK not in done.stdout + done.stderr
