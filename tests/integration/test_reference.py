"""Reference data: regions, names, thresholds. The figures are those of the decree and of Dukcapil."""

from __future__ import annotations

import csv
import gzip
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import psycopg
import pytest

from connector.embedded import Server
from connector.resources import schema_path
from connector.staging import migrate, reference
from tests.conftest import drop_database, new_database


@pytest.fixture(scope="module")
def conn(staging_server: Server, staging_template: str) -> Iterator[psycopg.Connection]:
    """One database for all tests that only look."""
    name = new_database(staging_server, "reference", staging_template)
    with psycopg.connect(staging_server.dsn(name), autocommit=True) as opened:
        yield opened
    drop_database(staging_server, name)


@pytest.fixture
def fresh(staging_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(staging_dsn, autocommit=True) as opened:
        yield opened


def one(conn: psycopg.Connection, query: str, *args: object) -> tuple[object, ...]:
    row = conn.execute(query.encode(), args).fetchone()
    assert row is not None
    return tuple(row)


def test_every_region_in_force_is_there_under_its_parent(conn: psycopg.Connection) -> None:
    rows = conn.execute("select tingkat, count(*) from staging.ref_wilayah group by 1 order by 1").fetchall()
    assert rows == [(1, 38), (2, 514), (3, 7285), (4, 83762)]
    orphans = "select count(*) from staging.ref_wilayah c left join staging.ref_wilayah p on p.kode = c.induk"
    assert one(conn, orphans + " where c.tingkat > 1 and p.tingkat is distinct from c.tingkat - 1") == (0,)


def test_kinds_are_told_from_the_code(conn: psycopg.Connection) -> None:
    rows = conn.execute("select jenis, count(*)::int from staging.ref_wilayah group by 1").fetchall()
    found: dict[str, int] = dict(rows)
    assert (found["KABUPATEN"], found["KOTA"]) == (416, 98)
    assert (found["KELURAHAN"], found["DESA"], found["DESA_ADAT"]) == (8496, 75252, 14)
    assert one(conn, "select jenis from staging.ref_wilayah where kode = '91.03.01'") == ("DISTRIK",)
    mismatch = "select count(*) from staging.ref_wilayah where tingkat = 2 and upper(split_part(nama, ' ', 1)) <> jenis"
    assert one(conn, mismatch) == (0,)


@pytest.mark.parametrize(
    ("name", "level", "plain"),
    [
        ("Kab. Bogor", 2, "BOGOR"),
        ("KOTA BOGOR", 2, "BOGOR"),
        ("  Kabupaten   Bogor ", 2, "BOGOR"),
        ("Kab.Bogor", 2, "BOGOR"),
        ("Kota Adm. Jakarta Pusat", 2, "JAKARTA PUSAT"),
        ("Kota", 2, "KOTA"),
        ("Kotabaru", 2, "KOTABARU"),
        ("Kota Bahagia", 3, "KOTA BAHAGIA"),
        ("Kec. Ma'u", 3, "MAU"),
        ("Kelurahan", 4, "KELURAHAN"),
        ("Tiro/Truseb", 3, "TIRO TRUSEB"),
        ("Prov. Jawa Barat", 1, "JAWA BARAT"),
        ("", 2, ""),
        (None, 2, None),
    ],
)
def test_a_region_s_name_has_one_spelling(
    conn: psycopg.Connection, name: str | None, level: int, plain: str | None
) -> None:
    assert one(conn, "select staging.nama_wilayah(%s::text, %s::int)", name, level) == (plain,)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("Kab. Bogor", "KABUPATEN"), ("kabupaten Bogor", "KABUPATEN"), ("KOTA BOGOR", "KOTA"), ("Kodya Bogor", "KOTA"),
        ("Bogor", None), ("Kotabaru", None), ("Kota", None), ("", None), (None, None),
    ],
)  # fmt: skip
def test_the_type_word_says_which_of_two_regencies_is_meant(
    conn: psycopg.Connection, name: str | None, kind: str | None
) -> None:
    assert one(conn, "select staging.jenis_kabkota(%s::text)", name) == (kind,)


