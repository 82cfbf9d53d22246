"""What the runtime may rely on, whatever a source is made of: run over every source that reads a log.

After a position, every key that may have changed, in whole transactions, in order; nothing is confirmed before it is
told; and any position that was once given is a place to start again from.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any, Protocol

import psycopg
import pymysql
import pytest
from mariadb import MariaDb
from psycopg import sql

from connector.capture.mysql.stream_source import BinlogSettings, BinlogSource
from connector.capture.postgres.kit import kit_sql
from connector.capture.postgres.kit_request import KitRequest, KitTable
from connector.capture.postgres.protocol import lsn_int, lsn_text
from connector.capture.postgres.pull import KitCalls, PullSource, SlotSettings
from connector.capture.postgres.stream_source import StreamSource
from connector.capture.signals import KeySet, Match, Route, Routes, Signals
from connector.embedded import Server
from connector.errors import PositionLost, SourceError, SourceMisconfigured, SourceUnavailable
from connector.events import Position, SourceIdentity
from connector.runtime.ports import Source
from connector.sqldb.engines import Options
from tests.conftest import drop_database, new_database

DEADLINE_S = 60.0

TABLES = """
create table kader (id text primary key, nama text);
create table papan (papan int, orang text, jabatan text, primary key (orang, papan));
create table kerja (kerja_id int primary key, nama text);
create table wilayah (kode text primary key, nama text);
create table bagian (id int not null, tahun int not null, isi text, primary key (id, tahun)) partition by list (tahun);
create table bagian_1 (isi text, buang int, tahun int not null, id int not null, primary key (id, tahun));
alter table bagian_1 drop column buang;
alter table bagian attach partition bagian_1 for values in (1);
create table bagian_2 partition of bagian for values in (2);
create table lain (id int primary key, isi text);
create view v_anggota as select id, nama from kader;
"""
KIT_TABLES = (
    KitTable("public", "kader", ("id",)),
    KitTable("public", "papan", ("papan", "orang")),
    KitTable("public", "kerja", ("kerja_id",)),
    KitTable("public", "wilayah"),
    KitTable("public", "bagian", ("id",)),
)
ROUTES: Routes = {
    ("public", "kader"): (Route("anggota", key=(("id", "id"),)),),
    # In the view's order, which is not the index's.
    ("public", "papan"): (Route("pengurus", key=(("papan", "papan"), ("orang", "orang"))),),
    ("public", "kerja"): (Route("anggota", match=(("kerja_id", "kerja_id"),)),),
    ("public", "wilayah"): (Route("kantor"),),
    ("public", "bagian"): (Route("dokumen", key=(("id", "id"),)),),
}
KERJA = Match("anggota", ("kerja_id",))
_numbers = count()


@dataclass
class Transaction:
    """A session that is in a transaction; `execute` takes any text."""

    conn: psycopg.Connection[tuple[Any, ...]]

    def execute(self, statement: str, /) -> psycopg.Cursor[tuple[Any, ...]]:
        return self.conn.execute(statement.encode())

    def commit(self) -> None:
        self.conn.commit()

    def rollback(self) -> None:
        self.conn.rollback()


@dataclass
class Party:
    """A party's database with the kit, its DBA's session, and a slot that no test used before."""

    server: Server
    database: str
    reader: str
    slot: str
    dba: psycopg.Connection[tuple[Any, ...]]
    capture: str = "pull"
    letters_max: int = 2_000
    opened: list[Source] = field(default_factory=list)

    def run(self, statement: str, *values: object) -> None:
        """One transaction."""
        self.dba.execute(statement.encode(), values or None)

    def ask(self, query: str) -> Any:
        row = self.dba.execute(query.encode()).fetchone()
        return row[0] if row else None

    @contextmanager
    def other(self) -> Iterator[Transaction]:
        """A second session of the party's own, with a transaction of its own."""
        with psycopg.connect(self.server.dsn(self.database)) as conn:
            conn.execute("set synchronous_commit = on")
            conn.commit()
            yield Transaction(conn)

    def end(self) -> int:
        """Where the log ends now."""
        return lsn_int(self.ask("select pg_current_wal_insert_lsn()::text"))

    def confirmed(self) -> int:
        """Up to where the server may forget."""
        return lsn_int(
            self.ask(f"select confirmed_flush_lsn::text from pg_replication_slots where slot_name = '{self.slot}'")
        )

    def open(
        self, stored: Position | None = None, identity: SourceIdentity | None = None, *, keys_in_memory: int = 10_000
    ) -> Source:
        user = self.reader if self.capture == "pull" else "postgres"
        settings = SlotSettings(
            self.server.dsn(self.database, user), "uji", self.slot, self.slot, ROUTES, keys_in_memory, 0.02, 60.0
        )
        source: Source
        if self.capture == "pull":
            source = PullSource(settings, KitCalls("sipol", self.slot), stored, identity, wait)
        else:
            source = StreamSource(settings, stored, identity, wait)
        self.opened.append(source)
        return source

    def cut(self) -> None:
        """End the connections that a source has."""
        self.run(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name in ('uji', 'sipol_connector')"
        )

    def close(self) -> None:
        for source in self.opened:
            source.close()


