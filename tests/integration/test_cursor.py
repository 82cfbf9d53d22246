"""A cursor meets rows that rise, commit late or share a value; deletes and NULLs are the diff's beside it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest
from engines import AnyParty, mysql_party, postgres_party, sqlite_party
from mariadb import MariaDb
from psycopg import sql
from workbench import new_name

from connector.capture.polling import cursor as cursors
from connector.capture.polling.cursor import CursorLeg, Followed, earlier
from connector.capture.polling.pg_digests import PgDigests
from connector.capture.polling.ports import PolledView
from connector.capture.polling.source import PollSource
from connector.capture.polling.sql_digests import SqlDigests
from connector.embedded import Server
from connector.errors import SourceMisconfigured
from connector.events import Position, SourceIdentity
from connector.sqldb.engines import Options
from connector.staging import memory as memories
from connector.staging.memory import PartyMemory

IDENTITY = SourceIdentity("uji", 0, "cursor")
VIEW = ("a", "isi")


class Followers:
    """Opens sources over one party, and applies what they find as a batch would."""

    def __init__(self, party: AnyParty, staging_dsn: str) -> None:
        self.party = party
        self.staging_dsn = staging_dsn
        self.view = PolledView("anggota", (party.schema, "v_orang"), ("a",), VIEW)

    def open(self, stored: Position | None, column: str = "versi", overlap: float = 5.0) -> PollSource:
        memory = PartyMemory(self.staging_dsn, "uji")
        reader: PgDigests | SqlDigests
        if self.party.engine == "postgresql":
            reader = PgDigests(self.party.url, application="test", statement_timeout_s=10)
        else:
            reader = SqlDigests(self.party.url, Options("test"))
        leg = CursorLeg([self.view], reader, memory, Followed(column, overlap, 0.0), 1_000)
        return PollSource([leg], memory, IDENTITY, stored, IDENTITY, lambda _: True)

    def found(self, source: PollSource) -> list[str]:
        keys: list[str] = []
        while (signals := source.read(0.0)) is not None:
            keys += [key for some in signals.keys.values() for part in some.slices(100_000) for key in part]
            with psycopg.connect(self.staging_dsn) as conn:
                memories.write(conn, "uji", signals.notes)
        return sorted(keys)


@pytest.fixture(params=["sqlite", "mariadb", "postgresql"])
def followers(
    request: pytest.FixtureRequest, tmp_path: Path, staging_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Followers]:
    monkeypatch.setattr(cursors, "PAGE_ROWS", 3)
    drops: list[Callable[[], object]] = []
    match request.param:
        case "sqlite":
            party = sqlite_party(tmp_path / "partai.db")
        case "mariadb":
            maria: MariaDb = request.getfixturevalue("mariadb")
            name: str = request.getfixturevalue("maria_database")
            party = mysql_party(lambda: maria.connect(name), maria.url(name), name)
        case _:
            server: Server = request.getfixturevalue("pg16")
            name = new_name(server, "party")
            party = postgres_party(server.dsn(name))
            drops.append(lambda: _drop(server, name))
    party.run(
        """
