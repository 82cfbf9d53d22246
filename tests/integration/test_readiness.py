"""`connector readiness`: thresholds from their tables, counts from staging, the shortest way, and no verdict."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from connector.ops.readiness import krejcie_morgan
from connector.staging import session
from tests.fixtures.commandline import CommandLine

BOOKKEEPING = "'', '1', 1, 1, now()"


@pytest.fixture
def conn(staging_dsn: str) -> Iterator[psycopg.Connection]:
    """Staging where alfa has boards, offices and members in two of three regencies of a province of its own."""
    with session.connect(staging_dsn) as opened:
        opened.execute("insert into connector.party (party, parpol_id) values ('alfa', 1)")
        opened.execute("insert into connector.entity (party, entity, state) values ('alfa', 'anggota', 'streaming')")
        for entity in ("kepengurusan", "pengurus", "kantor", "rekening", "parpol"):
            opened.execute(
                sql.SQL("create table {} partition of {} for values in (1)").format(
                    sql.Identifier("staging", f"{entity}_p1"), sql.Identifier("staging", entity)
                )
            )
        opened.execute("delete from staging.ref_ambang; delete from staging.ref_ambang_provinsi")
        opened.execute("insert into staging.ref_ambang_provinsi values ('32', 3, 3, 'uji 75 %')")
        opened.execute(
            "insert into staging.ref_ambang values"
            " ('32.01', 500000, 500, 40, 2, 'Keputusan KPU 258/2022', null),"
            " ('32.73', 250000, 250, 30, 2, 'Keputusan KPU 258/2022', null),"
            " ('32.79', 90000, 90, 4, 2, 'Keputusan KPU 258/2022', null)"
        )
        board(opened, "pusat", "PUSAT", None)
        board(opened, "prov", "PROVINSI", "32")
        for kode in ("32.01", "32.73"):
            board(opened, kode, "KABKOTA", kode)
            office(opened, kode, "KABKOTA", kode)
            for district in ("01", "02"):
                board(opened, f"{kode}.{district}", "KECAMATAN", f"{kode}.{district}")
        members(opened, "32.01", 600, 510)
        members(opened, "32.73", 260, 240)
        members(opened, "99.99", 7, 7)
        yield opened


def board(conn: psycopg.Connection, key: str, tingkat: str, kode: str | None) -> None:
    conn.execute(
        "insert into staging.kepengurusan (parpol_id, source_key, tingkat, kode_wilayah, nomor_sk, tanggal_sk, status,"
        " row_hash, mapping_version, sync_batch_id, read_position, staged_at)"
        f" values (1, %s, %s, %s, 'SK', '2025-01-01', 'AKTIF', {BOOKKEEPING})".encode(),
        (key, tingkat, kode),
    )


def office(conn: psycopg.Connection, key: str, tingkat: str, kode: str | None, until: str | None = None) -> None:
    conn.execute(
        "insert into staging.kantor (parpol_id, source_key, tingkat, kode_wilayah, alamat, status_kantor,"
        " berlaku_sampai, row_hash, mapping_version, sync_batch_id, read_position, staged_at)"
        f" values (1, %s, %s, %s, 'JL', 'SEWA', %s, {BOOKKEEPING})".encode(),
        (key, tingkat, kode, until),
    )


def officer(conn: psycopg.Connection, key: str, sex: str) -> None:
    conn.execute(
        "insert into staging.pengurus (parpol_id, source_key, kepengurusan_source_key, nama, jabatan, jabatan_inti,"
        " jenis_kelamin, row_hash, mapping_version, sync_batch_id, read_position, staged_at)"
        f" values (1, %s, 'pusat', 'X', 'X', 'LAINNYA', %s, {BOOKKEEPING})".encode(),
        (key, sex),
    )


def members(conn: psycopg.Connection, kode: str, staged: int, clean: int) -> None:
    conn.execute(
        "insert into staging.hitungan values (1, %s, %s, %s, %s, 0, 0, 0, 0, 0, 0, 2)",
        (kode, staged, clean, staged - clean),
    )


@pytest.fixture
def connector(tmp_path: Path, staging_dsn: str, capsys: pytest.CaptureFixture[str]) -> CommandLine:
    return CommandLine(tmp_path, staging_dsn, capsys)


def told(connector: CommandLine) -> dict[str, Any]:
    result = connector.json("readiness", "alfa")["result"]
    assert isinstance(result, dict)
    return result


@pytest.mark.usefixtures("conn")
def test_a_regency_counts_with_members_board_districts_and_office(connector: CommandLine) -> None:
    rows = {one["kode"]: one for one in told(connector)["regencies"]}
    assert [one["kode"] for one in told(connector)["regencies"]] == ["32.79", "32.73", "32.01"], "thinnest first"
    assert (rows["32.01"]["memenuhi"], rows["32.01"]["tipis"], rows["32.01"]["selisih"]) == (True, True, 10)
    assert (rows["32.73"]["memenuhi"], rows["32.73"]["kurang"]) == (False, ["anggota"])
    assert rows["32.79"]["kurang"] == ["anggota", "kepengurusan", "kecamatan", "kantor"]
    assert rows["32.01"]["dasar"] == "Keputusan KPU 258/2022"
    assert (rows["32.01"]["diterima"], rows["32.01"]["bersih"], rows["32.01"]["identik"]) == (600, 510, 90)


@pytest.mark.usefixtures("conn")
def test_the_shortest_way_names_the_nearest_regencies(connector: CommandLine) -> None:
    (province,) = told(connector)["provinces"]
    assert (province["memenuhi"], province["minimal_kabkota"], province["selisih"]) == (1, 3, -2)
    assert (province["jalur"], province["kurang_anggota"]) == (["32.73", "32.79"], 10 + 90)
    assert province["dasar"] == "uji 75 %"


def test_women_at_the_centre_and_offices_are_held_against_the_law(
    conn: psycopg.Connection, connector: CommandLine
) -> None:
    for place, sex in enumerate("PPLLLLL"):
        officer(conn, str(place), sex)
    office(conn, "pusat", "PUSAT", None, "2020-01-01")
    lines = {one["syarat"]: one for one in told(connector)["requirements"]}
    assert (lines["perempuan di kepengurusan pusat (%)"]["ada"], lines["kantor pusat"]["ada"]) == (28.5, 0)
    assert not lines["perempuan di kepengurusan pusat (%)"]["terpenuhi"]
    officer(conn, "8", "P")
    office(conn, "pusat baru", "PUSAT", None, "2099-01-01")
    lines = {one["syarat"]: one for one in told(connector)["requirements"]}
    assert lines["perempuan di kepengurusan pusat (%)"]["terpenuhi"]
    assert lines["kantor pusat"]["terpenuhi"]
    assert lines["provinsi dengan kepengurusan"]["terpenuhi"]


def test_refusals_show_the_party_s_own_keys_and_no_nik(conn: psycopg.Connection, connector: CommandLine) -> None:
    conn.execute(
        "insert into staging.karantina (parpol_id, entity, source_key, sync_batch_id, reasons)"
        " values (1, 'anggota', '17', 1, '{NIK_FORMAT,NIK_FORMAT}'),"
        " (1, 'anggota', '3273015512950007', 1, '{NIK_FORMAT}')"
    )
    (one,) = told(connector)["refusals"]
    assert (one["reason"], one["rows"], one["keys"]) == ("NIK_FORMAT", 2, ["17", "3273********0007"])
    assert one["indonesian"]


@pytest.mark.usefixtures("conn")
def test_members_outside_the_table_are_not_lost_and_the_answer_is_no_verdict(connector: CommandLine) -> None:
    answer = connector.json("readiness", "alfa")
    assert answer["result"]["elsewhere"] == 7
    assert "1 of 3 regencies count" in answer["summary"]
    text = connector("readiness", "alfa").out
    assert "32.79" in text
    assert not {"MS", "BMS", "TMS"} & set(text.split())


@pytest.mark.usefixtures("conn")
def test_the_page_stands_alone_and_is_well_formed(connector: CommandLine, tmp_path: Path) -> None:
    page = tmp_path / "alfa.html"
    connector.json("readiness", "alfa", "--html", str(page))
    text = page.read_text(encoding="utf-8")
    markup = text.split("\n", 1)[1].replace('<meta charset="utf-8">', "").replace("class=n", 'class="n"')
    root = ElementTree.fromstring(markup)  # noqa: S314 - our own page
    assert len(root.findall(".//{http://www.w3.org/2000/svg}rect")) == 3
    assert "<script" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "hanya ditetapkan KPU" in text
    assert connector.json("readiness", "alfa", "--html", "/nowhere/alfa.html", code=3)["error"]["hint"]


def test_a_party_that_was_never_started_is_told_so(connector: CommandLine, conn: psycopg.Connection) -> None:
    assert connector.json("readiness", "beta", code=2)["error"]["hint"] == "connector check, then connector run"
    conn.execute("update connector.party set jenis = 'LOKAL_ACEH'")
    local = told(connector)
    assert (local["requirements"], local["regencies"]) == ([], []), "a local party of Aceh has thresholds of its own"


@pytest.mark.parametrize(
    ("population", "sample"), [(0, 0), (1, 1), (100, 80), (142, 104), (463, 210), (738, 253), (1000, 278), (5000, 357)]
)
def test_samples_are_krejcie_s_and_morgan_s(population: int, sample: int) -> None:
    assert krejcie_morgan(population) == sample


def test_what_the_last_day_brought_is_counted_beside_the_view_and_sipol(
    conn: psycopg.Connection, connector: CommandLine
) -> None:
    conn.execute("update connector.entity set live_rows = 860 where entity = 'anggota'")
    conn.execute(
        "insert into staging.sync_batch (party, parpol_id, entity, kind, signalled, read, inserted, updated, deleted,"
        " started_at, ended_at)"
        " select 'alfa', 1, 'anggota', 'signals', 9, 7, 5, 2, 2, at, at"
        " from (values (now()), (now() - interval '2 days')) t (at)"
    )
    answer = connector.json("readiness", "alfa", "--sipol", "anggota=861")
    (one,) = answer["result"]["freshness"]
    assert (one["added_day"], one["changed_day"], one["removed_day"]) == (5, 2, 2), "of one day, not of two"
    assert (one["live_rows"], one["sipol_rows"]) == (860, 861)
    assert "Sipol has another count of anggota" in answer["summary"]
    assert "Sipol" not in connector.json("readiness", "alfa", "--sipol", "anggota=860")["summary"]
    assert "no count of an entity" in connector.json("readiness", "alfa", "--sipol", "kader=1", code=2)["summary"]


def test_codes_and_regions_without_a_meaning_and_documents_are_told_by_kind(
    conn: psycopg.Connection, connector: CommandLine
) -> None:
    conn.execute(
        "insert into staging.karantina (parpol_id, entity, source_key, sync_batch_id, reasons, columns)"
        " select 1, 'anggota', n::text, 1, '{CODE_UNKNOWN,NIK_FORMAT}', '{jenis_kelamin,nik}'"
        " from generate_series(1, 3) n"
    )
    conn.execute("create table staging.dokumen_p1 partition of staging.dokumen for values in (1)")
    conn.execute(
        "insert into staging.dokumen (parpol_id, source_key, jenis, pemilik_entity, pemilik_source_key, tersedia,"
        " row_hash, mapping_version, sync_batch_id, read_position, staged_at)"
        f" select 1, n::text, 'SK', 'kepengurusan', '1', n = 1, {BOOKKEEPING} from generate_series(1, 2) n".encode()
    )
    result = told(connector)
    assert result["unmapped"] == [{"entity": "anggota", "column": "jenis_kelamin", "reason": "CODE_UNKNOWN", "rows": 3}]
    assert result["documents"] == [{"jenis": "SK", "ada": 2, "tersedia": 1}]