class Session(Protocol):
    """A second session of a party's own."""

    def execute(self, statement: str, /) -> object: ...
    def commit(self) -> None: ...
    def rollback(self) -> None: ...


class AnyParty(Protocol):
    """A party whose log is followed, whatever the engine."""

    @property
    def letters_max(self) -> int:
        """As many as a key can have."""

    def run(self, statement: str, *values: object) -> None: ...
    def other(self) -> AbstractContextManager[Session]: ...
    def cut(self) -> None: ...
    def open(
        self, stored: Position | None = None, identity: SourceIdentity | None = None, *, keys_in_memory: int = 10_000
    ) -> Source: ...


@dataclass
class MariaParty:
    """As `Party`, on MariaDB: the whole server's log, read with what the kit grants."""

    server: MariaDb
    database: str
    letters_max: int = 700
    begin: Position | None = None
    opened: list[Source] = field(default_factory=list)

    def run(self, statement: str, *values: object) -> None:
        with self.server.connect(self.database) as conn, conn.cursor() as cursor:
            cursor.execute(statement, values or None)

    @contextmanager
    def other(self) -> Iterator[Session]:
        with self.server.connect(self.database) as conn:
            conn.autocommit(False)
            yield MariaSession(conn)

    def cut(self) -> None:
        for (number,) in self.server.query("select id from information_schema.processlist where user = 'baca'"):
            self.run(f"kill {number}")

    def open(
        self, stored: Position | None = None, identity: SourceIdentity | None = None, *, keys_in_memory: int = 10_000
    ) -> Source:
        routes = {(self.database, table): found for (_, table), found in ROUTES.items()}
        views = {entity: (self.database, f"v_{entity}") for entity in ("anggota", "pengurus", "dokumen", "kantor")}
        url = self.server.url(self.database, "baca")
        settings = BinlogSettings(url, Options("uji"), routes, views, keys_in_memory)
        source = BinlogSource(settings, stored or self.begin, identity, wait)
        self.opened.append(source)
        return source

    def close(self) -> None:
        for source in self.opened:
            source.close()


@dataclass
class MariaSession:
    """PyMySQL's connection with psycopg's words."""

    conn: pymysql.Connection[Any]

    def execute(self, statement: str, /) -> None:
        with self.conn.cursor() as cursor:
            cursor.execute(statement)

    def commit(self) -> None:
        self.conn.commit()

    def rollback(self) -> None:
        self.conn.rollback()


MARIA_TABLES = """
create table kader (id varchar(700) character set utf8mb4 collate utf8mb4_nopad_bin primary key, nama varchar(80));
create table papan (papan int, orang varchar(700) character set utf8mb4 collate utf8mb4_nopad_bin,
  jabatan varchar(80), primary key (orang, papan));
create table kerja (kerja_id int primary key, nama varchar(80));
create table wilayah (kode varchar(20) primary key, nama varchar(80));
create table bagian (id int not null, tahun int not null, isi text, primary key (id, tahun))
  partition by list (tahun) (partition b1 values in (1), partition b2 values in (2));
create table lain (id int primary key, isi text);
create view v_anggota as select a.id, a.nama, k.kerja_id from kader a left join kerja k on k.nama = a.nama;
create view v_pengurus as select papan, orang, jabatan from papan;
create view v_dokumen as select id, isi from bagian;
create view v_kantor as select kode from wilayah;
"""


