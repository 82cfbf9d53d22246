"""PostgresView on real servers: every row once, byte for byte, under one snapshot; and a plain word when it cannot."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import count

import psycopg
import pytest
from psycopg import sql

from connector.embedded import Server
from connector.errors import ConnectorError, EntityHeld, SourceBusy, SourceProtocolError, SourceUnavailable
from connector.events import KEY_BYTES_MAX, source_key
from connector.view.blocks import CELL_TOO_LARGE, INVALID_UTF8, Block, unescape
from connector.view.postgres import PostgresView
from connector.view.shape import ViewShape
from tests.conftest import drop_database, new_database

Row = tuple[str | None, ...]
Connection = psycopg.Connection[tuple[object, ...]]

# What a DBA may have set for a role, to the annoyance of everybody who reads text.
STRANGE = {
    "datestyle": "SQL, DMY",
    "timezone": "Asia/Jakarta",
    "intervalstyle": "postgres_verbose",
    "bytea_output": "escape",
    "extra_float_digits": "0",
    "search_path": "public",
    "client_encoding": "LATIN1",
    "statement_timeout": "12345",
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
}
_names = count()


@dataclass(frozen=True, slots=True)
class Party:
    """A party's database, its DBA's session, a schema for this test, and the reader's way in."""

    server: Server
    database: str
    reader: str
    dba: Connection
    schema: str

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.dba.execute(statement.encode())

    @contextmanager
    def open(self, *, statement_timeout_s: float = 0, cell_bytes_max: int = 1_000_000) -> Iterator[PostgresView]:
        dsn = self.server.dsn(self.database, self.reader)
        view = PostgresView(
            dsn, application="uji", statement_timeout_s=statement_timeout_s, cell_bytes_max=cell_bytes_max
        )
        with closing(view):
            yield view

    def shape(self, view: PostgresView, key: Sequence[str], *others: str, name: str = "v") -> ViewShape:
        return view.shape("anggota", (self.schema, name), key, (*key, *others))


def prepare(server: Server, encoding: str = "UTF8") -> tuple[str, str]:
    """A database and a reader in it; everything that is later made in a schema of it may be read."""
    database = new_database(server, "view")
    reader = f"baca_{database}"
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        if encoding != "UTF8":
            conn.execute(f"drop database {database}".encode())
            made = f"create database {database} encoding '{encoding}' locale 'C' template template0"
            conn.execute(made.encode())
        conn.execute(f"create role {reader} login".encode())
    return database, reader


def drop(server: Server, database: str, reader: str) -> None:
    drop_database(server, database)
    with psycopg.connect(server.dsn(), autocommit=True) as conn:
        conn.execute(f"drop role {reader}".encode())


@contextmanager
def schema_in(server: Server, database: str, reader: str) -> Iterator[Party]:
    schema = f"skema_{next(_names)}"
    with psycopg.connect(server.dsn(database), autocommit=True) as dba:
        dba.execute(f"create schema {schema}; grant usage on schema {schema} to {reader}".encode())
        dba.execute(f"alter default privileges in schema {schema} grant select on tables to {reader}".encode())
        dba.execute(f"set search_path = {schema}, public".encode())
        # The fast servers of the tests do not wait for the log; a snapshot's place is where the log ends on disk.
        dba.execute("set synchronous_commit = on")
        yield Party(server, database, reader, dba, schema)


@pytest.fixture(scope="module", params=[15, 16, 18])
def database(request: pytest.FixtureRequest) -> Iterator[tuple[Server, str, str]]:
    server = request.getfixturevalue(f"pg{request.param}")
    name, reader = prepare(server)
    yield server, name, reader
    drop(server, name, reader)


@pytest.fixture
def party(database: tuple[Server, str, str]) -> Iterator[Party]:
    with schema_in(*database) as made:
        yield made


def cells(blocks: Iterable[Block]) -> list[Row]:
    """The good rows' cells."""
    rows = []
    for block in blocks:
        for line in block.data.split(b"\n")[:-1]:
            parts = line.split(b"\t")
            rows.append(tuple(None if part == b"\\N" else unescape(part).decode() for part in parts))
    return rows


def fetched(view: PostgresView, shape: ViewShape, *keys: str) -> list[Row]:
    view.begin()
    try:
        return sorted(cells(view.fetch(shape, keys)), key=repr)
    finally:
        view.end()


def copied(view: PostgresView, shape: ViewShape, rows: int) -> list[list[Block]]:
    """A whole copy, chunk by chunk, each under a snapshot of its own, as the copier does it."""
    chunks: list[list[Block]] = []
    after = None
    while True:
        view.begin()
        blocks = list(view.chunk(shape, after, rows))
        view.end()
        chunks.append(blocks)
        if sum(block.count for block in blocks) < rows:
            return chunks
        assert len(chunks) < 1_000, "the copy does not come to an end"
        after = blocks[-1].last_key


