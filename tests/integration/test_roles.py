"""Who may do what in staging: each role what it is for, and nothing more."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from connector.ops.check import check_staging
from connector.staging import migrate
from tests.fixtures.commandline import CommandLine

_numbers = itertools.count()
Login = Callable[[str], str]


@pytest.fixture
def login(staging_dsn: str) -> Iterator[Login]:
    """`login("sipol_ops")`: the dsn of a fresh login that is a member of that role."""
    made: list[str] = []

    def make(role: str) -> str:
        made.append(f"uji_{role}_{os.getpid()}_{next(_numbers)}")
        with psycopg.connect(staging_dsn, autocommit=True) as owner:
            member = sql.SQL("create role {} login in role {}")
            owner.execute(member.format(sql.Identifier(made[-1]), sql.Identifier(role)))
        return make_conninfo(staging_dsn, user=made[-1])

    yield make
    with psycopg.connect(staging_dsn, autocommit=True) as owner:
        for name in made:
            owner.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(name)))


def refused(dsn: str, *statements: str) -> list[str]:
    """Which of the statements are refused for want of a right; each is rolled back."""
    found = []
    with psycopg.connect(dsn) as conn:
        for statement in statements:
            try:
                conn.execute(statement.encode())
            except psycopg.errors.InsufficientPrivilege:
                found.append(statement)
            conn.rollback()
    return found


PEOPLE = tuple(f"select count(*) from staging.{name}" for name in ("anggota", "pengurus", "petugas"))
CHANGES_OF_EVIDENCE = (
    "update audit.entry set body = body", "delete from audit.entry", "truncate audit.entry",
    "delete from audit.head", "update audit.leaf set hash = hash", "delete from audit.checkpoint",
    "alter table audit.entry disable trigger all", "drop table audit.entry",
)  # fmt: skip


def test_the_daemon_s_role_adds_evidence_and_cannot_take_any_away(login: Login) -> None:
    dsn = login("sipol_daemon")
    assert refused(dsn, *CHANGES_OF_EVIDENCE) == list(CHANGES_OF_EVIDENCE)
    owners = (
        "create table staging.lain (a int)", "create table connector.lain (a int)", "drop table staging.anggota",
        "update staging.ref_ambang set minimal_anggota = 1", "delete from connector.migration",
        "create role lain", "select pg_read_file('/etc/hostname')",
    )  # fmt: skip
    assert refused(dsn, *owners) == list(owners)
    assert [finding.code for finding in check_staging(dsn) if finding.level == "error" and "FSYNC" not in finding.code
            and "ASYNC" not in finding.code] == []  # fmt: skip


def test_partitions_are_added_by_functions_that_do_nothing_else(login: Login, staging_dsn: str) -> None:
    dsn = login("sipol_daemon")
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("select connector.begin_partition('anggota', 31000::smallint)")
        conn.execute("select connector.begin_partition('anggota', 31000::smallint)")
        conn.execute("select connector.attach_partition('anggota', 31000::smallint)")
        with pytest.raises(psycopg.errors.ObjectInUse):
            conn.execute("select connector.begin_partition('anggota', 31000::smallint)")
        for other in ("ref_ambang", "karantina", "anggota_p31000", "anggota; drop table x"):
            with pytest.raises(psycopg.errors.UndefinedTable):
                conn.execute("select connector.begin_partition(%s, 1::smallint)", (other,))
    with psycopg.connect(staging_dsn, autocommit=True) as owner:
        owner.execute("drop table staging.anggota_p31000")
    assert refused(login("sipol_ops"), "select connector.begin_partition('anggota', 1::smallint)")


@pytest.mark.parametrize("role", ["sipol_auditor", "sipol_ops", "sipol_reader"])
def test_who_only_looks_sees_no_person_outside_sipol_s_views_and_changes_no_evidence(login: Login, role: str) -> None:
    dsn = login(role)
    assert refused(dsn, *PEOPLE) == list(PEOPLE)
    assert refused(dsn, *CHANGES_OF_EVIDENCE) == list(CHANGES_OF_EVIDENCE)
    writes = (
        "insert into audit.entry (party, seq, body, prev_hash, hash) values ('a', 1, '', '', '')",
        "update connector.source_offset set epoch = 0", "insert into staging.sync_batch default values",
        "select * from audit.salt",
    )  # fmt: skip
    assert refused(dsn, *writes) == list(writes)


def test_an_auditor_verifies_and_an_operator_looks_and_wishes(
    login: Login, tmp_path: Path, capsys: pytest.CaptureFixture[str], staging_dsn: str
) -> None:
    with psycopg.connect(staging_dsn, autocommit=True) as owner:
        owner.execute("insert into connector.party (party, parpol_id) values ('alfa', 1)")
        owner.execute("insert into connector.entity (party, entity) values ('alfa', 'anggota')")
    for role in ("sipol_auditor", "sipol_ops", "sipol_daemon"):
        (tmp_path / role).mkdir()
    auditor = CommandLine(tmp_path / "sipol_auditor", login("sipol_auditor"), capsys)
    auditor.json("audit", "verify")
    auditor.json("audit", "log")
    auditor.json("audit", "acts")
    auditor.json("audit", "outages")
    operator = CommandLine(tmp_path / "sipol_ops", login("sipol_ops"), capsys)
    operator.json("status")
    operator.json("quarantine", "list")
    operator.json("pause", "alfa/anggota")
    with psycopg.connect(staging_dsn) as owner:
        assert owner.execute("select verb, entity from connector.wish").fetchall() == [("pause", "anggota")]


def test_grants_are_renewed_with_each_migration_and_otherwise_left_alone(staging_dsn: str) -> None:
    with psycopg.connect(staging_dsn, autocommit=True) as owner:
        assert migrate.apply(owner) == []
        owner.execute("revoke select on connector.party from sipol_ops; delete from connector.grants")
        assert [step.name for step in migrate.apply(owner)] == ["grants"]
        query = "select has_table_privilege('sipol_ops', 'connector.party', 'select')"
        assert owner.execute(query).fetchall() == [(True,)]
