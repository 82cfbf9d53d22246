"""The re-read through a SQLAlchemy dialect: what SQLite and MariaDB say, as the text PostgreSQL would have sent."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from mariadb import MariaDb

from connector.errors import EntityHeld, SourceBusy, SourceUnavailable, UsageError
from connector.sqldb.engines import Options
from connector.view.blocks import BadRow, unescape
from connector.view.shape import ViewShape
from connector.view.sql import SqlView

OPTIONS = Options("test", statement_timeout_s=20, lock_timeout_s=1)
Rows = list[tuple[str | None, ...]]


def rows_of(blocks: Iterator[object]) -> tuple[Rows, list[BadRow]]:
    good: Rows = []
    bad: list[BadRow] = []
    for block in blocks:
        for line in block.data.split(b"\n")[:-1]:  # type: ignore[attr-defined]
            good.append(tuple(None if cell == rb"\N" else unescape(cell).decode() for cell in line.split(b"\t")))
        bad += block.bad  # type: ignore[attr-defined]
    return good, bad


def walk(view: SqlView, shape: ViewShape, rows: int) -> tuple[Rows, list[BadRow], list[int]]:
    """The whole view in chunks, as a copy reads it."""
    good: Rows = []
    bad: list[BadRow] = []
    sizes = []
    after: str | None = None
    while True:
        view.begin()
        blocks = list(view.chunk(shape, after, rows))
        view.end()
        size = sum(block.count for block in blocks)
        sizes.append(size)
        some, refused = rows_of(iter(blocks))
        good += some
        bad += refused
        if size < rows:
            return good, bad, sizes
        after = blocks[-1].last_key


class Place:
    """A database with a view in it, of either engine."""

    def __init__(self, url: str, schema: str, run: Callable[[str], None]) -> None:
        self.url = url
        self.schema = schema
        self.run = run

    def view(self, cell_bytes_max: int = 10_000) -> SqlView:
        return SqlView(self.url, OPTIONS, cell_bytes_max)

    def shape(self, view: SqlView, name: str, key: Sequence[str], inputs: Sequence[str]) -> ViewShape:
        return view.shape("anggota", (self.schema, name), key, (*key, *inputs))


@pytest.fixture
def sqlite(tmp_path: Path) -> Place:
    path = tmp_path / "a b?.db"

    def run(script: str) -> None:
        with closing(sqlite3.connect(path)) as conn:
            conn.executescript(script)

    run("select 1")
    with closing(sqlite3.connect(path)) as conn:
        conn.execute("create table kosong (a)")
    return Place(f"sqlite:///{str(path).replace('?', '%3F')}", "main", run)


@pytest.fixture
def maria(mariadb: MariaDb, maria_database: str) -> Place:
    return Place(mariadb.url(maria_database), maria_database, lambda script: mariadb.run(script, maria_database))


@pytest.fixture(params=["sqlite", "maria"])
def place(request: pytest.FixtureRequest) -> Place:
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Place)
    return found


PEOPLE = """
create table orang (id integer primary key, nama varchar(60), cabang integer);
insert into orang values (1, 'SITI', 1), (2, 'BU''DI', null), (3, NULL, 3), (10, 'tab\tbaris\nbalik\\\\', 1),
  (-5, '', 2);
create view v_orang as select id, nama, cabang from orang;
"""


def people(place: Place) -> str:
    # In SQLite a backslash in a literal is itself.
    return (
        PEOPLE.replace("\\\\", "\\")
        if place.schema == "main"
        else PEOPLE.replace("\t", "\\t").replace("k\n", "k\\n").replace("s\nb", "s\\nb")
    )


def test_asked_keys_are_given_as_copy_text_and_others_are_not(place: Place) -> None:
    place.run(people(place))
    with closing(place.view()) as view:
        shape = place.shape(view, "v_orang", ["id"], ["nama", "cabang"])
        view.begin()
        good, bad = rows_of(view.fetch(shape, ["1", "10", "3", "-5", "99", "01", "x", "1 or 1=1", "9" * 40]))
        view.end()
        assert sorted(good, key=lambda row: int(row[0] or 0)) == [
            ("-5", "", "2"), ("1", "SITI", "1"), ("3", None, "3"), ("10", "tab\tbaris\nbalik\\", "1"),
        ]  # fmt: skip
        assert bad == []
        assert list(view.fetch(shape, [])) == []


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
def test_chunks_cover_the_view_once_in_key_order(place: Place, rows: int) -> None:
    place.run(people(place))
    with closing(place.view()) as view:
        shape = place.shape(view, "v_orang", ["id"], ["nama"])
        good, _, sizes = walk(view, shape, rows)
        assert [row[0] for row in good] == ["-5", "1", "2", "3", "10"]
        assert max(sizes) <= max(rows, 1)


@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_rows_that_share_a_key_stay_in_one_chunk_and_rows_without_one_are_told_apart(place: Place, rows: int) -> None:
    place.run(
        """
