"""What a binary log has for us in store: every type of key, statements, crashes, purges, replicas that take over."""

from __future__ import annotations

import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pytest
import sqlalchemy as sa
from mariadb import MariaDb
from mariadb import make as make_server

from connector.capture.mysql import dump
from connector.capture.mysql.stream_source import BinlogSettings, BinlogSource
from connector.capture.signals import Match, Route, Signals
from connector.errors import PositionLost, SourceMisconfigured, SourceUnavailable
from connector.events import Position
from connector.sqldb.engines import Options
from connector.sqldb.session import SqlSession

DEADLINE_S = 60.0
GRANTS = """
create or replace user baca@localhost;
grant replication slave, binlog monitor on *.* to baca@localhost
"""


def until(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < deadline, f"never came: {what}"
        threading.Event().wait(0.02)


@dataclass
class Log:
    """A party's database on a server, and sources over its log."""

    server: MariaDb
    database: str = "partai"
    opened: list[BinlogSource] = field(default_factory=list)

    def run(self, script: str) -> None:
        self.server.run(script, self.database)

    def view(self, name: str, query: str) -> None:
        self.run(f"create or replace view {name} as {query};\ngrant select on {self.database}.{name} to baca@localhost")

    def open(
        self,
        routes: Mapping[str, tuple[Route, ...]],
        stored: Position | None = None,
        server: MariaDb | None = None,
        views: Sequence[str] = (),
    ) -> BinlogSource:
        """Each entity's view has the entity's name."""
        entities = {route.entity for found in routes.values() for route in found}
        settings = BinlogSettings(
            (server or self.server).url(self.database, "baca"), Options("uji"),
            {(self.database, table): found for table, found in routes.items()},
            {entity: (self.database, entity) for entity in (*entities, *views)}, 10_000,
        )  # fmt: skip
        source = BinlogSource(settings, stored, None, lambda seconds: threading.Event().wait(min(seconds, 0.01)))
        self.opened.append(source)
        return source

    def close(self) -> None:
        for source in self.opened:
            source.close()


def read(source: BinlogSource) -> Signals:
    deadline = time.monotonic() + DEADLINE_S
    while (signals := source.read(0.05)) is None:
        assert time.monotonic() < deadline, "nothing came"
    return signals


def drained(source: BinlogSource) -> list[Signals]:
    """Everything that is there by now."""
    found = [read(source)]
    while (more := source.read(0.15)) is not None:
        found.append(more)
    return found


def keys(found: Sequence[Signals] | Signals, entity: str) -> set[str]:
    several = [found] if isinstance(found, Signals) else found
    return {key for one in several if entity in one.keys for part in one.keys[entity].slices(1_000) for key in part}


def whole(found: Sequence[Signals]) -> set[str]:
    return {entity for one in found for entity in one.whole}


def prepare(server: MariaDb) -> None:
    server.run(f"create database partai character set utf8mb4;\n{GRANTS}")


@pytest.fixture(scope="module")
def shared() -> Iterator[MariaDb]:
    """A server whose settings a test may change, if it puts them back."""
    server = start()
    yield server
    stop(server)


def start(options: Mapping[str, str] | None = None) -> MariaDb:
    if shutil.which("mariadb-install-db") is None:
        pytest.skip("MariaDB is not installed here: apt-get install mariadb-server")
    server = make_server()
    if options:
        server.stop()
        server.start(options)
    prepare(server)
    return server


def stop(server: MariaDb) -> None:
    server.stop(signal.SIGKILL)
    shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture
def log(shared: MariaDb) -> Iterator[Log]:
    made = Log(shared)
    yield made
    made.close()
    shared.run(f"drop database partai;\ncreate database partai character set utf8mb4;\n{GRANTS}")


@pytest.fixture
def lone() -> Iterator[Log]:
    """A server of its own, to be purged, reset, stopped."""
    server = start()
    made = Log(server)
    yield made
    made.close()
    stop(server)


ORANG = {"orang": (Route("v_orang", key=(("id", "id"),)),)}


def people(log: Log) -> None:
    log.run("create table orang (id int primary key, nama varchar(40), induk int)")
    log.view("v_orang", "select id, nama from orang")


# -- keys are the view's, to the letter

KINDS = {
    "tiny": ("tinyint", ("-128", "0", "127")),
    "tiny_u": ("tinyint unsigned", ("255",)),
    "medium": ("mediumint", ("-8388608", "8388607")),
    "medium_u": ("mediumint unsigned", ("16777215",)),
    "big": ("bigint", ("-9223372036854775808",)),
    "big_u": ("bigint unsigned", ("9223372036854775808", "18446744073709551615")),
    "zeros": ("int(9) unsigned zerofill", ("42", "0")),
    "tahun": ("year", ("2024", "0", "1901")),
    "bits": ("bit(17)", ("b'10000000000000001'",)),
    "money": ("decimal(20,4)", ("-1234567890123456.7001", "0.0001", "1")),
    "whole": ("decimal(9,0)", ("-999999999", "0")),
    "long": ("decimal(38,18)", ("12345678901234567890.123456789012345678", "-0.000000000000000001")),
    "kode": ("char(10) character set utf8mb4", ("'é😀 '", "''")),
    "latin": ("varchar(300) character set latin1", ("'café €'", "_latin1 x'C3A9817E'")),
    "ucs": ("varchar(10) character set ucs2", ("'é'",)),
    "panjang": ("text character set utf8mb4", ("repeat('x', 300)",)),
    "biner": ("varbinary(20)", ("x'0061'",)),
    "padded": ("binary(5)", ("'a'", "x'00'")),
    "hari": ("date", ("'2025-03-04'", "'0000-00-00'", "'2025-00-15'")),
    "saat": ("datetime", ("'2025-03-04 05:06:07'", "'0000-00-00 00:00:00'")),
    "saat3": ("datetime(3)", ("'1000-01-01 00:00:00.045'",)),
    "cap": ("timestamp null", ("'2025-03-04 05:06:07'", "0")),
    "cap6": ("timestamp(6) null", ("'2038-01-01 00:00:00.000001'",)),
}
# The log does not give these as the view does: whoever has such a key has its view read whole.
UNTOLD = {
    "jam": ("time(2)", "'12:00:00.01'"), "kira": ("float", "1.5"), "pilih": ("enum('x','y')", "'y'"),
    "uuid": ("uuid", "uuid()"), "set_": ("set('a','b')", "'a,b'"), "peta": ("geometry", "point(1, 2)"),
}  # fmt: skip


def test_keys_of_every_type_are_the_views_text_and_what_cannot_be_told_is_read_whole(log: Log) -> None:
    columns = ", ".join(f"`{name}` {kind}" for name, (kind, _) in [*UNTOLD.items(), *KINDS.items()])
    log.run(f"create table serba (nomor int auto_increment primary key, {columns})")
    log.view("serba_v", "select * from serba")
    names = [*KINDS, *UNTOLD]
    for name in names:
        log.view(f"v_{name}", f"select `{name}` from serba")
    source = log.open({"serba": tuple(Route(f"v_{name}", key=((name, name),)) for name in names)})
    with log.server.connect("partai") as conn, conn.cursor() as cursor:
        cursor.execute("set sql_mode = '', time_zone = '+03:00'")
        for name, (_, texts) in KINDS.items():
            for text in texts:
                cursor.execute(f"insert into serba (`{name}`) values ({text})")
        for name, (_, text) in UNTOLD.items():
            cursor.execute(f"insert into serba (`{name}`) values ({text})")
    found = drained(source)
    with closing(SqlSession(log.server.url("partai", "baca"), Options("uji"))) as session:
        for name in KINDS:
            query: sa.Select[Any] = sa.select(sa.column(name)).select_from(sa.table(f"v_{name}", schema="partai"))
            shown = {row[0].decode() for group in session.cells(query) for row in group if row[0] is not None}
            assert keys(found, f"v_{name}") == shown, name
    assert whole(found) == {f"v_{name}" for name in UNTOLD}


def test_a_key_that_the_view_shows_as_another_type_has_the_view_read_whole(log: Log) -> None:
    """`007` and `7`: a key signalled as the table has it would be looked for in vain."""
    log.run("create table kartu (nomor int(5) unsigned zerofill primary key)")
    log.view("v_kartu", "select cast(nomor as char(5)) as nomor from kartu")
    source = log.open({"kartu": (Route("v_kartu", key=(("nomor", "nomor"),)),)})
    log.run("insert into kartu values (7)")
    found = drained(source)
    assert whole(found) == {"v_kartu"}
    assert not keys(found, "v_kartu")


def test_a_join_by_a_collation_asks_the_view_for_its_own_spelling(log: Log) -> None:
    log.run(
        "create table kader (kode varchar(20) primary key);\n"
        "create table alamat (kode varchar(20) primary key, jalan varchar(20));\n"
        "insert into kader values ('ab1')"
    )
    log.view("v_kader", "select k.kode, a.jalan from kader k left join alamat a on a.kode = k.kode")
    route = (Route("v_kader", key=(("kode", "kode"),)),)
    source = log.open({"kader": route, "alamat": route})
    log.run("insert into alamat values ('AB1', 'JL MAWAR')")
    found = read(source)
    assert keys(found, "v_kader") == {"AB1"}
    assert [key for part in found.matches[Match("v_kader", ("kode",))].slices(10) for key in part] == ["AB1"]


# -- tables that change


def test_columns_are_found_by_name_in_whatever_order_they_come(log: Log) -> None:
    log.run("create table orang (a int, b int, id int primary key, nama varchar(20))")
    log.view("v_orang", "select id, nama from orang")
    source = log.open(ORANG)
    log.run(
        "insert into orang values (100, 200, 1, 'x');\n"
        "alter table orang modify id int first, add column baru varchar(9) first;\n"
        "insert into orang values ('y', 2, 101, 201, 'x');\n"
        "alter table orang drop column a;\n"
        "insert into orang (id, b) values (3, 33)"
    )
    found = drained(source)
    assert keys(found, "v_orang") == {"1", "2", "3"}
    assert whole(found) == {"v_orang"}, "each ALTER has the view looked at whole"


def test_a_key_column_that_is_renamed_has_the_view_read_whole(log: Log) -> None:
    people(log)
    source = log.open(ORANG)
    log.run("alter table orang rename column id to nomor;\ninsert into orang (nomor) values (9)")
    found = drained(source)
    assert whole(found) == {"v_orang"}
    assert not keys(found, "v_orang")


@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("truncate orang", True),
        ("rename table orang to simpan", True),
        ("drop table /* buang */ `orang`", True),
        ("alter table partai.orang engine = innodb", True),
        ("create table lain as select 1 as id", False),
        ("analyze table orang", False),
        ("create index i on orang (nama)", False),
        ("grant select on partai.orang to baca@localhost", False),
    ],
)
def test_what_a_statement_does_to_a_table_we_follow_has_its_view_read_whole(
    log: Log, statement: str, told: bool
) -> None:
    people(log)
    log.run("create table tanda (id int primary key)")
    log.view("v_tanda", "select id from tanda")
    source = log.open(ORANG | {"tanda": (Route("v_tanda", key=(("id", "id"),)),)})
    log.run(f"{statement};\ninsert into tanda values (1)")
    found = drained(source)
    assert keys(found, "v_tanda") == {"1"}
    assert whole(found) == ({"v_orang"} if told else set())