def good(chunks: Iterable[Iterable[Block]]) -> list[Row]:
    return [row for blocks in chunks for row in cells(blocks)]


# -- chunks


def test_a_copy_gives_every_row_once_in_key_order(party: Party) -> None:
    party.run("create view v as select 100 - g as id, 'N' || g as nama from generate_series(1, 25) g")
    with party.open() as view:
        shape = party.shape(view, ["id"], "nama")
        chunks = copied(view, shape, 10)
    assert [sum(block.count for block in blocks) for blocks in chunks] == [10, 10, 5]
    assert good(chunks) == [(str(number), f"N{100 - number}") for number in range(75, 100)]


def test_a_copy_that_ends_with_a_full_chunk_looks_once_more(party: Party) -> None:
    party.run("create view v as select g as id from generate_series(1, 4) g")
    with party.open() as view:
        chunks = copied(view, party.shape(view, ["id"]), 2)
    assert [sum(block.count for block in blocks) for blocks in chunks] == [2, 2, 0]


def test_rows_that_share_a_key_are_never_split_between_chunks(party: Party) -> None:
    party.run("create view v as select 1 + g / 3 as id, g as nomor from generate_series(0, 11) g")
    with party.open() as view:
        chunks = copied(view, party.shape(view, ["id"], "nomor"), 2)
    assert [{row[0] for row in cells(blocks)} for blocks in chunks] == [{"1"}, {"2"}, {"3"}, {"4"}, set()]
    assert sorted(int(row[1] or 0) for row in good(chunks)) == list(range(12))


TEXTS = [
    "",
    "a|b",
    "a\\",
    "b",
    "a\\|b",
    "'); drop table v; --",
    'x"y',
    "{a,b}",
    "NULL",
    "\\N",
    "a\tb\nc",
    "é😀",
    " a ",
    "$1 %s",
]


@pytest.mark.parametrize("rows", [1, 3, 100])
def test_composite_keys_of_any_text_are_copied_and_found_again(party: Party, rows: int) -> None:
    party.run("create table kader (a text, b int, c text, primary key (a, b, c))", "create view v as table kader")
    keys = [
        (one, number, other) for one in TEXTS[:6] for number in (1, 2) for other in random.Random(rows).sample(TEXTS, 3)
    ]
    with party.dba.cursor() as cursor:
        cursor.executemany("insert into kader values (%s, %s, %s) on conflict do nothing", keys)
    expected = [(one, str(number), other) for one, number, other in sorted(keys)]
    with party.open() as view:
        shape = party.shape(view, ["a", "b", "c"])
        assert good(copied(view, shape, rows)) == expected
        wanted = expected[::2]
        assert fetched(view, shape, *map(source_key, wanted)) == sorted(wanted, key=repr)
        assert fetched(view, shape, source_key(("a|b", "3", "b")), source_key(("a", "b", "1"))[:0] + "zz|9|zz") == []


def test_every_text_is_a_key_that_is_copied_and_found_again(party: Party) -> None:
    party.run("create table kader (a text primary key)", "create view v as table kader")
    with party.dba.cursor() as cursor:
        cursor.executemany("insert into kader values (%s)", [(text,) for text in TEXTS])
    with party.open() as view:
        shape = party.shape(view, ["a"])
        assert good(copied(view, shape, 1)) == sorted((text,) for text in TEXTS)
        for text in TEXTS:
            assert fetched(view, shape, text) == [(text,)]
        assert fetched(view, shape) == []


KEY_TYPES = {
    "bigint": ["-9223372036854775808", "0", "9223372036854775807"],
    "numeric": ["-1.50", "9171015505900001", "NaN"],
    "numeric(38,10)": ["0.0000000001", "1.5000000000"],
    "float8": ["-Infinity", "0.1", "1e+300", "Infinity", "NaN"],
    "text": ["", "9171015505900001", "é"],
    "varchar(9)": ["abc", "abcdefghi"],
    "char(5)": ["ab   ", "abcde"],
    '"char"': ["a", "b"],
    "uuid": ["00000000-0000-0000-0000-000000000001", "ffffffff-ffff-ffff-ffff-ffffffffffff"],
    "date": ["-infinity", "0044-03-15 BC", "2025-02-28", "10000-01-01", "infinity"],
    "timestamptz": ["-infinity", "2025-06-30 23:59:60+07", "2025-12-31 23:59:59.000001+00"],
    "timestamp(3)": ["2025-12-31 23:59:59.001"],
    "timetz": ["24:00:00+07", "12:00:00+07"],
    "interval": ["-1 day", "1 year 2 mons 3 days 04:05:06.7"],
    "boolean": ["f", "t"],
    "bytea": ["\\x", "\\x00ff0a"],
    "inet": ["10.0.0.1/8", "::1"],
    "suasana": ["senang", "sedih sekali"],
    "nomor": ["1", "7"],
    '"Jenis Kelamin"': ["L", "P"],
}


