"""The kit on real servers: what it opens, what stays shut, and that the party's own work never suffers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
import pytest
from catalogues import POSTGRES
from psycopg import pq, sql
from psycopg.conninfo import make_conninfo

from connector.capture.postgres.kit import KitRequest, KitTable, Mode, kit_remove_sql, kit_sql
from connector.embedded import Server

ALL = pytest.mark.parametrize("source_server", [15, 16, 18], indirect=True)

TABLES = """
create schema ekspor;
create table public.kader (
  kader_id uuid primary key default gen_random_uuid(), nik text, nama text, status text not null default 'aktif');
create table public.wilayah (kode text primary key, nama text);
create table public.alamat (
  alamat_id int primary key, kader_id uuid not null references public.kader on delete cascade, kode text, jalan text);
create view ekspor.v_anggota with (security_barrier) as
  select kader_id, nik, nama from public.kader where status = 'aktif';
"""


@dataclass(frozen=True, slots=True)
class Party:
    """A party's database, its DBA's session, and the request of its kit."""

    server: Server
    database: str
    dba: psycopg.Connection
    request: KitRequest

    def as_reader(self, **more: str) -> psycopg.Connection:
        return psycopg.connect(self.dsn(**more), autocommit=True)

    def dsn(self, **more: str) -> str:
        return make_conninfo(self.server.dsn(self.database, self.request.reader), **more)


@pytest.fixture
def party(source_server: Server, source_dsn: str) -> Iterator[Party]:
    database = str(psycopg.conninfo.conninfo_to_dict(source_dsn)["dbname"])
    slot = f"sipol_{database}"
    request = KitRequest(
        party="alfa",
        mode="pull",
        slot=slot,
        publication=slot,
        reader=f"{database}_ro",
        tables=(KitTable("public", "kader", ("kader_id",)),),
        views=(("ekspor", "v_anggota"),),
    )
    with psycopg.connect(source_dsn, autocommit=True) as dba:
        # The fast servers of the tests commit without waiting for the log to be written; a peek shows what is written.
        dba.execute("set synchronous_commit = on")
        dba.execute("set jit = off")
        dba.execute(TABLES)
        yield Party(source_server, database, dba, request)


def run(conn: psycopg.Connection, script: str) -> list[list[tuple[object, ...]]]:
    """Run a script as one message, as graphical clients do; the rows of each of its queries."""
    cursor = conn.execute(script.encode())
    results = []
    while True:
        if cursor.description is not None:
            results.append(cursor.fetchall())
        if not cursor.nextset():
            return results


def refusal(conn: psycopg.Connection, request: KitRequest) -> str:
    """Run a kit that must refuse; what it says. The session is left usable."""
    with pytest.raises(psycopg.errors.RaiseException) as caught:
        run(conn, kit_sql(request))
    conn.execute("rollback")
    return caught.value.diag.message_detail or ""


def snapshot(conn: psycopg.Connection) -> list[str]:
    return [text for (text,) in conn.execute(POSTGRES.encode()).fetchall()]


WRITES = """
insert into public.kader (kader_id, nik, nama) select gen_random_uuid(), n::text, 'x' from generate_series(1, 3) n;
update public.kader set nama = 'y';
update public.kader set kader_id = gen_random_uuid() where nik = '1';
insert into public.kader (kader_id, nama) select kader_id, 'z' from public.kader
    on conflict (kader_id) do update set nama = excluded.nama;
insert into public.kader (kader_id, nama) select kader_id, 'z' from public.kader on conflict do nothing;
delete from public.kader where nik = '2';
truncate public.kader cascade;
"""


def party_writes(conn: psycopg.Connection) -> None:
    """What the party's own application does; anything that fails, fails the test."""
    for statement in WRITES.split(";")[:-1]:
        conn.execute(statement.encode())


# ------------------------------------------------------------------------------------------------- what it opens


@ALL
def test_the_reader_can_peek_and_confirm_and_read_the_view(party: Party) -> None:
    facts = run(party.dba, kit_sql(party.request))[-1]
    assert {state for _, state in facts} == {"ok"}, facts
    party.dba.execute("insert into kader (nik, nama) values ('3273015512950007', 'SITI RAHMA')")
    slot = party.request.slot
    with party.as_reader() as reader:
        peek = f"select count(*), string_agg(data, '') from sipol.{slot}_peek(pg_current_wal_lsn(), null)"
        first, again = reader.execute(peek).fetchone(), reader.execute(peek).fetchone()
        assert first == again, "a peek takes nothing"
        assert first is not None
        assert first[0] > 0
        key = reader.execute("select kader_id::text from ekspor.v_anggota").fetchone()
        assert key is not None
        assert key[0].encode() in first[1]
        assert b"SITI RAHMA" not in first[1], "the stream carries keys, not names"
        assert b"3273015512950007" not in first[1]
        end = reader.execute("select pg_current_wal_flush_lsn()").fetchone()
        assert end is not None
        moved = reader.execute(f"select sipol.{slot}_confirm(%s)", end).fetchone()
        assert moved == end
        assert reader.execute(f"select count(*) from sipol.{slot}_peek(pg_current_wal_lsn(), null)").fetchone() == (0,)


