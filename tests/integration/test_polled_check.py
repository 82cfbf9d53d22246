"""`check` of the modes that poll, on every engine: nothing to say after the kit, and every way to break it is found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest
from catalogues import catalogue
from engines import AnyParty, drop_postgres_party, mysql_party, postgres_party, sqlite_party
from mariadb import MariaDb
from psycopg.conninfo import make_conninfo
from workbench import new_name

from connector import cli
from connector.capture.finding import Finding
from connector.capture.outbox import kit as outbox_kit
from connector.capture.outbox.request import OutboxRequest
from connector.capture.polling import kit as polled_kit
from connector.capture.polling import preflight
from connector.capture.postgres import preflight as pg_preflight
from connector.capture.postgres.expectations import Expectations, ExpectedTable, ExpectedView
from connector.embedded import Server

Mode = Literal["outbox", "cursor", "diff"]
SEED_NIK = "3273015512950007"

TABLES = """
create table kerja (kerja_id int primary key, nama_kerja varchar(40) not null);
create table orang (orang_id int primary key, nik varchar(20), nama varchar(80), kerja_id int, status varchar(10),
  versi int not null);
create index orang_kerja on orang (kerja_id);
create view v_anggota as
  select o.orang_id, o.nik, o.nama, o.kerja_id, k.nama_kerja, o.versi
    from orang o left join kerja k on k.kerja_id = o.kerja_id where o.status = 'aktif';