# -- logs that say less than they should


def test_a_row_image_without_the_key_has_the_view_read_whole_and_one_with_it_does_not(log: Log) -> None:
    """`binlog_row_image` can be set by a session: the server's own setting promises nothing."""
    log.run("create table orang (id int primary key, kartu int, nama varchar(20));\n"
            "insert into orang values (1, 10, 'a'), (2, 20, 'b')")  # fmt: skip
    log.view("v_orang", "select id, nama from orang")
    log.view("v_kartu", "select kartu, nama from orang")
    source = log.open({"orang": (*ORANG["orang"], Route("v_kartu", key=(("kartu", "kartu"),)))})
    for image in ("MINIMAL", "NOBLOB"):
        log.run(f"set session binlog_row_image = {image};\nupdate orang set nama = '{image}' where id = 1;\n"
                "update orang set id = id + 100 where id = 2")  # fmt: skip
        found = drained(source)
        assert keys(found, "v_orang") == {"1", "2", "102"}
        assert whole(found) == ({"v_kartu"} if image == "MINIMAL" else set())
        log.run("update orang set id = 2 where id = 102")
        drained(source)


def test_rows_that_were_logged_as_statements_have_every_view_read_whole(log: Log) -> None:
    people(log)
    source = log.open(ORANG)
    log.run("set session binlog_format = statement;\ninsert into orang values (1, 'a', null)")
    assert whole(drained(source)) == {"v_orang"}


