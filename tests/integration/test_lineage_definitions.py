"""What each engine's catalogue says of views, and what is made of it: paths, types, hidden reads, declared lines."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from mariadb import MariaDb
from structlog.testing import capture_logs

from connector import pg
from connector.capture.lineage.catalogue import DATE, INT, TEXT, Catalogue
from connector.capture.outbox import definitions as sql_definitions
from connector.capture.postgres import definitions as pg_definitions
from connector.capture.signals import Route
from connector.credentials import Secret
from connector.mapping.rules import Lineage
from connector.ops.lineage import EntityLineage, Mapped, Routing, merged
from connector.settings import Source
from connector.sqldb.engines import Options
from connector.sqldb.session import SqlSession

PARTY = """
create schema p;
create table p.orang (id int primary key, nama text, kode char(5), tgl date, besar numeric(9,2), kerja_id bigint,
  panjang int generated always as (length(nama)) stored);
create table p.kerja (kerja_id smallint primary key, nama varchar(40));
create table p.tanda (tanda_id int primary key, orang_id int);
create collation p.longgar (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
create table p.kota (kota text collate p.longgar primary key, nama text);
create materialized view p.hitungan as select count(*) as n from p.orang;
create function p.banyak(int) returns bigint language sql stable as 'select count(*) from p.tanda where orang_id = $1';
create view p.dalam as select * from p.orang where nama is not null;
create view p.luar as
  select o.id, o.nama, o.kerja_id, k.nama as nama_kerja, p.banyak(o.id) as banyak, t.kota, h.n
    from p.dalam o left join p.kerja k using (kerja_id) left join p.kota t on t.kota = o.nama cross join p.hitungan h
   where exists (select from p.tanda d where d.orang_id = o.id)
     and not exists (select from pg_catalog.pg_am where false);
"""


# The wheel's servers know no collation that calls two texts equal.
WITH_ICU = pytest.mark.parametrize("source_server", [15], indirect=True)


def ways(found: EntityLineage) -> dict[str, tuple[str, tuple[tuple[str, str], ...]]]:
    return {way.path.table[1]: (way.path.kind, way.path.pairs) for way in found.ways}


@pytest.fixture
def catalogue(source_dsn: str) -> Callable[[bool], Catalogue]:
    with psycopg.connect(source_dsn, autocommit=True) as dba:
        dba.execute(PARTY.encode())
        dba.execute("drop role if exists baca_saja")
        dba.execute("create role baca_saja login")

    def read(logged: bool) -> Catalogue:
        # A login that may read no row of anything.
        dsn = psycopg.conninfo.make_conninfo(source_dsn, user="baca_saja")
        with closing(pg.connect(dsn, application="uji")) as conn:
            return pg_definitions.read(conn, [("p", "luar")], [("p", "tiada")], logged=logged)

    return read


@WITH_ICU
def test_any_login_reads_what_postgresql_knows_of_a_view(catalogue: Callable[[bool], Catalogue]) -> None:
    found = catalogue(False)
    orang = found.tables["p", "orang"]
    assert orang.columns is not None
    assert orang.identity == ("id",)
    kinds = {name: column.kind for name, column in orang.columns.items()}
    assert (kinds["id"], kinds["kerja_id"], kinds["nama"], kinds["tgl"]) == (INT, INT, TEXT, DATE)
    assert (kinds["kode"], kinds["besar"]) == ("character(5)", "numeric(9,2)")
    kota = found.tables["p", "kota"].columns
    assert kota is not None
    assert kota["kota"].kind == "text collate longgar", "it calls two texts equal"
    assert found.views["p", "luar"].functions == ("p.banyak",)
    assert ("p", "dalam") in found.views["p", "luar"].reads


@WITH_ICU
def test_hidden_reads_and_declared_lines_are_judged(catalogue: Callable[[bool], Catalogue]) -> None:
    lines = (
        Lineage(("p", "kerja"), {}, {"kerja_id": "kerja_id"}),
        Lineage(("p", "kota"), {}, {"kota": "kota_id"}),
        Lineage(("p", "tiada"), {}, {}),
        Lineage(("p", "dalam"), {}, {}),
    )
    one = merged(Mapped("anggota", ("p", "luar"), ("id",), lines), catalogue(False))
    assert ways(one) == {
        "orang": ("key", (("id", "id"),)), "tanda": ("key", (("id", "orang_id"),)),
        "kerja": ("match", (("kerja_id", "kerja_id"),)), "kota": ("match", (("kota", "kota_id"),)),
        "tiada": ("whole", ()), "dalam": ("whole", ()),
    }  # fmt: skip
    assert {(way.path.table[1], way.origin, way.path.stays) for way in one.ways if way.path.kind == "match"} == {
        ("kerja", "declared", True), ("kota", "declared", False),
    }  # fmt: skip
    said = {remark.what: remark.why for remark in one.remarks}
    assert "which it does not have" in said["p.kota"]
    assert said["p.tiada"] == "is declared and is not there"
    assert "is a view" in said["p.dalam"]
    assert "a function" in said["p.banyak"]
    assert "materialized" in said["p.hitungan"]
    assert "system" in said["pg_catalog.pg_am"]


@WITH_ICU
def test_the_log_tells_old_values_of_an_identity_only(catalogue: Callable[[bool], Catalogue]) -> None:
    """`orang_id` may be NULL: it cannot be in a replica identity, so where a row moved from the log does not say."""
    mapped = Mapped("anggota", ("p", "luar"), ("id",))
    assert ways(merged(mapped, catalogue(True)))["tanda"] == ("whole", ())
    orang = catalogue(True).tables["p", "orang"].columns
    assert orang is not None
    assert (orang["id"].carried, orang["panjang"].carried) == (True, False)


def test_sqlite_s_views_are_read_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "partai.db"
    with closing(sqlite3.connect(path)) as conn:
        conn.executescript(
            "create table Orang (id integer primary key, nama varchar(40), kerja_id int, apa);"
            "create table kerja (kerja_id int primary key, nama text collate nocase);"
            "create view w as select * from orang where nama <> '';"
            "create view v(nomor, kerja_id) as select w.ID, w.kerja_id from w left join Kerja using (kerja_id);"
        )
    with closing(SqlSession(f"sqlite:///{path}", Options("uji"))) as session:
        found = sql_definitions.read(session, [("main", "v")])
    orang, kerja = found.tables["main", "Orang"].columns, found.tables["main", "kerja"].columns
    assert orang is not None
    assert kerja is not None
    assert [orang[name].kind for name in ("id", "nama", "apa")] == [INT, TEXT, ""]
    assert kerja["nama"].kind == ""
    one = merged(Mapped("anggota", ("main", "v"), ("nomor",)), found)
    assert ways(one) == {"Orang": ("key", (("nomor", "id"),)), "kerja": ("match", (("kerja_id", "kerja_id"),))}
    table = merged(Mapped("anggota", ("main", "Orang"), ("id",)), found)
    assert ways(table) == {"Orang": ("key", (("id", "id"),))}
    assert not merged(Mapped("anggota", ("main", "tiada"), ("id",)), found).ways


MARIA = (
    "create table orang (id int unsigned primary key, nama varchar(40), kerja_id int)",
    "create table kerja (kerja_id int primary key, nama varchar(40))",
    "create view w as select * from orang where nama <> ''",
    "create view v as select w.id as nomor, w.kerja_id, k.nama from w left join kerja k using (kerja_id)",
)


def test_mariadb_s_views_are_read_as_far_as_the_login_may_see(mariadb: MariaDb, maria_database: str) -> None:
    with mariadb.connect(maria_database) as conn, conn.cursor() as cursor:
        for statement in MARIA:
            cursor.execute(statement)
        cursor.execute("create or replace user baca_saja@localhost")
        cursor.execute("grant select on v to baca_saja@localhost")
        name = maria_database
        mapped = Mapped("anggota", (name, "v"), ("nomor",))

        def seen(user: str) -> EntityLineage:
            url = mariadb.url(name, user=user) if user else mariadb.url(name)
            with closing(SqlSession(url, Options("uji"))) as session:
                return merged(mapped, sql_definitions.read(session, [(name, "v")]))

        full = seen("")
        assert ways(full) == {"orang": ("key", (("nomor", "id"),)), "kerja": ("match", (("kerja_id", "kerja_id"),))}
        assert not full.remarks
        blind = seen("baca_saja")
        assert not blind.ways
        assert [remark.what for remark in blind.remarks] == [f"{name}.v"]
        cursor.execute("grant show view on v to baca_saja@localhost")
        half = seen("baca_saja")
        # Of `w` it cannot be said whether it is a table: it is told.
        assert {remark.what for remark in half.remarks} == {f"{name}.w", f"{name}.kerja"}
        cursor.execute("drop user baca_saja@localhost")


@WITH_ICU
def test_a_declared_line_that_the_definition_does_not_bear_out_is_kept(catalogue: Callable[[bool], Catalogue]) -> None:
    """It wins: whoever wrote it may know of what no definition tells (a rule of the application)."""
    line = Lineage(("p", "kota"), {"id": "nama"}, {})
    one = merged(replace(Mapped("anggota", ("p", "luar"), ("id",)), declared=(line,)), catalogue(False))
    assert ways(one)["kota"] == ("key", (("id", "nama"),))


@WITH_ICU
def test_what_the_publication_leaves_out_is_no_path(source_dsn: str, catalogue: Callable[[bool], Catalogue]) -> None:
    """A changed view must not stop its party until the kit is run again, nor may its changes be missed."""
    catalogue(True)
    with psycopg.connect(source_dsn, autocommit=True) as dba:
        dba.execute("create publication sipol_uji for table p.orang (nama), p.kerja")
    source = Source("postgresql", Secret("literal", source_dsn), "pull", "sipol_uji", "sipol_uji")
    with capture_logs() as said:
        found = Routing(source, [Mapped("anggota", ("p", "luar"), ("id",))], "uji").now(source_dsn)
    assert found["p", "orang"] == (Route("anggota"),), "its key is not published"
    assert found["p", "kerja"] == (Route("anggota", match=(("kerja_id", "kerja_id"),), stays=True),)
    told = [line for line in said if line["event"] == "table_not_published"]
    assert len(told) == 3, "orang lacks a column; tanda and kota are not there"
