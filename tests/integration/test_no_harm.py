"""First, do no harm: the party's own writes do the same before, with and after a kit, whatever its tables are like.

Where a kit could not keep that promise it refuses, and the writes go on all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
from engines import AnyParty, drop_postgres_party, mysql_party, postgres_party, sqlite_party
from mariadb import MariaDb
from workbench import new_name

from connector.capture.mysql import kit as binlog
from connector.capture.mysql.kit import BinlogRequest
from connector.capture.mysql.stream_source import BinlogSettings, BinlogSource
from connector.capture.outbox.kit import kit_steps, removal_steps
from connector.capture.outbox.request import OutboxRequest
from connector.capture.outbox.tables import SqlChangeTable
from connector.capture.polling import kit as polled
from connector.capture.postgres.kit import KitRequest, KitTable, kit_remove_sql, kit_sql
from connector.capture.signals import Route
from connector.embedded import Server
from connector.sqldb.engines import Options

PG_TABLES = """
create table berkunci (a int primary key, isi text);
create table tanpa_kunci (a int, isi text);
create table tanpa_identitas (a int primary key, isi text);
alter table tanpa_identitas replica identity nothing;
create table identitas_penuh (a int primary key, isi text);
alter table identitas_penuh replica identity full;
create table bagian (a int, isi text, primary key (a)) partition by range (a);
create table bagian_1 partition of bagian for values from (0) to (100);
create table bagian_2 partition of bagian default;
create table anak (a int primary key, induk int references berkunci on delete cascade on update cascade, isi text);
create view v_berkunci as select a, isi from berkunci
"""
PG_NAMES = ("berkunci", "tanpa_kunci", "tanpa_identitas", "identitas_penuh", "bagian")
# Of every table {t}; the last statement leaves rows behind, so that the next round meets them.
WRITES = """
delete from {t};
insert into {t} (a, isi) values (1, 'x'), (2, 'y'), (50, null), (150, 'z');
update {t} set isi = 'satu' where a = 1;
update {t} set isi = 'semua';
update {t} set a = a + 1000 where a < 10;
update {t} set isi = 'tiada' where a = -1;
delete from {t} where a = 50;
truncate {t};
insert into {t} (a, isi) values (7, 'akhir')
"""


def writes_of(names: tuple[str, ...], truncate: str = "truncate {t}") -> list[str]:
    text = WRITES.replace("truncate {t}", truncate)
    return [line.format(t=name).strip() for name in names for line in text.split(";\n")]


def rows_of(party: AnyParty, names: tuple[str, ...]) -> list[list[tuple[Any, ...]]]:
    return [sorted(party.read(f"select a, isi from {name}"), key=str) for name in names]


def as_before(party: AnyParty, writes: list[str], names: tuple[str, ...]) -> None:
    """The party's application does its work; whatever fails, fails the test."""
    party.execute(writes)
    assert rows_of(party, names) == [[(7, "akhir")]] * len(names)


@pytest.fixture
def pg(pg16: Server) -> Iterator[AnyParty]:
    made = postgres_party(pg16.dsn(new_name(pg16, "party")))
    made.run(PG_TABLES)
    yield made
    with psycopg.connect(made.url, autocommit=True) as conn:
        conn.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots"
                     " where database = current_database()")  # fmt: skip
    drop_postgres_party(pg16.dsn(), made)


PG_WRITES = [
    *writes_of(PG_NAMES, "truncate {t} cascade"),
    "insert into berkunci values (1, 'a'), (2, 'b')",
    "insert into anak values (1, 1, 'x'), (2, 2, 'y')",
    "update berkunci set a = 11 where a = 1",
    "delete from berkunci where a = 2",
    "insert into berkunci values (11, 'q') on conflict (a) do update set isi = excluded.isi",
    (
        "merge into berkunci b using (values (11), (12)) v(a) on v.a = b.a when matched then delete"
        " when not matched then insert values (v.a, 'm')"
    ),
    "delete from berkunci where a <> 7",
    "update bagian_2 set isi = 'langsung'",
    "alter table bagian detach partition bagian_1",
    "alter table bagian attach partition bagian_1 for values from (0) to (100)",
    "update bagian set isi = 'akhir'",
]