create table orang (a int primary key, isi varchar(20), versi int, diubah timestamp null);
create view v_orang as select a, isi, versi, diubah from orang;
insert into orang values (1, 'x', 10, '2026-01-01 00:00:00'), (2, 'x', 20, '2026-01-01 00:00:10'), (3, 'x', null, null);
"""
    )
    with psycopg.connect(staging_dsn) as conn:
        conn.execute("insert into connector.party values ('uji', 1)")
    yield Followers(party, staging_dsn)
    for drop in drops:
        drop()


def _drop(server: Server, name: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def test_what_rose_is_found_and_an_idle_view_finds_nothing(followers: Followers) -> None:
    with closing(followers.open(None)) as source:
        # Once after the start the overlap is met: nobody remembers what was in it.
        assert followers.found(source) == ["2"]
        assert followers.found(source) == []
        followers.party.run(
            "update orang set isi = 'y', versi = 21 where a = 1;\ninsert into orang values (4, 'x', 22, null)"
        )
        assert followers.found(source) == ["1", "4"]
        followers.party.run("delete from orang where a = 1;\nupdate orang set isi = 'z' where a = 3")
        assert followers.found(source) == []


def test_equal_values_late_commits_and_pages_lose_nothing(followers: Followers) -> None:
    """Row 37."""
    with closing(followers.open(None)) as source:
        followers.found(source)
        many = ", ".join(f"({n}, 'x', 30, null)" for n in range(100, 120))
        followers.party.run(f"insert into orang values {many}")
        assert followers.found(source) == sorted(map(str, range(100, 120)))
        # The same value again, for a new row and for one that was met with it already.
        followers.party.run("insert into orang values (5, 'x', 30, null);\nupdate orang set isi = 'lagi' where a = 110")
        assert followers.found(source) == ["110", "5"]
        # A lower value that was committed later, within the overlap; and one that is too late.
        followers.party.run("insert into orang values (6, 'x', 26, null), (7, 'x', 24, null)")
        assert followers.found(source) == ["6"]


def test_a_restart_goes_on_from_what_was_applied(followers: Followers) -> None:
    with closing(followers.open(None)) as source:
        followers.party.run("update orang set versi = 40 where a = 1")
        assert followers.found(source) == ["1", "2"]
    followers.party.run("insert into orang values (8, 'x', 41, null)")
    with closing(followers.open(Position(3, "cursor 3"))) as source:
        assert followers.found(source) == ["1", "8"]


def test_a_time_is_followed_with_an_overlap_in_seconds(followers: Followers) -> None:
    with closing(followers.open(None, "diubah", 30.0)) as source:
        assert followers.found(source) == ["1", "2"]
        followers.party.run("update orang set diubah = '2026-01-01 00:01:00', isi = 'y' where a = 3")
        assert followers.found(source) == ["3"]
        followers.party.run("update orang set diubah = '2026-01-01 00:00:31', isi = 'y' where a = 1")
        assert followers.found(source) == ["1"]
        followers.party.run("update orang set diubah = '2026-01-01 00:00:29', isi = 'y' where a = 2")
        assert followers.found(source) == []


def test_a_column_that_no_view_has_is_refused(followers: Followers) -> None:
    with pytest.raises(SourceMisconfigured) as caught:
        followers.open(None, "tiada")
    assert "tiada" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "before"),
    [
        (100, 95), (2.5, -2.5), ("100", "95"), ("2026-01-01 00:00:03", "2025-12-31 23:59:58"),
        ("2026-01-01T00:00:10.5+07:00", "2026-01-01T00:00:05.500000+07:00"),
        ("0000-00-00 00:00:00", "0000-00-00 00:00:00"),
        (b"\x00\x00\x01\x00", b"\x00\x00\x00\xfb"), (b"\x00\x02", b"\x00\x00"), ("abc", "abc"),
    ],
)  # fmt: skip
def test_a_value_less_the_overlap(value: object, before: object) -> None:
    assert earlier(value, 5.0) == before


def test_sqlite_is_not_made_busy_by_a_cursor(tmp_path: Path) -> None:
    path = tmp_path / "partai.db"
    with closing(sqlite3.connect(path)) as conn:
        conn.executescript(
            "create table orang (a integer primary key, versi int); insert into orang values (1, 1), (2, 2);"
        )
        view = PolledView("anggota", ("main", "orang"), ("a",), ("a",))
        with closing(SqlDigests(f"sqlite:///{path}", Options("test"))) as reader:
            reader.look(view)
            reader.since(view, "versi", None, 0, rows=1)
            conn.execute("pragma busy_timeout = 0")
            conn.execute("insert into orang values (3, 3)")
            conn.commit()
