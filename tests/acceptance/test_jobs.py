"""The daemon's periodic work: a nightly compare mends what differs, with an entry in the log."""

from __future__ import annotations

import json
from collections.abc import Callable

from workbench import Workbench

Make = Callable[..., Workbench]


def test_a_scheduled_compare_mends_beside_the_running_parties(make_workbench: Make) -> None:
    bench = make_workbench("uji")
    config = bench.config_path.read_text(encoding="utf-8")
    jobs = "jobs: {reconcile: every 3s, retention: every 3s, verify: off, upkeep: off}\n"
    bench.config_path.write_text(jobs + config, encoding="utf-8")
    daemon = bench.start()
    bench.await_caught_up("uji")
    with bench.staging() as conn:
        conn.execute("update staging.anggota set alamat = 'X', row_hash = '\\x00' where source_key = '11'")
    bench.wait_until(
        lambda: bench.query("select count(*) from staging.anggota where alamat = 'X'") == [(0,)],
        "the row is mended",
    )
    acts = {(entry["act"], str(entry["asked_by"])) for entry in bench.entries("uji") if "asked_by" in entry}
    assert ("reconcile", "scheduler") in acts
    listed = json.loads(bench.connector("jobs", "--json").stdout)["result"]
    assert {one["job"] for one in listed["jobs"]} == {"reconcile", "retention", "reference"}
    assert listed["heartbeat_age_s"] < 60
    assert {one["outcome"] for one in listed["jobs"] if one["job"] == "retention"} <= {"ok", "running"}
    bench.check("uji")
    assert daemon.stop() == 0