@ALL
def test_confirm_moves_neither_backward_nor_beyond_the_log(party: Party) -> None:
    run(party.dba, kit_sql(party.request))
    party.dba.execute("insert into kader (nik) values ('1')")
    confirm = f"select sipol.{party.request.slot}_confirm(%s::pg_lsn)"
    with party.as_reader() as reader:
        (end,) = reader.execute("select pg_current_wal_flush_lsn()::text").fetchone() or ("",)
        assert reader.execute(confirm, ["FFFF/0"]).fetchone() == reader.execute(confirm, [end]).fetchone()
        (stands,) = reader.execute(confirm, ["0/0"]).fetchone() or ("",)
        assert reader.execute(confirm, ["0/1"]).fetchone() == (stands,)
        assert reader.execute(confirm, [None]).fetchone() == (None,)
        party.dba.execute("insert into kader (nik) values ('2')")
        assert reader.execute(
            f"select count(*) > 0 from sipol.{party.request.slot}_peek('FFFF/0', null)"
        ).fetchone() == (True,)


def test_a_peek_without_a_bound_reads_no_backlog(party: Party) -> None:
    """For the server NULL and 0/0 mean "to the end"; here they mean next to nothing."""
    run(party.dba, kit_sql(party.request))
    for _ in range(5):
        party.dba.execute("insert into kader (nik) values ('1')")
    with party.as_reader() as reader:
        for bound in (None, "0/0"):
            query = f"select count(distinct xid::text) <= 1 from sipol.{party.request.slot}_peek(%s, null)"
            assert reader.execute(query, [bound]).fetchone() == (True,)


@ALL
def test_the_reader_can_give_its_own_slot_up_and_a_second_run_makes_it_anew(party: Party) -> None:
    """Without this a connector that cannot keep up could only watch the party's disk fill."""
    run(party.dba, kit_sql(party.request))
    slots = "select count(*) from pg_replication_slots where slot_name = %s"
    with party.as_reader() as reader:
        release = f"select sipol.{party.request.slot}_release()"
        assert reader.execute(release.encode()).fetchone() == (True,)
        assert party.dba.execute(slots, [party.request.slot]).fetchone() == (0,)
        assert reader.execute(release.encode()).fetchone() == (False,)
        with pytest.raises(psycopg.errors.UndefinedObject):
            reader.execute(f"select count(*) from sipol.{party.request.slot}_peek('FFFF/0', null)".encode())
        with pytest.raises(psycopg.errors.UndefinedObject):
            reader.execute(f"select sipol.{party.request.slot}_confirm('FFFF/0')".encode())
    party_writes(party.dba)
    run(party.dba, kit_sql(party.request))
    assert party.dba.execute(slots, [party.request.slot]).fetchone() == (1,)


def test_the_publication_carries_the_key_columns_and_no_other(party: Party) -> None:
    """A column that a view's key does not need is not published even where the mapping shows it."""
    tables = (*party.request.tables, KitTable("public", "wilayah"))
    run(party.dba, kit_sql(replace(party.request, tables=tables)))
    published = party.dba.execute("select tablename, attnames from pg_publication_tables order by 1").fetchall()
    assert published == [("kader", ["kader_id"]), ("wilayah", ["kode"])]


def test_truncate_and_a_moved_key_reach_the_stream(party: Party) -> None:
    run(party.dba, kit_sql(party.request))
    party.dba.execute("insert into kader (kader_id) values ('00000000-0000-0000-0000-000000000001')")
    party.dba.execute("update kader set kader_id = '00000000-0000-0000-0000-000000000002'")
    party.dba.execute("truncate kader cascade")
    with party.as_reader() as reader:
        rows = reader.execute(
            f"select data from sipol.{party.request.slot}_peek(pg_current_wal_lsn(), null)"
        ).fetchall()
    kinds = b"".join(data[:1] for (data,) in rows)
    assert b"U" in kinds
    assert b"T" in kinds
    (moved,) = (data for (data,) in rows if data[:1] == b"U")
    assert b"-000000000001" in moved, "the key it left"
    assert b"-000000000002" in moved, "the key it has"


# ------------------------------------------------------------------------------------------------- what stays shut