create table ganda (a integer, b varchar(10), c integer);
insert into ganda values (1, 'x', 1), (1, 'x', 2), (1, 'y', 3), (2, 'x', 4), (NULL, 'x', 5), (2, NULL, 6), (0, 'z|', 7);
create view v_ganda as select a, b, c from ganda;
"""
    )
    with closing(place.view()) as view:
        shape = place.shape(view, "v_ganda", ["a", "b"], ["c"])
        good, _, _ = walk(view, shape, rows)
        assert [row[:2] for row in good] == [("0", "z|"), ("1", "x"), ("1", "x"), ("1", "y"), ("2", "x")]
        view.begin()
        nulls, bad = rows_of(view.null_keys(shape, 10))
        view.end()
        assert sorted(row[2] or "" for row in nulls) == ["5", "6"]
        assert bad == []
        found, _ = rows_of(view.fetch(shape, [r"0|z\|", "1|x", "7|q", "x|x"]))
        assert sorted(row[2] or "" for row in found) == ["1", "2", "7"]
        assert sorted(view.matching(shape, ["c"], [["4"], ["5"], ["7"]])) == [r"0|z\|", "2|x"]


def test_a_refused_row_stops_no_other(sqlite: Place) -> None:
    sqlite.run(
        """
create table buruk (id integer primary key, isi);
insert into buruk values (1, 'baik'), (2, cast(x'ff41' as text)), (3, 'nol' || char(0) || 'x'),
  (4, printf('%.*c', 200, 'x'));
insert into buruk values (5, x'00ff'), (6, 3273015512950007.0), (7, 9223372036854775807);
create view v_buruk as select id, isi from buruk;
"""
    )
    with closing(sqlite.view(cell_bytes_max=100)) as view:
        shape = sqlite.shape(view, "v_buruk", ["id"], ["isi"])
        good, bad, _ = walk(view, shape, 3)
        assert good == [
            ("1", "baik"), ("5", "\\x00ff"), ("6", "3273015512950007"), ("7", "9223372036854775807"),
        ]  # fmt: skip
        assert bad == [
            BadRow(("2",), "INVALID_UTF8"),
            BadRow(("3",), "NUL_CHARACTER"),
            BadRow(("4",), "CELL_TOO_LARGE"),
        ]


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_sqlite_keys_of_any_type_are_walked_and_found(sqlite: Place, rows: int) -> None:
    """A column may hold numbers, texts, blobs and bytes that are no text; a view's expression has no affinity."""
    sqlite.run(
        """
create table campur (k, n integer);
insert into campur values (2, 1), (10, 2), (1.5, 3), ('2a', 4), ('a', 5), (x'61', 6), (cast(x'ff' as text), 7), ('', 8);
create view v_campur as select (select k) as k, n from campur;
"""
    )
    with closing(sqlite.view()) as view:
        shape = sqlite.shape(view, "v_campur", ["k"], ["n"])
        good, bad, _ = walk(view, shape, rows)
        assert good == [
            ("1.5", "3"), ("2", "1"), ("10", "2"), ("", "8"), ("2a", "4"), ("a", "5"), ("\\x61", "6"),
        ]  # fmt: skip
        assert bad == [BadRow(("\\xff",), "INVALID_UTF8")]
        found, _ = rows_of(view.fetch(shape, ["1.5", "2", "10", "2a", "a", "\\x61", "", "61"]))
        assert sorted(row[1] or "" for row in found) == ["1", "2", "3", "4", "5", "6", "8"]


def test_sqlite_reading_never_keeps_the_party_from_writing(sqlite: Place) -> None:
    sqlite.run(PEOPLE)
    with closing(sqlite.view()) as view:
        shape = sqlite.shape(view, "v_orang", ["id"], ["nama"])
        view.begin()
        list(view.fetch(shape, ["1"]))
        sqlite.run("pragma busy_timeout = 0; update orang set nama = 'BARU' where id = 1;")
        assert rows_of(view.fetch(shape, ["1"]))[0] == [("1", "BARU")]
        view.end()