insert into kerja values (1, 'PETANI');
insert into orang values (1, '3273015512950007', 'SITI RAHMA', 1, 'aktif', 1), (2, '2', 'B', null, 'aktif', 2)
"""


@dataclass
class Checked:
    """A party with a kit in place, and what we expect of it."""

    party: AnyParty
    mode: Mode
    expected: Expectations
    url: str

    @property
    def outbox(self) -> OutboxRequest:
        assert self.expected.outbox is not None
        return self.expected.outbox

    def install(self) -> None:
        if self.expected.outbox is not None:
            steps = outbox_kit.kit_steps(self.outbox)
        else:
            views = tuple((view.schema, view.name) for view in self.expected.views)
            assert self.mode != "outbox"
            engine = self.party.engine
            assert engine in ("postgresql", "mariadb", "sqlite")
            steps = polled_kit.kit_steps(
                polled_kit.PolledRequest("uji", engine, self.mode, self.party.reader, views)  # type: ignore[arg-type]
            )
        self.party.execute([step.sql for step in steps])
        if self.party.engine == "mariadb":
            # The step by hand that a kit ends with.
            self.party.run(f"alter user '{self.party.reader}'@'%' account unlock")

    def examine(self, **changed: object) -> tuple[Finding, ...]:
        ask = pg_preflight.examine if self.party.engine == "postgresql" else preflight.examine
        return ask(self.url, replace(self.expected, **changed))  # type: ignore[arg-type]

    def codes(self, **changed: object) -> dict[str, str]:
        """Code to level of what is not in order."""
        found = self.examine(**changed)
        assert [f for f in found if f.level != "ok" and not f.remedy] == [], "each finding has a remedy"
        for secret in (SEED_NIK, "SITI", "password"):
            assert secret not in str(found).replace("no password", ""), "no cell value in a finding"
        return {f.code: f.level for f in found if f.level != "ok"}


Make = Callable[..., Checked]


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Make]:
    """`make("mariadb", "outbox")`: a party of that engine with the kit of that mode in place."""
    drops: list[Callable[[], object]] = []

    def party_of(engine: str) -> AnyParty:
        match engine:
            case "sqlite":
                path = tmp_path / "partai.db"
                path.touch(mode=0o640)
                return sqlite_party(path)
            case "mariadb":
                maria: MariaDb = request.getfixturevalue("mariadb")
                name: str = request.getfixturevalue("maria_database")
                made = mysql_party(lambda: maria.connect(name), maria.url(name), name)
                drops.append(lambda: maria.run(
                    f"drop user if exists '{made.reader}'@'%';\ndrop user if exists '{made.slot}_owner'@localhost"
                ))  # fmt: skip
                return made
        server: Server = request.getfixturevalue("pg16")
        made = postgres_party(server.dsn(new_name(server, "party")))
        drops.append(lambda: drop_postgres_party(server.dsn(), made))
        return made

    def make(engine: str, mode: Mode) -> Checked:
        party = party_of(engine)
        party.run(TABLES)
        if engine == "postgresql":
            party.run("alter view v_anggota set (security_barrier)")
        tables = (
            ExpectedTable(party.base, "orang", key=(("orang_id", "orang_id"),)),
            ExpectedTable(party.base, "kerja", match=(("kerja_id", "kerja_id"),)),
        )
        columns = ("orang_id", "nik", "nama", "nama_kerja", "kerja_id")
        view = ExpectedView("anggota", party.schema, "v_anggota", ("orang_id",), columns, tables)
        asked = party.outbox({"orang": ("orang_id",), "kerja": ("kerja_id",)})
        # This one view is joined to one of them only.
        noted = tuple(replace(table, tells_gone=table.name == "kerja") for table in asked.tables)
        asked = replace(asked, tables=noted, views=((party.schema, "v_anggota"),))
        expected = Expectations(
            mode, "", "", (view,), outbox=asked if mode == "outbox" else None,
            cursor="versi" if mode == "cursor" else None, diff_every_s=300,
        )  # fmt: skip
        url = party.url
        if engine == "postgresql":
            url = make_conninfo(party.url, user=party.reader)
        elif engine == "mariadb":
            maria = request.getfixturevalue("mariadb")
            url = maria.url(party.schema, party.reader)
        made = Checked(party, mode, expected, url)
        made.install()
        return made

    yield make
    for drop in drops:
        drop()


ENGINES = ("sqlite", "mariadb", "postgresql")
MODES: tuple[Mode, ...] = ("outbox", "cursor", "diff")


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("mode", MODES)
def test_after_the_kit_there_is_nothing_to_say(make: Make, engine: str, mode: Mode) -> None:
    checked = make(engine, mode)
    assert checked.codes() == {}
    said = {f.code for f in checked.examine()}
    assert said >= {"SERVER", "CHARSET", "COLUMNS", "KEY", "PLAN", "DIFF"}
    assert ("CURSOR" in said) == (mode == "cursor")
    assert ({"NOTES", "TRIGGERS"} <= said) == (mode == "outbox")
    if engine != "sqlite":
        assert said >= {"TRANSPORT", "CLOCK", "TIME_ZONE", "READER"}


# What somebody does after an outbox kit, and what check then says; the kit, run again, mends the first ones.
# {slot}, {reader} and {i}: the names of the change table, the login, and orang's trigger for inserts.
MENDED: dict[str, dict[str, dict[str, str]]] = {
    "sqlite": {
        "drop trigger {i}": {"TRIGGER_MISSING": "error"},
        "drop trigger {i};\ncreate trigger {i} after insert on orang begin select 1; end": {
            "TRIGGER_DIFFERS": "warning"
        },
        "drop table {slot}_mark": {"OUTBOX_MISSING": "error"},
    },
    "mariadb": {
        "drop trigger {i}": {"TRIGGER_MISSING": "error"},
        "create or replace trigger {i} after insert on orang for each row begin end": {"TRIGGER_MISSING": "error"},
        "create or replace definer = {slot}_owner@localhost trigger {i} after insert on orang for each row begin end": {
            "TRIGGER_DIFFERS": "warning"
        },
        "drop procedure {slot}_pemicu": {"TRIGGERS_UNSEEN": "error"},
        "revoke delete on {slot} from {reader}": {"OUTBOX_DENIED": "error"},
        "drop user {slot}_owner@localhost": {"OWNER_MISSING": "error"},
        "drop table {slot}_mark": {"OUTBOX_MISSING": "error"},
    },
    "postgresql": {
        "drop trigger {i} on orang": {"TRIGGER_MISSING": "error"},
        "create or replace function sipol.{i}() returns trigger language plpgsql as 'begin return null; end'": {
            "TRIGGER_DIFFERS": "warning"
        },
        "drop function sipol.{slot}_prune": {"FUNCTION_MISSING": "error"},
        "grant execute on function sipol.{slot}_reopen to public": {"FUNCTION_PUBLIC": "error"},
        "revoke all on sipol.{slot}_lost from {reader}": {"OUTBOX_DENIED": "error"},
        "drop table sipol.{slot}_lost": {"OUTBOX_MISSING": "error"},
    },
}
# And these are taken back by hand.
UNDONE: dict[str, list[tuple[str, dict[str, str], str]]] = {
    "sqlite": [
        ("update {slot}_mark set lost = 2", {"NOTES_LOST": "warning"}, "update {slot}_mark set lost = 0"),
    ],
    "mariadb": [
        ("update {slot}_mark set lost = 1", {"NOTES_LOST": "warning"}, "update {slot}_mark set lost = 0"),
        ("grant select on orang to {reader}", {"BASE_TABLE_OPEN": "error"}, "revoke select on orang from {reader}"),
        ("grant select (nik) on orang to {reader}", {"BASE_TABLE_OPEN": "error"},
         "revoke select (nik) on orang from {reader}"),
        ("grant select on {schema}.* to {reader}", {"BASE_TABLE_OPEN": "error"},
         "revoke select on {schema}.* from {reader}"),
        ("grant file, process on *.* to {reader}", {"READER_TOO_POWERFUL": "error"},
         "revoke file, process on *.* from {reader}"),
        ("revoke show view on v_anggota from {reader}", {"VIEW_TEXT_HIDDEN": "warning"},
         "grant show view on v_anggota to {reader}"),
        ("grant insert on v_anggota to {reader}", {"READER_WRITES": "error"},
         "revoke insert on v_anggota from {reader}"),
        ("create view lain as select 1 as a;\ngrant select on lain to {reader}", {"TOO_MUCH_OPEN": "warning"},
         "revoke select on lain from {reader}"),
        ("create role peran_uji;\ngrant peran_uji to {reader}", {"READER_MEMBER": "error"}, "drop role peran_uji"),
        ("create procedure lain() select 1;\ngrant execute on procedure lain to {reader}", {"TOO_MUCH_OPEN": "warning"},
         "drop procedure lain"),
        ("revoke select on v_anggota from {reader}", {"VIEW_MISSING": "error"},
         "grant select on v_anggota to {reader}"),
        ("alter sql security invoker view v_anggota as select * from orang",
         {"SECURITY_INVOKER": "error", "COLUMN_MISSING": "error", "VIEW_REFUSED": "error"}, ""),
    ],
    "postgresql": [
        ("insert into sipol.{slot}_lost default values", {"NOTES_LOST": "warning"}, "delete from sipol.{slot}_lost"),
        ("alter table orang disable trigger {i}", {"TRIGGER_DISABLED": "error"},
         "alter table orang enable trigger {i}"),
        ("grant select on orang to {reader}", {"BASE_TABLE_OPEN": "error"}, "revoke select on orang from {reader}"),
        ("grant insert on v_anggota to {reader}", {"READER_WRITES": "error"},
         "revoke insert on v_anggota from {reader}"),
        ("alter role {reader} replication", {"READER_REPLICATION": "error"}, "alter role {reader} noreplication"),
        ("revoke select on v_anggota from {reader}", {"VIEW_DENIED": "error"},
         "grant select on v_anggota to {reader}"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_broken_is_found_and_the_kit_mends_it(make: Make, engine: str) -> None:
    checked = make(engine, "outbox")
    names = {
        "slot": checked.party.slot, "reader": checked.party.reader, "schema": checked.party.schema,
        "i": checked.outbox.trigger(checked.outbox.tables[0], "i"),
    }  # fmt: skip
    for statements, codes in MENDED[engine].items():
        checked.party.run(statements.format(**names))
        assert checked.codes() == codes, statements
        checked.install()
        assert checked.codes() == {}, statements
    for statements, codes, back in UNDONE[engine]:
        checked.party.run(statements.format(**names))
        assert checked.codes() == codes, statements
        checked.party.run(back.format(**names))
    only = replace(checked.outbox, tables=checked.outbox.tables[:1])
    if engine != "mariadb":
        assert checked.codes(outbox=only) == {"TRIGGER_UNUSED": "warning"}


@pytest.mark.parametrize("engine", ENGINES)
def test_notes_that_pile_up_are_told(make: Make, engine: str) -> None:
    checked = make(engine, "outbox")
    schema = "sipol." if engine == "postgresql" else ""
    old = {"sqlite": "'2020-01-01 00:00:00'", "mariadb": "'2020-01-01'", "postgresql": "'2020-01-01'"}[engine]
    checked.party.run("update orang set nama = 'C' where orang_id = 1")
    assert checked.codes() == {}
    checked.party.run(
        f"update {schema}{checked.party.slot} set dicatat = {old};\n"
        f"update {schema}{checked.party.slot}_mark set notes_max = 1"
    )
    assert checked.codes() == {"NOTES_WAIT": "warning", "NOTES_MANY": "warning"}


@pytest.mark.parametrize("engine", ENGINES)
def test_a_view_that_is_not_as_the_mapping_says_is_told(make: Make, engine: str) -> None:
    checked = make(engine, "cursor")
    (view,) = checked.expected.views

    def codes(**changed: object) -> dict[str, str]:
        return checked.codes(views=(replace(view, **changed),))  # type: ignore[arg-type]

    assert codes(columns=("orang_id", "tiada")) == {"COLUMN_MISSING": "error"}
    assert codes(key=("kerja_id",)) == {"KEY_NULL": "error"}
    checked.party.run("insert into orang values (3, '3', 'C', 1, 'aktif', 1)")
    assert codes(key=("kerja_id",)) == {"KEY_NULL": "error", "KEY_NOT_UNIQUE": "error"}
    assert codes(name="v_tiada").items() >= {"VIEW_MISSING": "error", "CURSOR_MISSING": "error"}.items()
    assert checked.codes(cursor="tiada") == {"CURSOR_MISSING": "error"}
    assert checked.codes(cursor="kerja_id") == {"CURSOR_NULL": "warning"}
    assert checked.codes(diff_every_s=200_000) == {"DIFF_RARE": "warning"}
    if engine == "mariadb":
        checked.party.run(f"grant select, show view on orang to {checked.party.reader}")
        assert codes(name="orang", columns=("nik",)) == {"NOT_A_VIEW": "error", "TOO_MUCH_OPEN": "warning"}


@pytest.mark.parametrize("engine", ["sqlite", "mariadb"])
def test_a_re_read_that_scans_a_large_table_is_told_with_the_index(make: Make, engine: str) -> None:
    checked = make(engine, "diff")
    (view,) = checked.expected.views
    rows = ", ".join(f"({n}, 'n{n}', 'X', 1, 'aktif', {n})" for n in range(10, 12_010))
    checked.party.run(f"insert into orang values {rows}")
    assert checked.codes() == {}
    lineage = (ExpectedTable(checked.party.base, "orang", key=(("nik", "nik"),)),)
    views = (replace(view, key=("nik",), lineage=lineage),)
    assert checked.codes(views=views) == {"PLAN_SCANS": "warning"}
    (found,) = (f for f in checked.examine(views=views) if f.code == "PLAN_SCANS")
    assert "create index" in found.remedy
    assert "nik" in found.remedy
    checked.party.run("create index orang_nik on orang (nik)")
    assert checked.codes(views=views) == {}


def test_a_server_that_is_away_is_one_finding(tmp_path: Path) -> None:
    expected = Expectations("diff", "", "", ())
    assert [f.code for f in preflight.examine(f"sqlite:///{tmp_path / 'tiada.db'}", expected)] == ["UNREACHABLE"]


def test_a_file_that_is_open_to_everybody_is_told(make: Make, tmp_path: Path) -> None:
    checked = make("sqlite", "diff")
    tmp_path.chmod(0o755)
    (tmp_path / "partai.db").chmod(0o646)
    assert checked.codes() == {"FILE_OPEN": "warning"}


CONFIG = """
staging: {{dsn: "{staging}"}}
parties:
  alfa:
    parpol_id: 1
    mapping: alfa.yaml
    source: {{engine: {engine}, dsn: "{url}", capture: {mode}, slot: {slot}{more}}}