@ALL
def test_the_reader_of_a_pull_kit_can_do_nothing_else(party: Party) -> None:
    """The negative proof: each door that a REPLICATION login or a careless grant would open."""
    slot, guardian = party.request.slot, party.request.guardian
    party.dba.execute("create publication rahasia for table public.alamat")
    party.dba.execute("create schema other; create view other.v as select 1 as a")
    run(party.dba, kit_sql(party.request))
    peek, confirm = f"sipol.{slot}_peek(pg_lsn, integer)", f"sipol.{slot}_confirm"
    options = "null, null, 'proto_version', '1', 'publication_names', 'rahasia'"
    attempts = {
        "a base table": "select nama from public.kader",
        "a base table by its key": "select kader_id from public.kader",
        "another view": "select a from other.v",
        "writing through the view": "update ekspor.v_anggota set nama = 'x'",
        "another publication": f"select pg_logical_slot_peek_binary_changes('{slot}', {options})",
        "taking changes": f"select pg_logical_slot_get_binary_changes('{slot}', {options})",
        "a slot": "select pg_create_logical_replication_slot('baru', 'pgoutput')",
        "a physical slot": "select pg_create_physical_replication_slot('baru')",
        "dropping the slot": f"select pg_drop_replication_slot('{slot}')",
        "moving the slot itself": f"select pg_replication_slot_advance('{slot}', pg_current_wal_lsn())",
        "copying the slot": f"select pg_copy_logical_replication_slot('{slot}', 'baru')",
        "a file": "select pg_read_file('PG_VERSION')",
        "a folder": "select pg_ls_dir('.')",
        "the log's folder": "select pg_ls_waldir()",
        "a file's bytes": "select pg_read_binary_file('PG_VERSION')",
        "a file's age": "select pg_stat_file('PG_VERSION')",
        "a file as large object": "select lo_import('PG_VERSION')",
        "a row filter of its own": f"alter publication {slot} set (publish = 'insert')",
        "a program": "copy (select 1) to program 'true'",
        "a server file": "copy (select 1) to '/dev/null'",
        "passwords": "select rolpassword from pg_authid",
        "the guardian's role": f"set role {guardian}",
        "replacing a function": f"create or replace function {confirm}(upto pg_lsn) returns pg_lsn"
        " language sql as 'select upto'",
        "altering a function": f"alter function {peek} security invoker",
        "its search_path": f"alter function {peek} reset search_path",
        "its owner": f"alter function {peek} owner to current_user",
        "dropping a function": f"drop function {peek}",
        "a function beside them": "create function sipol.f() returns int language sql as 'select 1'",
        "a publication": "create publication baru for table public.kader",
        "the publication": f"alter publication {slot} add table public.alamat",
        "a role": "create role baru",
        "its own attribute": "alter role current_user replication",
        "a setting of the server": "alter system set wal_level = 'replica'",
        "a schema": "create schema baru",
        "other sessions": "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'postgres' limit 1",
    }
    allowed = []
    with party.as_reader() as reader:
        for what, statement in attempts.items():
            try:
                reader.execute(statement.encode())
                allowed.append(what)
            except psycopg.errors.InsufficientPrivilege:
                continue
        # This one is no error for PostgreSQL, it only grants nothing.
        reader.execute(f"grant execute on function {peek} to public".encode())
    assert allowed == []
    member = "select count(*) from pg_auth_members m join pg_roles r on r.oid = m.member where r.rolname = %s"
    assert party.dba.execute(member.encode(), [party.request.reader]).fetchone() == (0,), "in no role at all"
    granted = "select count(*) from pg_proc p, aclexplode(p.proacl) a where p.pronamespace = 'sipol'::regnamespace"
    assert party.dba.execute((granted + " and a.grantee = 0").encode()).fetchone() == (0,)


@ALL
@pytest.mark.parametrize("replication", ["database", "true"])
def test_the_walsender_and_the_base_backup_refuse_the_reader(party: Party, replication: str) -> None:
    """Neither connection opens, so no BASE_BACKUP and no START_REPLICATION can be sent."""
    run(party.dba, kit_sql(party.request))
    with pytest.raises(psycopg.OperationalError, match=r"replication|REPLICATION"):
        party.as_reader(replication=replication)


@ALL
def test_a_temporary_object_of_the_reader_cannot_stand_in_for_a_catalogue(party: Party) -> None:
    """The functions look names up in pg_catalog first, whatever the caller's search_path is."""
    run(party.dba, kit_sql(party.request))
    with party.as_reader() as reader:
        columns = "slot_name text, confirmed_flush_lsn pg_lsn, database text, plugin text"
        reader.execute(f"create temp table pg_replication_slots ({columns})".encode())
        reader.execute(
            "insert into pg_temp.pg_replication_slots values (%s, 'FFFF/0', current_database(), 'pgoutput')",
            [party.request.slot],
        )
        reader.execute("set search_path = pg_temp, pg_catalog")
        (stands,) = reader.execute(f"select sipol.{party.request.slot}_confirm('0/1')::text").fetchone() or ("",)
    assert stands != "FFFF/0"


