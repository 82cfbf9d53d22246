"""The outbox: what its triggers note, what is handed over and removed, and that the party's own writes never suffer."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from catalogues import catalogue
from engines import AnyParty, drop_postgres_party, mysql_party, postgres_party, sqlite_party
from mariadb import MariaDb
from workbench import new_name

from connector.capture.outbox import leg as legs
from connector.capture.outbox.kit import OutboxRequest, kit_steps, removal_steps, script
from connector.capture.outbox.leg import OutboxLeg, parse
from connector.capture.outbox.tables import PgChangeTable, SqlChangeTable
from connector.capture.polling.source import PollSource
from connector.capture.signals import Match, Route, Routes, Signals
from connector.embedded import Server
from connector.errors import PositionLost, SourceMisconfigured, SourceProtocolError
from connector.events import Position, SourceIdentity
from connector.sqldb.engines import Options
from connector.staging.memory import PartyMemory

IDENTITY = SourceIdentity("uji", 0, "outbox")
TABLES = """
create table orang (a int not null primary key, b varchar(20), isi varchar(20));
create table rujukan (k varchar(10) not null primary key, isi varchar(20));
create table kosong (isi varchar(20));
create view v_orang as select o.a, o.isi, r.isi as rujukan from orang o left join rujukan r on r.k = o.b;
insert into orang values (1, 'x', 'lama'), (2, 'y', 'lama'), (3, null, 'lama');
insert into rujukan values ('x', 'lama'), ('y', 'lama');
insert into kosong values ('lama');
"""
LINEAGE = {"orang": ("a",), "rujukan": ("k",), "kosong": ()}


class Outbox:
    """A party with the kit installed, and sources over its change table."""

    def __init__(self, party: AnyParty, staging_dsn: str) -> None:
        self.party = party
        self.staging_dsn = staging_dsn
        self.notes_max = 1_000
        self.routes: Routes = {
            (party.base, "orang"): (Route("anggota", (("a", "a"),)),),
            (party.base, "rujukan"): (Route("anggota", (), (("b", "k"),)),),
            (party.base, "kosong"): (Route("anggota"),),
        }

    @property
    def request(self) -> OutboxRequest:
        view = (self.party.schema, "v_orang")
        request = self.party.outbox(LINEAGE)
        tables = tuple(replace(table, tells_gone=table.name == "rujukan") for table in request.tables)
        return replace(request, tables=tables, views=(view,), notes_max=self.notes_max)

    def install(self) -> None:
        self.party.execute([step.sql for step in kit_steps(self.request)])

    def remove(self) -> None:
        self.party.execute([step.sql for step in removal_steps(self.request)])

    def open(self, stored: Position | None) -> PollSource:
        table: PgChangeTable | SqlChangeTable
        if self.party.engine == "postgresql":
            table = PgChangeTable(self.party.url, "sipol", self.party.slot, application="test", statement_timeout_s=10)
        else:
            table = SqlChangeTable(
                self.party.url, self.party.schema, self.party.slot, Options("test", lock_timeout_s=2)
            )
        leg = OutboxLeg(table, self.routes, every_s=0.0, keys_in_memory=1_000)
        memory = PartyMemory(self.staging_dsn, "uji")
        return PollSource([leg], memory, IDENTITY, stored, IDENTITY, lambda _: True)

    def notes(self) -> list[tuple[Any, ...]]:
        schema = "sipol." if self.party.engine == "postgresql" else ""
        return self.party.read(f"select tabel, kunci from {schema}{self.party.slot} order by id")


def take(source: PollSource) -> Signals | None:
    """The next hand-over; a round that was under way ends with the first look."""
    return source.read(0.0) or source.read(0.0)


def found(signals: Signals | None) -> tuple[list[str], list[str], bool]:
    """Keys, matched values, and whether everything may have changed."""
    assert signals is not None
    keys = [key for some in signals.keys.values() for part in some.slices(1_000) for key in part]
    matches = [value for some in signals.matches.values() for part in some.slices(1_000) for value in part]
    assert all(match == Match("anggota", ("b",)) for match in signals.matches)
    return sorted(keys), sorted(matches), signals.whole == frozenset({"anggota"})


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
            name = new_name(server, "party")
            made = postgres_party(server.dsn(name))
            made.run(TABLES)
            yield made
            drop_postgres_party(server.dsn(), made)
            return
    made.run(TABLES)
    yield made


@pytest.fixture
def outbox(party: AnyParty, staging_dsn: str) -> Outbox:
    made = Outbox(party, staging_dsn)
    made.install()
    return made


def keys_in(notes: list[tuple[Any, ...]]) -> int:
    """PostgreSQL's triggers write many keys into a note, the others' one."""
    return sum(len(keys["a"]) if isinstance(keys, dict) else 1 for _, keys in notes)


def insert(*numbers: int) -> str:
    return "insert into orang values " + ", ".join(f"({number}, 'x', '')" for number in numbers)


def test_while_nobody_reads_the_notes_grow_to_a_limit_and_the_loss_is_mended(party: AnyParty, staging_dsn: str) -> None:
    """Row 98: past the limit nothing is noted, everything is looked at again, and then notes are taken as before."""
    outbox = Outbox(party, staging_dsn)
    outbox.notes_max = 5
    outbox.install()
    with closing(outbox.open(None)) as source:
        assert source.read(0.0) is None
    for number in range(10, 30):
        party.run(insert(number))
    assert len(outbox.notes()) == 5
    with closing(outbox.open(Position(0, "outbox 0"))) as source:
        signals = source.read(0.0)
        assert found(signals) == ([], [], True)
        # There is room again before what was lost is read: nothing falls between.
        party.run(insert(40))
        assert len(outbox.notes()) == 6
    with closing(outbox.open(Position(0, "outbox 0"))) as source:
        signals = source.read(0.0)
        assert found(signals) == ([], [], True), "it was not applied"
        assert signals is not None
        source.confirm(signals.position)
        signals = source.read(0.0)
        assert found(signals) == (["10", "11", "12", "13", "14", "40"], [], False)
        assert signals is not None
        source.confirm(signals.position)
        assert outbox.notes() == []
        party.run(insert(41))
        assert found(take(source)) == (["41"], [], False)


def test_notes_that_are_applied_make_room_for_more(party: AnyParty, staging_dsn: str) -> None:
    outbox = Outbox(party, staging_dsn)
    outbox.notes_max = 5
    outbox.install()
    with closing(outbox.open(None)) as source:
        for number in range(10, 40):
            party.run(insert(number))
            signals = take(source)
            assert found(signals) == ([str(number)], [], False)
            assert signals is not None
            source.confirm(signals.position)


def test_a_bulk_change_is_cut_at_the_limit(party: AnyParty, staging_dsn: str) -> None:
    outbox = Outbox(party, staging_dsn)
    outbox.notes_max = 5
    outbox.install()
    with closing(outbox.open(None)) as source:
        party.run(insert(*range(10, 50)))
        # A sequence that was never used stands at its first number.
        assert 4 <= keys_in(outbox.notes()) <= 5
        assert found(source.read(0.0)) == ([], [], True)


def test_every_kind_of_change_is_handed_over_and_removed_when_applied(outbox: Outbox) -> None:
    party = outbox.party
    with closing(outbox.open(None)) as source:
        assert source.read(0.0) is None
        party.run(
            "insert into orang values (10, 'x', 'baru');\nupdate orang set isi = 'baru' where a = 1;\n"
            "update orang set a = 20 where a = 2;\ndelete from orang where a = 3;\n"
            "update rujukan set isi = 'baru' where k = 'x'"
        )
        signals = source.read(0.0)
        assert found(signals) == (["1", "10", "2", "20", "3"], ["x"], False)
        assert signals is not None
        assert outbox.notes() != []
        source.confirm(signals.position)
        assert outbox.notes() == []
        assert source.read(0.0) is None
        party.run("insert into kosong values ('baru')")
        assert found(source.read(0.0)) == ([], [], True)


def test_rows_that_leave_with_a_joined_row_are_found_by_a_look_at_all_of_them(outbox: Outbox) -> None:
    """A value that no row has any more finds nothing in the view; where rows are known to stay, it does."""
    changes = {
        "insert into rujukan values ('z', 'baru')": (["z"], False),
        "update rujukan set k = 'w' where k = 'x'": (["w", "x"], True),
        "delete from rujukan where k = 'y'": (["y"], True),
    }
    with closing(outbox.open(None)) as source:
        for statement, (values, whole) in changes.items():
            outbox.party.run(statement)
            signals = take(source)
            assert found(signals) == ([], values, whole), statement
            assert signals is not None
            source.confirm(signals.position)
    place = (outbox.party.base, "rujukan")
    outbox.routes = {place: (Route("anggota", (), (("b", "k"),), stays=True),)}
    with closing(outbox.open(None)) as source:
        outbox.party.run("delete from rujukan where k = 'z'")
        assert found(take(source)) == ([], ["z"], False)


def test_what_was_not_applied_is_handed_over_again(outbox: Outbox) -> None:
    with closing(outbox.open(None)) as source:
        outbox.party.run("update orang set isi = 'baru' where a = 1")
        assert found(source.read(0.0))[0] == ["1"]
    with closing(outbox.open(Position(0, "outbox 0"))) as source:
        outbox.party.run("update orang set isi = 'baru' where a = 2")
        assert found(source.read(0.0))[0] == ["1", "2"]


def test_a_large_change_comes_in_parts(outbox: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(legs, "ROWS_MAX", 2)
    with closing(outbox.open(None)) as source:
        for number in range(11, 16):
            outbox.party.run(insert(number))
        keys: list[str] = []
        while (signals := source.read(0.0)) is not None:
            some = found(signals)[0]
            assert len(some) <= 2
            keys += some
            source.confirm(signals.position)
        assert sorted(keys) == ["11", "12", "13", "14", "15"]
        assert outbox.notes() == []


def test_a_restored_staging_is_a_gap_and_a_new_history_is_none(outbox: Outbox) -> None:
    with closing(outbox.open(None)) as source:
        for n in range(3):
            outbox.party.run(f"update orang set isi = '{n}' where a = 1")
            signals = take(source)
            assert signals is not None
            source.confirm(signals.position)
    with closing(outbox.open(Position(3, "outbox 3"))):
        pass
    with pytest.raises(PositionLost) as caught:
        outbox.open(Position(2, "outbox 2"))
    assert caught.value.reason == "position_ahead"
    with closing(outbox.open(None)):
        pass
    with closing(outbox.open(Position(0, "outbox 0"))):
        pass


def test_the_kit_may_run_twice_and_its_removal_leaves_nothing(party: AnyParty, staging_dsn: str) -> None:
    outbox = Outbox(party, staging_dsn)
    before = catalogue(party)
    outbox.install()
    once = catalogue(party)
    outbox.install()
    assert once != before
    assert catalogue(party) == once
    party.run("update orang set isi = 'baru' where a = 1")
    assert len(outbox.notes()) == 1
    for _ in range(2):
        outbox.remove()
        assert catalogue(party) == before
    party.run("update orang set isi = 'lagi' where a = 1")
    with pytest.raises(SourceMisconfigured):
        outbox.open(Position(0, "outbox 0"))


WRITES = (
    "insert into orang values (50, 'x', 'a'), (51, null, null)",
    "update orang set isi = 'b'",
    "update orang set a = a + 1000 where a >= 50",
    "update orang set isi = 'tiada' where a = -1",
    "delete from orang where a > 1000",
    "insert into kosong values ('b')",
    "update kosong set isi = 'c'",
    "delete from kosong",
    "delete from rujukan where k = 'y'",
)


def test_the_party_s_writes_are_the_same_before_with_and_after_the_kit(party: AnyParty, staging_dsn: str) -> None:
    outbox = Outbox(party, staging_dsn)

    def writes() -> list[tuple[Any, ...]]:
        party.execute(["delete from orang", "delete from rujukan", "delete from kosong"])
        party.execute([line for line in TABLES.split(";\n") if line.strip().startswith("insert")])
        party.execute(list(WRITES))
        return party.read("select a, b, isi from orang order by a") + party.read("select isi from kosong")

    before = writes()
    outbox.install()
    assert writes() == before
    outbox.remove()
    assert writes() == before


@pytest.fixture
def pg_outbox(request: pytest.FixtureRequest, staging_dsn: str) -> Iterator[Outbox]:
    server: Server = request.getfixturevalue("pg16")
    name = new_name(server, "party")
    made = Outbox(postgres_party(server.dsn(name)), staging_dsn)
    made.party.run(TABLES)
    made.install()
    yield made
    drop_postgres_party(server.dsn(), made.party)


def test_no_order_of_commits_hides_a_note(pg_outbox: Outbox) -> None:
    """Row 38: tx1 takes its number first and commits last; a third rolls back and leaves a gap."""
    party = pg_outbox.party
    with (
        closing(pg_outbox.open(None)) as source,
        psycopg.connect(party.url) as first,
        psycopg.connect(party.url) as gap,
    ):
        first.execute("update orang set isi = 'pertama' where a = 1")
        gap.execute("update orang set isi = 'batal' where a = 3")
        party.run("update orang set isi = 'kedua' where a = 2")
        gap.rollback()
        signals = source.read(0.0)
        assert found(signals)[0] == ["2"]
        assert signals is not None
        first.commit()
        source.confirm(signals.position)
        assert found(take(source))[0] == ["1"]


@pytest.mark.parametrize(
    "damage",
    [
        "drop table sipol.{slot}",
        "alter table sipol.{slot} add constraint penuh check (false) not valid",
        "alter table sipol.{slot} owner to postgres; revoke all on sipol.{slot} from {slot}_owner",
        "alter sequence sipol.{slot}_id_seq maxvalue 2 restart 2; select nextval('sipol.{slot}_id_seq')",
        "drop schema sipol cascade",
    ],
)
def test_on_postgresql_a_broken_outbox_is_a_warning_and_the_write_goes_on(pg_outbox: Outbox, damage: str) -> None:
    party = pg_outbox.party
    with psycopg.connect(party.url, autocommit=True) as conn:
        conn.execute(damage.format(slot=party.slot).encode())
        warned: list[str] = []
        conn.add_notice_handler(lambda notice: warned.append(notice.message_primary or ""))
        for write in (*WRITES, "truncate orang"):
            conn.execute(write.encode())
        assert not warned or all("was not noted" in text for text in warned)
    if "cascade" not in damage:
        assert warned


def test_partitioned_tables_truncates_and_tables_without_a_key_are_noted(pg_outbox: Outbox) -> None:
    party = pg_outbox.party
    party.execute([
        "create table bagian (a int, b text) partition by list (b)",
        "create table bagian_x partition of bagian default",
        "alter table orang replica identity nothing",
    ])  # fmt: skip
    party.execute([step.sql for step in kit_steps(party.outbox({"bagian": ("a",), "orang": ("a",)}))])
    party.execute(
        ["insert into bagian values (1, 'x'), (null, 'y')", "update bagian set a = 5 where a = 1", "truncate orang"]
    )
    assert [(table, keys) for table, keys in pg_outbox.notes()] == [
        ("public.bagian", {"a": ["1", None]}), ("public.bagian", {"a": ["1", "5"]}), ("public.orang", None),
    ]  # fmt: skip


def test_the_reader_can_read_and_prune_notes_and_nothing_else(pg_outbox: Outbox) -> None:
    party = pg_outbox.party
    slot = party.slot
    party.run("update orang set isi = 'baru' where a = 1")
    with psycopg.connect(party.url, user=party.reader, autocommit=True) as conn:
        row = conn.execute(f"select id, tabel from sipol.{slot}".encode()).fetchone()
        assert row is not None
        conn.execute(f"select sipol.{slot}_prune(array[%s]::bigint[], 1, false)".encode(), (row[0],))
        for refused in (
            "select * from orang",
            f"delete from sipol.{slot}",
            f"insert into sipol.{slot} (tabel) values ('x')",
            f"update sipol.{slot}_mark set handed = 9",
            "create table sipol.punya_ku ()",
            f"update sipol.{slot}_lost set at = now()",
            f"select nextval('sipol.{slot}_id_seq')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                conn.execute(refused.encode())
        conn.execute(f"select sipol.{slot}_reopen()".encode())


def test_the_scripts_run_in_each_engine_s_own_client(
    party: AnyParty, mariadb: MariaDb, request: pytest.FixtureRequest
) -> None:
    server: Server = request.getfixturevalue("pg16")
    command = {
        "sqlite": None,
        "mariadb": ["mariadb", f"--socket={mariadb.socket}", "--user=root", party.schema],
        "postgresql": [str(server.binaries / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", party.url],
    }[party.engine]
    request_ = party.outbox(LINEAGE)
    for steps in (kit_steps(request_), kit_steps(request_), removal_steps(request_)):
        text = script(steps, request_.engine)
        if command is None:
            sqlite_script(party, text)
        else:
            done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
            assert done.returncode == 0, done.stderr.decode()


def sqlite_script(party: AnyParty, text: str) -> None:
    import sqlite3

    with closing(sqlite3.connect(party.url.removeprefix("sqlite:///"))) as conn:
        conn.executescript(text)


def test_a_row_the_kit_did_not_write_is_refused() -> None:
    for values in ("[1]", "{}", '{"a": 1}', '{"a": ["1", 2]}', '{"a": ["1"], "b": []}', "x", b"\xff"):
        with pytest.raises(SourceProtocolError):
            parse(1, "main.orang", values)