def test_a_file_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "tiada.db"
    with pytest.raises(SourceUnavailable):
        SqlView(f"sqlite:///{path}", OPTIONS, 100)
    assert not path.exists()


def test_a_dsn_that_is_no_url_says_what_one_looks_like() -> None:
    with pytest.raises(UsageError) as caught:
        SqlView("bukan url rahasia", OPTIONS, 100)
    assert "rahasia" not in str(caught.value)
    assert "mariadb://" in caught.value.hint


MARIA_TYPES = """
create table jenis (
  id bigint unsigned primary key, kartu int(10) zerofill, uang decimal(12,2) zerofill, bulat tinyint, bit9 bit(9),
  biner varbinary(8), tgl date, saat datetime(3), cap timestamp null, jam time, tahun year, pilih enum('a','b'),
  nama varchar(40), angka double);
set sql_mode = '';
insert into jenis values
  (18446744073709551615, 42, 1.5, -1, b'100000001', x'00ff', '0000-00-00', '2025-00-15 01:02:03.004',
   '2026-01-02 10:00:00', '-838:59:59', 2026, 'b', 'José', 0.1),
  (9223372036854775809, 0, 0, 0, b'0', '', '1990-08-15', null, null, '00:00:00', 0, '', '', 1e20);
create view v_jenis as select * from jenis;
"""


def test_mariadb_values_have_the_server_s_own_text(maria: Place) -> None:
    maria.run(MARIA_TYPES)
    names = ("kartu", "uang", "bulat", "bit9", "biner", "tgl", "saat", "cap", "jam", "tahun", "pilih", "nama", "angka")
    with closing(maria.view()) as view:
        shape = maria.shape(view, "v_jenis", ["id"], names)
        good, bad, _ = walk(view, shape, 1)
        assert bad == []
        assert good[1] == (
            "18446744073709551615", "42", "1.50", "-1", "257", "\\x00ff", "0000-00-00", "2025-00-15 01:02:03.004",
            # The party's own zone is +07:00; a timestamp is told in UTC.
            "2026-01-02 03:00:00", "-838:59:59", "2026", "b", "José", "0.1",
        )  # fmt: skip
        assert good[0] == (
            "9223372036854775809", "0", "0.00", "0", "0", "\\x", "1990-08-15", None, None, "00:00:00", "0000", "", "",
            "1e20",
        )  # fmt: skip
        found, _ = rows_of(view.fetch(shape, ["9223372036854775809", "9223372036854775808", "18446744073709551615"]))
        assert sorted(row[0] or "" for row in found) == ["18446744073709551615", "9223372036854775809"]


def test_keys_that_a_collation_calls_equal_are_never_each_other_s_row(maria: Place) -> None:
    maria.run(
        """
create table kunci (k varchar(20) collate latin1_general_ci, n int);
insert into kunci values ('AB1', 1), ('b', 2), ('B', 3), ('c', 4), ('é', 5), ('É', 6);
create view v_kunci as select k, n from kunci;
"""
    )
    with closing(maria.view()) as view:
        shape = maria.shape(view, "v_kunci", ["k"], ["n"])
        assert rows_of(view.fetch(shape, ["ab1"]))[0] == []
        assert rows_of(view.fetch(shape, ["AB1", "ab1", "AB1 "]))[0] == [("AB1", "1")]
        assert rows_of(view.fetch(shape, ["é"]))[0] == [("é", "5")]
        good, _, _ = walk(view, shape, 1)
        assert sorted(row[1] or "" for row in good) == ["1", "2", "3", "4", "5", "6"]


@pytest.mark.parametrize(
    "kind", ["varbinary(8)", "decimal(20,3)", "date", "bit(12)", "double", "varchar(8)", "datetime(6)"]
)
def test_mariadb_keys_of_any_type_are_walked_and_found(maria: Place, kind: str) -> None:
    values = {
        "varbinary(8)": ["x''", "x'00'", "x'5c0a'", "x'ff'"],
        "decimal(20,3)": ["-1.5", "0", "12345678901234567.125", "12345678901234567.126"],
        "date": ["'0000-00-00'", "'1990-01-01'", "'2024-02-29'", "'2025-00-15'"],
        "bit(12)": ["b'0'", "b'1'", "b'100000000000'", "b'111111111111'"],
        "double": ["-2.5", "0.1", "3", "1e100"],
        "varchar(8)": ["''", "'a''b'", "'a\\\\b'", "'z'"],
        "datetime(6)": ["'0000-00-00'", "'1990-01-01 00:00:00.000001'", "'1990-01-01 00:00:00.000002'", "'2026-01-01'"],
    }[kind]
    rows = ", ".join(f"({value}, {place})" for place, value in enumerate(values))
    maria.run(
        f"set sql_mode = '';\ncreate table apa (k {kind} primary key, n int);\n"
        f"insert into apa values {rows};\ncreate view v_apa as select k, n from apa;\n"
    )
    with closing(maria.view()) as view:
        shape = maria.shape(view, "v_apa", ["k"], ["n"])
        good, _, _ = walk(view, shape, 1)
        assert [row[1] for row in good] == ["0", "1", "2", "3"]
        keys = [row[0] or "" for row in good]
        assert rows_of(view.fetch(shape, keys[1:3]))[0] in (good[1:3], good[2:0:-1])