# ------------------------------------------------------------------------------------------------- first, do no harm


@ALL
def test_the_party_writes_as_before_with_the_kit_and_after_its_removal(party: Party) -> None:
    party_writes(party.dba)
    run(party.dba, kit_sql(party.request))
    party_writes(party.dba)
    run(party.dba, kit_sql(party.request))
    party_writes(party.dba)
    run(party.dba, kit_remove_sql(party.request))
    party_writes(party.dba)


@ALL
def test_removal_leaves_the_catalogues_as_they_were(party: Party) -> None:
    before = snapshot(party.dba)
    run(party.dba, kit_sql(party.request))
    assert snapshot(party.dba) != before
    for _ in range(2):
        assert run(party.dba, kit_remove_sql(party.request))[-1] == []
        assert snapshot(party.dba) == before


@ALL
def test_a_second_run_changes_nothing(party: Party) -> None:
    run(party.dba, kit_sql(party.request))
    once = snapshot(party.dba)
    slot = "select restart_lsn, confirmed_flush_lsn, catalog_xmin from pg_replication_slots where slot_name = %s"
    stands = party.dba.execute(slot, [party.request.slot]).fetchall()
    facts = run(party.dba, kit_sql(party.request))[-1]
    assert {state for _, state in facts} == {"ok"}
    assert snapshot(party.dba) == once
    assert party.dba.execute(slot, [party.request.slot]).fetchall() == stands


def test_a_password_set_by_the_dba_survives_a_second_run(party: Party) -> None:
    run(party.dba, kit_sql(party.request))
    password = "select rolpassword from pg_authid where rolname = %s"
    assert party.dba.execute(password, [party.request.reader]).fetchone() == (None,)
    party.dba.execute(sql.SQL("alter role {} password 'rahasia'").format(sql.Identifier(party.request.reader)))
    kept = party.dba.execute(password, [party.request.reader]).fetchone()
    run(party.dba, kit_sql(party.request))
    assert party.dba.execute(password, [party.request.reader]).fetchone() == kept


@ALL
def test_a_table_without_identity_is_refused_with_its_remedy_and_the_party_is_unharmed(party: Party) -> None:
    party.dba.execute("create table public.tanpa_kunci (kader_id uuid, nik text, nama text)")
    before = snapshot(party.dba)
    request = replace(party.request, tables=(*party.request.tables, KitTable("public", "tanpa_kunci", ("kader_id",))))
    said = refusal(party.dba, request)
    assert "[NO_IDENTITY] public.tanpa_kunci" in said
    assert "add primary key" in said
    assert snapshot(party.dba) == before
    party.dba.execute("insert into tanpa_kunci values (gen_random_uuid(), '1', 'x')")
    party.dba.execute("update tanpa_kunci set nama = 'y'")
    party.dba.execute("delete from tanpa_kunci")


@ALL
def test_a_foreign_key_outside_the_identity_is_refused_and_the_remedy_mends_it(party: Party) -> None:
    """Matrix row 82: with the default identity a deleted or moved child would not say which parent it left."""
    request = replace(party.request, tables=(KitTable("public", "alamat", ("kader_id",)),))
    said = refusal(party.dba, request)
    assert "[KEY_NOT_IN_IDENTITY] public.alamat column kader_id" in said
    remedy = said.partition("Remedy: ")[2]
    assert remedy.startswith(
        "create unique index concurrently alamat_sipol_key on public.alamat (kader_id, alamat_id);"
    )
    for statement in remedy.split(";")[:2]:
        party.dba.execute(statement.encode())
    run(party.dba, kit_sql(request))
    published = party.dba.execute("select attnames from pg_publication_tables").fetchall()
    assert published == [(["alamat_id", "kader_id"],)]
    first, second = "00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"
    party.dba.execute("insert into kader (kader_id) values (%s), (%s)", [first, second])
    party.dba.execute("insert into alamat (alamat_id, kader_id) values (1, %s)", [first])
    party.dba.execute("update alamat set kader_id = %s", [second])
    party.dba.execute("delete from alamat")
    with party.as_reader() as reader:
        rows = reader.execute(
            f"select data from sipol.{party.request.slot}_peek(pg_current_wal_lsn(), null)"
        ).fetchall()
    moved = b"".join(data for (data,) in rows if data[:1] == b"U")
    deleted = b"".join(data for (data,) in rows if data[:1] == b"D")
    assert first.encode() in moved
    assert second.encode() in moved
    assert second.encode() in deleted