def test_postgresql_writes_as_before_with_an_outbox_whatever_its_tables_are_like(pg: AnyParty) -> None:
    """Row 99, the reader gone."""
    request = replace(pg.outbox(dict.fromkeys((*PG_NAMES, "anak"), ("a",))), views=(("public", "v_berkunci"),))
    as_before(pg, PG_WRITES, PG_NAMES)
    for _ in range(2):
        pg.execute([step.sql for step in kit_steps(request)])
        as_before(pg, PG_WRITES, PG_NAMES)
    # The reader goes: nothing of the triggers was ever its.
    pg.run(f"drop owned by {pg.reader};\ndrop role {pg.reader}")
    as_before(pg, PG_WRITES, PG_NAMES)
    pg.execute([step.sql for step in removal_steps(request)])
    as_before(pg, PG_WRITES, PG_NAMES)


def test_postgresql_writes_as_before_with_a_pull_kit_or_the_kit_refuses(pg: AnyParty) -> None:
    def asked(*names: str) -> KitRequest:
        tables = tuple(KitTable("public", name, ("a",)) for name in names)
        return KitRequest("uji", "pull", pg.slot, pg.slot, pg.reader, tables, (("public", "v_berkunci"),))

    for name in ("tanpa_kunci", "tanpa_identitas", "identitas_penuh"):
        with pytest.raises(psycopg.errors.RaiseException, match="refuses"):
            pg.execute([kit_sql(asked(name))])
        as_before(pg, PG_WRITES, PG_NAMES)
    pg.execute([kit_sql(asked("berkunci", "bagian", "anak"))])
    as_before(pg, PG_WRITES, PG_NAMES)
    pg.run(f"drop owned by {pg.reader};\ndrop role {pg.reader}")
    as_before(pg, PG_WRITES, PG_NAMES)
    pg.execute([kit_remove_sql(asked("berkunci", "bagian", "anak"))])
    as_before(pg, PG_WRITES, PG_NAMES)


def polled_request(party: AnyParty, view: str) -> polled.PolledRequest:
    assert party.engine in ("postgresql", "mariadb", "sqlite")
    return polled.PolledRequest("uji", party.engine, "diff", party.reader, ((party.schema, view),))  # type: ignore[arg-type]


def test_postgresql_writes_as_before_with_a_kit_that_only_reads(pg: AnyParty) -> None:
    request = polled_request(pg, "v_berkunci")
    pg.execute([step.sql for step in polled.kit_steps(request)])
    as_before(pg, PG_WRITES, PG_NAMES)
    pg.run(f"drop owned by {pg.reader};\ndrop role {pg.reader}")
    as_before(pg, PG_WRITES, PG_NAMES)
    pg.execute([step.sql for step in polled.removal_steps(request)])
    as_before(pg, PG_WRITES, PG_NAMES)


def test_a_kit_that_waits_for_a_table_gives_up_and_nobody_stood_behind_it(pg: AnyParty) -> None:
    """Each table is locked alone, and for five seconds at most: the tables before it keep what they got."""
    request = pg.outbox({"berkunci": ("a",), "tanpa_kunci": ("a",)})
    steps = [step.sql.replace("'5s'", "'100ms'") for step in kit_steps(request)]
    with psycopg.connect(pg.url) as busy:
        busy.execute("insert into tanpa_kunci values (1, 'x')")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            pg.execute(steps)
        pg.execute(["insert into berkunci values (1, 'x')", "insert into tanpa_kunci values (2, 'x')"])
    pg.execute([step.sql for step in kit_steps(request)])
    pg.execute(["update tanpa_kunci set isi = 'y'"])
    assert {row[0] for row in pg.read(f"select tabel from sipol.{pg.slot}")} == {
        "public.berkunci",
        "public.tanpa_kunci",
    }


# ------------------------------------------------------------------------------------------------- mariadb