def test_a_key_of_any_type_is_copied_in_order_and_found_by_its_text(party: Party) -> None:
    """What the log writes for a key, and what a copy keeps as its place, is the type's text: it must lead back."""
    party.run(
        "create type suasana as enum ('senang', 'sedih sekali')",
        "create domain nomor as int check (value > 0)",
        "create type \"Jenis Kelamin\" as enum ('L', 'P')",
    )
    with party.open() as view:
        for place, (kind, texts) in enumerate(KEY_TYPES.items()):
            party.run(
                f"create table t{place} (k {kind} primary key, nomor int)", f"create view v{place} as table t{place}"
            )
            with party.dba.cursor() as cursor:
                cursor.executemany(
                    f"insert into t{place} select %s::text::{kind}, %s".encode(),
                    list(zip(texts, count(), strict=False)),
                )
            shape = party.shape(view, ["k"], "nomor", name=f"v{place}")
            rows = good(copied(view, shape, 1))
            assert sorted(int(row[1] or 0) for row in rows) == list(range(len(texts))), kind
            for key, number in rows:
                assert fetched(view, shape, key or "") == [(key, number)], kind


def test_text_keys_in_the_order_of_a_language_are_copied_whole(party: Party) -> None:
    words = ["a", "A", "á", "b", "B", "a-b", "ab", "a b", "Ä", "z", "Z", "-", " ", "é", "1", "10", "2"]
    linguistic = "und-x-icu" if party.server.binaries.parent.name == "15" else "C.utf8"
    party.run(f'create table kader (a text collate "{linguistic}" primary key)', "create view v as table kader")
    with party.dba.cursor() as cursor:
        cursor.executemany("insert into kader values (%s)", [(word,) for word in words])
    with party.open() as view:
        shape = party.shape(view, ["a"])
        for rows in (1, 2, 5):
            assert sorted(good(copied(view, shape, rows))) == sorted((word,) for word in words)


def test_keys_that_a_language_holds_for_equal_stay_together(pg15: Server) -> None:
    """Two rows whose keys differ in case only, where the party's collation says they are the same key."""
    database, reader = prepare(pg15)
    with schema_in(pg15, database, reader) as party:
        party.run(
            "create collation abai (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
            "create table kader (a text collate abai, nomor int)",
            "create view v as table kader",
            "insert into kader values ('budi', 1), ('BUDI', 2), ('citra', 3), ('ani', 4)",
        )
        with party.open() as view:
            chunks = copied(view, party.shape(view, ["a"], "nomor"), 2)
    assert [sorted(row[1] or "" for row in cells(blocks)) for blocks in chunks] == [["1", "2", "4"], ["3"]]
    drop(pg15, database, reader)


def test_a_key_that_brings_its_own_order_is_refused_before_it_loses_rows(pg15: Server) -> None:
    """Sorted by citext's order and gone on from by text's, a copy would pass `B` by on its way from `a` to `c`."""
    database, reader = prepare(pg15)
    with schema_in(pg15, database, reader) as party:
        party.run(
            "create extension citext schema public",
            "create table kader (id citext primary key, nomor int)",
            "insert into kader values ('a', 1), ('B', 2), ('c', 3)",
            "create view v as table kader",
            "create view w as select id::text as id, nomor from kader",
        )
        with party.open() as view:
            shape = party.shape(view, ["id"], "nomor")
            for read in (
                lambda: copied(view, shape, 1),
                lambda: fetched(view, shape, "a"),
                lambda: list(view.matching(shape, ["id"], [["a"]])),
            ):
                with pytest.raises(EntityHeld) as caught:
                    read()
                assert caught.value.reason == "view_changed"
                assert caught.value.hint == "show it as text in the view: id::text"
                view.end()
            assert len(good(copied(view, party.shape(view, ["id"], name="w"), 1))) == 3
    drop(pg15, database, reader)


def test_rows_with_a_null_in_their_key_are_apart_from_the_copy_and_not_lost(party: Party) -> None:
    party.run(
        "create view v as select * from (values (1, 'a', 'x'), (null, 'b', 'y'), (3, null, 'z'), (null, null, 'w'))"
        " t (a, b, c)"
    )
    with party.open() as view:
        shape = party.shape(view, ["a", "b"], "c")
        assert good(copied(view, shape, 1)) == [("1", "a", "x")]
        view.begin()
        assert sorted(row[2] or "" for row in cells(view.null_keys(shape, 10))) == ["w", "y", "z"]
        assert len(cells(view.null_keys(shape, 2))) == 2
        view.end()
        assert [block.last_key for block in copied(view, shape, 10)[0]] == ["1|a"]


# -- names


ODD = [
    "Anggota",
    "select",
    'kutip"ganda',
    "kutip'tunggal",
    "titik.dua",
    "emoji😀",
    "spasi di sini ",
    "%s",
    "{}",
    "\\",
    "é" * 31 + "x",  # 63 bytes, the longest there is
    'x"; drop table kader; --',
]