def wait(seconds: float) -> bool:
    """The runtime's wait: nobody stops us, and a test has no time to lose."""
    return threading.Event().wait(min(seconds, 0.01))


@pytest.fixture(scope="module", params=[15, 16, 18])
def prepared(request: pytest.FixtureRequest) -> Iterator[Party]:
    server = request.getfixturevalue(f"pg{request.param}")
    database = new_database(server, "sumber")
    with install(server, database) as party:
        yield party


@contextmanager
def install(server: Server, database: str) -> Iterator[Party]:
    reader, slot = f"baca_{database}", f"sipol_{database}"
    request = KitRequest("uji", "pull", slot, slot, reader, KIT_TABLES, (("public", "v_anggota"),))
    with psycopg.connect(server.dsn(database), autocommit=True) as dba:
        # The fast servers of the tests do not wait for the log; a source gives what is written.
        dba.execute("set synchronous_commit = on")
        dba.execute(TABLES)
        dba.execute(kit_sql(request).encode())
        yield Party(server, database, reader, slot, dba)
    drop_database(server, database)
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        for role in (reader, f"{slot}_penjaga"):
            conn.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(role)))


@contextmanager
def fresh(prepared: Party, capture: str) -> Iterator[Party]:
    """Empty tables, and a slot that begins here."""
    prepared.dba.execute("truncate kader, papan, kerja, wilayah, bagian, lain")
    drop_slot(prepared)
    prepared.ask(f"select pg_create_logical_replication_slot('{prepared.slot}', 'pgoutput')")
    party = Party(prepared.server, prepared.database, prepared.reader, prepared.slot, prepared.dba, capture)
    yield party
    party.close()
    drop_slot(prepared)


def drop_slot(party: Party) -> None:
    def gone() -> bool:
        with suppress(psycopg.errors.ObjectInUse):
            party.run(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = %s", party.slot
            )
            return True
        return False

    until(gone, "the slot is free")


@pytest.fixture(params=["pull", "stream"])
def party(prepared: Party, request: pytest.FixtureRequest) -> Iterator[Party]:
    with fresh(prepared, request.param) as made:
        yield made


LOGS = [*((str(version), capture) for version in (15, 16, 18) for capture in ("pull", "stream")), ("mariadb", "stream")]


@pytest.fixture(scope="module", params=LOGS, ids="-".join)
def any_prepared(request: pytest.FixtureRequest) -> Iterator[Party | MariaParty]:
    engine, capture = request.param
    if engine != "mariadb":
        server = request.getfixturevalue(f"pg{engine}")
        with install(server, new_database(server, "sumber")) as party:
            party.capture = capture
            yield party
        return
    maria: MariaDb = request.getfixturevalue("mariadb")
    database = f"sumber_{next(_numbers)}"
    maria.run(f"create database {database};\n{MARIA_GRANTS}")
    maria.run(MARIA_TABLES, database)
    for view in ("anggota", "pengurus", "dokumen", "kantor"):
        maria.run(f"grant select on {database}.v_{view} to baca@localhost")
    yield MariaParty(maria, database)
    maria.run(f"drop database {database};\ndrop user baca@localhost")


MARIA_GRANTS = """
create or replace user baca@localhost;
grant replication slave, binlog monitor on *.* to baca@localhost
"""


@pytest.fixture
def any_party(any_prepared: Party | MariaParty) -> Iterator[AnyParty]:
    """Each log, followed in each way that it has, from here on."""
    if isinstance(any_prepared, Party):
        with fresh(any_prepared, any_prepared.capture) as made:
            yield made
        return
    for table in ("kader", "papan", "kerja", "wilayah", "bagian", "lain"):
        any_prepared.run(f"truncate {table}")
    party = MariaParty(any_prepared.server, any_prepared.database)
    with closing(party.open()) as source:
        party.begin = source.start
    yield party
    party.close()