def test_compressed_events_are_read(log: Log) -> None:
    people(log)
    source = log.open(ORANG)
    try:
        log.run("set global log_bin_compress = on;\nset global log_bin_compress_min_len = 10")
        many = ", ".join(f"({n}, 'nama yang sama', null)" for n in range(1, 500))
        log.run(f"insert into orang values {many};\nupdate orang set id = id + 1000 where id < 3;\n"
                "delete from orang where id = 4")  # fmt: skip
        found = drained(source)
    finally:
        log.run("set global log_bin_compress = off")
    assert keys(found, "v_orang") == {str(n) for n in range(1, 500)} | {"1001", "1002"}
    assert not whole(found)


def test_a_prepared_transaction_is_looked_at_again_when_it_commits(log: Log) -> None:
    people(log)
    source = log.open(ORANG)
    with log.server.connect("partai") as conn, conn.cursor() as cursor:
        for statement in ("start 'x'", "insert", "end 'x'", "prepare 'x'"):
            cursor.execute("insert into orang values (1, 'a', null)" if statement == "insert" else f"xa {statement}")
    drained(source)
    log.run("xa commit 'x'")
    assert whole(drained(source)) == {"v_orang"}
    with log.server.connect("partai") as conn, conn.cursor() as cursor:
        for statement in ("start 'y'", "insert", "end 'y'", "prepare 'y'", "rollback 'y'"):
            cursor.execute("insert into orang values (2, 'a', null)" if statement == "insert" else f"xa {statement}")
    log.run("insert into orang values (3, 'c', null)")
    assert "3" in keys(drained(source), "v_orang")