@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
def test_any_name_is_the_view_or_column_it_says(party: Party, name: str) -> None:
    odd = sql.Identifier(name)
    own = f"{name[:10]}{next(_names)}"
    party.dba.execute(sql.SQL("create schema {}").format(sql.Identifier(own)))
    party.dba.execute(
        sql.SQL("create view {}.{} as select 1 as {}, 2 as {}").format(
            sql.Identifier(own), odd, odd, sql.Identifier(name[:20].swapcase() + "_")
        )
    )
    reader = sql.Identifier(party.reader)
    party.dba.execute(sql.SQL("grant usage on schema {} to {}").format(sql.Identifier(own), reader))
    party.dba.execute(sql.SQL("grant select on {}.{} to {}").format(sql.Identifier(own), odd, reader))
    with party.open() as view:
        shape = view.shape("anggota", (own, name), [name], [name, name[:20].swapcase() + "_"])
        assert good(copied(view, shape, 1)) == [("1", "2")]
        assert fetched(view, shape, "1") == [("1", "2")]
        view.begin()
        assert list(view.matching(shape, [name], [["1"]])) == ["1"]
        assert list(view.null_keys(shape, 1)) == []
        view.end()


def test_names_that_differ_in_case_only_are_two(party: Party) -> None:
    party.run('create view "V" as select 1 as id, 2 as "ID"', "create view v as select 3 as id")
    with party.open() as view:
        assert fetched(view, party.shape(view, ["id"], "ID", name="V"), "1") == [("1", "2")]
        assert fetched(view, party.shape(view, ["id"]), "1", "3") == [("3",)]


# -- values


VALUES = [
    "", " ", "a\tb", "a\nb", "a\rb", "a\r\nb", "a\\b", "\\", "\\n", "\\.", "\\N", "'", '"', "|",
    "\x01\x08\x0b\x0c\x1b[31m", "\u202e", "\ufeff", "\uffff", "é", "😀", "x" * 100_000, "${jndi:ldap://x}", "=1+1",
]  # fmt: skip


def test_values_arrive_byte_for_byte(party: Party) -> None:
    party.run("create table kader (id int primary key, isi text)", "create view v as table kader")
    with party.dba.cursor() as cursor:
        cursor.executemany("insert into kader values (%s, %s)", list(enumerate(VALUES)))
        cursor.execute("insert into kader values (%s, null)", (len(VALUES),))
    expected = [*((str(number), text) for number, text in enumerate(VALUES)), (str(len(VALUES)), None)]
    with party.open() as view:
        shape = party.shape(view, ["id"], "isi")
        assert sorted(good(copied(view, shape, 7)), key=lambda row: int(row[0] or 0)) == expected
        assert sorted(fetched(view, shape, *map(str, range(100))), key=lambda row: int(row[0] or 0)) == expected


# Each type's text, by a first copy and by a re-read, with the session settings of `STRANGE` in the way.
MATRIX = {
    "'9171015505900001'::text": "9171015505900001",
    "9223372036854775807": "9223372036854775807",
    "1e400::numeric": "1" + "0" * 400,
    "'NaN'::numeric": "NaN",
    "1.10::numeric": "1.10",
    "0.0000000001::numeric(38,10)": "0.0000000001",
    "0.1::float8": "0.1",
    "0.1::float4": "0.1",
    "'-Infinity'::float8": "-Infinity",
    "true": "t",
    "'ab'::char(4)": "ab  ",
    "'infinity'::date": "infinity",
    "'0044-03-15 BC'::date": "0044-03-15 BC",
    "'10000-01-01'::date": "10000-01-01",
    "'2025-12-31 23:59:60'::timestamp": "2026-01-01 00:00:00",
    "'2025-03-30 02:30:00 Europe/Berlin'::timestamptz": "2025-03-30 01:30:00+00",
    "'2025-01-01 07:00:00+07'::timestamptz": "2025-01-01 00:00:00+00",
    "'24:00:00+07'::timetz": "24:00:00+07",
    "'1 year 2 days 3 hours'::interval": "P1Y2DT3H",
    "'\\x00ff'::bytea": "\\x00ff",
    "'null'::jsonb": "null",
    '\'{"b": 1.10, "a": 12345678901234567890, "b": 2}\'::jsonb': '{"a": 12345678901234567890, "b": 2}',
    '\'{"b": 1, "b": 2}\'::json': '{"b": 1, "b": 2}',
    "'[2:3]={1,NULL}'::int[]": "[2:3]={1,NULL}",
    "'{}'::text[]": "{}",
    "array['a,b', 'c\"d', '', null, 'NULL']": '{"a,b","c\\"d","",NULL,"NULL"}',
    "'10.0.0.1/8'::inet": "10.0.0.1/8",
    "row(1, 'a b', null)::text": '(1,"a b",)',
    "null::int": None,
    "''::text": "",
}


