"""A diff finds what was inserted, changed and deleted; what it saw moves with the batch."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from mariadb import MariaDb
from psycopg import sql
from workbench import new_name

from connector.capture.polling import diff as diffs
from connector.capture.polling.diff import Diff
from connector.capture.polling.pg_digests import PgDigests
from connector.capture.polling.ports import Digests, PolledView, Stretch, Total
from connector.capture.polling.source import PollSource
from connector.capture.polling.sql_digests import SqlDigests
from connector.embedded import Server
from connector.errors import PositionLost
from connector.events import Position, SourceIdentity
from connector.sqldb.engines import Options
from connector.staging import memory as memories
from connector.staging.memory import PartyMemory

IDENTITY = SourceIdentity("uji", 0, "diff")
TABLE = """
create table orang (a integer not null, b varchar(20) not null, isi varchar(40), n integer);
create view v_orang as select a, b, isi, n from orang where isi is null or isi <> 'disembunyikan';
"""


@dataclass
class Party:
    """A party's database of any engine, and what staging remembers of it."""

    run: Callable[[str], None]
    digests: Callable[[], Digests]
    view: PolledView
    staging_dsn: str

    def source(self, stored: Position | None, **more: Any) -> PollSource:
        memory = PartyMemory(self.staging_dsn, "uji")
        leg = Diff([self.view], self.digests(), memory, every_s=0.0, keys_in_memory=1_000, stopping=lambda: False)
        return PollSource([leg], memory, IDENTITY, stored, more.get("known", IDENTITY), lambda _: True)

    def found(self, source: PollSource, *, applied: bool = True) -> list[str]:
        """What a round finds; its notes are written as a batch would."""
        keys: list[str] = []
        while (signals := source.read(0.0)) is not None:
            for name, some in signals.keys.items():
                assert name == self.view.entity
                keys += [key for part in some.slices(100_000) for key in part]
            if applied:
                with psycopg.connect(self.staging_dsn) as conn:
                    memories.write(conn, "uji", signals.notes)
            source.confirm(signals.position)
        return sorted(keys)


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffs, "BUCKET_ROWS", 4)


def _sqlite(tmp_path: Path, _: pytest.FixtureRequest) -> tuple[Callable[[str], None], Callable[[], Digests], str]:
    path = tmp_path / "partai.db"

    def run(script: str) -> None:
        with closing(sqlite3.connect(path)) as conn:
            conn.executescript(script)

    return run, lambda: SqlDigests(f"sqlite:///{path}", Options("test")), "main"


def _maria(_: Path, request: pytest.FixtureRequest) -> tuple[Callable[[str], None], Callable[[], Digests], str]:
    server: MariaDb = request.getfixturevalue("mariadb")
    name: str = request.getfixturevalue("maria_database")
    return lambda text: server.run(text, name), lambda: SqlDigests(server.url(name), Options("test")), name


