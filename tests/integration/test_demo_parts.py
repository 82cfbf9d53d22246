"""The demo's parts: invented people, the two parties' databases, the live writer, the comparison, the figures."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from mariadb import MariaDb
from psycopg import sql

from connector import config, settings
from connector.app import compile_party, open_party
from connector.capture.postgres.kit import kit_sql
from connector.cli.demo import answer
from connector.cli.output import exit_code
from connector.demo import gamma, maria, measure, oracle, people, territory
from connector.demo import party as parties
from connector.demo import site as sites
from connector.demo.alfa import Alfa
from connector.demo.beta import Beta
from connector.demo.delta import Delta
from connector.demo.gamma import Gamma
from connector.demo.homes import PostgresHome
from connector.demo.interrupt import uninterrupted
from connector.demo.measure import Applied, Latency
from connector.demo.oracle import Difference
from connector.demo.people import People, Person
from connector.demo.play import EntityResult, PartyResult, Result
from connector.demo.writer import Commit, Pace, Writer, writing
from connector.errors import SourceError
from connector.mapping import document
from connector.mapping.program import Program, ProgramOptions, compile_entity
from connector.ops.kit import kit_request
from connector.resources import schema_path
from connector.runtime.worker import Worker

TODAY = date(2026, 11, 30)
KINDS: dict[str, Callable[..., parties.Party]] = {"alfa": Alfa, "beta": Beta}
OTHERS: dict[str, Callable[..., parties.PartyOn[Any]]] = {"gamma": Gamma, "delta": Delta}
BIG = {"alfa": "kader", "beta": "members"}
Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture(scope="module")
def lists() -> people.Words:
    return people.words(7)


@pytest.fixture(scope="module")
def land() -> territory.Territory:
    return territory.choose(7, regencies_max=6)


def crowd(
    lists: people.Words, land: territory.Territory, count: int, abroad: list[Person] | None = None
) -> list[Person]:
    return People(random.Random(7), lists, land.villages, TODAY, abroad or []).draw(count)


@pytest.fixture(params=["alfa", "beta"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def party(name: str, lists: people.Words, land: territory.Territory, source_dsn: str) -> parties.Party:
    """A filled party of 1,500 people."""
    rng = random.Random(7)
    source = People(rng, lists, land.villages, TODAY)
    made = KINDS[name](rng, land, source, TODAY)
    with psycopg.connect(source_dsn) as conn:
        parties.create(conn, name)
        made.fill(conn, source.draw(1_500))
    with psycopg.connect(source_dsn, autocommit=True) as conn:
        conn.execute("analyze")
    return made


@pytest.fixture
def owner(source_dsn: str) -> Iterator[Connection]:
    with psycopg.connect(source_dsn) as conn:
        yield conn


# ------------------------------------------------------------------------------------------------- people


def test_a_territory_has_the_shares_that_the_law_asks_for() -> None:
    whole = territory.choose(7)
    assert len(whole.provinces) == 38
    assert len(whole.regencies) == 402
    per_regency = Counter(district.code[:5] for district in whole.districts)
    assert set(per_regency) == {regency.code for regency in whole.regencies}


def test_the_same_seed_gives_the_same_people(lists: people.Words, land: territory.Territory) -> None:
    assert crowd(lists, land, 500) == crowd(lists, land, 500)


def test_a_quarter_of_the_rows_stands_in_an_identical_group(lists: people.Words, land: territory.Territory) -> None:
    rows = crowd(lists, land, 8_000)
    groups = Counter((person.nik, person.name, person.birth) for person in rows)
    share = sum(count for count in groups.values() if count > 1) / len(rows)
    assert share == pytest.approx(people.IDENTICAL_SHARE, abs=0.02)


def test_a_twelfth_of_the_rows_is_in_the_other_party_too(lists: people.Words, land: territory.Territory) -> None:
    others = crowd(lists, land, 4_000)
    niks = {person.nik for person in others}
    source = People(random.Random(8), lists, land.villages, TODAY, others)
    rows = source.draw(4_000)
    assert sum(person.nik in niks for person in rows) / len(rows) == pytest.approx(people.EXTERNAL_SHARE, abs=0.02)


def test_a_fifth_of_the_niks_disagrees_with_birth_sex_or_region(lists: people.Words, land: territory.Territory) -> None:
    source = People(random.Random(9), lists, land.villages, TODAY)
    rows = [source.fresh() for _ in range(4_000)]

    def odd(person: Person) -> bool:
        expected = people.make_nik("", person.birth, person.sex, 0)[:6]
        return person.nik[6:12] != expected or person.nik[:6] == people.OLD_DISTRICT

    assert sum(map(odd, rows)) / len(rows) == pytest.approx(people.NIK_FINDING_SHARE, abs=0.02)
    assert len({person.nik for person in rows}) == len(rows)


def test_a_broken_nik_is_never_sixteen_digits_of_a_valid_kind() -> None:
    broken = list(people.broken_niks("3273015512950007"))
    assert broken == ["3.27301E+15", "327301551295000", "3273015512950000", "3273015513950007", None]


# ------------------------------------------------------------------------------------------------- databases


@pytest.mark.usefixtures("party")
def test_every_table_has_a_key_that_updates_can_be_logged_by(owner: Connection) -> None:
    """A published table without a replica identity makes the party's own updates fail."""
    bare = owner.execute(
        "select relname from pg_class c join pg_namespace n on n.oid = c.relnamespace"
        " where n.nspname = 'public' and relkind = 'r' and not exists ("
        "   select from pg_index i where i.indrelid = c.oid"
        "      and (relreplident = 'd' and i.indisprimary or relreplident = 'i' and i.indisreplident))"
    ).fetchall()
    assert bare == []