"""
MAPPING = """
party: alfa
version: 1
entities:
  pengurus:
    view: {schema}.v_anggota
    key: [orang_id]
    lineage:
      - {{table: {schema}.orang, key: {{orang_id: orang_id}}}}
      - {{table: {schema}.kerja, match: {{kerja_id: kerja_id}}}}
    columns:
      kepengurusan_source_key: kerja_id
      nama: nama
      jabatan: nama_kerja
      jabatan_inti: {{const: LAINNYA}}
      jenis_kelamin: {{const: L}}
"""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("engine", ENGINES)
def test_from_a_configuration_to_green_by_the_command_line(
    make: Make, engine: str, mode: Mode, tmp_path: Path, staging_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    checked = make(engine, mode)
    more = ", cursor: {column: versi, diff_every_s: 60}" if mode == "cursor" else ""
    party = checked.party
    (tmp_path / "alfa.yaml").write_text(MAPPING.format(schema=party.schema))
    path = tmp_path / "connector.yaml"
    path.write_text(CONFIG.format(
        staging=staging_dsn, engine=engine, url=checked.url, mode=mode, slot=party.slot, more=more
    ))  # fmt: skip

    def run(*words: str) -> tuple[int, Any]:
        code = cli.run(["--config", str(path), *words, "--json"])
        said = json.loads(capsys.readouterr().out)
        return code, said["result"] or str(said["error"])

    # The kit that `make` installed is the kit that the command line prints.
    code, script = run("kit", "alfa")
    assert code == 0, script
    assert mode in script
    assert party.reader in script or engine == "sqlite"
    code, said = run("check", "alfa")
    wrong = [finding for finding in said["findings"] if finding["place"] == "alfa" and finding["level"] != "ok"]
    assert (code, wrong) == (0, [])
    code, removal = run("kit", "alfa", "--remove")
    assert code == 0
    assert removal != script or engine == "sqlite"


@pytest.mark.parametrize("version", [15, 16])
def test_an_outbox_needs_no_superuser(request: pytest.FixtureRequest, version: int) -> None:
    """Where nobody can be superuser, as with managed services, an owner of the tables who may make roles suffices."""
    server: Server = request.getfixturevalue(f"pg{version}")
    party = postgres_party(server.dsn(new_name(server, "party")))
    database = party.url.rpartition("dbname=")[2]
    dba = f"dba_{database}"
    party.run(f"create role {dba} login createrole;\ngrant all on database {database} to {dba};\n"
              f"grant all on schema public to {dba}")  # fmt: skip
    as_dba = postgres_party(make_conninfo(party.url, user=dba))
    as_dba.run(TABLES)
    before = catalogue(party)
    asked = replace(party.outbox({"orang": ("orang_id",)}), views=(("public", "v_anggota"),))
    for _ in range(2):
        as_dba.execute([step.sql for step in outbox_kit.kit_steps(asked)])
    as_dba.run("update orang set nama = 'X'")
    assert party.read(f"select count(*) from sipol.{party.slot}") == [(1,)]
    as_dba.execute([step.sql for step in outbox_kit.removal_steps(asked)])
    assert catalogue(party) == before
    with psycopg.connect(party.url, autocommit=True) as conn:
        conn.execute(f"drop owned by {dba} cascade".encode())
        conn.execute(f"drop role {dba}".encode())
    drop_postgres_party(server.dsn(), party)