def test_twenty_six_bare_names_are_both_a_kabupaten_and_a_kota(conn: psycopg.Connection) -> None:
    twins = "select nama_norm from staging.ref_wilayah where tingkat = 2 group by 1 having count(distinct jenis) > 1"
    assert one(conn, f"select count(*) from ({twins}) t") == (26,)


def test_with_the_type_word_a_regency_s_name_is_unique_in_the_country(conn: psycopg.Connection) -> None:
    same = "select nama_norm, jenis from staging.ref_wilayah_nama where tingkat = 2 group by 1, 2 having count(*) > 1"
    assert conn.execute(same.encode()).fetchall() == []


def test_within_a_regency_a_district_s_name_is_unique(conn: psycopg.Connection) -> None:
    same = "select induk, nama_norm from staging.ref_wilayah where tingkat = 3 group by 1, 2 having count(*) > 1"
    assert conn.execute(same.encode()).fetchall() == []


def test_former_and_common_names_lead_to_the_region(conn: psycopg.Connection) -> None:
    find = "select kode from staging.ref_wilayah_nama where tingkat = %s and nama_norm = staging.nama_wilayah(%s, %s)"
    known = ((2, "Kab. Toba Samosir", "12.12"), (1, "DKI Jakarta", "31"), (1, "D.I. Yogyakarta", "34"))
    for level, name, code in known:
        assert one(conn, find, level, name, level) == (code,)
    with schema_path("reference", "alias.csv").open(encoding="utf-8") as lines:
        assert one(conn, "select count(*) from staging.ref_wilayah_alias") == (sum(1 for _ in lines) - 1,)


def test_a_code_that_vanished_leads_to_the_one_region_with_its_name(conn: psycopg.Connection) -> None:
    assert one(conn, "select kode_baru from staging.ref_wilayah_lama where kode_lama = '91.01'") == ("93.01",)
    assert one(conn, "select count(*) from staging.ref_wilayah_lama where length(kode_lama) = 5") == (26,)


def test_no_code_in_force_is_called_old_and_no_old_code_leads_nowhere(conn: psycopg.Connection) -> None:
    wrong = """
        select count(*) from staging.ref_wilayah_lama l
        left join staging.ref_wilayah n on n.kode = l.kode_baru
        where n.kode is null or length(l.kode_lama) <> length(l.kode_baru)
           or exists (select from staging.ref_wilayah o where o.kode = l.kode_lama)
    """
    assert one(conn, wrong) == (0,)


def test_a_nik_of_a_region_that_is_no_more_is_still_known(conn: psycopg.Connection) -> None:
    known = "select array_agg(prefix order by prefix) from staging.ref_nik_prefix where prefix = any(%s)"
    assert one(conn, known, ["320101", "9101", "910101", "54", "9999", "00"]) == (["320101", "54", "9101", "910101"],)
    missing = """
        select count(*) from staging.ref_wilayah w
        where tingkat <= 3 and not exists (select from staging.ref_nik_prefix p where p.prefix = w.kode_polos)
    """
    assert one(conn, missing) == (0,)


