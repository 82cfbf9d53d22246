"""The staging schema: how it comes to be, and what it refuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

from connector.embedded import Server
from connector.errors import StagingError, StagingIncompatible
from connector.mapping.contract import ENTITIES
from connector.staging import migrate, session
from tests.conftest import drop_database, new_database

BOOKKEEPING = (
    "indikasi", "row_hash", "mapping_version", "sync_batch_id", "source_ts", "read_position",
    "staged_at", "dihapus_pada", "alasan_hapus",
)  # fmt: skip


@pytest.fixture
def empty_dsn(staging_server: Server) -> Iterator[str]:
    name = new_database(staging_server, "empty")
    yield staging_server.dsn(name)
    drop_database(staging_server, name)


@pytest.fixture(scope="module")
def shared(staging_server: Server, staging_template: str) -> Iterator[psycopg.Connection]:
    name = new_database(staging_server, "schema", staging_template)
    with psycopg.connect(staging_server.dsn(name), autocommit=True) as conn:
        yield conn
    drop_database(staging_server, name)


@pytest.fixture
def staging(shared: psycopg.Connection) -> Iterator[psycopg.Connection]:
    """A session inside a transaction that is rolled back: what a test does to the schema does not stay."""
    with shared.transaction(force_rollback=True):
        yield shared


def test_an_empty_database_is_brought_to_the_program_s_version(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        assert migrate.version(conn) == 0
        applied = migrate.apply(conn)
        assert [one.version for one in applied if one.version] == list(range(1, migrate.expected() + 1))
        assert migrate.version(conn) == migrate.expected()


def test_a_session_with_a_pinned_search_path_can_migrate(empty_dsn: str) -> None:
    conn = session.connect(empty_dsn)
    migrate.apply(conn)
    migrate.require(conn)
    conn.close()


def test_migrating_twice_changes_nothing(staging_dsn: str) -> None:
    with psycopg.connect(staging_dsn) as conn:
        assert migrate.apply(conn) == []


def test_two_programs_that_migrate_at_once_apply_each_file_once(empty_dsn: str) -> None:
    applied: list[migrate.Applied] = []

    def run() -> None:
        with psycopg.connect(empty_dsn, autocommit=True) as conn:
            applied.extend(migrate.apply(conn))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(one.version for one in applied if one.version) == list(range(1, migrate.expected() + 1))
    assert len({one.name for one in applied}) == len(applied)


def test_a_migration_that_fails_leaves_nothing_behind(staging_dsn: str) -> None:
    bad = migrate.Migration(migrate.expected() + 1, "bad", b"create table staging.half (a int); select 1 / 0;")
    with psycopg.connect(staging_dsn, autocommit=True) as conn:
        with pytest.raises(StagingError, match="22012"):
            migrate.apply(conn, [*migrate.known(), bad])
        assert migrate.version(conn) == migrate.expected()
        assert conn.execute("select to_regclass('staging.half')").fetchone() == (None,)


def test_a_database_newer_than_the_program_is_refused(staging_dsn: str) -> None:
    with psycopg.connect(staging_dsn, autocommit=True) as conn:
        conn.execute(
            "insert into connector.migration (version, name, sha256) values (%s, 'later', sha256(''))",
            (migrate.expected() + 1,),
        )
        for call in (migrate.apply, migrate.require):
            with pytest.raises(StagingIncompatible) as caught:
                call(conn)
            assert "newer connector" in caught.value.hint


def test_an_edited_migration_is_refused(staging_dsn: str) -> None:
    with psycopg.connect(staging_dsn, autocommit=True) as conn:
        conn.execute("update connector.migration set sha256 = sha256('') where version = 2")
        with pytest.raises(StagingIncompatible, match="0002_staging differs"):
            migrate.apply(conn)


def test_an_older_database_is_told_to_migrate(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn, pytest.raises(StagingIncompatible) as caught:
        migrate.require(conn)
    assert caught.value.hint == "Run: connector migrate"


def test_a_server_without_guarded_casts_is_refused(pg15: Server) -> None:
    with psycopg.connect(pg15.dsn(), autocommit=True) as conn:
        for call in (migrate.apply, migrate.require):
            with pytest.raises(StagingIncompatible, match="PostgreSQL 15"):
                call(conn)


def test_the_schema_stands_on_the_newest_server_too(pg18: Server) -> None:
    name = new_database(pg18, "newest")
    with psycopg.connect(pg18.dsn(name), autocommit=True) as conn:
        migrate.apply(conn)
        migrate.require(conn)
    drop_database(pg18, name)


def test_files_are_numbered_without_a_gap(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("select 1")
    (tmp_path / "0003_c.sql").write_text("select 1")
    with pytest.raises(AssertionError, match="missing"):
        migrate.known(tmp_path)


@pytest.mark.usefixtures("staging_template")
def test_an_owner_who_is_no_superuser_can_migrate(staging_server: Server) -> None:
    """Role sipol_reader exists already in this cluster (the template made it): no right to create roles is needed."""
    name = new_database(staging_server, "owned")
    with psycopg.connect(staging_server.dsn(name), autocommit=True) as admin:
        admin.execute("create role plain_owner nosuperuser nocreaterole")
        try:
            admin.execute(sql.SQL("alter database {} owner to plain_owner").format(sql.Identifier(name)))
            admin.execute("set role plain_owner")
            migrate.apply(admin)
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table entry"):
                admin.execute("update audit.entry set body = ''")
            admin.execute("reset role")
        finally:
            drop_database(staging_server, name)
            with psycopg.connect(staging_server.dsn(), autocommit=True) as again:
                again.execute("drop role plain_owner")


def test_a_role_that_may_not_create_schemas_is_told_so(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        conn.execute("create role bystander")
        try:
            conn.execute("set role bystander")
            with pytest.raises(StagingIncompatible) as caught:
                migrate.apply(conn)
            assert "owner" in caught.value.hint
        finally:
            conn.execute("reset role")
            conn.execute("drop role bystander")


@pytest.mark.parametrize("entity", sorted(ENTITIES))
def test_a_core_table_has_the_contract_s_columns_and_the_bookkeeping(staging: psycopg.Connection, entity: str) -> None:
    rows = staging.execute(
        """
        select attname, format_type(atttypid, atttypmod), attnotnull
        from pg_attribute where attrelid = ('staging.' || %s)::regclass and attnum > 0 order by attnum
        """,
        (entity,),
    ).fetchall()
    names = [row[0] for row in rows]
    contract = [column.name for column in ENTITIES[entity].columns]
    extra = ["nik_hmac"] if entity == "anggota" else []
    assert names == ["parpol_id", "source_key", *contract, *extra, *BOOKKEEPING]
    types = {name: (kind, required) for name, kind, required in rows}
    for column in ENTITIES[entity].columns:
        kind = column.sql_type.replace("varchar", "character varying").replace("char(", "character(")
        assert types[column.name][0] == kind.replace("character varying(", "character varying(")
        assert column.required or not types[column.name][1], f"{column.name}: the program lets null through"


@pytest.mark.parametrize("entity", sorted(ENTITIES))
def test_sipol_sees_live_rows_with_every_contract_column(staging: psycopg.Connection, entity: str) -> None:
    columns = staging.execute(
        "select array_agg(attname::text order by attnum) from pg_attribute"
        " where attrelid = ('sipol.' || %s)::regclass and attnum > 0",
        (entity,),
    ).fetchone()
    contract = [column.name for column in ENTITIES[entity].columns]
    extra = ["nik_hmac"] if entity == "anggota" else []
    assert columns == (["parpol_id", "source_key", *contract, *extra, "indikasi"],)


def test_a_deleted_row_leaves_sipol_s_view(staging: psycopg.Connection) -> None:
    add_board(staging, "a")
    add_board(staging, "b")
    staging.execute("update staging.kepengurusan set dihapus_pada = now() where source_key = 'b'")
    assert staging.execute("select source_key from sipol.kepengurusan").fetchall() == [("a",)]


def test_a_core_table_has_no_index_that_would_break_hot_updates(staging: psycopg.Connection) -> None:
    found = staging.execute(
        """
        select c.relname, count(*), bool_and(i.indisprimary)
        from pg_index i join pg_class c on c.oid = i.indrelid
        where c.relnamespace = 'staging'::regnamespace and c.relkind = 'p' group by c.relname
        """
    ).fetchall()
    assert sorted(found) == [(name, 1, True) for name in sorted(ENTITIES)]


def test_a_row_of_an_unknown_party_has_no_place(staging: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="no partition"):
        staging.execute(BOARD, {"key": "a", "level": "PUSAT", "region": None})


def test_a_code_outside_the_domain_is_refused_by_the_database_too(staging: psycopg.Connection) -> None:
    with pytest.raises(psycopg.errors.CheckViolation, match="tingkat_check"), staging.transaction():
        add_board(staging, "a", level="DUSUN")
    with pytest.raises(psycopg.errors.CheckViolation, match="wilayah_sesuai_tingkat"), staging.transaction():
        add_board(staging, "b", level="PROVINSI", region=None)


BATCH = """
insert into staging.sync_batch
       (party, parpol_id, entity, kind, signalled, read, inserted, deleted, absent, started_at, ended_at)