def test_a_value_of_any_type_is_the_same_text_by_copy_and_by_re_read(party: Party) -> None:
    columns = ", ".join(f"{expression} as c{place}" for place, expression in enumerate(MATRIX))
    party.run(f"create view v as select 1 as id, {columns}")
    party.run(*(f"alter role {party.reader} set {name} = '{value}'" for name, value in STRANGE.items()))
    try:
        with party.open() as view:
            shape = party.shape(view, ["id"], *(f"c{place}" for place in range(len(MATRIX))))
            copy, re_read = good(copied(view, shape, 10)), fetched(view, shape, "1")
    finally:
        party.run(f"alter role {party.reader} reset all")
    assert dict(zip(MATRIX, copy[0][1:], strict=True)) == MATRIX
    assert re_read == copy


def test_types_of_the_same_name_in_two_schemas_and_new_words_of_an_enum(party: Party) -> None:
    party.run(
        f"create schema {party.schema}_lain",
        "create type suasana as enum ('senang')",
        f"create type {party.schema}_lain.suasana as enum ('sedih')",
        f"create domain {party.schema}_lain.nyata as {party.schema}_lain.suasana",
        f"grant usage on schema {party.schema}_lain to {party.reader}",
        f"create table kader (a suasana, b {party.schema}_lain.suasana, c {party.schema}_lain.nyata)",
        "alter table kader add primary key (a, b, c)",
        "create view v as table kader",
        "insert into kader values ('senang', 'sedih', 'sedih')",
    )
    with party.open() as view:
        shape = party.shape(view, ["a", "b", "c"])
        assert fetched(view, shape, "senang|sedih|sedih") == [("senang", "sedih", "sedih")]
        party.run(f"alter type {party.schema}_lain.suasana add value 'biasa'")
        party.run("insert into kader values ('senang', 'biasa', 'biasa')")
        assert fetched(view, shape, "senang|biasa|biasa", "senang|sedih|biasa") == [("senang", "biasa", "biasa")]
        assert len(good(copied(view, shape, 1))) == 2


def test_a_view_that_chatters_is_not_listened_to(party: Party) -> None:
    party.run(
        "create function ramai() returns int language plpgsql as $$ begin"
        " for i in 1..20000 loop raise notice '%', repeat('x', 1000); raise warning 'y'; end loop; return 1; end $$",
        "create view v as select ramai() as id",
    )
    with party.open() as view:
        assert fetched(view, party.shape(view, ["id"]), "1") == [("1",)]


def test_a_cell_of_ten_megabytes_costs_its_own_row_only(party: Party) -> None:
    party.run(
        "create view v as select g as id, case when g = 2 then repeat('é', 5000000) else 'baik' end as isi"
        " from generate_series(1, 3) g"
    )
    with party.open() as view:
        chunks = copied(view, party.shape(view, ["id"], "isi"), 10)
        assert good(chunks) == [("1", "baik"), ("3", "baik")]
        assert [(bad.key, bad.reason) for block in chunks[0] for bad in block.bad] == [(("2",), CELL_TOO_LARGE)]
    with party.open(cell_bytes_max=10_000_000) as view:
        assert len(good(copied(view, party.shape(view, ["id"], "isi"), 10))) == 3


def test_a_copy_goes_on_behind_keys_too_long_to_be_staged(party: Party) -> None:
    # They all begin alike: a place that was cut would be before every one of them, for ever.
    party.run(f"create view v as select repeat('k', {2 * KEY_BYTES_MAX}) || g as id from generate_series(1, 5) g")
    with party.open() as view:
        chunks = copied(view, party.shape(view, ["id"]), 2)
    bad = [row for blocks in chunks for block in blocks for row in block.bad]
    assert len({row.key for row in bad}) == len(bad) == 5
    assert good(chunks) == []


@pytest.fixture(scope="module")
def ascii_database(database: tuple[Server, str, str]) -> Iterator[tuple[Server, str, str]]:
    server = database[0]
    name, reader = prepare(server, "SQL_ASCII")
    yield server, name, reader
    drop(server, name, reader)


