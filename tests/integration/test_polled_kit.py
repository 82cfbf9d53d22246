"""The kit of the modes that only read views, on real servers: what it opens, what stays shut, and that it goes away."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pymysql
import pytest
from catalogues import catalogue
from engines import AnyParty, drop_postgres_party, mysql_party, postgres_party, sqlite_party
from mariadb import MariaDb
from workbench import new_name

from connector.capture.polling.kit import PolledRequest, heading, kit_steps, removal_steps
from connector.capture.sqltext import script
from connector.embedded import Server
from connector.errors import UsageError

TABLES = """
create table orang (a int primary key, isi varchar(20));
create table rahasia (a int primary key, isi varchar(20));
create view v_orang as select a, isi from orang;
insert into orang values (1, 'x')
"""


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def party(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyParty]:
    match request.param:
        case "sqlite":
            made = sqlite_party(tmp_path / "partai.db")
        case "mariadb":
            maria: MariaDb = request.getfixturevalue("mariadb")
            database: str = request.getfixturevalue("maria_database")
            made = mysql_party(lambda: maria.connect(database), maria.url(database), database)
        case _:
            server: Server = request.getfixturevalue("pg16")
            made = postgres_party(server.dsn(new_name(server, "party")))
            made.run(TABLES)
            yield made
            drop_postgres_party(server.dsn(), made)
            return
    made.run(TABLES)
    yield made


def request_of(party: AnyParty) -> PolledRequest:
    assert party.engine in ("postgresql", "mariadb", "sqlite")
    return PolledRequest("uji", party.engine, "diff", party.reader, ((party.schema, "v_orang"),))  # type: ignore[arg-type]


def test_a_second_run_changes_nothing_and_the_removal_leaves_nothing(party: AnyParty) -> None:
    request = request_of(party)
    before = catalogue(party)
    party.execute([step.sql for step in kit_steps(request)])
    once = catalogue(party)
    party.execute([step.sql for step in kit_steps(request)])
    assert catalogue(party) == once
    assert (once == before) == (party.engine == "sqlite")
    for _ in range(2):
        party.execute([step.sql for step in removal_steps(request)])
        assert catalogue(party) == before


def test_the_scripts_run_in_each_engine_s_own_client(party: AnyParty, request: pytest.FixtureRequest) -> None:
    asked = request_of(party)
    server: Server = request.getfixturevalue("pg16")
    command = {
        "sqlite": ["sqlite3", party.url.removeprefix("sqlite:///")],
        "mariadb": ["mariadb", "--user=root", party.schema],
        "postgresql": [str(server.binaries / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", party.url],
    }[party.engine]
    if party.engine == "mariadb":
        maria: MariaDb = request.getfixturevalue("mariadb")
        command.append(f"--socket={maria.socket}")
    for remove, steps in ((False, kit_steps(asked)), (True, removal_steps(asked))):
        text = script(steps, asked.engine, heading(asked, remove=remove))
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert b"NOT OK" not in done.stdout


def test_on_postgresql_the_reader_reads_the_view_and_nothing_else(pg16: Server) -> None:
    made = postgres_party(pg16.dsn(new_name(pg16, "party")))
    made.run(TABLES)
    made.execute([step.sql for step in kit_steps(request_of(made))])
    with psycopg.connect(made.url, user=made.reader, autocommit=True) as conn:
        assert conn.execute("select a, isi from v_orang").fetchall() == [(1, "x")]
        for refused in ("select * from orang", "select * from rahasia", "update v_orang set isi = ''"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(refused.encode())
    drop_postgres_party(pg16.dsn(), made)


def test_on_mariadb_nobody_comes_in_before_the_dba_says_so(mariadb: MariaDb, maria_database: str) -> None:
    made = mysql_party(lambda: mariadb.connect(maria_database), mariadb.url(maria_database), maria_database)
    made.run(TABLES)
    made.execute([step.sql for step in kit_steps(request_of(made))])
    with pytest.raises(pymysql.OperationalError) as caught:
        mariadb.connect(maria_database, made.reader)
    assert caught.value.args[0] == 4151, "locked"
    made.run(f"alter user '{made.reader}'@'%' account unlock")
    with closing(mariadb.connect(maria_database, made.reader)) as conn, conn.cursor() as cursor:
        cursor.execute("select a, isi from v_orang")
        assert list(cursor.fetchall()) == [(1, "x")]
        for refused in ("select * from orang", "select * from rahasia", "update v_orang set isi = ''"):
            with pytest.raises(pymysql.OperationalError):
                cursor.execute(refused)
    made.execute([step.sql for step in removal_steps(request_of(made))])


def test_on_mariadb_an_account_that_was_there_before_stays(mariadb: MariaDb, maria_database: str) -> None:
    made = mysql_party(lambda: mariadb.connect(maria_database), mariadb.url(maria_database), maria_database)
    made.run(TABLES)
    made.run(f"create user '{made.reader}'@'%';\ngrant select on rahasia to '{made.reader}'@'%'")
    before = catalogue(made)
    for _ in range(2):
        made.execute([step.sql for step in kit_steps(request_of(made))])
        made.execute([step.sql for step in removal_steps(request_of(made))])
        assert catalogue(made) == before
    made.run(f"drop user '{made.reader}'@'%'")


@pytest.mark.parametrize("attribute", ["superuser", "replication", "in role pg_read_all_data"])
def test_on_postgresql_a_reader_that_sees_more_is_refused(pg16: Server, attribute: str) -> None:
    made = postgres_party(pg16.dsn(new_name(pg16, "party")))
    made.run(TABLES)
    made.run(f"create role {made.reader} login {attribute}")
    before = catalogue(made)
    with pytest.raises(psycopg.errors.RaiseException, match="refuses"):
        made.execute([step.sql for step in kit_steps(request_of(made))])
    assert catalogue(made) == before
    drop_postgres_party(pg16.dsn(), made)


def test_a_kit_without_a_view_and_a_name_that_ends_a_quote_are_refused() -> None:
    with pytest.raises(UsageError):
        kit_steps(PolledRequest("uji", "postgresql", "diff", "ro", ()))
    with pytest.raises(UsageError):
        kit_steps(PolledRequest("uji", "postgresql", "diff", "a$kit$b", (("public", "v"),)))
