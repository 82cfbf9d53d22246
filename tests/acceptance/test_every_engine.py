"""Every engine, followed in every way that needs no log: first copy, live changes, a stop, a restart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from engines import CHANGES, AnyParty, EngineBench, drop_postgres_party, mysql_party, postgres_party, sqlite_party
from mariadb import MariaDb
from workbench import new_name

from connector.capture.outbox.kit import kit_steps
from connector.embedded import Server

Make = Callable[..., EngineBench]


@pytest.fixture
def make_party(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], AnyParty]]:
    """`make_party("mariadb")`: an empty database of that engine."""
    drops: list[Callable[[], object]] = []

    def make(engine: str) -> AnyParty:
        match engine:
            case "sqlite":
                return sqlite_party(tmp_path / "partai.db")
            case "mariadb":
                maria: MariaDb = request.getfixturevalue("mariadb")
                name: str = request.getfixturevalue("maria_database")
                return mysql_party(lambda: maria.connect(name), maria.url(name), name)
        server: Server = request.getfixturevalue("pg18")
        name = new_name(server, "uji")
        made = postgres_party(server.dsn(name))
        drops.append(lambda: drop_postgres_party(server.dsn(), made))
        return made

    yield make
    for drop in drops:
        drop()


@pytest.fixture
def make_bench(
    tmp_path: Path, staging_dsn: str, make_party: Callable[[str], AnyParty]
) -> Iterator[Callable[..., EngineBench]]:
    benches: list[EngineBench] = []

    def make(engine: str, **source: object) -> EngineBench:
        party = replace(make_party(engine), source=source)
        party.install(250)
        if source["capture"] == "outbox":
            party.execute([step.sql for step in kit_steps(party.outbox())])
        benches.append(EngineBench(tmp_path, staging_dsn, party))
        return benches[-1]

    yield make
    for bench in benches:
        bench.close()


ENGINES = ("sqlite", "mariadb", "postgresql")


WAYS: dict[str, dict[str, object]] = {
    "diff": {"diff_every_s": 0.3},
    "outbox": {"diff_every_s": 600},
    "stream": {"diff_every_s": 600},
    "cursor": {"cursor": {"column": "versi", "overlap": 10, "diff_every_s": 2}},
}


# Each takes three starts of the daemon. What differs between engines is in tests/contract.
PAIRS = [
    *((engine, "diff") for engine in ENGINES),
    *((engine, "outbox") for engine in ENGINES),
    ("mariadb", "cursor"),
    ("mariadb", "stream"),
]


@pytest.mark.parametrize(("engine", "capture"), PAIRS)
def test_staging_is_kept_equal_to_the_views(make_bench: Make, engine: str, capture: str) -> None:
    bench = make_bench(engine, capture=capture, **WAYS[capture])
    daemon = bench.start()
    bench.await_state("uji", "streaming")
    bench.await_equal()
    bench.party.run(CHANGES)
    bench.await_equal()
    refused = bench.query("select source_key, reasons from staging.karantina")
    assert [(key, reasons[0]) for key, reasons in refused] == [("40", "NIK_FORMAT")]
    assert daemon.stop() == 0
    bench.party.run(
        "update orang set nik = '3273010101900040' where orang_id = 40;\ndelete from papan_orang where orang_id = 9"
    )
    assert bench.connector("run", "--once").returncode == 0
    assert bench.live() == bench.expected()
    assert bench.query("select count(*) from staging.karantina") == [(0,)]
    # No second copy: what was seen before the stop was remembered.
    assert [entry["act"] for entry in bench.entries("uji") if entry.get("act") == "history_begun"] == ["history_begun"]
    written = bench.query("select inserted + updated from connector.entity where entity = 'anggota'")
    assert bench.connector("run", "--once").returncode == 0
    assert bench.query("select inserted + updated from connector.entity where entity = 'anggota'") == written
    bench.check_evidence("uji")


@pytest.mark.parametrize("engine", ENGINES)
def test_the_kit_of_an_outbox_is_printed_for_its_engine(make_bench: Make, engine: str) -> None:
    bench = make_bench(engine, capture="outbox")
    printed = bench.connector("kit", "uji")
    assert printed.returncode == 0, printed.stderr
    for trigger in ("orang", "kerja", "papan_orang"):
        assert f"{bench.party.base}.{trigger}" in printed.stdout
    assert "drop table" not in printed.stdout
    assert "drop table" in bench.connector("kit", "uji", "--remove").stdout


def test_a_dropped_filter_is_caught_by_the_brake(make_bench: Make) -> None:
    bench = make_bench("sqlite", capture="diff", diff_every_s=0.3)
    assert bench.connector("run", "--once").returncode == 0
    bench.party.run("update orang set status = 'hilang' where orang_id > 100")
    bench.start()
    bench.await_reason("uji", "anggota", "held", "delete_brake")
    assert bench.query("select count(*) from sipol.anggota") == [(250,)]
    bench.ask("approve", "uji", "anggota")
    bench.await_equal()


TAMPER = """
update staging.anggota set alamat = 'X', row_hash = '\\x00' where source_key = '11';
update staging.anggota set dihapus_pada = now() where source_key = '12';
delete from staging.anggota where source_key = '13'
"""


@pytest.mark.parametrize(("engine", "capture"), [("sqlite", "diff"), ("mariadb", "outbox"), ("postgresql", "cursor")])
def test_what_was_tampered_with_is_found_and_repaired(make_bench: Make, engine: str, capture: str) -> None:
    bench = make_bench(engine, capture=capture, **WAYS[capture])
    bench.start()
    bench.await_state("uji", "streaming")
    bench.await_equal()
    if capture == "cursor":
        bench.party.run("update orang set nama = 'BARU', versi = 9000 where orang_id = 14")
        # What was written just now is no difference: the compare waits for the way of capture to notice it.
        assert bench.connector("reconcile", "uji").returncode == 0
    with bench.staging() as conn:
        for statement in TAMPER.split(";"):
            conn.execute(statement.encode())
    found = json.loads(bench.connector("reconcile", "uji/anggota", "--settle", "0.5", "--json").stdout)
    assert found["result"]["entities"]["anggota"]["differing"] | {"refusal_stale": 0} == {
        "missing": 2, "different": 1, "extra": 0, "refusal_missing": 0, "refusal_stale": 0,
    }  # fmt: skip
    told = bench.connector("reconcile", "uji/anggota", "--repair", "--settle", "0.5", "--wait", "60")
    assert told.returncode == 0, told.stdout + told.stderr
    bench.await_equal()


@pytest.mark.parametrize("engine", ["sqlite", "mariadb"])
def test_a_mapping_is_drafted_and_tried_on_any_engine(make_bench: Make, engine: str) -> None:
    bench = make_bench(engine, capture="diff")
    drafted = bench.connector("mapping", "init", "uji", "--entity", f"anggota={bench.party.schema}.v_anggota")
    assert drafted.returncode == 0, drafted.stderr
    assert "nik: {from: nik, digits: true}" in drafted.stdout
    assert f"#   {bench.party.schema}.v_pengurus" in drafted.stdout
    tried = json.loads(bench.connector("mapping", "dry-run", "uji", "--json").stdout)
    assert {one["entity"]: one["passed"] for one in tried["result"]} == {"pengurus": 25, "anggota": 250}