def test_a_database_that_does_not_know_its_encoding_loses_no_row(ascii_database: tuple[Server, str, str]) -> None:
    """Invalid UTF-8 in cells and in keys: reported, passed by, and never the end or the endless loop of a copy."""
    with schema_in(*ascii_database) as party:
        party.dba.execute("set client_encoding = SQL_ASCII")
        party.run(
            "create table kader (id text primary key, nama text)",
            "create view v as table kader",
            r"""
            insert into kader
            values ('a', 'SITI'), ('b', E'caf\xe9'), ('c', E'\xc3\xa9'), (E'd\xff', 'D'), (E'e\xfe', 'E'),
                   (E'\xc3\xa9', 'baik'), (E'\xf0', 'F'), (E'\xf1', E'\xf1'), ('\xff', 'teks')
            """,
        )
        with party.open() as view:
            shape = party.shape(view, ["id"], "nama")
            for rows in (1, 2, 4, 100):
                chunks = copied(view, shape, rows)
                assert sorted(good(chunks)) == [("\\xff", "teks"), ("a", "SITI"), ("c", "é"), ("é", "baik")]
                bad = [(row.key, row.reason) for blocks in chunks for block in blocks for row in block.bad]
                assert {reason for _, reason in bad} == {INVALID_UTF8}
                assert sorted(key for key, _ in bad) == [("\\xf0",), ("\\xf1",), ("b",), ("d\\xff",), ("e\\xfe",)]
            assert fetched(view, shape, "é", "a", "\\xff") == [("\\xff", "teks"), ("a", "SITI"), ("é", "baik")]
            view.begin()
            assert list(view.matching(shape, ["nama"], [["D"], ["baik"]])) == ["é"], (
                "a key that is no text is passed by"
            )
            view.end()


def test_a_database_of_another_encoding_gives_utf8(pg16: Server) -> None:
    database, reader = prepare(pg16, "LATIN1")
    with schema_in(pg16, database, reader) as party:
        party.dba.execute("create table kader (id text primary key, nama text)")
        party.dba.execute("create view v as table kader")
        party.dba.execute("insert into kader values ('é', 'ñ'), ('z', '©')")
        with party.open() as view:
            shape = party.shape(view, ["id"], "nama")
            assert good(copied(view, shape, 1)) == [("z", "©"), ("é", "ñ")]
            assert fetched(view, shape, "é") == [("é", "ñ")]
            with pytest.raises(ConnectorError):
                fetched(view, shape, "😀")
            assert fetched(view, shape, "z") == [("z", "©")], "and goes on"
    drop(pg16, database, reader)


# -- who is touched by a joined table's change


def test_matching_gives_the_keys_of_the_rows_that_show_a_value(party: Party) -> None:
    party.run(
        "create view v as select * from"
        " (values (1, 'a', 7), (2, 'b', 7), (3, 'a', 8), (null, 'a', 7), (4, null, null)) t (id, x, y)"
    )
    with party.open() as view:
        shape = party.shape(view, ["id"], "x", "y")
        view.begin()
        assert sorted(view.matching(shape, ["x"], [["a"]])) == ["1", "3"]
        assert sorted(view.matching(shape, ["x", "y"], [["a", "7"], ["b", "8"]])) == ["1"]
        assert list(view.matching(shape, ["y"], [["9"]])) == []
        assert list(view.matching(shape, ["y"], [])) == []
        view.end()


def test_matching_gives_composite_and_hostile_keys_as_staging_keys(party: Party) -> None:
    party.run("create table kader (a text, b text, x int)", "create view v as table kader")
    with party.dba.cursor() as cursor:
        cursor.executemany("insert into kader values (%s, %s, 1)", [(text, "b|\\N") for text in TEXTS])
    with party.open() as view:
        shape = party.shape(view, ["a", "b"], "x")
        view.begin()
        assert sorted(view.matching(shape, ["x"], [["1"]])) == sorted(source_key((text, "b|\\N")) for text in TEXTS)
        for text in TEXTS:
            assert list(view.matching(shape, ["a"], [[text]])) == [source_key((text, "b|\\N"))]
        view.end()


# -- snapshots


def test_everything_between_begin_and_end_is_seen_at_one_moment(party: Party) -> None:
    party.run("create table kader (id int primary key, nama text)", "create view v as table kader")
    party.run("insert into kader values (1, 'lama'), (2, 'lama')")
    with party.open() as view:
        shape = party.shape(view, ["id"], "nama")
        first = view.begin()
        party.run("update kader set nama = 'baru'", "insert into kader values (3, 'baru')")
        assert sorted(cells(view.fetch(shape, ["1", "2", "3"]))) == [("1", "lama"), ("2", "lama")]
        assert sorted(cells(view.chunk(shape, None, 10))) == [("1", "lama"), ("2", "lama")]
        view.end()
        second = view.begin()
        assert len(cells(view.fetch(shape, ["1", "2", "3"]))) == 3
        view.end()
    assert second.position > first.position
    assert second.xmax > first.xmax


def test_a_snapshot_shows_what_was_committed_and_hides_what_is_under_way(party: Party) -> None:
    party.run("create table kader (id int primary key)")
    with party.open() as view, psycopg.connect(party.server.dsn(party.database)) as other:
        other.execute(f"insert into {party.schema}.kader values (1)".encode())
        row = other.execute("select pg_current_xact_id()::text::bigint % (1::bigint << 32)").fetchone()
        assert row is not None
        xid = int(row[0])
        assert not view.begin().shows([xid])
        view.end()
        other.commit()
        assert view.begin().shows([xid])
        view.end()


def test_ending_twice_or_without_a_beginning_is_nothing(party: Party) -> None:
    with party.open() as view:
        view.end()
        view.begin()
        view.end()
        view.end()