def test_a_table_without_transactions_is_followed_too(log: Log) -> None:
    log.run("create table orang (id int primary key, nama varchar(20)) engine = myisam")
    log.view("v_orang", "select id, nama from orang")
    source = log.open(ORANG)
    log.run("insert into orang values (1, 'a'), (2, 'b');\ndelete from orang where id = 2")
    assert keys(drained(source), "v_orang") == {"1", "2"}


@pytest.mark.parametrize(
    ("name", "value", "before"),
    [
        ("binlog_format", "MIXED", "ROW"),
        ("binlog_row_image", "MINIMAL", "FULL"),
        ("binlog_row_metadata", "MINIMAL", "FULL"),
    ],
)
def test_a_server_that_logs_less_than_we_need_is_refused(log: Log, name: str, value: str, before: str) -> None:
    people(log)
    with closing(log.open(ORANG)) as source:
        stored = source.start
    try:
        log.run(f"set global {name} = {value}")
        with pytest.raises(SourceMisconfigured) as caught:
            log.open(ORANG, stored)
        assert name in str(caught.value)
        assert "connector kit" in caught.value.hint
        log.run("insert into orang values (1, 'a', null)")
    finally:
        log.run(f"set global {name} = {before}")
    # What was logged meanwhile is there for good: it has the view read whole, and is never another column's value.
    found = drained(log.open(ORANG, stored))
    assert keys(found, "v_orang") == {"1"} or whole(found) == {"v_orang"}