@pytest.mark.usefixtures("party")
def test_the_mapping_reads_only_what_the_views_show(name: str, owner: Connection) -> None:
    for entity in document.load(schema_path("parties", f"{name}.yaml")).entities.values():
        shown = columns(owner, *entity.view)
        wanted = {*entity.key, *(column for rule in entity.rules for column in rule.view_columns())}
        wanted |= {column for line in entity.lineage for column in (*line.key, *line.match)}
        assert wanted <= shown, entity.name
        for line in entity.lineage:
            assert {*line.key.values(), *line.match.values()} <= columns(owner, *line.table), (entity.name, line.table)


def columns(conn: Connection, schema: str, relation: str) -> set[str]:
    rows = conn.execute(
        "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped",
        (f"{schema}.{relation}",),
    )
    return {column for (column,) in rows}


@pytest.mark.usefixtures("party")
def test_one_key_is_found_through_an_index(name: str, owner: Connection) -> None:
    """What a signal costs the party must not grow with the party."""
    for entity in document.load(schema_path("parties", f"{name}.yaml")).entities.values():
        assert BIG[name] not in scanned(owner, entity.view, entity.key), entity.name


def scanned(conn: Connection, view: tuple[str, str], key: tuple[str, ...]) -> set[str]:
    """Tables that reading the view by one key reads from end to end."""
    names = sql.SQL(", ").join(map(sql.Identifier, key))
    one = sql.SQL("(select {} from {} limit 1)").format(names, sql.Identifier(*view))
    found = conn.execute(one).fetchone()
    assert found is not None
    query = sql.SQL("explain (format json) select * from {} where ({}) = ({})").format(
        sql.Identifier(*view), names, sql.SQL(", ").join(map(sql.Literal, found))
    )
    row = conn.execute(query).fetchone()
    assert row is not None
    return set(seq_scans(row[0][0]["Plan"]))


def seq_scans(plan: dict[str, Any]) -> Iterator[str]:
    if plan["Node Type"] == "Seq Scan":
        yield plan["Relation Name"]
    for inner in plan.get("Plans", []):
        yield from seq_scans(inner)


def test_every_move_can_be_made_and_changes_what_it_says(party: parties.Party, owner: Connection) -> None:
    for move in party.moves():
        for _ in range(5):
            move.run(owner)
            owner.commit()
    assert party.flood(owner, 200) == pytest.approx(200, abs=10)


def test_leaving_members_leave_the_view_and_come_back(
    source_dsn: str, lists: people.Words, land: territory.Territory
) -> None:
    rng = random.Random(3)
    alfa = Alfa(rng, land, People(rng, lists, land.villages, TODAY), TODAY)
    with psycopg.connect(source_dsn) as conn:
        parties.create(conn, "alfa")
        alfa.fill(conn, crowd(lists, land, 300))
        moves = {move.name: move for move in alfa.moves()}
        before = count(conn, "ekspor.v_anggota")
        moves["member_left"].run(conn)
        assert count(conn, "ekspor.v_anggota") == before - 1
        moves["member_came_back"].run(conn)
        assert count(conn, "ekspor.v_anggota") == before


def test_a_board_that_ends_takes_its_people_out_of_the_view(
    source_dsn: str, lists: people.Words, land: territory.Territory
) -> None:
    rng = random.Random(3)
    alfa = Alfa(rng, land, People(rng, lists, land.villages, TODAY), TODAY)
    with psycopg.connect(source_dsn) as conn:
        parties.create(conn, "alfa")
        alfa.fill(conn, crowd(lists, land, 300))
        before = count(conn, "ekspor.v_pengurus")
        next(move for move in alfa.moves() if move.name == "board_ended_or_revived").run(conn)
        assert count(conn, "ekspor.v_pengurus") < before