# what the DBA has, which table (or view) the request names, and the code and words of the refusal
UNFIT: dict[str, tuple[str, KitTable, str, str]] = {
    "unlogged": (
        "create unlogged table t (id int primary key)",
        KitTable("public", "t", ("id",)),
        "NOT_LOGGED",
        "set logged",
    ),
    "foreign": (
        (
            "create foreign data wrapper w; create server s foreign data wrapper w;"
            " create foreign table t (id int) server s"
        ),
        KitTable("public", "t", ("id",)),
        "FOREIGN_TABLE",
        "another server",
    ),
    "view": ("create view t as select 1 as id", KitTable("public", "t", ("id",)), "NOT_A_TABLE", "base tables"),
    "matview": (
        "create materialized view t as select 1 as id",
        KitTable("public", "t", ("id",)),
        "NOT_A_TABLE",
        "base tables",
    ),
    "missing": ("select 1", KitTable("public", "T", ("id",)), "TABLE_MISSING", "upper case"),
    "column": ("create table t (id int primary key)", KitTable("public", "t", ("ID",)), "KEY_COLUMN_MISSING", "ID"),
    "generated": (
        "create table t (a int, id int generated always as (a + 1) stored primary key)",
        KitTable("public", "t", ("id",)),
        "KEY_COLUMN_GENERATED",
        "ordinary column",
    ),
    "deferrable": (
        "create table t (id int primary key deferrable)",
        KitTable("public", "t", ("id",)),
        "NO_IDENTITY",
        "not deferrable",
    ),
    "nothing": (
        "create table t (id int primary key); alter table t replica identity nothing",
        KitTable("public", "t", ("id",)),
        "NO_IDENTITY",
        "replica identity using index t_pkey",
    ),
    "dropped index": (
        (
            "create table t (id int not null); create unique index u on t (id);"
            " alter table t replica identity using index u; drop index u"
        ),
        KitTable("public", "t", ("id",)),
        "NO_IDENTITY",
        "add primary key",
    ),
    "full": (
        "create table t (id int primary key, nama text); alter table t replica identity full",
        KitTable("public", "t", ("id",)),
        "IDENTITY_FULL",
        "replica identity using index t_pkey",
    ),
    "nullable": (
        "create table t (id int primary key, induk int)",
        KitTable("public", "t", ("induk",)),
        "KEY_NOT_IN_IDENTITY",
        "must be NOT NULL first",
    ),
    "usable index": (
        "create table t (id int primary key, induk int not null); create unique index u on t (induk, id)",
        KitTable("public", "t", ("induk",)),
        "KEY_NOT_IN_IDENTITY",
        "alter table public.t replica identity using index u;",
    ),
    "children": (
        "create table t (id int primary key); create table anak (primary key (id)) inherits (t)",
        KitTable("public", "t", ("id",)),
        "CHILD_TABLES",
        "each child table",
    ),
}


@pytest.mark.parametrize("source_server", [15], indirect=True)
@pytest.mark.parametrize("case", UNFIT)
def test_a_table_that_cannot_be_followed_is_refused(party: Party, case: str) -> None:
    ddl, table, code, words = UNFIT[case]
    party.dba.execute(ddl.encode())
    before = snapshot(party.dba)
    said = refusal(party.dba, replace(party.request, tables=(table,)))
    assert f"[{code}]" in said
    assert words in said
    assert snapshot(party.dba) == before


UNFIT_VIEWS: dict[str, tuple[str, str, str]] = {
    "missing": ("select 1", "VIEW_MISSING", "create it"),
    "a table": ("create table ekspor.v (id int)", "NOT_A_VIEW", "views only"),
    "materialized": ("create materialized view ekspor.v as select 1 as id", "NOT_A_VIEW", "refresh"),
    "security_invoker": (
        "create view ekspor.v with (security_invoker) as select kader_id from kader",
        "SECURITY_INVOKER",
        "security_invoker = false",
    ),
}


@pytest.mark.parametrize("case", UNFIT_VIEWS)
def test_a_view_that_cannot_be_granted_is_refused(party: Party, case: str) -> None:
    ddl, code, words = UNFIT_VIEWS[case]
    party.dba.execute(ddl.encode())
    said = refusal(party.dba, replace(party.request, views=(*party.request.views, ("ekspor", "v"))))
    assert f"[{code}] ekspor.v" in said
    assert words in said


def test_all_reasons_come_at_once(party: Party) -> None:
    party.dba.execute("create table satu (id int); create unlogged table dua (id int primary key)")
    tables = (KitTable("public", "satu", ("id",)), KitTable("public", "dua", ("id",)), KitTable("public", "tiga"))
    said = refusal(party.dba, replace(party.request, tables=tables, views=(("ekspor", "tak_ada"),)))
    assert [line.partition("]")[0] for line in said.splitlines()] == [
        "[NOT_LOGGED",
        "[NO_IDENTITY",
        "[TABLE_MISSING",
        "[VIEW_MISSING",
    ]


READERS = {
    "superuser": "READER_TOO_POWERFUL",
    "bypassrls": "READER_TOO_POWERFUL",
    "createrole": "READER_TOO_POWERFUL",
    "replication": "READER_REPLICATION",
    "in role pg_read_all_data": "READER_MEMBER",
    "in role pg_monitor": "READER_MEMBER",
    "nologin": "READER_NOLOGIN",
}