def test_a_login_that_may_not_read_the_log_is_told_what_it_lacks(log: Log) -> None:
    people(log)
    log.run("revoke replication slave on *.* from baca@localhost")
    with pytest.raises(SourceMisconfigured) as caught:
        log.open(ORANG)
    assert "REPLICATION SLAVE" in caught.value.hint


# -- visible before told


def test_nothing_is_told_before_a_new_snapshot_shows_it(log: Log) -> None:
    """Semi-synchronous replication without a replica: the commit is in the log, and waits."""
    people(log)
    source = log.open(ORANG)
    try:
        log.run("set global rpl_semi_sync_master_timeout = 1500;\n"
                "set global rpl_semi_sync_master_wait_point = AFTER_SYNC;\n"
                "set global rpl_semi_sync_master_enabled = on")  # fmt: skip
        before = log.server.query("show master status")
        writer = threading.Thread(target=log.run, args=("insert into orang values (1, 'a', null)",))
        writer.start()
        until(lambda: log.server.query("show master status") != before, "the commit is in the log")
        assert log.server.query("select count(*) from partai.orang") == [(0,)]
        assert source.read(0.3) is None
        while source.read(0.01) is None:
            pass
        assert log.server.query("select count(*) from partai.orang") == [(1,)]
        writer.join()
    finally:
        log.run("set global rpl_semi_sync_master_enabled = off")


# -- positions


def test_positions_are_gtids_and_a_domain_that_is_added_is_followed(log: Log) -> None:
    people(log)
    source = log.open(ORANG)
    log.run("insert into orang values (1, 'a', null)")
    first = drained(source)[-1].position
    log.run("set session gtid_domain_id = 7;\nset session server_id = 99;\ninsert into orang values (2, 'b', null)")
    second = drained(source)[-1].position
    assert ",7-99-1" in second.text
    assert second.ordinal == first.ordinal + 1
    log.run("insert into orang values (3, 'c', null)")
    assert keys(drained(log.open(ORANG, second)), "v_orang") == {"3"}
    assert keys(drained(log.open(ORANG, first)), "v_orang") == {"2", "3"}


def test_sequence_numbers_that_go_back_do_not_take_the_position_back(log: Log) -> None:
    people(log)
    source = log.open(ORANG)
    log.run("set session gtid_domain_id = 8;\nset session gtid_seq_no = 500;\ninsert into orang values (1, 'a', null)")
    first = drained(source)[-1].position
    log.run("set session gtid_domain_id = 8;\nset session gtid_seq_no = 20;\ninsert into orang values (2, 'b', null)")
    assert drained(source)[-1].position > first
    log.run("set session gtid_domain_id = 8;\nset session gtid_seq_no = 600;\ninsert into orang values (3, 'c', null)")