values ('alfa', 1, 'anggota', %(kind)s, %(signalled)s, %(read)s, %(inserted)s, %(deleted)s, 0, now(), now())
"""


@pytest.mark.parametrize(
    ("kind", "signalled", "read", "inserted", "deleted"),
    [("signals", 3, 2, 1, 1), ("signals", 4, 2, 2, 1), ("copy", 0, 2, 3, 0), ("signals", 0, -1, -1, 1)],
)
def test_a_batch_that_does_not_balance_is_refused(
    staging: psycopg.Connection, kind: str, signalled: int, read: int, inserted: int, deleted: int
) -> None:
    facts = {"kind": kind, "signalled": signalled, "read": read, "inserted": inserted, "deleted": deleted}
    with pytest.raises(psycopg.errors.CheckViolation):
        staging.execute(BATCH, facts)


def test_a_batch_that_balances_is_kept(staging: psycopg.Connection) -> None:
    staging.execute(BATCH, {"kind": "signals", "signalled": 3, "read": 2, "inserted": 2, "deleted": 1})
    staging.execute(BATCH, {"kind": "copy", "signalled": 0, "read": 2, "inserted": 2, "deleted": 0})


@pytest.mark.parametrize(
    "statement",
    [
        "update audit.entry set body = 'x'",
        "delete from audit.entry",
        "truncate audit.entry",
        "delete from audit.head",
        "truncate audit.head",
    ],
)
@pytest.mark.parametrize("replication_role", ["origin", "replica"])
def test_the_audit_log_is_append_only_even_for_a_superuser(
    staging: psycopg.Connection, statement: str, replication_role: str
) -> None:
    staging.execute(
        "insert into audit.entry (party, seq, body, prev_hash, hash) values ('alfa', 1, 'a', '', sha256('a'))"
    )
    staging.execute(sql.SQL("set local session_replication_role = {}").format(sql.Literal(replication_role)))
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="append-only") as caught:
        staging.execute(statement.encode())
    assert "connector audit verify" in (caught.value.diag.message_hint or "")


def test_a_sipol_reader_reads_the_views_and_the_feed_and_nothing_else(staging: psycopg.Connection) -> None:
    staging.execute("set local role sipol_reader")
    for entity in ENTITIES:
        staging.execute(sql.SQL("select * from sipol.{}").format(sql.Identifier(entity)))
    staging.execute("select * from sipol.perubahan()")
    staging.execute("select sipol.perubahan_kini()")
    for statement in (
        "select * from staging.anggota",
        "select * from staging.karantina",
        "select * from staging.ref_wilayah",
        "select * from connector.journal",
        "select * from connector.party",
        "select connector.prune_journal('1 day')",
        "select * from audit.entry",
        "delete from sipol.anggota",
        "create table sipol.mine (a int)",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege), staging.transaction():
            staging.execute(statement.encode())


BOARD = """
insert into staging.kepengurusan (parpol_id, source_key, tingkat, kode_wilayah, nomor_sk, tanggal_sk, status,
                                  row_hash, mapping_version, sync_batch_id, read_position, staged_at)
values (7, %(key)s, %(level)s, %(region)s, 'SK-1', '2026-01-01', 'AKTIF', '', '1', 1, 1, now())
"""


def add_board(conn: psycopg.Connection, key: str, *, level: str = "PUSAT", region: str | None = None) -> None:
    conn.execute(
        "create table if not exists staging.kepengurusan_7 partition of staging.kepengurusan for values in (7)"
    )
    conn.execute(BOARD, {"key": key, "level": level, "region": region})