@pytest.mark.parametrize("attribute", READERS)
def test_a_role_that_sees_more_than_the_views_is_refused_as_reader(party: Party, attribute: str) -> None:
    login = "" if attribute == "nologin" else "login"
    party.dba.execute(f"create role {party.request.reader} {login} {attribute}".encode())
    assert f"[{READERS[attribute]}] {party.request.reader}" in refusal(party.dba, party.request)
    party.dba.execute(f"drop role {party.request.reader}".encode())


def test_the_dba_s_own_role_is_refused_as_reader(party: Party) -> None:
    assert "[READER_TOO_POWERFUL] postgres" in refusal(party.dba, replace(party.request, reader="postgres"))


def test_a_server_without_logical_log_is_told_what_to_do(start_server: Callable[..., Server]) -> None:
    server = start_server(16, "pg16_replica", {"wal_level": "replica"})
    with psycopg.connect(server.dsn(), autocommit=True) as dba:
        dba.execute(TABLES)
        request = KitRequest(
            "alfa", "pull", "s", "p", "r", (KitTable("public", "kader", ("kader_id",)),), (("ekspor", "v_anggota"),)
        )
        said = refusal(dba, request)
    assert "[WAL_LEVEL]" in said
    assert "alter system set wal_level = 'logical'; then restart" in said


@pytest.mark.parametrize("taken", ["slot", "publication", "role"])
def test_a_name_that_is_somebody_else_s_is_left_alone(party: Party, taken: str) -> None:
    name = party.request.slot
    make = {
        "slot": f"select pg_create_physical_replication_slot('{name}')",
        "publication": f"create publication {name} for table public.alamat",
        "role": f"create role {party.request.guardian} login",
    }[taken]
    party.dba.execute(make.encode())
    before = snapshot(party.dba)
    assert f"[{taken.upper()}_TAKEN]" in refusal(party.dba, party.request)
    if taken == "slot":
        with pytest.raises(psycopg.errors.RaiseException, match="not this kit's"):
            run(party.dba, kit_remove_sql(party.request))
        party.dba.execute("rollback")
    else:
        run(party.dba, kit_remove_sql(party.request))
    assert snapshot(party.dba) == before
    if taken == "role":
        party.dba.execute(f"drop role {party.request.guardian}".encode())


def test_a_reader_that_the_kit_did_not_make_outlives_it_without_the_grants(party: Party) -> None:
    party.dba.execute(f"create role {party.request.reader} login password 'rahasia'".encode())
    before = snapshot(party.dba)
    run(party.dba, kit_sql(party.request))
    assert run(party.dba, kit_remove_sql(party.request))[-1] == [(f"role {party.request.reader}",)]
    # CONNECT stays: the kit cannot know whether the role had it before.
    assert [line for line in snapshot(party.dba) if line not in before and "database acl" not in line] == []
    with party.as_reader() as reader, pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("select 1 from ekspor.v_anggota")


def test_a_reader_of_two_databases_stays_for_the_other_one(party: Party, source_server: Server) -> None:
    with psycopg.connect(source_server.dsn("postgres"), autocommit=True) as other:
        other.execute(f"create schema lain_{party.database}".encode())
        run(party.dba, kit_sql(party.request))
        other.execute(f"grant usage on schema lain_{party.database} to {party.request.reader}".encode())
        left = run(party.dba, kit_remove_sql(party.request))[-1]
        assert left == [(f"role {party.request.reader}",)]
        other.execute(f"drop schema lain_{party.database}".encode())
    assert run(party.dba, kit_remove_sql(party.request))[-1] == []


def test_a_slot_in_use_is_not_pulled_away(party: Party) -> None:
    run(party.dba, kit_sql(party.request))
    walsender = pq.PGconn.connect(make_conninfo(party.server.dsn(party.database), replication="database").encode())
    name = party.request.slot
    command = f"START_REPLICATION SLOT {name} LOGICAL 0/0 (proto_version '1', publication_names '{name}')"
    assert walsender.exec_(command.encode()).status == pq.ExecStatus.COPY_BOTH
    with pytest.raises(psycopg.errors.RaiseException, match="in use") as caught:
        run(party.dba, kit_remove_sql(party.request))
    assert "stop the connector" in (caught.value.diag.message_hint or "")
    party.dba.execute("rollback")
    walsender.finish()
    party.dba.execute(
        "select pg_terminate_backend(active_pid, 10000) from pg_replication_slots where slot_name = %s and active",
        [name],
    )
    assert run(party.dba, kit_remove_sql(party.request))[-1] == []


# ------------------------------------------------------------------------------------------------- shapes and names