def until(reached: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not reached():
        assert time.monotonic() < deadline, f"never came: {what}"
        wait(0.01)


def read(source: Source) -> Signals:
    """The next signals, however long they take."""
    deadline = time.monotonic() + DEADLINE_S
    while (signals := source.read(0.05)) is None:
        assert time.monotonic() < deadline, "nothing came"
    return signals


def collect(party: AnyParty, source: Source) -> list[Signals]:
    """Everything up to now: a last change is made, and read up to."""
    mark = f"tanda-{next(_numbers)}"
    party.run("insert into kader values (%s, 'tanda')", mark)
    found: list[Signals] = []
    while not found or mark not in keys(found[-1:], "anggota"):
        found.append(read(source))
    return found


def flat(keys: KeySet | None) -> list[str]:
    return [] if keys is None else [key for part in keys.slices(1_000) for key in part]


def keys(found: Sequence[Signals], entity: str) -> list[str]:
    return [key for signals in found for key in flat(signals.keys.get(entity))]


def own(found: Sequence[Signals], entity: str) -> set[str]:
    """Without the marks of `collect`."""
    return {key for key in keys(found, entity) if not key.startswith("tanda-")}


def matched(found: Sequence[Signals]) -> set[str]:
    return {key for signals in found for key in flat(signals.matches.get(KERJA))}


def whole(found: Sequence[Signals]) -> set[str]:
    return {entity for signals in found for entity in signals.whole}


# -- what is told


def test_every_kind_of_change_names_the_keys_it_touches(any_party: AnyParty) -> None:
    any_party.run("insert into kader values ('a', 'A'), ('b', 'B'), ('c', 'C'), ('d', 'D')")
    any_party.run("insert into papan values (1, 'a', 'KETUA'), (2, 'a', 'SEKRETARIS')")
    source = any_party.open()
    first = collect(any_party, source)
    assert own(first, "anggota") == {"a", "b", "c", "d"}
    assert own(first, "pengurus") == {"1|a", "2|a"}
    any_party.run("insert into kader values ('baru', 'X')")
    any_party.run("update kader set nama = 'BB' where id = 'b'")
    any_party.run("update kader set id = 'c2' where id = 'c'")
    any_party.run("delete from kader where id = 'd'")
    any_party.run("update papan set papan = 9 where papan = 2")
    any_party.run("delete from papan where papan = 1")
    found = collect(any_party, source)
    assert own(found, "anggota") == {"baru", "b", "c", "c2", "d"}
    assert own(found, "pengurus") == {"9|a", "2|a", "1|a"}
    assert not whole(found)


def test_keys_that_change_places_are_all_named(any_party: AnyParty) -> None:
    """A swap through a third key, and a range that moves: no row is lost on the way."""
    any_party.run("insert into kader values ('a', 'A'), ('b', 'B')")
    any_party.run("insert into papan values " + ", ".join(f"({number}, 'x', '')" for number in range(1, 6)))
    source = any_party.open()
    collect(any_party, source)
    with any_party.other() as conn:
        for old, new in (("a", "sementara"), ("b", "a"), ("sementara", "b")):
            conn.execute(f"update kader set id = '{new}' where id = '{old}'")
        conn.execute("update papan set papan = papan + 5")
        conn.commit()
    found = collect(any_party, source)
    assert own(found, "anggota") == {"a", "b", "sementara"}
    assert own(found, "pengurus") == {f"{number}|x" for number in range(1, 11)}


def test_large_values_and_full_identities_name_the_key_all_the_same(party: Party) -> None:
    """An update of another column leaves a large value out of the log: with keys only there is nothing to lose."""
    party.run("alter table kader alter column nama set storage external")
    party.run("insert into kader values ('a', repeat('x', 9000)), ('b', repeat('y', 9000))")
    source = party.open()
    collect(party, source)
    party.run("update kader set id = 'a2' where id = 'a'")
    party.run("update kader set nama = nama where id = 'b'")
    found = collect(party, source)
    assert own(found, "anggota") == {"a", "a2", "b"}
    assert not whole(found)


def test_rows_of_a_partitioned_table_are_its_roots(any_party: AnyParty) -> None:
    """Whatever order of columns a partition has; a row that moves to another one keeps its key."""
    source = any_party.open()
    any_party.run("insert into bagian values (1, 1, 'a'), (2, 2, 'b')")
    any_party.run("update bagian set tahun = 2 where id = 1")
    any_party.run("delete from bagian where id = 2")
    found = collect(any_party, source)
    assert set(keys(found, "dokumen")) == {"1", "2"}
    any_party.run("truncate bagian")
    assert whole(collect(any_party, source)) == {"dokumen"}


def test_a_joined_tables_change_names_its_values_and_its_deletion_the_whole_entity(any_party: AnyParty) -> None:
    source = any_party.open()
    any_party.run("insert into kerja values (1, 'PETANI'), (2, 'GURU')")
    any_party.run("update kerja set nama = 'NELAYAN' where kerja_id = 1")
    found = collect(any_party, source)
    assert matched(found) == {"1", "2"}
    assert not whole(found)
    # Rows may leave the view with it, when it is deleted and when it is joined to others now.
    for statement in ("update kerja set kerja_id = 3 where kerja_id = 2", "delete from kerja where kerja_id = 1"):
        any_party.run(statement)
        assert whole(collect(any_party, source)) == {"anggota"}


def test_a_table_without_a_path_to_the_key_and_a_truncate_name_the_whole_entity(any_party: AnyParty) -> None:
    source = any_party.open()
    any_party.run("insert into wilayah values ('32', 'JAWA BARAT')")
    assert whole(collect(any_party, source)) == {"kantor"}
    any_party.run("truncate lain")
    any_party.run("truncate papan")
    assert whole(collect(any_party, source)) == {"pengurus"}


def test_keys_of_any_text_arrive_as_they_are(any_party: AnyParty) -> None:
    texts = [
        "",
        " ",
        "a|b",
        "a\\",
        "'; drop table kader; --",
        "NULL",
        "\\N",
        "é😀",
        "a\tb\nc\rd",
        "x" * any_party.letters_max,
    ]
    source = any_party.open()
    for text in texts:
        any_party.run("insert into kader values (%s, '')", text)
        any_party.run("insert into papan values (1, %s, '')", text)
    found = collect(any_party, source)
    assert own(found, "anggota") == set(texts)
    escaped = {text.replace("\\", "\\\\").replace("|", "\\|") for text in texts}
    assert own(found, "pengurus") == {f"1|{text}" for text in escaped}


def test_keys_are_text_as_the_view_gives_it_whatever_the_login_has_set(party: Party) -> None:
    """A date in a key: a session with another DateStyle would give keys that the view does not have."""
    whom = party.reader if party.capture == "pull" else "postgres"
    party.run(f"alter role {whom} in database {party.database} set datestyle = 'SQL, DMY'")
    try:
        source = party.open()
        party.run("alter table kader rename to simpan")
        party.run("create table kader (id date primary key)")
        party.run(f'alter publication "{party.slot}" add table kader (id)')
        party.run("insert into kader values ('2025-03-04')")
        party.run("drop table kader")
        party.run("alter table simpan rename to kader")
        assert own(collect(party, source), "anggota") == {"2025-03-04"}
    finally:
        party.run(f"alter role {whom} in database {party.database} reset all")


# -- transactions


def test_nothing_is_told_before_its_commit_and_nothing_of_what_was_rolled_back(any_party: AnyParty) -> None:
    source = any_party.open()
    with any_party.other() as slow:
        slow.execute("insert into kader values ('lambat', '')")
        any_party.run("insert into kader values ('cepat', '')")
        assert own(collect(any_party, source), "anggota") == {"cepat"}
        slow.execute("savepoint s")
        slow.execute("insert into kader values ('batal', '')")
        slow.execute("rollback to s")
        slow.commit()
        slow.execute("insert into kader values ('batal juga', '')")
        slow.rollback()
    assert own(collect(any_party, source), "anggota") == {"lambat"}


def test_a_transaction_is_never_split(any_party: AnyParty) -> None:
    """Small ones and a large one, in two tables each: whoever has one key of it has all of them."""
    source = any_party.open(keys_in_memory=500)
    for name, papan, size in (*((str(number), number, 10) for number in range(5)), ("besar", 77, 6_000)):
        with any_party.other() as conn:
            conn.execute("insert into kader values " + ", ".join(f"('{name}-{g}', '')" for g in range(size)))
            conn.execute("insert into papan values " + ", ".join(f"({papan}, '{g}', '')" for g in range(size)))
            conn.commit()
    found = collect(any_party, source)
    assert len(own(found, "anggota")) == 6_050
    for signals in found:
        groups: Mapping[str, int] = {str(number): 10 for number in range(5)} | {"besar": 6_000}
        for name, size in groups.items():
            mine = sum(key.startswith(f"{name}-") for key in keys([signals], "anggota"))
            board = "77" if name == "besar" else name
            assert mine in (0, size)
            assert mine == sum(key.startswith(f"{board}|") for key in keys([signals], "pengurus"))
        assert signals.transactions == len(signals.xids)


def test_transactions_are_told_with_their_ids_and_times(party: Party) -> None:
    source = party.open()
    before = party.ask("select clock_timestamp()")
    with party.other() as conn:
        conn.execute("insert into kader values ('a', '')")
        row = conn.execute("select (pg_current_xact_id()::text::bigint & 4294967295)").fetchone()
        conn.commit()
    found = collect(party, source)
    after = party.ask("select clock_timestamp()")
    assert row is not None
    assert row[0] in {xid for signals in found for xid in signals.xids}
    for signals in found:
        assert signals.committed_first is not None
        assert signals.committed_last is not None
        # The protocol's times have whole microseconds.
        assert before - timedelta(milliseconds=1) <= signals.committed_first <= signals.committed_last
        assert signals.committed_last <= after + timedelta(milliseconds=1)


def test_a_change_of_tables_that_are_not_followed_tells_nothing(any_party: AnyParty) -> None:
    source = any_party.open()
    any_party.run("insert into lain values (1, 'x')")
    any_party.run("create table baru as select 1 as id")
    any_party.run("drop table baru")
    found = collect(any_party, source)
    assert own(found, "anggota") == set()
    assert not whole(found)


# -- positions


def test_positions_rise_and_cover_what_came_with_them(party: Party) -> None:
    source = party.open()
    start = source.start
    assert start.ordinal == party.confirmed()
    positions, marks = [start], []
    for number in range(4):
        party.run("insert into kader values (%s, '')", str(number))
        marks.append(party.end())
        while str(number) not in keys([signals := read(source)], "anggota"):
            positions.append(signals.position)
        positions.append(signals.position)
        assert signals.position.ordinal <= party.end()
        assert signals.position.text == lsn_text(signals.position.ordinal)
    assert positions == sorted(positions)
    assert len(set(positions)) == len(positions), "each signals move the position"


def test_reading_confirms_nothing_and_confirming_confirms_just_that(party: Party) -> None:
    before = party.confirmed()
    source = party.open()
    party.run("insert into kader values ('a', '')")
    first = collect(party, source)
    party.run("insert into kader values ('b', '')")
    second = collect(party, source)
    assert party.confirmed() == before
    source.confirm(first[-1].position)
    until(lambda: party.confirmed() >= first[-1].position.ordinal, "the position is confirmed")
    assert party.confirmed() == first[-1].position.ordinal < second[-1].position.ordinal
    source.close()
    assert party.confirmed() == first[-1].position.ordinal, "a goodbye confirms nothing more"


def test_positions_rise_with_each_signals(any_party: AnyParty) -> None:
    source = any_party.open()
    positions = [source.start]
    for letter in "abcd":
        any_party.run("insert into kader values (%s, '')", letter)
        while letter not in keys([signals := read(source)], "anggota"):
            positions.append(signals.position)
        positions.append(signals.position)
    assert positions == sorted(positions)
    assert len(set(positions)) == len(positions) == len({position.text for position in positions})


def test_what_was_not_confirmed_is_told_again_to_who_starts_again(any_party: AnyParty) -> None:
    with closing(any_party.open()) as source:
        any_party.run("insert into kader values ('a', '')")
        assert own(collect(any_party, source), "anggota") == {"a"}
        identity = source.identity
        start = source.start
    again = any_party.open(start, identity)
    assert again.start == start
    assert own(collect(any_party, again), "anggota") == {"a"}


def test_any_position_ever_given_is_a_place_to_start_from(any_party: AnyParty) -> None:
    """After each of them come just the transactions that were not covered: none is missed, none is told twice."""
    identity, given = None, []
    with closing(any_party.open()) as source:
        identity = source.identity
        for number in range(5):
            any_party.run("insert into kader values (%s, '')", f"k{number}")
            found = collect(any_party, source)
            assert own(found, "anggota") == {f"k{number}"}
            given.append(found[-1].position)
    for number, position in enumerate(given):
        with closing(any_party.open(position, identity)) as source:
            assert source.start == position
            assert own(collect(any_party, source), "anggota") == {f"k{later}" for later in range(number + 1, 5)}


def test_a_start_after_a_confirmed_position_goes_on_behind_it(party: Party) -> None:
    with closing(party.open()) as source:
        party.run("insert into kader values ('a', '')")
        found = collect(party, source)
        source.confirm(found[-1].position)
        position, identity = found[-1].position, source.identity
    until(lambda: party.confirmed() >= position.ordinal, "the position is confirmed")
    party.run("insert into kader values ('b', '')")
    again = party.open(position, identity)
    assert own(collect(party, again), "anggota") == {"b"}


def test_a_backlog_and_what_comes_after_it_are_one_stream(party: Party) -> None:
    """Enough log that a stream catches up another way first, in windows; then it follows live."""
    party.run("insert into kader values ('awal', '')")
    for number in range(3):
        party.run(
            "insert into lain select g, repeat(md5(g::text), 60) from generate_series(%s::int, %s::int) g",
            number * 900,
            number * 900 + 899,
        )
        party.run("insert into kader values (%s, '')", f"tengah{number}")
    source = party.open()
    found = collect(party, source)
    source.confirm(found[-1].position)
    party.run("insert into kader values ('akhir', '')")
    more = collect(party, source)
    assert own(found, "anggota") == {"awal", "tengah0", "tengah1", "tengah2"}
    assert own(more, "anggota") == {"akhir"}
    positions = [signals.position for signals in found + more]
    assert positions == sorted(positions)


# -- idle


def test_an_idle_source_says_nothing_and_moves_nothing(party: Party) -> None:
    source = party.open()
    collect(party, source)
    before = party.confirmed()
    assert [source.read(0.0) for _ in range(20)] == [None] * 20
    assert party.confirmed() == before


def test_a_stretch_of_log_without_anything_for_us_is_moved_over(party: Party) -> None:
    """Else the party's server would keep it for ever: the position moves, no key is told, nothing is lost behind it."""
    source = party.open()
    before = party.confirmed()
    party.ask("select pg_logical_emit_message(false, 'uji', repeat('x', 3000000))")
    party.run("insert into lain values (1, '')")
    signals = read(source)
    assert (signals.keys, signals.matches, signals.whole) == ({}, {}, frozenset())
    assert signals.position.ordinal > before + 1_000_000
    source.confirm(signals.position)
    until(lambda: party.confirmed() > before + 1_000_000, "the slot follows")
    assert party.confirmed() <= signals.position.ordinal
    party.run("insert into kader values ('a', '')")
    assert own(collect(party, source), "anggota") == {"a"}


def test_a_transaction_open_while_an_idle_position_was_confirmed_is_not_lost(party: Party) -> None:
    source = party.open()
    with party.other() as slow:
        slow.execute("insert into kader values ('lambat', '')")
        party.ask("select pg_logical_emit_message(false, 'uji', repeat('x', 3000000))")
        signals = read(source)
        assert signals.empty
        source.confirm(signals.position)
        until(lambda: party.confirmed() >= signals.position.ordinal - 1_000_000, "the slot follows")
        slow.commit()
    assert own(collect(party, source), "anggota") == {"lambat"}


def test_the_log_that_is_kept_for_us_is_told(party: Party) -> None:
    source = party.open()
    party.ask("select pg_logical_emit_message(false, 'uji', repeat('x', 3000000))")
    assert source.lag_bytes() > 2_000_000


# -- gaps are never passed over


def far(position: Position, bytes_: int) -> Position:
    return Position(position.ordinal + bytes_, lsn_text(position.ordinal + bytes_))


def test_a_slot_that_was_moved_past_our_position_is_a_loss(party: Party) -> None:
    with closing(party.open()) as source:
        start, identity = source.start, source.identity
    party.run("insert into kader values ('hilang', '')")
    party.ask(f"select pg_replication_slot_advance('{party.slot}', pg_current_wal_insert_lsn())")
    with pytest.raises(PositionLost) as caught:
        party.open(start, identity)
    assert caught.value.reason == "position_ahead"
    assert "resync" in caught.value.hint


def test_a_slot_made_anew_under_the_same_name_is_a_loss(party: Party) -> None:
    with closing(party.open()) as source:
        start, identity = source.start, source.identity
    drop_slot(party)
    party.run("insert into kader values ('hilang', '')")
    party.ask(f"select pg_create_logical_replication_slot('{party.slot}', 'pgoutput')")
    with pytest.raises(PositionLost) as caught:
        party.open(start, identity)
    assert caught.value.reason == "position_ahead"


@pytest.mark.parametrize(
    ("system", "timeline", "bytes_", "reason"),
    [("7", 0, 0, "identity_changed"), ("", 1, 0, "identity_changed"), ("", 0, 1 << 40, "diverged")],
)
def test_another_cluster_history_or_an_older_state_of_it_is_a_loss(
    party: Party, system: str, timeline: int, bytes_: int, reason: str
) -> None:
    with closing(party.open()) as source:
        start, known = source.start, source.identity
    identity = SourceIdentity(system or known.system, known.timeline + timeline, known.slot)
    with pytest.raises(PositionLost) as caught:
        party.open(far(start, bytes_), identity)
    assert caught.value.reason == reason


def test_no_slot_is_a_loss_for_who_was_there_before_and_a_missing_kit_for_who_was_not(party: Party) -> None:
    with closing(party.open()) as source:
        start, identity = source.start, source.identity
    drop_slot(party)
    with pytest.raises(PositionLost) as caught:
        party.open(start, identity)
    assert caught.value.reason == "slot_missing"
    with pytest.raises(SourceMisconfigured) as missing:
        party.open()
    assert "connector kit" in missing.value.hint


def test_a_slot_that_goes_away_under_a_reader_is_told(party: Party) -> None:
    source = party.open()
    collect(party, source)
    party.run(
        "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s and active", party.slot
    )
    drop_slot(party)
    party.run("insert into kader values ('a', '')")
    with pytest.raises(SourceError):
        read(source)
    with pytest.raises(PositionLost) as caught:
        source.lag_bytes()
    assert caught.value.reason == "slot_missing"


def test_a_cut_connection_is_unavailable_and_the_next_one_misses_nothing(any_party: AnyParty) -> None:
    source = any_party.open()
    any_party.run("insert into kader values ('a', '')")
    position = collect(any_party, source)[-1].position
    any_party.cut()
    any_party.run("insert into kader values ('b', '')")
    with pytest.raises(SourceUnavailable):
        read(source)
    source.close()
    again = any_party.open(position, source.identity)
    assert own(collect(any_party, again), "anggota") == {"b"}


# -- encodings


@pytest.mark.parametrize("capture", ["pull", "stream"])
@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_keys_in_another_encoding(pg16: Server, encoding: str, capture: str) -> None:
    """LATIN1 comes as UTF-8. In a database that knows no encoding a key that is no text has the entity read whole."""
    database = new_database(pg16, "sumber")
    with psycopg.connect(pg16.dsn(), autocommit=True) as conn:
        conn.execute(f"drop database {database}".encode())
        made = f"create database {database} encoding '{encoding}' locale 'C' template template0"
        conn.execute(made.encode())
    with install(pg16, database) as prepared, fresh(prepared, capture) as party:
        source = party.open()
        party.run("insert into kader values ('é', '')")
        found = collect(party, source)
        assert own(found, "anggota") == {"é"}
        assert not whole(found)
        if encoding == "SQL_ASCII":
            party.run("insert into kader values (E'caf\\xe9', '')")
            assert whole(collect(party, source)) == {"anggota"}
