"""What the runtime may rely on from a source that reads no log: diff, cursor and outbox, on every engine that has them.

The promises are those of `test_source_contract`, less what only a log can keep: transactions may arrive in parts, and a
position is a number of hand-overs. What is not applied is told again; a deletion is seen where the mode promises it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from engines import AnyParty, drop_postgres_party, mysql_party, postgres_party, sqlite_party
from mariadb import MariaDb
from workbench import new_name

from connector.capture.outbox.kit import kit_steps
from connector.capture.outbox.leg import OutboxLeg
from connector.capture.outbox.tables import PgChangeTable, SqlChangeTable
from connector.capture.polling.cursor import CursorLeg, Followed
from connector.capture.polling.diff import Diff
from connector.capture.polling.pg_digests import PgDigests
from connector.capture.polling.ports import Leg, PolledView
from connector.capture.polling.source import PollSource
from connector.capture.polling.sql_digests import SqlDigests
from connector.capture.signals import Route, Signals
from connector.embedded import Server
from connector.errors import PositionLost
from connector.events import Position, SourceIdentity
from connector.runtime.ports import Source
from connector.sqldb.engines import Options
from connector.staging import memory as memories
from connector.staging.memory import PartyMemory

TABLES = """
create table kader (id varchar(40) not null primary key, nama varchar(20), versi int);
create view v_anggota as select id, nama, versi from kader;
insert into kader values ('a', 'A', 1), ('b', 'B', 2), ('c', 'C', 3);
"""
SEES_DELETES = frozenset({"diff", "outbox"})


@dataclass
class Polled:
    """A party of one engine, followed in one way."""

    party: AnyParty
    capture: str
    staging_dsn: str
    versi: int = 100
    opened: list[Source] = field(default_factory=list)

    @property
    def identity(self) -> SourceIdentity:
        return SourceIdentity(self.party.engine, 0, self.capture)

    def open(self, stored: Position | None = None, identity: SourceIdentity | None = None) -> Source:
        memory = PartyMemory(self.staging_dsn, "uji")
        source = PollSource(
            [self._leg(memory)], memory, self.identity, stored, identity or self.identity, lambda _: True
        )
        self.opened.append(source)
        return source

    def _leg(self, memory: PartyMemory) -> Leg:
        url, postgres = self.party.url, self.party.engine == "postgresql"
        if self.capture == "outbox":
            table = (
                PgChangeTable(url, "sipol", self.party.slot, application="uji", statement_timeout_s=10)
                if postgres
                else SqlChangeTable(url, self.party.schema, self.party.slot, Options("uji"))
            )
            routes = {(self.party.base, "kader"): (Route("anggota", (("id", "id"),)),)}
            return OutboxLeg(table, routes, every_s=0.0, keys_in_memory=100)
        view = PolledView("anggota", (self.party.schema, "v_anggota"), ("id",), ("id", "nama"))
        reader = (
            PgDigests(url, application="uji", statement_timeout_s=10) if postgres else SqlDigests(url, Options("uji"))
        )
        if self.capture == "cursor":
            return CursorLeg([view], reader, memory, Followed("versi", 0.0, 0.0), 100)
        return Diff([view], reader, memory, every_s=0.0, keys_in_memory=100, stopping=lambda: False)

    def write(self, statement: str) -> None:
        """One change; `:v` is a version that rises."""
        self.versi += 1
        self.party.run(statement.replace(":v", str(self.versi)))

    def apply(self, source: Source, signals: Signals) -> None:
        """As the pipeline does: what was seen moves with the rows, then the source may forget."""
        with psycopg.connect(self.staging_dsn) as conn:
            memories.write(conn, "uji", signals.notes)
        source.confirm(signals.position)

    def drain(self, source: Source) -> tuple[set[str], list[Position]]:
        """Everything there is now, applied: keys, and the positions they came with."""
        keys: set[str] = set()
        positions = []
        for _ in range(2):  # a round that was under way ends with the first look
            while (signals := source.read(0.0)) is not None:
                keys |= keys_of(signals)
                positions.append(signals.position)
                self.apply(source, signals)
        return keys, positions


def keys_of(signals: Signals) -> set[str]:
    return {key for some in signals.keys.values() for part in some.slices(1_000) for key in part}


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AnyParty]:
    match request.param:
        case "sqlite":
            yield sqlite_party(tmp_path / "partai.db")
        case "mariadb":
            maria: MariaDb = request.getfixturevalue("mariadb")
            database: str = request.getfixturevalue("maria_database")
            yield mysql_party(lambda: maria.connect(database), maria.url(database), database)
        case _:
            server: Server = request.getfixturevalue("pg16")
            name = new_name(server, "party")
            made = postgres_party(server.dsn(name))
            yield made
            drop_postgres_party(server.dsn(), made)


@pytest.fixture(params=["diff", "cursor", "outbox"])
def polled(request: pytest.FixtureRequest, engine: AnyParty, staging_dsn: str) -> Iterator[Polled]:
    engine.run(TABLES)
    if request.param == "outbox":
        engine.execute([step.sql for step in kit_steps(engine.outbox({"kader": ("id",)}))])
    with psycopg.connect(staging_dsn) as conn:
        conn.execute("insert into connector.party values ('uji', 1)")
    made = Polled(engine, request.param, staging_dsn)
    yield made
    for source in made.opened:
        source.close()


def test_changes_are_told_once_applied_they_are_not_told_again(polled: Polled) -> None:
    source = polled.open()
    polled.drain(source)
    polled.write("insert into kader values ('d', 'D', :v)")
    polled.write("update kader set nama = 'AA', versi = :v where id = 'a'")
    assert polled.drain(source)[0] == {"a", "d"}
    assert polled.drain(source) == (set(), [])
    polled.write("delete from kader where id = 'b'")
    assert polled.drain(source)[0] == ({"b"} if polled.capture in SEES_DELETES else set())
    polled.write("update kader set id = 'c2', versi = :v where id = 'c'")
    assert polled.drain(source)[0] == ({"c", "c2"} if polled.capture in SEES_DELETES else {"c2"})


def test_keys_of_any_text_arrive_as_they_are(polled: Polled) -> None:
    source = polled.open()
    polled.drain(source)
    texts = ["", " ", "a|b", "NULL", "x''y", "1", "01", "1e5"]
    if polled.party.engine == "mariadb":
        texts.remove(" ")  # a padded collation takes it for the empty text
    for text in texts:
        polled.write(f"insert into kader values ('{text}', '', :v)")
    assert polled.drain(source)[0] == {text.replace("''", "'") for text in texts}


def test_positions_rise_with_each_hand_over_and_nothing_moves_when_idle(polled: Polled) -> None:
    source = polled.open()
    positions = [source.start]
    for number in range(4):
        polled.write(f"insert into kader values ('k{number}', '', :v)")
        positions += polled.drain(source)[1]
    assert positions == sorted(positions)
    assert len({position.ordinal for position in positions}) == len(positions) >= 5
    assert [source.read(0.0) for _ in range(5)] == [None] * 5
    assert source.lag_bytes() == 0


def test_what_was_read_and_not_applied_is_told_again_to_who_starts_again(polled: Polled) -> None:
    with closing(polled.open()) as source:
        polled.drain(source)
        polled.write("update kader set nama = 'AA', versi = :v where id = 'a'")
        polled.drain(source)
        polled.write("update kader set nama = 'BB', versi = :v where id = 'b'")
        stored = source.start
        while (signals := source.read(0.0)) is None:
            pass
        assert keys_of(signals) == {"b"}
        stored = Position(signals.position.ordinal - 1, "")
    polled.write("update kader set nama = 'CC', versi = :v where id = 'c'")
    again = polled.open(stored)
    assert again.start == stored
    found = polled.drain(again)[0]
    # A cursor meets its last row once more.
    assert found - {"a"} == {"b", "c"}
    assert polled.capture == "cursor" or "a" not in found


def test_nothing_is_told_before_its_commit_nor_what_was_rolled_back(polled: Polled) -> None:
    if polled.party.engine == "sqlite":
        pytest.skip("one writer at a time: there is no second transaction to wait for")
    source = polled.open()
    polled.drain(source)
    with closing(_connect(polled.party)) as slow:
        cursor = slow.cursor()
        cursor.execute("begin")
        cursor.execute("insert into kader values ('lambat', '', 150)")
        polled.write("insert into kader values ('cepat', '', :v)")
        assert polled.drain(source)[0] == {"cepat"}
        cursor.execute("commit")
        cursor.execute("begin")
        cursor.execute("insert into kader values ('batal', '', 151)")
        cursor.execute("rollback")
    assert polled.drain(source)[0] == {"lambat"}


def _connect(party: AnyParty) -> Any:
    if party.connect is not None:
        return party.connect()
    return psycopg.connect(party.url, autocommit=True)


def test_a_position_of_another_way_of_capture_is_a_loss(polled: Polled) -> None:
    for strange in (SourceIdentity("7", 1, "sipol_uji"), SourceIdentity(polled.party.engine, 0, "lain")):
        with pytest.raises(PositionLost) as caught:
            polled.open(Position(9, "0/9"), strange)
        assert caught.value.reason == "identity_changed"
        assert "resync" in caught.value.hint
