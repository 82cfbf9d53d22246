"""The kit and the check of a MariaDB party whose binary log is followed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pymysql
import pytest
from catalogues import catalogue
from engines import AnyParty, EngineBench, mysql_party
from mariadb import MariaDb

from connector.capture.finding import Finding
from connector.capture.mysql.kit import BinlogRequest, heading, kit_steps, removal_steps
from connector.capture.mysql.preflight import examine_log
from connector.capture.postgres.expectations import ExpectedTable, ExpectedView
from connector.capture.sqltext import script
from connector.errors import UsageError

TABLES = """
create table orang (a int primary key, isi varchar(20), jenis enum('x', 'y'));
create view v_orang as select a, isi from orang;
create view v_jenis as select jenis, isi from orang;
insert into orang values (1, 'x', 'x');
"""


@pytest.fixture
def party(mariadb: MariaDb, maria_database: str) -> Iterator[AnyParty]:
    made = mysql_party(lambda: mariadb.connect(maria_database), mariadb.url(maria_database), maria_database)
    made.run(TABLES)
    yield made
    made.run(f"drop user if exists '{made.reader}'@'%'")


def request_of(party: AnyParty, *, accept_risk: bool = True) -> BinlogRequest:
    """With the risk accepted: tests of others have tables on the server too."""
    return BinlogRequest(
        "uji", "mariadb", party.reader, ((party.schema, "orang"),), ((party.schema, "v_orang"),), accept_risk
    )


def install(party: AnyParty) -> str:
    party.execute([step.sql for step in kit_steps(request_of(party))])
    party.run(f"alter user '{party.reader}'@'%' account unlock")
    return party.url.replace("root@", f"{party.reader}@")


def findings(party: AnyParty, url: str, column: str = "a") -> dict[str, Finding]:
    name = "v_orang" if column == "a" else "v_jenis"
    table = ExpectedTable(party.schema, "orang", key=((column, column),))
    found = examine_log(url, (ExpectedView("orang", party.schema, name, (column,), (column,), (table,)),))
    return {one.code: one for one in found}


def test_a_second_run_changes_nothing_and_the_removal_leaves_nothing(party: AnyParty) -> None:
    before = catalogue(party)
    for _ in range(2):
        party.execute([step.sql for step in kit_steps(request_of(party))])
    once = catalogue(party)
    party.execute([step.sql for step in kit_steps(request_of(party))])
    assert catalogue(party) == once != before
    for _ in range(2):
        party.execute([step.sql for step in removal_steps(request_of(party))])
        assert catalogue(party) == before


def test_the_scripts_run_in_the_servers_own_client(party: AnyParty, mariadb: MariaDb) -> None:
    asked = request_of(party)
    for remove, steps in ((False, kit_steps(asked)), (True, removal_steps(asked))):
        text = script(steps, "mariadb", heading(asked, remove=remove))
        command = ["mariadb", "--user=root", f"--socket={mariadb.socket}", party.schema]
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()


def test_a_server_with_other_tables_is_refused_unless_the_risk_is_accepted(party: AnyParty) -> None:
    party.run("create table rahasia (a int primary key)")
    before = catalogue(party)
    with pytest.raises(pymysql.MySQLError, match="other tables"):
        party.execute([step.sql for step in kit_steps(request_of(party, accept_risk=False))])
    assert catalogue(party) == before


@pytest.mark.parametrize(
    ("name", "value", "good"),
    [
        ("binlog_format", "MIXED", "ROW"), ("binlog_row_image", "MINIMAL", "FULL"),
        ("binlog_row_metadata", "MINIMAL", "FULL"),
    ],
)  # fmt: skip
def test_a_log_that_would_not_do_is_refused_and_found(party: AnyParty, name: str, value: str, good: str) -> None:
    url = install(party)
    assert findings(party, url)["BINLOG_SETTINGS"].level == "ok"
    try:
        party.run(f"set global {name} = {value}")
        with pytest.raises(pymysql.MySQLError, match=name):
            party.execute([step.sql for step in kit_steps(request_of(party))])
        found = findings(party, url)[name.upper()]
    finally:
        party.run(f"set global {name} = {good}")
    assert found.level == "error"
    assert good in found.remedy


def test_after_the_kit_only_what_the_log_reveals_and_this_servers_own_carelessness_is_found(party: AnyParty) -> None:
    """The tests' server syncs nothing and keeps its log for ever; the kit changes no setting."""
    found = findings(party, install(party))
    wrong = {code: one.level for code, one in found.items() if one.level != "ok"}
    careless = {"BINLOG_RETENTION", "BINLOG_NOT_SYNCED", "GTID_NOT_STRICT"}
    assert wrong == dict.fromkeys({"BINLOG_REVEALS", *careless}, "warning")
    assert found["BINLOG_SENT"].level == "ok"