MY_TABLES = """
create table berkunci (a int primary key, isi varchar(20));
create table tanpa_kunci (a int, isi varchar(20));
create table bagian (a int primary key, isi varchar(20)) partition by hash (a) partitions 3;
create table myisam (a int, isi varchar(20)) engine=MyISAM;
create table bernomor (n int auto_increment primary key, a int, isi varchar(20));
create table anak (a int primary key, induk int, isi varchar(20),
  foreign key (induk) references berkunci (a) on delete cascade on update cascade);
create view v_berkunci as select a, isi from berkunci
"""
MY_NAMES = ("berkunci", "tanpa_kunci", "bagian", "myisam", "bernomor")
MY_WRITES = [
    # InnoDB refuses to truncate a table that another one refers to, kit or not.
    *writes_of(MY_NAMES, "delete from {t}"),
    "truncate tanpa_kunci",
    "truncate bagian",
    "insert into tanpa_kunci values (7, 'akhir')",
    "insert into bagian values (7, 'akhir')",
    "insert into berkunci values (1, 'a'), (2, 'b')",
    "insert into anak values (1, 1, 'x'), (2, 2, 'y')",
    "update berkunci set a = 11 where a = 1",
    "delete from berkunci where a = 2",
    "insert into berkunci values (11, 'q') on duplicate key update isi = 'r'",
    "replace into berkunci values (11, 's')",
    "insert ignore into berkunci values (11, 't')",
    "delete from berkunci where a <> 7",
    "alter table bagian add column lain int",
    "alter table bagian drop column lain",
]


@pytest.fixture
def my(mariadb: MariaDb, maria_database: str) -> Iterator[AnyParty]:
    made = mysql_party(lambda: mariadb.connect(maria_database), mariadb.url(maria_database), maria_database)
    made.run(MY_TABLES)
    yield made
    mariadb.run(f"drop user if exists '{made.reader}'@'%';\ndrop user if exists '{made.slot}_owner'@localhost")


def my_request(my: AnyParty) -> OutboxRequest:
    return replace(my.outbox(dict.fromkeys((*MY_NAMES, "anak"), ("a",))), views=((my.schema, "v_berkunci"),))


def test_mariadb_writes_as_before_with_an_outbox_whatever_its_tables_are_like(my: AnyParty, mariadb: MariaDb) -> None:
    request = my_request(my)
    as_before(my, MY_WRITES, MY_NAMES)
    # The kit is run by a DBA who leaves the party later.
    mariadb.run("create user dba_uji@localhost;\ngrant all on *.* to dba_uji@localhost with grant option")
    with closing(mariadb.connect(my.schema, "dba_uji")) as conn, conn.cursor() as cursor:
        for step in (*kit_steps(request), *kit_steps(request)):
            cursor.execute(step.sql)
    as_before(my, MY_WRITES, MY_NAMES)
    mariadb.run(f"drop user dba_uji@localhost;\ndrop user {my.reader}")
    as_before(my, MY_WRITES, MY_NAMES)
    assert my.read(f"select count(*) > 0 from {my.slot}") == [(1,)]
    # Notes that cannot be written are left out.
    my.run(f"revoke insert on {my.slot} from {my.slot}_owner@localhost")
    my.run(f"delete from {my.slot}")
    as_before(my, MY_WRITES, MY_NAMES)
    assert my.read(f"select count(*) from {my.slot}") == [(0,)]
    my.execute([step.sql for step in removal_steps(request)])
    as_before(my, MY_WRITES, MY_NAMES)


def test_on_mariadb_the_application_s_last_insert_id_stays_its_own(my: AnyParty) -> None:
    my.execute([step.sql for step in kit_steps(my_request(my))])
    my.run("insert into berkunci values (1, 'x'), (2, 'x'), (3, 'x')")
    assert my.connect is not None
    with closing(my.connect()) as conn, conn.cursor() as cursor:
        cursor.execute("insert into bernomor (a, isi) values (1, 'x')")
        cursor.execute("select last_insert_id(), max(n) from bernomor")
        (row,) = cursor.fetchall()
    assert row[0] == row[1]


def test_on_mariadb_an_open_transaction_of_the_party_keeps_neither_us_nor_its_neighbours_waiting(
    my: AnyParty, mariadb: MariaDb
) -> None:
    """What a trigger reads under InnoDB would be locked until the transaction ends: the limit of notes is not."""
    my.execute([step.sql for step in kit_steps(my_request(my))])
    my.run("insert into berkunci values (1, 'x'), (2, 'x')")
    table = SqlChangeTable(mariadb.url(my.schema), my.schema, my.slot, Options("test", lock_timeout_s=1))
    with closing(table), closing(mariadb.connect(my.schema)) as open_:
        open_.autocommit(False)
        with open_.cursor() as cursor:
            cursor.execute("update berkunci set isi = 'y' where a = 1")
        table.remove([row.id for row in table.rows(10).rows], 1)
        table.reopen()
        with closing(mariadb.connect(my.schema)) as neighbour, neighbour.cursor() as cursor:
            cursor.execute("set innodb_lock_wait_timeout = 1")
            cursor.execute("update berkunci set isi = 'z' where a = 2")
        open_.commit()
    assert my.read(f"select count(*) from {my.slot}") == [(2,)]


