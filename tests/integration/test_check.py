"""`check` on real servers: green after the kit, and every way to break it is found, with its remedy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from connector import cli, config, pg
from connector.capture.finding import Finding
from connector.capture.postgres import preflight_log
from connector.capture.postgres.expectations import Expectations, ExpectedTable, ExpectedView
from connector.capture.postgres.kit import KitRequest, KitTable, kit_sql
from connector.capture.postgres.preflight import examine
from connector.embedded import Server
from connector.mapping import document
from connector.ops.check import check_party, check_staging
from connector.ops.kit import kit_request

ALL = pytest.mark.parametrize("source_server", [15, 16, 18], indirect=True)
SEED_NIK = "3273015512950007"

TABLES = """
create schema ekspor;
create table public.wilayah (kode text primary key, nama text);
create table public.kader (
  kader_id uuid primary key default gen_random_uuid(), nik text, nama text, kode text references public.wilayah,
  status text not null default 'aktif');
create table public.jabatan (kader_id uuid, nomor int, nama text, primary key (kader_id, nomor));
create view ekspor.v_anggota with (security_barrier) as
  select kader_id, nik, k.nama, k.kode, w.nama as wilayah
    from public.kader k left join public.wilayah w on w.kode = k.kode where status = 'aktif';
create view ekspor.v_jabatan as select kader_id, nomor, nama from public.jabatan;
insert into public.wilayah values ('3273', 'BANDUNG');
insert into public.kader (nik, nama, kode) values ('3273015512950007', 'SITI RAHMA', '3273'), ('2', 'B', null);
insert into public.jabatan select kader_id, 1, 'Ketua' from public.kader;
analyze;
"""


@dataclass(frozen=True, slots=True)
class Party:
    """A party's database with its kit in place, and what we expect of it."""

    server: Server
    dba: psycopg.Connection
    request: KitRequest
    expected: Expectations
    dsn: str

    def examine(self, **changed: object) -> tuple[Finding, ...]:
        return examine(self.dsn, replace(self.expected, **changed))  # type: ignore[arg-type]

    def codes(self, **changed: object) -> dict[str, str]:
        """Code to level of what is not in order."""
        found = self.examine(**changed)
        assert [f for f in found if f.level != "ok" and not f.remedy] == [], "each finding has a remedy"
        assert SEED_NIK not in str(found), "no cell value in a finding"
        assert "SITI" not in str(found)
        return {f.code: f.level for f in found if f.level != "ok"}


@pytest.fixture
def party(source_server: Server, source_dsn: str) -> Iterator[Party]:
    database = str(conninfo_to_dict(source_dsn)["dbname"])
    name, reader = f"sipol_{database}", f"{database}_ro"
    kader = ExpectedTable("public", "kader", key=(("kader_id", "kader_id"),))
    views = (
        ExpectedView(
            "anggota", "ekspor", "v_anggota", ("kader_id",), ("kader_id", "nik", "nama", "kode", "wilayah"),
            (kader, ExpectedTable("public", "wilayah", match=(("kode", "kode"),))),
        ),
        ExpectedView(
            "pengurus", "ekspor", "v_jabatan", ("kader_id", "nomor"), ("kader_id", "nomor", "nama"),
            (ExpectedTable("public", "jabatan", key=(("kader_id", "kader_id"), ("nomor", "nomor"))),),
        ),
    )  # fmt: skip
    expected = Expectations("pull", name, name, views)
    request = KitRequest(
        "alfa", "pull", name, name, reader, expected.tables, tuple((view.schema, view.name) for view in views)
    )
    with psycopg.connect(source_dsn, autocommit=True) as dba:
        dba.execute("set synchronous_commit = on; set jit = off")
        dba.execute(TABLES)
        dba.execute(kit_sql(request).encode())
        yield Party(source_server, dba, request, expected, source_server.dsn(database, reader))


# The servers of the tests have no limit on a slot's log, and say so.
EXPECTED_WARNINGS = {"NO_WAL_LIMIT": "warning"}