@ALL
def test_names_with_quotes_spaces_upper_case_and_emoji_work(party: Party) -> None:
    """The party's words are quoted wherever they stand: as identifiers, texts, the plugin's option, comments."""
    schema, table, column = 'Data "Ku"', "Kader's 😀 -- $kit$", "Id \\ Kader"
    view_schema, view = "Ekspor 'x'", "V Anggota; drop"
    reader = f"Pembaca \"{party.database}\" '😀'"
    party.dba.execute(
        sql.SQL(
            "create schema {s}; create table {t} (kader_id uuid unique, nik text, nama text, {c} int not null);"
            " alter table {t} add primary key ({c}); create schema {vs}; create view {v} as select {c}, nama from {t}"
        ).format(
            s=sql.Identifier(schema), t=sql.Identifier(schema, table), c=sql.Identifier(column),
            vs=sql.Identifier(view_schema), v=sql.Identifier(view_schema, view),
        )
    )  # fmt: skip
    before = snapshot(party.dba)
    request = replace(
        party.request,
        party="alfa'; --",
        publication='Publikasi, "😀"',
        reader=reader,
        schema='Sipol "Ku"',
        tables=(KitTable(schema, table, (column,)),),
        views=((view_schema, view),),
    )
    facts = run(party.dba, kit_sql(request))[-1]
    assert {state for _, state in facts} == {"ok"}, facts
    run(party.dba, kit_sql(request))
    party.dba.execute(
        sql.SQL("insert into {} ({}) values (77)").format(sql.Identifier(schema, table), sql.Identifier(column))
    )
    with psycopg.connect(make_conninfo(party.server.dsn(party.database), user=reader), autocommit=True) as conn:
        assert conn.execute(
            sql.SQL("select {} from {}").format(sql.Identifier(column), sql.Identifier(view_schema, view))
        ).fetchall() == [(77,)]
        peek = sql.SQL("select string_agg(data, '') from {}(pg_current_wal_lsn(), null)").format(
            sql.Identifier('Sipol "Ku"', f"{request.slot}_peek")
        )
        (data,) = conn.execute(peek).fetchone() or (b"",)
        assert table.encode() in data
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute(sql.SQL("select 1 from {}").format(sql.Identifier(schema, table)))
    assert run(party.dba, kit_remove_sql(request))[-1] == []
    assert snapshot(party.dba) == before


def test_the_script_means_the_same_where_backslashes_are_escapes(party: Party) -> None:
    party.dba.execute(
        'create table public."a\\b" (id int primary key);'
        " set standard_conforming_strings = off; set escape_string_warning = off"
    )
    run(party.dba, kit_sql(replace(party.request, tables=(KitTable("public", "a\\b", ("id",)),))))
    assert party.dba.execute("select tablename from pg_publication_tables").fetchall() == [("a\\b",)]


@ALL
def test_a_partitioned_table_is_published_under_its_own_name(party: Party) -> None:
    party.dba.execute(
        "create table wil (prov int, id int, nama text, primary key (prov, id)) partition by list (prov);"
        " create table wil_1 partition of wil for values in (1);"
        " create table wil_2 (nama text, id int not null, prov int not null);"
        " alter table wil attach partition wil_2 for values in (2)"
    )
    run(party.dba, kit_sql(replace(party.request, tables=(KitTable("public", "wil", ("id",)),))))
    party.dba.execute(
        "insert into wil values (1, 1, 'a'), (2, 2, 'b'); update wil set nama = 'c';"
        " update wil set prov = 2 where prov = 1; delete from wil"
    )
    party.dba.execute(
        "create table wil_3 partition of wil for values in (3);"
        " insert into wil values (3, 3, 'd'); update wil set nama = 'e'"
    )
    assert party.dba.execute("select tablename, attnames from pg_publication_tables").fetchall() == [
        ("wil", ["prov", "id"])
    ]
    party.dba.execute("truncate wil")


def test_a_partition_without_identity_is_refused_by_its_own_name(party: Party) -> None:
    party.dba.execute(
        "create table wil (prov int, id int) partition by list (prov);"
        " create table wil_1 partition of wil for values in (1); alter table wil_1 add primary key (id);"
        " create table wil_2 partition of wil for values in (2)"
    )
    said = refusal(party.dba, replace(party.request, tables=(KitTable("public", "wil", ("id",)),)))
    assert "[NO_IDENTITY] public.wil_2" in said
    assert "wil_1" not in said


@ALL
def test_identity_full_is_published_whole_only_where_the_party_accepts_it(party: Party) -> None:
    """Every column of such a table is in the stream, and a column list would break the party's UPDATE."""
    party.dba.execute("alter table kader replica identity full")
    assert "[IDENTITY_FULL] public.kader" in refusal(party.dba, party.request)
    run(party.dba, kit_sql(replace(party.request, accept_risk=True)))
    party_writes(party.dba)
    assert party.dba.execute("select attnames from pg_publication_tables").fetchall() == [
        (["kader_id", "nik", "nama", "status"],)
    ]