def test_a_mariadb_read_sees_one_moment(maria: Place) -> None:
    maria.run(people(maria))
    with closing(maria.view()) as view:
        shape = maria.shape(view, "v_orang", ["id"], ["nama"])
        view.begin()
        maria.run("update orang set nama = 'BARU' where id = 1")
        assert rows_of(view.fetch(shape, ["1"]))[0] == [("1", "SITI")]
        view.end()
        view.begin()
        assert rows_of(view.fetch(shape, ["1"]))[0] == [("1", "BARU")]
        view.end()


def test_what_is_wrong_with_one_view_holds_that_view(place: Place) -> None:
    place.run(people(place))
    with closing(place.view()) as view:
        shape = place.shape(view, "v_orang", ["id"], ["nama"])
        with pytest.raises(EntityHeld) as caught:
            place.shape(view, "v_tiada", ["id"], ["nama"])
        assert caught.value.reason == "view_missing"
        with pytest.raises(EntityHeld) as caught:
            place.shape(view, "v_orang", ["id"], ["nik"])
        assert caught.value.reason == "view_changed"
        place.run("drop view v_orang;\ncreate view v_orang as select id, cabang from orang")
        changed = place.shape(view, "v_orang", ["id"], ["cabang"])
        assert changed.fingerprint != shape.fingerprint
        with pytest.raises(EntityHeld) as caught:
            list(view.fetch(shape, ["1"]))
        assert caught.value.reason == "view_changed"
        place.run("drop table orang")
        with pytest.raises(EntityHeld):
            list(view.fetch(changed, ["1"]))


def test_a_reader_without_rights_is_told_so(mariadb: MariaDb, maria: Place) -> None:
    maria.run(people(maria))
    reader = f"ro_{maria.schema}"
    mariadb.run(f"create user {reader}@localhost;\ngrant select on {maria.schema}.v_orang to {reader}@localhost;\n")
    try:
        with closing(SqlView(mariadb.url("", reader), OPTIONS, 1000)) as view:
            shape = maria.shape(view, "v_orang", ["id"], ["nama"])
            assert rows_of(view.fetch(shape, ["1"]))[0] == [("1", "SITI")]
            mariadb.run(f"revoke select on {maria.schema}.v_orang from {reader}@localhost")
            with pytest.raises(EntityHeld) as caught:
                list(view.fetch(shape, ["1"]))
            assert caught.value.reason == "permission_denied"
    finally:
        mariadb.run(f"drop user {reader}@localhost")
    with pytest.raises(SourceUnavailable):
        SqlView(mariadb.url("", reader), OPTIONS, 1000)


def test_a_statement_that_takes_too_long_is_stopped(maria: Place) -> None:
    maria.run("create view v_lama as select 1 as id, sleep(20) as nama")
    with closing(SqlView(maria.url, Options("test", statement_timeout_s=0.2), 1000)) as view:
        shape = maria.shape(view, "v_lama", ["id"], ["nama"])
        with pytest.raises(SourceBusy):
            list(view.fetch(shape, ["1"]))


def test_many_keys_are_asked_for_in_several_statements(place: Place) -> None:
    values = ",".join(f"({n}, 'x{n}')" for n in range(5_000))
    place.run(f"create table banyak (a integer, b varchar(10));\ninsert into banyak values {values};\n"
              "create view v_banyak as select a, b from banyak;\n")  # fmt: skip
    with closing(place.view()) as view:
        shape = place.shape(view, "v_banyak", ["a", "b"], [])
        view.begin()
        good, _ = rows_of(view.fetch(shape, [f"{n}|x{n}" for n in range(0, 6_000, 2)]))
        view.end()
        assert len(good) == 2_500