def test_a_read_that_is_given_up_leaves_the_session_usable(party: Party) -> None:
    party.run("create view v as select g as id, repeat('x', 1000) as isi from generate_series(1, 100000) g")
    with party.open() as view:
        shape = party.shape(view, ["id"], "isi")
        view.begin()
        blocks = view.chunk(shape, None, 100_000)
        assert next(blocks).rows > 0
        blocks.close()  # type: ignore[attr-defined]
        view.end()
        assert fetched(view, shape, "7") == [("7", "x" * 1000)]


def test_a_view_cannot_make_the_reader_write(party: Party) -> None:
    party.run(
        "create table jejak (id int)",
        "create function tulis() returns int language sql security definer as"
        f" $$ insert into {party.schema}.jejak values (1) returning 1 $$",
        "create view v as select tulis() as id",
    )
    with party.open() as view:
        shape = party.shape(view, ["id"])
        with pytest.raises(SourceProtocolError, match="25006"):
            fetched(view, shape, "1")
    assert party.dba.execute("select count(*) from jejak").fetchone() == (0,)


# -- pins


def test_pins_hold_whatever_the_role_and_the_database_have_set(party: Party) -> None:
    for name, value in STRANGE.items():
        for whom in (f"role {party.reader}", f"database {party.database}"):
            party.run(f"alter {whom} set {name} = '{value}'")
    try:
        party.run(
            """
            create view v as select 1 as id, date '2025-03-04' as d, timestamptz '2025-03-04 05:06:07+07' as t,
                   interval '1 day 2 hours' as i, '\\x00ff'::bytea as b, 0.1::float8 + 0.2 as f, 'é' as e,
                   current_setting('statement_timeout') as s, current_setting('row_security') as r
            """
        )
        with party.open(statement_timeout_s=7.5) as view:
            shape = party.shape(view, ["id"], "d", "t", "i", "b", "f", "e", "s", "r")
            assert fetched(view, shape, "1") == [
                (
                    "1",
                    "2025-03-04",
                    "2025-03-03 22:06:07+00",
                    "P1DT2H",
                    "\\x00ff",
                    "0.30000000000000004",
                    "é",
                    "7500ms",
                    "off",
                )
            ]
    finally:
        party.run(f"alter role {party.reader} reset all", f"alter database {party.database} reset all")


# -- errors


def test_a_view_that_takes_too_long_is_busy_and_the_session_lives_on(party: Party) -> None:
    party.run("create view v as select 1 as id, pg_sleep(600)::text as s", "create view w as select 1 as id")
    with party.open(statement_timeout_s=0.05) as view:
        shape = party.shape(view, ["id"], "s")
        with pytest.raises(SourceBusy, match="57014"):
            fetched(view, shape, "1")
        assert fetched(view, party.shape(view, ["id"], name="w"), "1") == [("1",)]


def test_waiting_for_a_lock_ends_too(party: Party) -> None:
    party.run("create table kader (id int)", "create view v as table kader")
    with party.open(statement_timeout_s=0.05) as view, psycopg.connect(party.server.dsn(party.database)) as other:
        shape = party.shape(view, ["id"])
        other.execute(f"lock table {party.schema}.kader in access exclusive mode".encode())
        with pytest.raises(SourceBusy):
            fetched(view, shape, "1")


Break = Callable[[Party], None]
BROKEN: dict[str, tuple[str, str]] = {
    "select revoked": ("revoke select on v from {reader}", "permission_denied"),
    "schema revoked": ("revoke usage on schema {schema} from {reader}", "permission_denied"),
    "view dropped": ("drop view v", "view_missing"),
    "schema dropped": ("drop schema {schema} cascade", "view_missing"),
    "column dropped": ("drop view v; create view v as select id from kader", "view_changed"),
    "key retyped": ("drop view v; create view v as select 'x' || id as id, nama from kader", "view_changed"),
    "key does not fit": ("drop view v; create view v as select null::int as id, nama from kader", "view_changed"),
    "key is a number now": (
        "drop view v; create view v as select id::text::xid as id, nama from kader",
        "view_changed",
    ),
}


def look(party: Party, view: PostgresView, shape: ViewShape) -> None:
    """Read with what is known of the view, then look at it again, and read."""
    copied(view, shape, 1)
    fetched(view, party.shape(view, ["id"], "nama"), "x")


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_wrong_with_one_view_is_held_against_that_view(party: Party, what: str) -> None:
    """Whether it happens before the catalogue is looked at or after it."""
    statement, reason = BROKEN[what]
    party.run(
        "create table kader (id int, nama text)", "create view v as table kader", "insert into kader values (7, 'N')"
    )
    with party.open() as view:
        shape = party.shape(view, ["id"], "nama")
        if "number" in what:
            party.run("truncate kader")
        party.run(statement.format(reader=party.reader, schema=party.schema))
        try:
            with pytest.raises(EntityHeld) as caught:
                look(party, view, shape)
        finally:
            view.end()
        assert (caught.value.entity, caught.value.reason) == ("anggota", reason)
        assert caught.value.hint
        assert view.begin().position > 0, "the session goes on"
        view.end()