def count(conn: Connection, relation: str) -> int:
    row = conn.execute(f"select count(*) from {relation}".encode()).fetchone()
    assert row is not None
    return int(row[0])


# ------------------------------------------------------------------------------------------------- the writer


def test_a_writer_notes_each_commit_in_the_order_of_the_log(party: parties.Party, source_dsn: str) -> None:
    writer = Writer(PostgresHome(source_dsn), party, random.Random(5), Pace(per_second=400, seconds=1, flood_rows=300))
    with writing([writer]):
        written = writer.join()
    places = [commit.before for commit in written.commits]
    assert places == sorted(places)
    assert len(places) > 50
    assert written.flood_rows == pytest.approx(300, abs=10)
    assert written.moves["flood"] == 1
    assert written.transactions >= len(places)


def test_leaving_the_block_stops_the_writers(party: parties.Party, source_dsn: str) -> None:
    writer = Writer(PostgresHome(source_dsn), party, random.Random(5), Pace(per_second=50, flood_rows=0))
    with pytest.raises(ZeroDivisionError), writing([writer]):
        raise ZeroDivisionError
    assert not writer.running


def test_a_writer_whose_server_refuses_says_so(party: parties.Party, source_dsn: str) -> None:
    with psycopg.connect(source_dsn) as conn:
        conn.execute("drop schema public cascade")
    writer = Writer(PostgresHome(source_dsn), party, random.Random(5), Pace(seconds=5))
    writer.start()
    with pytest.raises(SourceError, match="writer failed"):
        writer.join()


# ------------------------------------------------------------------------------------------------- the comparison


@pytest.fixture
def followed(
    name: str, party: parties.Party, source_dsn: str, staging_dsn: str, tmp_path: Path
) -> Iterator[tuple[Connection, Connection, dict[str, Program]]]:
    """A party whose rows are in staging: a session there, one at the party, and the programs."""
    del party  # filled
    settings = configure(tmp_path, name, source_dsn).party(name)
    request = kit_request(settings, document.load(settings.mapping), "pull")
    with psycopg.connect(source_dsn, autocommit=True) as owner:
        owner.execute(kit_sql(request).encode())
    follow(tmp_path, name, staging_dsn)
    with psycopg.connect(staging_dsn, autocommit=True) as staging, psycopg.connect(source_dsn) as source:
        yield staging, source, compile_party(settings)


def configure(folder: Path, name: str, source_dsn: str) -> settings.Config:
    reader_dsn = source_dsn.replace("user=postgres", "user=sipol_ro")
    (folder / "digest.key").write_text("not a secret", encoding="utf-8")
    (folder / "digest.key").chmod(0o600)
    (folder / "connector.yaml").write_text(
        "staging: {dsn: host=unused}\n"
        "digest: {key: '${file:digest.key}'}\n"
        f"parties: {{{name}: {{parpol_id: 7, mapping: '{schema_path('parties', name + '.yaml')}',"
        f" source: {{engine: postgresql, capture: pull, dsn: '{reader_dsn}'}}}}}}\n",
        encoding="utf-8",
    )
    return config.load(folder / "connector.yaml")


def follow(folder: Path, name: str, staging_dsn: str) -> None:
    """Run the party's worker until it has caught up."""
    made = open_party(config.load(folder / "connector.yaml"), name, staging_dsn)
    stop = threading.Event()
    assert Worker(made, daemon="test", wait=lambda seconds: stop.wait(min(seconds, 0.05)), once=True).run()


def test_after_moves_of_every_kind_staging_is_what_the_views_say(
    name: str,
    party: parties.Party,
    followed: tuple[Connection, Connection, dict[str, Program]],
    staging_dsn: str,
    tmp_path: Path,
) -> None:
    staging, source, programs = followed
    assert differences(staging, source, programs) == {}
    for move in party.moves():
        for _ in range(8):
            move.run(source)
            source.commit()
    party.flood(source, 300)
    source.commit()
    assert differences(staging, source, programs) != {}
    follow(tmp_path, name, staging_dsn)
    assert differences(staging, source, programs) == {}


def differences(staging: Connection, source: Connection, programs: dict[str, Program]) -> dict[str, Difference]:
    found = {entity: oracle.differing_rows(staging, source, program, 7) for entity, program in programs.items()}
    source.rollback()
    return {entity: one for entity, one in found.items() if one.total}