def _postgres(_: Path, request: pytest.FixtureRequest) -> tuple[Callable[[str], None], Callable[[], Digests], str]:
    server: Server = request.getfixturevalue("pg16")
    name = new_name(server, "party")
    dsn = server.dsn(name)

    def drop() -> None:
        with psycopg.connect(server.dsn(), autocommit=True) as conn:
            conn.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))

    request.addfinalizer(drop)

    def run(script: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(script.encode())

    return run, lambda: PgDigests(dsn, application="test", statement_timeout_s=10), "public"


@pytest.fixture(params=[_sqlite, _maria, _postgres], ids=["sqlite", "mariadb", "postgresql"])
def party(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    staging_dsn: str,
    small_buckets: None,  # noqa: ARG001
) -> Party:
    run, digests, schema = request.param(tmp_path, request)
    run(TABLE)
    with psycopg.connect(staging_dsn) as conn:
        conn.execute("insert into connector.party values ('uji', 1)")
    return Party(
        run, digests, PolledView("anggota", (schema, "v_orang"), ("a", "b"), ("a", "b", "isi", "n")), staging_dsn
    )


def fill(party: Party, numbers: range) -> None:
    rows = ", ".join(f"({n}, 'k{n % 3}', 'isi {n}', {n * 7})" for n in numbers)
    party.run(f"insert into orang values {rows};\n")


def key(n: int) -> str:
    return f"{n}|k{n % 3}"


def test_a_round_finds_exactly_what_was_inserted_changed_and_deleted(party: Party) -> None:
    fill(party, range(30))
    with closing(party.source(None)) as source:
        assert source.start == Position(0, "diff 0")
        assert party.found(source) == []
        party.run(
            "update orang set isi = 'baru' where a = 3;\nupdate orang set n = null where a = 29;\n"
            "delete from orang where a in (0, 11);\nupdate orang set isi = 'disembunyikan' where a = 12;\n"
            "update orang set a = 100 where a = 20;\n"
            "insert into orang values (-1, 'k2', '', 0), (15, 'k1', 'kembar', 1);\n"
        )
        expected = sorted([key(3), key(29), key(0), key(11), key(12), key(20), "100|k2", "-1|k2", "15|k1"])
        assert party.found(source) == expected
        assert party.found(source) == []


def test_what_was_not_applied_is_found_again_by_whoever_comes_next(party: Party) -> None:
    fill(party, range(30))
    with closing(party.source(None)) as source:
        party.run("update orang set isi = 'baru' where a = 3")
        assert party.found(source, applied=False) == [key(3)]
    with closing(party.source(Position(5, "diff 5"))) as source:
        assert source.start.ordinal == 5
        signals = source.read(0.0)
        assert signals is not None
        assert signals.position == Position(6, "diff 6")
        assert [k for part in signals.keys["anggota"].slices(10) for k in part] == [key(3)]


def test_a_view_that_was_never_seen_is_found_whole_and_an_emptied_one_too(party: Party) -> None:
    fill(party, range(23))
    with closing(party.source(Position(1, "diff 1"))) as source:
        everything = sorted(key(n) for n in range(23))
        assert party.found(source) == everything
        assert party.found(source) == []
        party.run("delete from orang")
        assert party.found(source) == everything
        assert party.found(source) == []
        fill(party, range(2))
        assert party.found(source) == [key(0), key(1)]


@pytest.mark.parametrize("seed", range(3))
def test_random_changes_are_all_found_and_nothing_else(party: Party, seed: int) -> None:
    dice = random.Random(seed)
    held: dict[int, int] = {}
    with closing(party.source(None)) as source:
        for _ in range(12):
            before = dict(held)
            script = []
            for _ in range(dice.randrange(1, 25)):
                n = dice.randrange(-200, 200) if dice.random() < 0.5 else 200 + len(held)
                if n in held and dice.random() < 0.5:
                    del held[n]
                    script.append(f"delete from orang where a = {n}")
                elif n in held:
                    held[n] = dice.randrange(1_000)
                    script.append(f"update orang set n = {held[n]} where a = {n}")
                else:
                    held[n] = dice.randrange(1_000)
                    script.append(f"insert into orang values ({n}, 'k{n % 3}', null, {held[n]})")
            party.run(";\n".join(script))
            changed = {n for n in before.keys() | held.keys() if before.get(n) != held.get(n)}
            assert party.found(source) == sorted(map(key, changed))
        assert party.found(source) == []
    with psycopg.connect(party.staging_dsn) as conn:
        row = conn.execute("select sum(rows), max(rows), sum(cardinality(keys)) from connector.bucket").fetchone()
        assert row is not None
        assert row[0] == row[2] == len(held)
        assert row[1] <= 8


def test_rows_without_a_key_and_doubled_keys_do_not_confuse_it(party: Party) -> None:
    """Row 40."""
    fill(party, range(9))
    party.run("insert into orang values (4, 'k1', 'kembar', 1)")
    with closing(party.source(None)) as source:
        assert party.found(source) == []
        party.run("update orang set n = 2 where isi = 'kembar'")
        assert party.found(source) == [key(4)]
        party.run("delete from orang where isi = 'kembar'")
        assert party.found(source) == [key(4)]
        assert party.found(source) == []


def test_a_view_that_is_gone_is_left_alone_until_it_is_back(party: Party) -> None:
    fill(party, range(9))
    with closing(party.source(None)) as source:
        party.run("drop view v_orang;\nupdate orang set n = 1 where a = 2")
        assert party.found(source) == []
        party.run("create view v_orang as select a, b, isi from orang")
        assert party.found(source) == []
        party.run("drop view v_orang;\n" + TABLE.strip().split(";\n")[1])
        assert party.found(source) == [key(2)]


def test_a_party_followed_in_another_way_before_needs_a_resync(party: Party) -> None:
    with pytest.raises(PositionLost) as caught:
        party.source(Position(9, "0/9"), known=SourceIdentity("7", 1, "sipol_uji"))
    assert caught.value.reason == "identity_changed"


def test_an_unchanged_view_costs_one_statement_a_bucket(party: Party) -> None:
    fill(party, range(40))
    with closing(party.source(None)) as source:
        leg = source._legs[0]
        assert isinstance(leg, Diff)
        digests = leg._digests
        asked: list[str] = []
        total, stretch = digests.total, digests.stretch

        def counted_total(view: PolledView, after: str | None, upto: str | None) -> Total:
            asked.append("total")
            return total(view, after, upto)

        def counted_stretch(view: PolledView, after: str | None, upto: str | None, rows: int) -> Stretch:
            asked.append("stretch")
            return stretch(view, after, upto, rows)

        digests.total = counted_total  # type: ignore[method-assign]
        digests.stretch = counted_stretch  # type: ignore[method-assign]
        assert party.found(source) == []
        assert asked == ["total"] * 10