def test_mariadb_writes_as_before_with_a_kit_that_only_reads(my: AnyParty) -> None:
    request = polled_request(my, "v_berkunci")
    my.execute([step.sql for step in polled.kit_steps(request)])
    as_before(my, MY_WRITES, MY_NAMES)
    my.run(f"drop user {my.reader}")
    as_before(my, MY_WRITES, MY_NAMES)
    my.execute([step.sql for step in polled.removal_steps(request)])
    as_before(my, MY_WRITES, MY_NAMES)


def test_mariadb_writes_as_before_while_its_binary_log_is_followed(my: AnyParty) -> None:
    """The kit has its login and nothing else; the dump reads what the server logs anyway."""
    tables = tuple((my.schema, name) for name in MY_NAMES)
    request = BinlogRequest("uji", "mariadb", my.reader, tables, ((my.schema, "v_berkunci"),), accept_risk=True)
    my.execute([step.sql for step in binlog.kit_steps(request)])
    my.run(f"alter user '{my.reader}'@'%' account unlock")
    routes = {(my.schema, "berkunci"): (Route("v_berkunci", key=(("a", "a"),)),)}
    url = my.url.replace("root@", f"{my.reader}@")
    settings = BinlogSettings(url, Options("test"), routes, {"v_berkunci": (my.schema, "v_berkunci")}, 1_000)
    with closing(BinlogSource(settings, None, None, lambda _: False)) as source:
        as_before(my, MY_WRITES, MY_NAMES)
        signals = source.read(10.0)
        assert signals is not None
        assert signals.keys["v_berkunci"]
    my.run(f"drop user {my.reader}")
    as_before(my, MY_WRITES, MY_NAMES)
    my.execute([step.sql for step in binlog.removal_steps(request)])
    as_before(my, MY_WRITES, MY_NAMES)


def test_a_kit_that_waits_for_a_table_of_mariadb_gives_up(my: AnyParty, mariadb: MariaDb) -> None:
    request = my_request(my)
    steps = [step.sql.replace("lock_wait_timeout = 5", "lock_wait_timeout = 1") for step in kit_steps(request)]
    with closing(mariadb.connect(my.schema)) as busy:
        busy.autocommit(False)
        with busy.cursor() as cursor:
            cursor.execute("insert into tanpa_kunci values (1, 'x')")
        with pytest.raises(pymysql.err.OperationalError) as caught:
            my.execute(steps)
        assert caught.value.args[0] == 1205
        my.run("insert into berkunci values (1, 'x');\ninsert into tanpa_kunci values (2, 'x')")
        busy.rollback()


# -------------------------------------------------------------------------------------------------- sqlite

LITE_TABLES = """
create table berkunci (a int primary key, isi text);
create table tanpa_kunci (a int, isi text);
create table tanpa_rowid (a int primary key, isi text) without rowid;
create table anak (a int primary key, induk int references berkunci on delete cascade, isi text);
create view v_berkunci as select a, isi from berkunci
"""
LITE_NAMES = ("berkunci", "tanpa_kunci", "tanpa_rowid")
LITE_WRITES = [
    *writes_of(LITE_NAMES, "delete from {t}"),
    "insert into berkunci values (1, 'a')",
    "insert or replace into berkunci values (1, 'b')",
    "insert or ignore into berkunci values (1, 'c')",
    "insert into berkunci values (1, 'd') on conflict (a) do update set isi = 'e'",
    "update or replace berkunci set a = 1 where a = 1",
    "delete from berkunci where a = 1",
    "alter table berkunci add column lain int",
    "alter table berkunci drop column lain",
]


def test_sqlite_writes_as_before_with_an_outbox_whatever_its_tables_are_like(tmp_path: Path) -> None:
    party = sqlite_party(tmp_path / "partai.db")
    party.run(LITE_TABLES)
    request = replace(party.outbox(dict.fromkeys((*LITE_NAMES, "anak"), ("a",))), views=((party.schema, "v_berkunci"),))
    as_before(party, LITE_WRITES, LITE_NAMES)
    for _ in range(2):
        party.execute([step.sql for step in kit_steps(request)])
        as_before(party, LITE_WRITES, LITE_NAMES)
    party.execute([step.sql for step in removal_steps(request)])
    as_before(party, LITE_WRITES, LITE_NAMES)