def test_a_login_that_may_not_and_a_key_that_the_log_does_not_tell_are_found(party: AnyParty) -> None:
    url = install(party)
    party.run(f"grant select on v_jenis to '{party.reader}'@'%'")
    assert findings(party, url, "jenis")["KEY_NOT_IN_LOG"].level == "warning"
    party.run(f"revoke replication slave on *.* from '{party.reader}'@'%'")
    denied = findings(party, url)["BINLOG_DENIED"]
    assert denied.level == "error"
    assert "kit" in denied.remedy


def test_the_reader_reads_the_view_and_the_log_and_no_table(party: AnyParty, mariadb: MariaDb) -> None:
    install(party)
    with closing(mariadb.connect(party.schema, party.reader)) as conn, conn.cursor() as cursor:
        cursor.execute("select a, isi from v_orang")
        assert list(cursor.fetchall()) == [(1, "x")]
        for refused in ("select * from orang", "update v_orang set isi = ''", "set global binlog_format = mixed"):
            with pytest.raises(pymysql.MySQLError):
                cursor.execute(refused)


def test_names_that_end_a_quote_and_a_mapping_without_views_are_refused() -> None:
    with pytest.raises(UsageError):
        kit_steps(BinlogRequest("uji", "mariadb", "x\n", (), (("a", "b"),)))
    with pytest.raises(UsageError):
        removal_steps(BinlogRequest("uji", "mariadb", "x", (), ()))
    hostile = BinlogRequest("uji", "mysql", "a'b@%", (("s`x", "t'y\\"),), (("s`x", "v"),))
    text = script(kit_steps(hostile), "mysql", heading(hostile, remove=False))
    assert "`s``x`.`v`" in text
    assert "'a''b'@'%'" in text
    assert r"'t''y\\'" in text


def test_kit_and_check_are_verbs_for_a_stream_of_mariadb(party: AnyParty, tmp_path: Path, staging_dsn: str) -> None:
    party.run("drop view v_orang;\ndrop view v_jenis;\ndrop table orang")
    party.source = {"capture": "stream"}
    party.install(10)
    tables = tuple((party.schema, name) for name in ("orang", "papan_orang", "kerja"))
    views = tuple((party.schema, name) for name in ("v_anggota", "v_pengurus"))
    party.execute([step.sql for step in kit_steps(BinlogRequest("uji", "mariadb", party.reader, tables, views, True))])
    party.run(f"alter user '{party.reader}'@'%' account unlock")
    party.url = party.url.replace("root@", f"{party.reader}@")
    bench = EngineBench(tmp_path, staging_dsn, party)
    printed = bench.connector("kit", "uji", "--mode", "stream", "--accept-risk")
    assert printed.returncode == 0, printed.stderr
    assert "EVERYTHING THAT THIS SERVER LOGS" in printed.stdout
    assert f"grant replication slave on *.* to '{party.reader}'@'%'" in printed.stdout
    assert "revoke replication slave" in bench.connector("kit", "uji", "--remove").stdout
    checked = bench.connector("check", "uji", "--json")
    found = json.loads(checked.stdout)
    assert '"BINLOG_SENT"' in checked.stdout
    assert '"COLUMNS"' in checked.stdout, "views are looked at as for every other mode"
    assert found["ok"], checked.stdout
    assert '"error"' not in re.findall(r'"level": ?("[a-z]+")', checked.stdout), checked.stdout
    party.run(f"grant select on {party.schema}.orang to '{party.reader}'@'%'")
    assert "BASE_TABLE_OPEN" in bench.connector("check", "uji", "--json").stdout
