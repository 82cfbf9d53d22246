"""The daemon keeps the audit log's tree beside its parties, and its trouble is never theirs."""

from __future__ import annotations

from collections.abc import Callable

from workbench import Workbench

from connector import config
from connector.audit import log, tree
from connector.ops import evidence
from tests.fixtures.evidence import key_file

Make = Callable[..., Workbench]


def signed(bench: Workbench, more: str = "") -> Workbench:
    key_file(bench.folder / "audit.key")
    line = f"audit: {{key: '${{file:audit.key}}', anchor: anchor/last{more}}}\n"
    bench.config_path.write_text(line + bench.config_path.read_text(encoding="utf-8"), encoding="utf-8")
    return bench


def test_a_drained_party_s_entries_are_in_the_tree_signed_and_anchored(make_workbench: Make) -> None:
    bench = signed(make_workbench("uji"))
    done = bench.connector("run", "--once")
    assert done.returncode == 0, done.stderr
    entries = len(bench.entries("uji"))
    how = evidence.public_signing(config.load(bench.config_path))
    with bench.staging() as conn:
        verdict = evidence.verify_tree(conn, how)
        assert (verdict.size, verdict.signed, verdict.waiting, verdict.breaches) == (entries, entries, 0, ())
        state = evidence.state(conn)
        published = str(evidence.newest_checkpoint(conn))
    assert state.state == "running"
    assert state.anchored_at is not None
    assert (bench.folder / "anchor" / "last").read_text(encoding="utf-8") == published


def test_live_entries_are_taken_in_while_the_daemon_runs(make_workbench: Make) -> None:
    bench = signed(make_workbench("uji"))
    bench.start()
    bench.await_caught_up("uji")

    def taken() -> bool:
        with bench.staging() as conn:
            return tree.size(conn) == len(bench.entries("uji"))

    bench.wait_until(taken, "every entry is a leaf")
    bench.check_evidence("uji")


def test_a_log_that_may_not_be_signed_stops_no_party(make_workbench: Make) -> None:
    bench = signed(make_workbench("uji"))
    assert bench.connector("run", "--once").returncode == 0
    (bench.folder / "anchor" / "last").unlink()
    daemon = bench.start()
    bench.parties["uji"].run("update public.orang set nama = 'BARU' where orang_id = 1")
    bench.check("uji")

    def refused() -> bool:
        with bench.staging() as conn:
            return evidence.state(conn).state == "refusing"

    bench.wait_until(refused, "the sequencer refuses")
    told = bench.connector("status", "--json").stdout
    assert "the anchor is gone" in told
    assert daemon.stop() == 0


def test_policy_may_stop_every_party_while_the_log_has_no_anchor(make_workbench: Make) -> None:
    # Fifteen seconds: a little more than the notary takes between two checkpoints, or it would stop at each batch.
    bench = signed(make_workbench("uji"), ", alarm_h: 0.0041, stop_h: 0.0042")
    assert bench.connector("run", "--once").returncode == 0
    anchor = bench.folder / "anchor" / "last"
    kept = anchor.read_text(encoding="utf-8")
    anchor.unlink()
    with bench.staging() as conn, conn.transaction():
        log.append(conn, "uji", {"kind": "control", "act": "noticed", "entities": []})
    bench.start()
    reported = "select error from connector.worker where party = 'uji' and error like '%has not been anchored%'"
    bench.wait_until(lambda: bool(bench.query(reported)), "the party has stopped")
    assert "entries have had no anchor" in bench.connector("status").stdout
    anchor.write_text(kept, encoding="utf-8")
    bench.parties["uji"].run("update public.orang set nama = 'BARU' where orang_id = 1")
    bench.await_caught_up("uji")