def test_the_minimum_is_a_thousandth_rounded_up_and_at_most_a_thousand(conn: psycopg.Connection) -> None:
    rows = conn.execute(
        "select penduduk, minimal_anggota, jumlah_kecamatan, minimal_kecamatan, dasar from staging.ref_ambang"
    ).fetchall()
    assert len(rows) == 514
    assert sum(row[0] for row in rows) == 284_973_643
    assert sum(row[1] for row in rows) == 220_354
    for people, members, districts, boards, source in rows:
        assert members == min(1000, (people + 999) // 1000)
        assert boards == (districts + 1) // 2
        assert source == "hitungan: min(1000, ceil(penduduk/1000)), Dukcapil Desember 2024"


def test_the_number_of_districts_is_that_of_the_region_list(conn: psycopg.Connection) -> None:
    wrong = """
        select count(*) from staging.ref_ambang a
        where jumlah_kecamatan <> (select count(*) from staging.ref_wilayah w where w.induk = a.kode_kabkota)
    """
    assert one(conn, wrong) == (0,)


@pytest.mark.parametrize(
    ("code", "all_of_them", "needed"), [("11", 23, 18), ("32", 27, 21), ("35", 38, 29), ("31", 6, 5)]
)
def test_three_quarters_of_a_province_s_regencies_are_rounded_up(
    conn: psycopg.Connection, code: str, all_of_them: int, needed: int
) -> None:
    query = "select jumlah_kabkota, minimal_kabkota from staging.ref_ambang_provinsi where kode_provinsi = %s"
    assert one(conn, query, code) == (all_of_them, needed)


def test_only_occupations_that_a_rule_names_are_listed(conn: psycopg.Connection) -> None:
    rows = conn.execute("select kode, barred from staging.ref_pekerjaan").fetchall()
    members = {5: "ANGGOTA", 6: "ANGGOTA", 7: "ANGGOTA", 86: "ANGGOTA"}
    assert dict(rows) == {**members, 85: "PENGURUS", 88: None, 89: None}


def test_what_is_loaded_is_noted_with_its_digest_and_source(conn: psycopg.Connection) -> None:
    noted = {name: bytes(digest) for name, digest in conn.execute("select nama, sha256 from staging.ref_versi")}
    assert noted == {edition.nama: edition.sha256 for edition in reference.editions()}
    assert one(conn, "select count(*) from staging.ref_versi where sumber = ''") == (0,)


def test_a_changed_edition_is_loaded_again_and_the_others_are_not(fresh: psycopg.Connection) -> None:
    fresh.execute("update staging.ref_versi set sha256 = sha256('older') where nama in ('wilayah', 'ambang')")
    fresh.execute("delete from staging.ref_wilayah where kode = '96.71.01.1001'")
    assert [applied.name for applied in migrate.apply(fresh)] == ["wilayah", "ambang"]
    assert one(fresh, "select count(*) from staging.ref_wilayah") == (91_599,)
    assert migrate.apply(fresh) == []


def test_what_kpu_decided_is_not_replaced_by_a_computation(fresh: psycopg.Connection) -> None:
    fresh.execute(
        "update staging.ref_ambang set minimal_anggota = 999, dasar = 'Keputusan KPU 258/2022'"
        " where kode_kabkota = '35.25'"
    )
    fresh.execute("update staging.ref_versi set sha256 = sha256('older') where nama = 'ambang'")
    migrate.apply(fresh)
    assert one(fresh, "select minimal_anggota from staging.ref_ambang where kode_kabkota = '35.25'") == (999,)
    assert one(fresh, "select count(*) from staging.ref_ambang") == (514,)


def test_tables_nothing_was_checked_for_ship_empty(conn: psycopg.Connection) -> None:
    for name in ("ref_wilayah_bps", "ref_tahapan"):
        assert one(conn, f"select count(*) from staging.{name}") == (0,)


def test_the_region_file_is_what_the_package_gives() -> None:
    pytest.importorskip("lokal")
    made = _build().regions()
    packed = schema_path("reference", "wilayah.csv.gz").read_bytes()
    rows = list(csv.reader(gzip.decompress(packed).decode().splitlines()))[1:]
    assert [tuple(row) for row in rows] == sorted(made.items())


def test_a_name_that_is_there_twice_decides_nothing() -> None:
    heirs = _build().heirs
    now = {"93": "Papua Selatan", "93.01": "Kabupaten Merauke", "93.01.01": "Merauke", "93.01.01.1001": "Mopah"}
    old = {"91": "Papua", "91.01": "KAB. MERAUKE", "91.01.01": "Merauke", "91.01.01.1001": "Mopah"}
    assert heirs(old, now) == {"91.01": "93.01", "91.01.01": "93.01.01", "91.01.01.1001": "93.01.01.1001"}
    assert "91.01.01.1001" not in heirs(old, {**now, "93.01.01.1002": "Mopah"})
    assert "91.01.01.1001" not in heirs({**old, "91.01.01.1002": "Mopah"}, now)
    assert heirs({"91": "Papua", "91.71": "KOTA MERAUKE"}, now) == {}, "a kota is not the kabupaten of its name"


def _build() -> ModuleType:
    path: Path = schema_path("reference", "build.py")
    spec = importlib.util.spec_from_file_location("reference_build", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