@ALL
def test_after_the_kit_there_is_no_error(party: Party) -> None:
    assert party.codes() == EXPECTED_WARNINGS
    assert {f.code for f in party.examine()} >= {
        "TRANSPORT", "SERVER", "WAL_LEVEL", "SLOT_ROOM", "READER", "REACH", "SLOT", "TRANSACTIONS", "FUNCTION",
        "TABLES", "PUBLICATION", "PEEK", "COLUMNS", "KEY", "PLAN",
    }  # fmt: skip


@ALL
def test_check_changes_nothing_and_takes_nothing(party: Party) -> None:
    party.dba.execute("insert into kader (nik) values ('9')")
    slot = "select restart_lsn, confirmed_flush_lsn from pg_replication_slots where slot_name = %s"
    before = party.dba.execute(slot, [party.request.slot]).fetchall()
    party.examine()
    assert party.dba.execute(slot, [party.request.slot]).fetchall() == before
    peek = f"select count(*) > 0 from sipol.{party.request.slot}_peek(pg_current_wal_lsn(), null)"
    assert party.dba.execute(peek.encode()).fetchone() == (True,)


# What somebody does after the kit, and what check then says. {slot} and {reader} are this party's names.
FAULTS: dict[str, tuple[str, dict[str, str]]] = {
    "slot dropped": ("select pg_drop_replication_slot('{slot}')", {"SLOT_MISSING": "error"}),
    "slot of another kind": (
        "select pg_drop_replication_slot('{slot}'); select pg_create_physical_replication_slot('{slot}')",
        {"SLOT_KIND": "error"},
    ),
    "function dropped": ("drop function sipol.{slot}_peek", {"FUNCTION_MISSING": "error"}),
    "execute revoked": (
        "revoke execute on function sipol.{slot}_confirm from {reader}",
        {"FUNCTION_DENIED": "error"},
    ),
    "schema revoked": ("revoke usage on schema sipol from {reader}", {"FUNCTION_DENIED": "error"}),
    "execute for all": ("grant execute on function sipol.{slot}_peek to public", {"FUNCTION_PUBLIC": "error"}),
    "owned by a superuser": (
        "alter function sipol.{slot}_peek owner to postgres",
        {"FUNCTION_OWNER": "error", "FUNCTION_DIFFERS": "warning"},
    ),
    "search_path loose": ("alter function sipol.{slot}_peek reset search_path", {"FUNCTION_SEARCH_PATH": "error"}),
    "invoker": ("alter function sipol.{slot}_confirm security invoker", {"FUNCTION_POWERLESS": "error"}),
    "rewritten": (
        (
            "create or replace function sipol.{slot}_confirm(upto pg_lsn) returns pg_lsn language sql security definer"
            " set search_path = pg_catalog, pg_temp as 'select upto'"
        ),
        {"FUNCTION_DIFFERS": "warning"},
    ),
    "replication": ("alter role {reader} replication", {"READER_REPLICATION": "error"}),
    "bypassrls": ("alter role {reader} bypassrls", {"READER_TOO_POWERFUL": "error"}),
    "monitor": ("grant pg_monitor to {reader}", {"READER_MEMBER": "error"}),
    "files": ("grant execute on function pg_read_file(text) to {reader}", {"READER_FUNCTION": "error"}),
    "base table": ("grant select on kader to {reader}", {"BASE_TABLE_OPEN": "error"}),
    "a column of it": ("grant select (nik) on kader to {reader}", {"BASE_TABLE_OPEN": "error"}),
    "through public": ("grant delete on kader to public", {"BASE_TABLE_OPEN": "error"}),
    "another table": ("create table lain (id int); grant select on lain to {reader}", {"TOO_MUCH_OPEN": "warning"}),
    "publication dropped": ("drop publication {slot}", {"PUBLICATION_MISSING": "error"}),
    "table not published": ("alter publication {slot} drop table kader", {"NOT_PUBLISHED": "error"}),
    "table published for nothing": (
        "create table lain (id int primary key); alter publication {slot} add table lain",
        {"PUBLISHED_UNUSED": "warning"},
    ),
    "inserts only": ("alter publication {slot} set (publish = 'insert')", {"PUBLICATION_PARTIAL": "error"}),
    "names published": (
        "alter publication {slot} set table kader (kader_id, nama), wilayah (kode), jabatan (kader_id, nomor)",
        {"COLUMN_REVEALED": "warning"},
    ),
    "key not published": (
        "alter publication {slot} set table kader (kader_id), wilayah (kode), jabatan (kader_id)",
        {"COLUMN_NOT_PUBLISHED": "error"},
    ),
    "row filter": (
        (
            "alter publication {slot} set table kader (kader_id) where (kader_id is not null), wilayah (kode),"
            " jabatan (kader_id, nomor)"
        ),
        {"ROW_FILTER": "error"},
    ),
    "primary key dropped": ("alter table jabatan drop constraint jabatan_pkey", {"NO_IDENTITY": "error"}),
    "identity full": ("alter table jabatan replica identity full", {"IDENTITY_FULL": "error"}),
    "row security": ("alter table kader enable row level security", {"ROW_SECURITY": "warning"}),
    "view dropped": ("drop view ekspor.v_jabatan", {"VIEW_MISSING": "error"}),
    "column renamed": (
        "alter view ekspor.v_jabatan rename column nama to nama_jabatan",
        {"COLUMN_MISSING": "error"},
    ),
    "select revoked": ("revoke select on ekspor.v_jabatan from {reader}", {"VIEW_DENIED": "error"}),
    "view's schema revoked": ("revoke usage on schema ekspor from {reader}", {"VIEW_DENIED": "error"}),
    "filter without barrier": (
        "alter view ekspor.v_anggota set (security_barrier = false)",
        {"NO_SECURITY_BARRIER": "warning"},
    ),
    "invoker's rights": (
        "alter view ekspor.v_jabatan set (security_invoker = true)",
        {"SECURITY_INVOKER": "error", "VIEW_REFUSED": "error"},
    ),
    "owner without rights": (
        "create role {reader}_lama; alter view ekspor.v_jabatan owner to {reader}_lama",
        {"VIEW_REFUSED": "error"},
    ),
    "another base table": (
        (
            "create table tambahan (kader_id uuid primary key); create or replace view ekspor.v_jabatan as"
            " select kader_id, nomor, nama from jabatan left join tambahan using (kader_id)"
        ),
        {"LINEAGE_INCOMPLETE": "warning"},
    ),
    "the clock": (
        (
            "create or replace view ekspor.v_jabatan as"
            " select kader_id, nomor, nama || extract(year from current_date) as nama from jabatan"
        ),
        {"TIME_DEPENDENT": "warning"},
    ),
    "doubled rows": (
        "create or replace view ekspor.v_jabatan as table jabatan union all table jabatan",
        {"KEY_NOT_UNIQUE": "error"},
    ),
    "null keys": (
        "create or replace view ekspor.v_jabatan as select kader_id, nullif(nomor, 1) as nomor, nama from jabatan",
        {"KEY_NULL": "error"},
    ),
    "key of another type": (
        (
            "drop view ekspor.v_jabatan; create view ekspor.v_jabatan as"
            " select kader_id::char(40) as kader_id, nomor, nama from jabatan;"
            " grant select on ekspor.v_jabatan to {reader}"
        ),
        {"KEY_TYPE_DIFFERS": "error"},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_and_nothing_else_is_said(party: Party, fault: str) -> None:
    done, expected = FAULTS[fault]
    party.dba.execute(done.format(slot=party.request.slot, reader=party.request.reader).encode())
    said = party.codes()
    assert said.items() >= expected.items()
    assert not {"NOT_EXAMINED", "TIMED_OUT"} & set(said)
    assert {code for code, level in said.items() if level == "error"} - set(expected) <= IMPLIED.get(fault, set())


# Faults that bring another with them.
IMPLIED: dict[str, set[str]] = {
    "primary key dropped": {"COLUMN_NOT_PUBLISHED"},
    "identity full": {"COLUMN_NOT_PUBLISHED"},
}


def test_a_superuser_as_reader_is_an_error(party: Party) -> None:
    dsn = make_conninfo(party.dsn, user="postgres")
    assert "READER_SUPERUSER" in {f.code for f in examine(dsn, party.expected) if f.level == "error"}


def test_a_server_that_is_away_is_one_finding(party: Party) -> None:
    found = examine(make_conninfo(party.dsn, host="/nowhere"), party.expected)
    assert [(f.level, f.code) for f in found] == [("error", "UNREACHABLE")]
    assert found[0].remedy


def test_a_database_that_is_not_ours_to_enter_is_unreachable(party: Party) -> None:
    found = examine(make_conninfo(party.dsn, user="tak_ada"), party.expected)
    assert [f.code for f in found] == ["UNREACHABLE"]


def test_names_alone_do_not_pass_for_the_view_they_hide(party: Party) -> None:
    """A view that is missed is told once, and the others are examined all the same."""
    views = (*party.expected.views, ExpectedView("kantor", "ekspor", "v_kantor", ("id",), ("id",)))
    assert party.codes(views=views) == {"VIEW_MISSING": "error", **EXPECTED_WARNINGS}


def test_a_long_count_is_given_up_in_time(party: Party) -> None:
    """Counting keys and planning a re-read may not hold the party's server."""
    party.dba.execute(
        "create or replace view ekspor.v_jabatan as select kader_id, nomor, nama from jabatan"
        " where (select true from pg_sleep(30))"
    )
    said = party.codes(count_timeout_s=0.1, statement_timeout_s=2.0)
    assert said.items() >= {"KEY_UNPROVEN": "warning", "TIMED_OUT": "warning"}.items()


@pytest.mark.parametrize("key", ["one", "several"])
def test_a_re_read_that_scans_a_large_table_is_told(party: Party, key: str) -> None:
    """One key without an index; and a key of several columns behind a security barrier."""
    if key == "one":
        party.dba.execute("create table besar (id int primary key, kode int not null unique, isi text)")
        party.dba.execute("create view ekspor.v as select kode + 0 as kode, isi from besar")
        columns: tuple[str, ...] = ("kode",)
    else:
        party.dba.execute("create table besar (id int, kode int, isi text, primary key (id, kode))")
        party.dba.execute(
            "create view ekspor.v with (security_barrier) as select id, kode from besar where isi is not null"
        )
        columns = ("id", "kode")
    party.dba.execute(
        "insert into besar select n, n, repeat('x', 1000) from generate_series(1, 10000) n; analyze besar"
    )
    party.dba.execute(f"grant select on ekspor.v to {party.request.reader}".encode())
    views = (*party.expected.views, ExpectedView("kantor", "ekspor", "v", columns, columns))
    found = [f for f in party.examine(views=views) if f.code == "PLAN_SCANS"]
    assert [(f.subject, f.level) for f in found] == [("ekspor.v", "warning")]
    assert "public.besar" in found[0].message


def test_lag_is_judged_by_the_party_s_limits(party: Party) -> None:
    party.dba.execute("insert into kader (nik) select n::text from generate_series(1, 1000) n")
    assert "SLOT_LAG" not in party.codes()
    assert party.codes(lag_warn_bytes=1000)["SLOT_LAG"] == "warning"
    assert party.codes(lag_warn_bytes=1000, lag_drop_bytes=1000)["SLOT_LAG"] == "error"


def test_a_long_transaction_shows_in_what_each_peek_decodes_again(
    party: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrix row 87: other sessions hide their age from the reader, the slot does not."""
    monkeypatch.setattr(preflight_log, "REDECODE_WARN_BYTES", 100_000)
    assert "LONG_TRANSACTION" not in party.codes()
    with psycopg.connect(party.server.dsn(party.dba.info.dbname)) as other:
        other.execute("insert into kader (nik) values ('8')")
        party.dba.execute("insert into kader (nik) select n::text from generate_series(1, 2000) n")
        party.dba.execute(f"select sipol.{party.request.slot}_confirm(pg_current_wal_flush_lsn())".encode())
        assert party.codes()["LONG_TRANSACTION"] == "warning"


@pytest.mark.parametrize("major", [15, 18])
def test_a_slot_that_the_server_gave_up_is_lost_with_its_remedy(
    start_server: Callable[..., Server], major: int
) -> None:
    """Matrix rows 16 and 91: `lost` is told as such, by check and by the kit, never mended silently."""
    small = {"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}
    server = start_server(major, f"small{major}", small)
    request = KitRequest(
        "alfa",
        "pull",
        "sipol_alfa",
        "sipol_alfa",
        "sipol_ro",
        (KitTable("public", "kader"),),
        (("ekspor", "v_anggota"),),
    )
    expected = Expectations("pull", "sipol_alfa", "sipol_alfa", ())
    with psycopg.connect(server.dsn(), autocommit=True) as dba:
        dba.execute(TABLES)
        dba.execute(kit_sql(request).encode())
        assert "WAL_LIMIT_LOW" in {f.code for f in examine(server.dsn(user="sipol_ro"), expected)}
        lost = "select wal_status = 'lost' from pg_replication_slots"
        for _ in range(20):
            dba.execute("insert into kader (nik) values ('1')")
            dba.execute("select pg_switch_wal()")
            dba.execute("checkpoint")
            if dba.execute(lost).fetchone() == (True,):
                break
        found = {f.code: f for f in examine(server.dsn(user="sipol_ro"), expected)}
        assert found["SLOT_LOST"].level == "error"
        assert "resync" in found["SLOT_LOST"].remedy
        with pytest.raises(psycopg.errors.RaiseException) as caught:
            dba.execute(kit_sql(request).encode())
        assert "[SLOT_LOST]" in (caught.value.diag.message_detail or "")


@ALL
def test_a_stream_reader_is_told_what_it_could_take(party: Party) -> None:
    party.dba.execute(f"alter role {party.request.reader} replication".encode())
    party.dba.execute("create publication rahasia for table wilayah")
    said = party.codes(mode="stream")
    assert said["NOT_A_RELAY"] == "warning"
    version = party.dba.info.server_version
    floor = {15: 19, 16: 15, 17: 11, 18: 6}[version // 10000]
    assert ("CVE_2026_6471" in said) == (version % 10000 < floor)
    party.dba.execute(f"alter role {party.request.reader} noreplication".encode())
    assert party.codes(mode="stream")["READER_NO_REPLICATION"] == "error"


@pytest.mark.parametrize(
    ("version", "old"), [(180003, True), (180004, False), (170009, True), (160014, False), (190000, False)]
)
def test_a_libpq_that_a_server_can_overrun_is_known_by_its_version(version: int, old: bool) -> None:
    assert bool(pg.libpq_too_old(version)) == old


# ------------------------------------------------------------------------------------------------- staging


def test_a_migrated_staging_has_no_error(staging_dsn: str) -> None:
    found = check_staging(staging_dsn)
    assert [f for f in found if f.level == "error"] == []
    # The tests' servers are fast, not safe.
    assert {f.code for f in found} >= {"STAGING_SERVER", "STAGING_SCHEMA", "STAGING_ROLE", "STAGING_FSYNC"}


def test_a_staging_without_schema_is_told_to_migrate(source_dsn: str) -> None:
    (finding,) = (f for f in check_staging(source_dsn) if f.level == "error")
    assert finding.code == "STAGING_SCHEMA"
    assert "connector migrate" in finding.remedy


@pytest.mark.parametrize("source_server", [15], indirect=True)
def test_a_staging_server_that_is_too_old_is_told_so(source_dsn: str) -> None:
    assert [f.code for f in check_staging(source_dsn)] == ["STAGING_TOO_OLD"]


def test_a_staging_that_is_away_is_one_finding() -> None:
    assert [f.code for f in check_staging("host=/nowhere")] == ["STAGING_UNREACHABLE"]


def test_a_staging_role_that_may_not_write_is_told_so(staging_dsn: str) -> None:
    name = f"lemah_{conninfo_to_dict(staging_dsn)['dbname']}"
    with psycopg.connect(staging_dsn, autocommit=True) as conn:
        conn.execute(f"create role {name} login; grant usage on schema connector, staging, audit to {name}".encode())
        conn.execute(f"grant select on connector.migration to {name}".encode())
        found = {f.code: f for f in check_staging(make_conninfo(staging_dsn, user=name))}
        conn.execute(f"drop owned by {name}; drop role {name}".encode())
    assert found["STAGING_DENIED"].level == "error"
    assert found["STAGING_NOT_OWNER"].level == "error"
    assert found["STAGING_DENIED"].remedy


# ------------------------------------------------------------------------------------------------- command line

MAPPING = """
party: alfa
version: 1
entities:
  rekening:
    view: ekspor.v_rekening
    key: [id]
    lineage:
      - {table: public.rekening, key: {id: id}}
    columns:
      tingkat:        tingkat
      kode_wilayah:   {from: wilayah, region: kemendagri}
      nama_bank:      bank
      nomor_rekening: nomor
      atas_nama:      nama
"""

CONFIG = """
staging:
  dsn: {staging}
parties:
  alfa:
    parpol_id: 1
    mapping: alfa.yaml
    source: {{engine: postgresql, dsn: "{party}", capture: pull, slot: {slot}, publication: {slot}}}
"""


@dataclass(frozen=True, slots=True)
class CommandLine:
    """A folder with a configuration and a mapping, and the party's DBA."""

    config: Path
    dba: psycopg.Connection
    capture: pytest.CaptureFixture[str]

    def run(self, *words: str) -> tuple[int, dict[str, object]]:
        """Exit code and envelope."""
        code = cli.run(["--config", str(self.config), *words, "--json"])
        return code, json.loads(self.capture.readouterr().out)


@pytest.fixture
def command_line(
    source_dsn: str, staging_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Iterator[CommandLine]:
    database = conninfo_to_dict(source_dsn)["dbname"]
    dsn = make_conninfo(source_dsn, user=f"{database}_ro")
    (tmp_path / "alfa.yaml").write_text(MAPPING)
    path = tmp_path / "connector.yaml"
    path.write_text(CONFIG.format(staging=staging_dsn, party=dsn, slot=f"sipol_{database}"))
    with psycopg.connect(source_dsn, autocommit=True) as dba:
        dba.execute(
            "create schema ekspor;"
            " create table rekening (id int primary key, tingkat text, wilayah text, bank text, nomor text, nama text);"
            " create view ekspor.v_rekening as select * from rekening"
        )
        yield CommandLine(path, dba, capsys)


def test_from_nothing_to_green_by_the_command_line(command_line: CommandLine) -> None:
    """kit, psql, check: exit 3 while the reader does not exist, 1 while something is wrong, 0 when it is right."""
    code, said = command_line.run("check")
    assert (code, said["ok"]) == (3, False)
    code, said = command_line.run("kit", "alfa")
    assert code == 0
    script = str(said["result"])
    command_line.dba.execute(script.encode())
    code, said = command_line.run("check", "alfa")
    assert (code, said["ok"], said["error"]) == (0, True, None), said
    command_line.dba.execute("drop view ekspor.v_rekening")
    code, said = command_line.run("check")
    assert (code, said["ok"]) == (1, False)
    result = said["result"]
    assert isinstance(result, dict)
    errors = [finding for finding in result["findings"] if finding["level"] == "error"]
    assert [(finding["place"], finding["code"]) for finding in errors] == [("alfa", "VIEW_MISSING")]
    code, said = command_line.run("kit", "alfa", "--remove")
    assert code == 0
    command_line.dba.execute(str(said["result"]).encode())
    assert command_line.run("check", "alfa")[0] == 3


def test_the_kit_s_sql_is_all_that_stands_on_stdout(
    command_line: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["--config", str(command_line.config), "kit", "alfa"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("-- Sipol connector: kit for party alfa, mode pull.")
    command_line.dba.execute(out.encode())


@pytest.mark.parametrize("side", ["publisher", "subscriber"])
def test_a_relay_s_scripts_are_printed_for_each_side(command_line: CommandLine, side: str) -> None:
    code, said = command_line.run("kit", "alfa", "--relay", side)
    assert code == 0
    assert "relay" in str(said["result"])
    code, removal = command_line.run("kit", "alfa", "--relay", side, "--remove")
    assert code == 0
    assert removal["result"] != said["result"]


def test_a_mapping_without_lineage_needs_a_login_before_its_kit(
    command_line: CommandLine, capsys: pytest.CaptureFixture[str]
) -> None:
    """The base tables are read off the views' definitions, which any login can; the kit for `diff` makes one."""
    path = command_line.config.parent / "alfa.yaml"
    path.write_text(MAPPING.replace("    lineage:\n      - {table: public.rekening, key: {id: id}}\n", ""))
    code, said = command_line.run("kit", "alfa")
    assert code == 2
    assert "no lineage for rekening" in str(said["error"])
    assert "--mode diff" in str(said["error"])
    code, said = command_line.run("lineage", "alfa")
    assert (code, said["ok"]) == (3, False)
    for mode in (["--mode", "diff"], []):
        code, said = command_line.run("kit", "alfa", *mode)
        assert code == 0, said
        command_line.dba.execute(str(said["result"]).encode())
    code, said = command_line.run("check", "alfa")
    assert (code, said["error"]) == (0, None), said
    code, said = command_line.run("lineage", "alfa")
    assert code == 0
    assert isinstance(said["result"], dict)
    (entity,) = said["result"]["entities"]
    (table,) = entity["tables"]
    assert (table["table"], table["path"], table["columns"]) == ("public.rekening", "key", {"id": "id"})
    assert table["by"] == "derived"
    assert cli.run(["--config", str(command_line.config), "lineage", "alfa"]) == 0
    out = capsys.readouterr().out
    assert "rekening  public.rekening  key   id = id                    derived" in out
    assert "└─ public.rekening  ── id ──▶ key id" in out
    assert out.rstrip().endswith("alfa: 1 by key, 0 by match, 0 without a path")


def test_a_party_that_does_not_exist_is_a_usage_error(command_line: CommandLine) -> None:
    assert command_line.run("check", "gamma")[0] == 2
    assert command_line.run("kit", "gamma")[0] == 2


def test_one_party_s_broken_mapping_does_not_stop_the_others(command_line: CommandLine) -> None:
    (command_line.config.parent / "alfa.yaml").write_text("party: alfa\n")
    code, said = command_line.run("check")
    assert code == 1
    assert "UNUSABLE" in str(said["result"])
    assert command_line.run("check", "alfa")[0] == 2


# The checkout's: its paths lead to the mappings beside it.
EXAMPLE = Path(__file__).parents[2] / "config" / "connector.yaml"
# Without its settings beta's profile is one row of nothing.
FIRST_ROWS = {"alfa": "select 1", "beta": "insert into settings (name, value) values ('party_code', 'beta')"}


@pytest.mark.parametrize("name", FIRST_ROWS)
def test_the_example_parties_pass(name: str, source_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example configuration's parties: kit from their mappings, then no error in check."""
    database = str(conninfo_to_dict(source_dsn)["dbname"])
    monkeypatch.setenv(f"{name.upper()}_DSN", make_conninfo(source_dsn, user=f"{database}_ro"))
    found = config.load(EXAMPLE, check_secrets=False).party(name)
    party = replace(found, source=replace(found.source, slot=f"sipol_{database}", publication=f"sipol_{database}"))
    with psycopg.connect(source_dsn, autocommit=True) as dba:
        dba.execute((resources.files("connector.demo") / "parties" / f"{name}.sql").read_text().encode())
        dba.execute(FIRST_ROWS[name].encode())
        dba.execute(kit_sql(kit_request(party, document.load(party.mapping), "pull")).encode())
    assert [finding for finding in check_party(party) if finding.level == "error"] == []