ONE = "source_key = (select max(source_key) from staging.anggota)"
HELD = "entity = 'anggota' and source_key = (select max(source_key) from staging.karantina where entity = 'anggota')"
TAMPERING = {
    f"delete from staging.anggota where {ONE}": "missing",
    f"update staging.anggota set dihapus_pada = now() where {ONE}": "missing",
    f"update staging.anggota set source_key = 'nobody' where {ONE}": "extra",
    f"update staging.anggota set nama = nama || '.' where {ONE}": "different",
    f"update staging.anggota set jenis_identitas = 'KTP' where {ONE}": "different",
    f"delete from staging.karantina where {HELD}": "quarantine_missing",
    f"update staging.karantina set reasons = '{{TOO_LONG}}' where {HELD}": "quarantine_missing",
    "insert into staging.karantina (parpol_id, entity, source_key, sync_batch_id, reasons)"
    " values (7, 'anggota', 'nobody', 0, '{TOO_LONG}')": "quarantine_extra",
}


def test_one_row_changed_behind_our_back_is_found(
    followed: tuple[Connection, Connection, dict[str, Program]],
) -> None:
    staging, source, programs = followed
    for tampering, kind in TAMPERING.items():
        with staging.transaction(force_rollback=True):
            staging.execute(tampering.encode())
            found = oracle.differing_rows(staging, source, programs["anggota"], 7)
        assert getattr(found, kind) == 1, tampering
        assert any(example.startswith(kind + ":") for example in found.examples), tampering
    assert differences(staging, source, programs) == {}


# ------------------------------------------------------------------------------------------------- other engines


def home_of(request: pytest.FixtureRequest, engine: str, folder: Path) -> tuple[Any, str, Path]:
    """An empty database with the party's tables, what it is, and the party's mapping."""
    if engine == "gamma":
        site = sites.sqlite_party(folder)
    else:
        server: MariaDb = request.getfixturevalue("mariadb")
        request.addfinalizer(lambda: server.run("drop database if exists delta"))
        site = sites.mariadb_party(server.socket)
    return site.home, site.server, site.mapping


@pytest.mark.parametrize("engine", ["gamma", "delta"])
def test_a_party_on_another_engine_moves_and_is_compared_through_its_mapping(
    request: pytest.FixtureRequest,
    engine: str,
    lists: people.Words,
    land: territory.Territory,
    staging_dsn: str,
    tmp_path: Path,
) -> None:
    home, server, mapping = home_of(request, engine, tmp_path)
    assert server.startswith("SQLite" if engine == "gamma" else "MariaDB")
    rng = random.Random(7)
    source = People(rng, lists, land.villages, TODAY)
    party: parties.PartyOn[Any] = OTHERS[engine](rng, land, source, TODAY)
    with contextlib.closing(home.connect()) as owner:
        party.fill(owner, source.draw(500))
        owner.commit()
        for move in party.moves():
            for _ in range(5):
                move.run(owner)
                owner.commit()
        assert party.flood(owner, 100) == pytest.approx(100, abs=10)
        owner.commit()
    writer = Writer(home, party, random.Random(5), Pace(per_second=400, seconds=0.5, flood_rows=50))
    with writing([writer]):
        written = writer.join()
    places = [commit.before for commit in written.commits]
    assert places == sorted(places)
    assert (places[-1] > places[0]) == (engine == "delta"), "only a log has places"
    found = document.load(mapping)
    programs = {entity: compile_entity(found, entity, ProgramOptions(7)) for entity in found.entities}
    with psycopg.connect(staging_dsn, autocommit=True) as staging, home.reading() as reader:
        with staging.cursor().copy("copy staging.ref_wilayah_bps (kode_bps, kode) from stdin") as rows:
            for row in gamma.bridge(land.villages).items():
                rows.write_row(row)
        for program in programs.values():
            difference = oracle.differing_rows(staging, reader, program, 7)
            good, refused = difference.missing, difference.quarantine_missing
            assert good + refused == home.count(program.view), "nothing is staged yet: every row differs"
            assert 0 <= refused < good, program.entity


def test_the_invented_bridge_has_one_code_for_each_village(land: territory.Territory) -> None:
    made = gamma.bridge(land.villages)
    assert sorted(made.values()) == sorted(village.code for village in land.villages)
    assert all(len(code) == 10 and code.isdigit() for code in made)


def test_without_mariadb_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maria, "PLACES", "/nowhere")
    assert maria.lacking() == "mariadbd and mariadb-install-db not found: apt-get install mariadb-server"


# ------------------------------------------------------------------------------------------------- figures