def test_transactions_of_others_move_the_position_now_and_then(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connector.capture.mysql.stream_source.IDLE_S", 0.2)
    people(log)
    source = log.open(ORANG)
    assert source.read(0.0) is None
    log.run("create table lain (id int primary key);\ninsert into lain values (1)")
    signals = read(source)
    assert signals.empty
    assert signals.position.ordinal > source.start.ordinal


def test_a_server_that_hangs_is_hung_up_on(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump, "SILENCE_S_MAX", 1.0)
    people(log)
    source = log.open(ORANG)
    assert log.server.process is not None
    log.server.process.send_signal(signal.SIGSTOP)
    try:
        assert source.read(0.5) is None
        with pytest.raises(SourceUnavailable):
            read(source)
    finally:
        log.server.process.send_signal(signal.SIGCONT)


def test_a_purged_log_and_one_made_anew_are_a_loss_and_a_restart_is_none(lone: Log) -> None:
    people(lone)
    with closing(lone.open(ORANG)) as source:
        lone.run("insert into orang values (1, 'a', null)")
        old = drained(source)[-1].position
        lone.run("flush binary logs;\ninsert into orang values (2, 'b', null);\nflush binary logs")
        new = drained(source)[-1].position
    lone.server.stop()
    lone.server.start()
    assert keys(drained(lone.open(ORANG, old)), "v_orang") == {"2"}
    files = [row[0] for row in lone.server.query("show binary logs")]
    lone.run(f"purge binary logs to '{files[-1]}'")
    with pytest.raises(PositionLost) as caught:
        lone.open(ORANG, old)
    assert caught.value.reason == "position_lost"
    assert "resync" in caught.value.hint
    # Nothing after the newest position was purged: its file is gone, and the log leads on from it.
    lone.run("insert into orang values (3, 'c', null)")
    assert keys(drained(lone.open(ORANG, new)), "v_orang") == {"3"}
    lone.run("reset master;\ninsert into orang values (4, 'd', null)")
    with pytest.raises(PositionLost) as caught:
        lone.open(ORANG, new)
    assert caught.value.reason == "diverged"
    # The numbers pass ours again, as on a server restored from a backup that then counted on.
    for number in range(5, 60):
        lone.run(f"insert into orang values ({number}, 'x', null)")
    with pytest.raises(PositionLost) as caught:
        lone.open(ORANG, new)
    assert caught.value.reason == "diverged"


def test_a_replica_that_takes_over_is_followed_by_gtid_and_one_that_was_behind_is_a_loss() -> None:
    primary, replica = start({"skip-networking": "OFF", "bind-address": "127.0.0.1", "port": str(free_port())}), None
    log = Log(primary)
    try:
        people(log)
        replica = replicate(primary)
        with closing(log.open(ORANG)) as source:
            log.run("insert into orang values (1, 'a', null)")
            first = drained(source)[-1].position
            until(lambda: count(replica) == 1, "the replica has it")
            replica.run("stop slave")
            log.run("insert into orang values (2, 'b', null)")
            second = drained(source)[-1].position
        primary.stop(signal.SIGKILL)
        with pytest.raises(PositionLost) as caught:
            log.open(ORANG, second, replica)
        assert caught.value.reason == "diverged"
        replica.run("insert into partai.orang values (9, 'z', null)")
        found = drained(log.open(ORANG, first, replica))
        assert keys(found, "v_orang") == {"9"}
        assert found[-1].position.ordinal == first.ordinal + 1
        assert found[-1].position.text.endswith(" of 2")
        # As far as ours by its number, and still another transaction than ours.
        with pytest.raises(PositionLost):
            drained(log.open(ORANG, second, replica))
    finally:
        log.close()
        for server in (primary, replica):
            if server is not None:
                stop(server)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def replicate(primary: MariaDb) -> MariaDb:
    """A second server with the primary's history from its first transaction on."""
    primary.run("create user replika@'127.0.0.1';\ngrant replication slave on *.* to replika@'127.0.0.1'")
    (port,) = primary.query("select @@port")[0]
    replica = make_server()
    replica.stop()
    replica.start({"server-id": "2", "log-slave-updates": "ON"})
    replica.run(
        f"change master to master_host = '127.0.0.1', master_port = {port}, master_user = 'replika',"
        " master_use_gtid = slave_pos;\nstart slave"
    )
    return replica


def count(server: MariaDb) -> int:
    """Rows of the table that is followed; none where the replica has not got it yet."""
    there = server.query("select 1 from information_schema.tables where table_schema = 'partai'")
    return int(server.query("select count(*) from partai.orang")[0][0]) if there else 0