def test_a_view_that_is_not_there_is_told_by_name(party: Party) -> None:
    party.run("create view v as select 1 as id")
    with party.open() as view:
        with pytest.raises(EntityHeld, match=rf"there is no view {party.schema}\.tiada") as gone:
            party.shape(view, ["id"], name="tiada")
        with pytest.raises(EntityHeld, match="has no column nik, nama") as lacking:
            party.shape(view, ["id"], "nik", "nama")
    assert (gone.value.reason, lacking.value.reason) == ("view_missing", "view_changed")


def test_rows_that_a_policy_would_hide_are_an_error_and_not_a_deletion(party: Party) -> None:
    party.run(
        "create table kader (id int)",
        "insert into kader values (1), (2)",
        "alter table kader enable row level security",
        f"create policy satu on kader to {party.reader} using (id = 1)",
        "create view v with (security_invoker) as table kader",
    )
    with party.open() as view:
        with pytest.raises(EntityHeld) as caught:
            copied(view, party.shape(view, ["id"]), 10)
        assert caught.value.reason == "permission_denied"


def test_an_error_inside_a_view_is_told_by_its_code_alone(party: Party) -> None:
    party.run("create view v as select 1 as id, ('3171' || '015505900001')::date as lahir")
    with party.open() as view, pytest.raises(EntityHeld) as caught:
        fetched(view, party.shape(view, ["id"], "lahir"), "1")
    assert "22008" in str(caught.value)
    assert "3171" not in repr(caught.value) + str(caught.value) + caught.value.hint
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_a_party_that_hangs_up_is_unavailable(party: Party) -> None:
    party.run("create view v as select 1 as id")
    with party.open() as view:
        shape = party.shape(view, ["id"])
        view.begin()
        party.run(f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{party.reader}'")
        with pytest.raises(SourceUnavailable):
            cells(view.fetch(shape, ["1"]))
        view.end()
        with pytest.raises(SourceUnavailable):
            view.begin()


def test_a_party_that_does_not_let_us_in_is_unavailable(party: Party) -> None:
    party.run(f"alter role {party.reader} nologin")
    try:
        with pytest.raises(SourceUnavailable) as caught, party.open():
            pass
        assert "pg_hba" in caught.value.hint
    finally:
        party.run(f"alter role {party.reader} login")


# -- what a view is made of


def test_the_fingerprint_follows_the_definition_and_not_the_rows(party: Party) -> None:
    party.run(
        "create table kader (id int, nama varchar(10), status text)", "create view v as select id, nama from kader"
    )
    with party.open() as view:
        seen = [party.shape(view, ["id"]).fingerprint]
        party.run("insert into kader values (1, 'A', 'x')", "alter table kader add column lain int")
        assert party.shape(view, ["id"]).fingerprint == seen[0]
        for change in (
            "create or replace view v as select id, nama from kader where status = 'x'",
            "create or replace view v as select id, nama, status from kader where status = 'x'",
            "drop view v; create view v as select id, nama::text as nama, status from kader where status = 'x'",
            "drop view v; create view v as select id, nama::text as nama from kader",
        ):
            party.run(change)
            seen.append(party.shape(view, ["id"]).fingerprint)
    assert len(set(seen)) == len(seen)


def test_the_fingerprint_follows_the_views_behind_a_view(party: Party) -> None:
    """The text of `v` stays what it was; its rows, and the tables that they are made of, do not."""
    party.run(
        "create table kader (id int, status text)", "create table lain (id int, status text)",
        "create view w as select id from kader", "create view v as select id from w",
    )  # fmt: skip
    with party.open() as view:
        before = party.shape(view, ["id"]).fingerprint
        party.run("create or replace view w as select id from lain")
        assert party.shape(view, ["id"]).fingerprint != before


def test_a_table_and_a_materialized_view_are_read_as_a_view_is(party: Party) -> None:
    party.run("create table t as select 1 as id", "create materialized view m as select 2 as id")
    with party.open() as view:
        assert good(copied(view, party.shape(view, ["id"], name="t"), 5)) == [("1",)]
        assert good(copied(view, party.shape(view, ["id"], name="m"), 5)) == [("2",)]


def test_thousands_of_keys_are_asked_for_at_once(party: Party) -> None:
    party.run(
        "create table kader (a text, b int, primary key (a, b))", "create view v as table kader",
        "insert into kader select 'kader-' || g, g from generate_series(1, 20000) g",
    )  # fmt: skip
    with party.open() as view:
        shape = party.shape(view, ["a", "b"])
        keys = [f"kader-{number}|{number}" for number in range(1, 40_001, 2)]
        assert len(fetched(view, shape, *keys)) == 10_000