def test_a_new_mapping_is_a_second_run(party: Party) -> None:
    """Tables and views are added and dropped with the mapping; the removal cleans what an older mapping granted."""
    before = snapshot(party.dba)
    run(party.dba, kit_sql(party.request))
    party.dba.execute("create view ekspor.v_wilayah as select kode from wilayah")
    newer = replace(party.request, tables=(KitTable("public", "wilayah", ("kode",)),), views=(("ekspor", "v_wilayah"),))
    run(party.dba, kit_sql(newer))
    assert party.dba.execute("select tablename from pg_publication_tables").fetchall() == [("wilayah",)]
    run(party.dba, kit_remove_sql(newer))
    party.dba.execute("drop view ekspor.v_wilayah")
    assert snapshot(party.dba) == before


# ------------------------------------------------------------------------------------------------- psql


def psql(party: Party, script: str, path: Path, *options: str) -> subprocess.CompletedProcess[str]:
    path.write_text(script, encoding="utf-8")
    command = [
        str(party.server.binaries / "psql"),
        "-X",
        *options,
        "-d",
        party.server.dsn(party.database),
        "-f",
        str(path),
    ]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={"LC_ALL": "C", "PGCLIENTENCODING": "LATIN1"}
    )


@pytest.mark.parametrize("source_server", [15], indirect=True)
@pytest.mark.parametrize("options", [("-v", "ON_ERROR_STOP=1"), ("-1",), ()])
def test_psql_runs_the_kit_and_its_removal(party: Party, tmp_path: Path, options: tuple[str, ...]) -> None:
    before = snapshot(party.dba)
    done = psql(party, kit_sql(party.request), tmp_path / "kit.sql", *options)
    assert done.returncode == 0, done.stderr
    assert "NOT OK" not in done.stdout
    assert "ERROR" not in done.stderr
    assert party.request.slot in done.stdout
    done = psql(party, kit_remove_sql(party.request), tmp_path / "remove.sql", *options)
    assert done.returncode == 0, done.stderr
    assert "(0 rows)" in done.stdout
    assert snapshot(party.dba) == before


@pytest.mark.parametrize("source_server", [15], indirect=True)
def test_a_kit_that_failed_half_way_makes_no_slot(party: Party, tmp_path: Path) -> None:
    """psql without ON_ERROR_STOP goes on after an error; a slot without a reader would fill the party's disk."""
    party.dba.execute("create table tanpa_kunci (id int)")
    before = snapshot(party.dba)
    request = replace(party.request, tables=(KitTable("public", "tanpa_kunci", ("id",)),))
    done = psql(party, kit_sql(request), tmp_path / "kit.sql")
    assert "NO_IDENTITY" in done.stderr
    assert snapshot(party.dba) == before


# ------------------------------------------------------------------------------------------------- stream


@ALL
def test_a_stream_kit_is_refused_beside_other_data_and_on_a_leaky_minor_version(party: Party) -> None:
    request = replace(party.request, mode="stream")
    party.dba.execute("create publication rahasia for table public.alamat")
    said = refusal(party.dba, request)
    assert "[OTHER_PUBLICATIONS]" in said
    assert "use mode pull" in said
    version = party.dba.info.server_version
    if version % 10000 < {15: 19, 16: 15, 17: 11, 18: 6}[version // 10000]:
        assert "[CVE_2026_6471]" in said


@ALL
def test_a_stream_kit_makes_a_replication_login_that_sees_no_table_by_sql(party: Party) -> None:
    before = snapshot(party.dba)
    request = replace(party.request, mode="stream", accept_risk=True)
    facts = run(party.dba, kit_sql(request))[-1]
    assert {state for _, state in facts} == {"ok"}, facts
    with party.as_reader() as reader, pytest.raises(psycopg.errors.InsufficientPrivilege):
        reader.execute("select 1 from kader")
    walsender = pq.PGconn.connect(party.dsn(replication="database").encode())
    assert walsender.exec_(b"IDENTIFY_SYSTEM").status == pq.ExecStatus.TUPLES_OK
    walsender.finish()
    party_writes(party.dba)
    assert run(party.dba, kit_remove_sql(party.request))[-1] == []
    assert snapshot(party.dba) == before


def test_going_from_stream_to_pull_takes_replication_away(party: Party) -> None:
    modes: tuple[Mode, ...] = ("stream", "pull")
    for mode in modes:
        run(party.dba, kit_sql(replace(party.request, mode=mode, accept_risk=True)))
        found = party.dba.execute(
            "select rolreplication from pg_roles where rolname = %s", [party.request.reader]
        ).fetchone()
        assert found == (mode == "stream",)