def test_a_commit_is_covered_by_the_first_batch_past_it() -> None:
    start = datetime(2026, 11, 30, tzinfo=UTC)

    def after(ms: int) -> datetime:
        return start + timedelta(milliseconds=ms)

    commits = [Commit("anggota", 100, start), Commit("anggota", 200, after(50)), Commit("kantor", 400, after(60))]
    batches = [Applied(place, start, after(ms)) for place, ms in ((150, 80), (200, 90), (350, 250))]
    assert measure.latencies_ms(commits, batches) == {"anggota": [80.0, 200.0]}


def test_a_commit_during_a_compare_waits_for_the_next_at_most() -> None:
    start = datetime(2026, 11, 30, tzinfo=UTC)

    def after(ms: int) -> datetime:
        return start + timedelta(milliseconds=ms)

    batches = [Applied(place, after(ms), after(ms + 50)) for place, ms in ((1, 100), (2, 2100), (3, 4100))]
    commits = [Commit("anggota", 0, after(90)), Commit("anggota", 0, after(110)), Commit("anggota", 0, after(2200))]
    assert measure.compared_ms(commits, batches) == {"anggota": [2060.0, 4040.0]}


def test_latency_is_told_by_rank_and_not_invented() -> None:
    assert Latency.of(float(value) for value in range(1, 101)) == Latency(50.0, 95.0)
    assert Latency.of([7.0]) == Latency(7.0, 7.0)
    assert Latency.of([]) == Latency(None, None)


def test_an_interrupt_waits_until_a_server_is_ours_to_stop() -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - the order of the steps is the fact
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGINT)
            steps.append("started")
        steps.append("never reached")
    assert steps == ["started"]


# ------------------------------------------------------------------------------------------------- the whole


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where a demo puts everything: short enough for sockets, open to the servers' user."""
    made = Path(tempfile.mkdtemp(prefix="d-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def demo(folder: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "connector", "demo", "--members", "400", *options],
        env={**os.environ, "TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def processes_of(folder: Path) -> list[int]:
    """Processes that work in this folder or were started with it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            texts = [process.joinpath(name).read_bytes() for name in ("cmdline", "environ")]
            texts.append(os.fsencode(process.joinpath("cwd").readlink()))
            if any(os.fsencode(folder) in text for text in texts):
                found.append(int(process.name))
    return found


@pytest.mark.slow
def test_the_demo_ends_with_no_row_that_differs_and_nothing_left_behind(folder: Path) -> None:
    with demo(folder, "--seconds", "3", "--json") as process:
        said, _ = process.communicate()
    envelope = json.loads(said)
    result = envelope["result"]
    assert process.returncode == 0, envelope["error"]
    assert result["differing_rows"] == 0
    assert result["audit_verified"] is True
    assert set(result["parties"]) == {"alfa", "beta", "gamma", "delta"} - set(result["skipped"])
    assert ("delta" in result["skipped"]) == (maria.lacking() is not None)
    for name, one in result["parties"].items():
        assert one["entities"]["anggota"]["latency_ms"]["p50"] is not None, name
    assert result["latency_ms"]["p50"] <= result["latency_ms"]["p95"]
    assert result["rows_per_s"] > 0
    for party in result["parties"].values():
        for one in party["entities"].values():
            assert one["read"] == one["inserted"] + one["updated"] + one["unchanged"] + one["quarantined"]
    assert processes_of(folder) == []
    assert list(folder.glob("sipol-demo-*")) == []


@pytest.mark.slow
@pytest.mark.parametrize("line", ["starting three", "live changes"])
def test_ctrl_c_leaves_no_process_and_no_folder_behind(folder: Path, line: str) -> None:
    with demo(folder, "--seconds", "60") as process:
        assert process.stdout is not None
        for said in process.stdout:
            if line in said:
                break
        os.killpg(process.pid, signal.SIGINT)
        process.wait()
    assert process.returncode == 130
    assert processes_of(folder) == []
    assert list(folder.glob("sipol-demo-*")) == []


def test_a_difference_is_an_exit_code_and_names_keys() -> None:
    difference = Difference(missing=1, examples=("missing:42",))
    entity = EntityResult(1, 1, 1, 0, 0, 0, 0, Latency(1.0, 2.0), 10.0, 1, difference)
    party = PartyResult("PostgreSQL 16", "pull", 1, {"flood": 1}, 1, 1.0, {"anggota": entity}, {}, 1)
    made = answer(Result({"beta": party}, 1, True, Latency(1.0, 2.0), 10.0, 1.0, {"delta": "mariadbd not found"}))
    assert made.error is not None
    assert "delta did not play: mariadbd not found" in made.summary
    assert exit_code(made.error) == 1
    assert "missing:42" in made.error.hint
