"""Comparing view and staging beside a running daemon: finds what was tampered with, and nothing that only moves."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import closing
from typing import Any

from workbench import Workbench

from connector import app, config
from connector.ops import reconcile
from connector.staging import session

Make = Callable[..., Workbench]

TAMPER = """
update staging.anggota set alamat = 'X', row_hash = '\\x00' where source_key = '11';
update staging.anggota set dihapus_pada = now() where source_key = '12';
delete from staging.anggota where source_key = '13';
insert into staging.anggota select (a).* from (
  select jsonb_populate_record(a, '{"source_key": "900013"}') as a from staging.anggota a where source_key = '14') one;
insert into staging.karantina (parpol_id, entity, source_key, sync_batch_id, reasons)
values (1, 'anggota', '15', 0, '{REQUIRED}'), (1, 'anggota', '999999', 0, '{REQUIRED}');
delete from staging.karantina where source_key = '40';
"""


def compared(bench: Workbench, entity: str = "anggota", *, settle_s: float = 5.0) -> reconcile.Run:
    """One entity's compare, in this process, in chunks of a few rows."""
    party = app.open_party(config.load(bench.config_path), "uji", bench.staging_dsn)
    plan, name = party.plans[entity]
    options = reconcile.Options(settle_s, "uji@bangku", chunk_rows=64)
    with session.connect(bench.staging_dsn) as conn, closing(party.open_view()) as view:
        shape = view.shape(entity, name.name, name.key, name.inputs)
        return reconcile.compare(conn, view, reconcile.Subject(plan, shape, party.digest_keys), options)


def found(run: reconcile.Run) -> dict[str, int]:
    return {kind: count for kind, count in run.differing.items() if count}


def told(bench: Workbench, *arguments: str, code: int) -> Any:
    done = bench.connector("reconcile", *arguments, "--json")
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_what_was_tampered_with_is_found_and_repaired(make_workbench: Make) -> None:
    bench = make_workbench("uji")
    bench.start()
    bench.parties["uji"].run("update public.orang set nik = '3.27301E+15' where orang_id = 40")
    bench.await_caught_up("uji")
    assert (found(compared(bench)), found(compared(bench, "pengurus"))) == ({}, {})
    with bench.staging() as conn:
        conn.execute(TAMPER.encode())
    first = told(bench, "uji", "--settle", "0.2", code=1)
    assert first["error"]["kind"] == "differs"
    members = first["result"]["entities"]["anggota"]
    assert members["differing"] == {
        "missing": 2, "different": 1, "extra": 1, "refusal_missing": 1, "refusal_stale": 2,
    }  # fmt: skip
    assert {(one["key"], one["kind"]) for one in members["examples"]} == {
        ("11", "different"), ("12", "missing"), ("13", "missing"), ("900013", "extra"), ("15", "refusal_stale"),
        ("999999", "refusal_stale"), ("40", "refusal_missing"),
    }  # fmt: skip
    assert first["result"]["entities"]["pengurus"]["total"] == 0
    told(bench, "uji/anggota", "--repair", "--settle", "0.2", "--wait", "60", code=0)
    bench.check("uji")
    assert found(compared(bench)) == {}
    acts = [entry for entry in bench.entries("uji") if entry.get("act") == "reconcile"]
    assert [(act["entity"], act["args"]["repair"], act["outcome"]) for act in acts][-1] == (
        "anggota", True, "anggota: 7 keys are read again: done",
    )  # fmt: skip
    assert {act["entity"] for act in acts} == {"anggota", "pengurus"}


def test_changes_under_way_are_no_difference(make_workbench: Make) -> None:
    bench = make_workbench("uji")
    bench.start()
    bench.await_caught_up("uji")
    stop = threading.Event()

    def write() -> None:
        with bench.parties["uji"].connect() as conn:
            step = 0
            while not stop.is_set():
                step += 1
                conn.execute(
                    "update public.orang set alamat = 'JL ' || %s where orang_id %% 20 = %s %% 20", (step, step)
                )

    writer = threading.Thread(target=write)
    writer.start()
    try:
        runs = [compared(bench) for _ in range(3)]
    finally:
        stop.set()
        writer.join()
    assert [(found(run), run.view_rows) for run in runs] == [({}, 300)] * 3
    bench.check("uji")


def test_what_waits_parked_is_known_and_no_difference(make_workbench: Make) -> None:
    bench = make_workbench("uji")
    bench.start()
    bench.await_caught_up("uji")
    bench.ask("pause", "uji", "anggota")
    bench.await_obeyed("uji")
    bench.parties["uji"].run("update public.orang set nama = 'BARU' where orang_id <= 30")
    bench.wait_until(lambda: bench.query("select count(*) from connector.parked") == [(30,)], "30 keys are parked")
    run = compared(bench, settle_s=0.1)
    assert (found(run), run.parked) == ({}, 30)


def test_without_a_daemon_what_is_not_applied_differs(make_workbench: Make) -> None:
    bench = make_workbench("uji")
    assert bench.connector("run", "--once").returncode == 0
    bench.parties["uji"].run("delete from public.orang where orang_id = 77")
    run = compared(bench, settle_s=0.1)
    assert (found(run), run.settled) == ({"extra": 1}, True)
    assert bench.query("select party, entity, extra, asked_by from connector.reconcile") == [
        ("uji", "anggota", 1, "uji@bangku")
    ]
    assert bench.query("select source_key, kind from connector.reconcile_key") == [("77", "extra")]
