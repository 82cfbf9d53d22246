"""Every function of a mapping on PostgreSQL 16: what a cell becomes, and what refuses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any

import psycopg
import pytest
from mapped import MEMBER_RULES, Mapper, document, program
from psycopg import sql

from connector.embedded import Server
from connector.errors import MappingError
from connector.events import source_key
from connector.mapping.program import ProgramOptions, compile_entity
from connector.mapping.reasons import REASONS
from connector.ops.trial import Mapped, map_row
from connector.staging import session


@pytest.fixture(scope="module")
def mapper(staging_server: Server, staging_template: str) -> Iterator[Mapper]:
    """A migrated database of this module's own; mapping writes nothing, so its tests may share it."""
    name = "mapping_functions"
    with psycopg.connect(staging_server.dsn(), autocommit=True) as admin:
        admin.execute(
            sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(staging_template))
        )
    with session.connect(staging_server.dsn(name)) as conn:
        yield Mapper(conn)


def one(mapper: Mapper, query: str) -> tuple[Any, ...]:
    row = mapper.conn.execute(query.encode()).fetchone()
    assert row is not None
    return row


def test_a_good_row_has_no_reason_and_no_finding(mapper: Mapper) -> None:
    mapped = mapper.member()
    assert mapped.reasons == ()
    assert mapped.findings == ()
    assert mapped.values == {
        "nik": "3273015512950007",
        "nomor_kta": "3273.000123",
        "nama": "SITI RAHMA",
        "jenis_kelamin": "P",
        "tanggal_lahir": "1995-12-15",
        "status_perkawinan": "S",
        "pekerjaan": "PETANI/PEKEBUN",
        "alamat": "Jl. Setiabudi No. 1",
        "kode_kabkota": "32.73",
        "kode_kecamatan": "32.73.01",
        "kode_kelurahan": "32.73.01.1001",
        "kode_wilayah_sumber": "3273011001",
    }


# Column, rule, cells, what it becomes, and the reason when it is refused (then the value is not looked at).
Case = tuple[str, str, Mapping[str, str | None], str | None, str | None]

CELLS: tuple[Case, ...] = (
    # from, const
    ("tempat_lahir", "x", {"x": "Bandung"}, "Bandung", None),
    ("tempat_lahir", "x", {"x": None}, None, None),
    ("tempat_lahir", "x", {"x": ""}, None, None),
    ("tempat_lahir", "x", {"x": " \t "}, None, None),
    ("tempat_lahir", "x", {"x": "é" * 100}, "é" * 100, None),
    ("tempat_lahir", "x", {"x": "é" * 101}, None, "TOO_LONG"),
    ("tempat_lahir", "{const: Bandung}", {}, "Bandung", None),
    ("alamat", "x", {"x": "   "}, None, "REQUIRED"),
    ("alamat", "x", {"x": None}, None, "REQUIRED"),
    ("tempat_lahir", "{from: x, required: true}", {"x": None}, None, "REQUIRED"),
    ("tempat_lahir", "{from: x, default: Tidak diketahui}", {"x": None}, "Tidak diketahui", None),
    ("tempat_lahir", "{from: x, default: Tidak diketahui}", {"x": "Bandung"}, "Bandung", None),
    # trim, case, digits, pad, slice
    ("nomor_kta", "{from: x, trim: true}", {"x": "\u00a0 007\t\r\n"}, "007", None),
    ("nomor_kta", "{from: x, trim: true}", {"x": " \u00a0"}, None, "REQUIRED"),
    ("nomor_kta", "x", {"x": "007 "}, "007 ", None),
    ("nomor_kta", "{from: x, case: upper}", {"x": "ab-1"}, "AB-1", None),
    ("nomor_kta", "{from: x, case: lower}", {"x": "AB-1"}, "ab-1", None),
    ("nomor_kta", "{from: x, digits: true}", {"x": "KTA 00.12-3"}, "00123", None),
    ("nomor_kta", "{from: x, digits: true}", {"x": "3.27301E+15"}, None, "NUMBER_DESTROYED"),
    ("nomor_kta", "{from: x, digits: true}", {"x": "3,27e15"}, None, "NUMBER_DESTROYED"),
    ("nomor_kta", "{from: x, digits: true}", {"x": "tidak ada"}, None, "REQUIRED"),
    ("nomor_kta", "{from: x, pad: 10}", {"x": "42"}, "0000000042", None),
    ("nomor_kta", "{from: x, pad: 10}", {"x": "12345678901"}, "12345678901", None),
    ("nomor_kta", "{from: x, pad: 3}", {"x": "é"}, "00é", None),
    ("nomor_kta", "{from: x, pad: {width: 4, with: '*'}}", {"x": "42"}, "**42", None),
    ("nomor_kta", "{from: x, pad: 3}", {"x": ""}, None, "REQUIRED"),
    ("nomor_kta", "{from: x, pad: 3}", {"x": " "}, None, "REQUIRED"),
    ("nomor_kta", "{from: x, slice: {start: 3, length: 2}}", {"x": "abcdef"}, "cd", None),
    ("nomor_kta", "{from: x, slice: {start: 3}}", {"x": "abcdef"}, "cdef", None),
    ("nomor_kta", "{from: x, slice: {start: 9}}", {"x": "abc"}, None, "REQUIRED"),
    (
        "nomor_kta",
        "{from: x, case: upper, slice: {start: 1, length: 2}, trim: true, pad: 4}",
        {"x": "a bc"},
        "000A",
        None,
    ),
    # split
    ("tempat_lahir", "{from: x, split: {on: ',', at: last, take: before}}", {"x": "A, B, 1/2"}, "A, B", None),
    ("tempat_lahir", "{from: x, split: {on: ',', at: last, take: after}}", {"x": "A, B,  C "}, "C", None),
    ("tempat_lahir", "{from: x, split: {on: ',', at: first, take: before}}", {"x": "A, B, C"}, "A", None),
    ("tempat_lahir", "{from: x, split: {on: ',', at: first, take: after}}", {"x": "A, B, C"}, "B, C", None),
    ("tempat_lahir", "{from: x, split: {on: ' - ', at: last, take: after}}", {"x": "A - B - C"}, "C", None),
    ("tempat_lahir", "{from: x, split: {on: ',', take: before}}", {"x": "A"}, None, None),
    ("tempat_lahir", "{from: x, split: {on: ',', take: before, absent: whole}}", {"x": " A "}, "A", None),
    ("tempat_lahir", "{from: x, split: {on: ',', at: last, take: after, absent: whole}}", {"x": "A"}, "A", None),
    ("tempat_lahir", "{from: x, split: {on: ',', at: last, take: before}}", {"x": ",B"}, None, None),
    ("tempat_lahir", "{from: x, split: {on: ',', at: last, take: after}}", {"x": "B,"}, None, None),
    # join
    ("alamat", "{join: [x, y]}", {"x": "Jl. A", "y": "No. 1"}, "Jl. A No. 1", None),
    ("alamat", "{join: [x, y]}", {"x": "Jl. A ", "y": None}, "Jl. A", None),
    ("alamat", "{join: [x, y], with: ', '}", {"x": "Jl.  A", "y": " "}, "Jl. A", None),
    ("alamat", "{join: [x, y], with: ', '}", {"x": "Jl. A", "y": "RT 1"}, "Jl. A, RT 1", None),
    ("alamat", "{join: [x, y]}", {"x": None, "y": ""}, None, "REQUIRED"),
    # names
    ("nama", "x", {"x": " SITI   RAHMA\t"}, "SITI RAHMA", None),
    ("nama", "x", {"x": "SITI\u00a0RAHMA"}, "SITI RAHMA", None),
    ("nama", "x", {"x": "Hj. Siti, S.E."}, "Hj. Siti, S.E.", None),
    ("nama", "x", {"x": "\n"}, None, "REQUIRED"),
    ("nama", "x", {"x": "A" * 101}, None, "TOO_LONG"),
    ("nama", "{join: [x, y]}", {"x": "BUDI", "y": None}, "BUDI", None),
    ("nama", "{join: [x, y]}", {"x": " BUDI ", "y": "SANTOSO"}, "BUDI SANTOSO", None),
    # codes
    ("jenis_kelamin", "{from: x, codes: {L: L, W: P}}", {"x": "W"}, "P", None),
    ("jenis_kelamin", "{from: x, codes: {L: L, W: P}}", {"x": "w"}, None, "CODE_UNKNOWN"),
    ("jenis_kelamin", "{from: x, case: upper, codes: {L: L, W: P}}", {"x": "w"}, "P", None),
    ("jenis_kelamin", "{from: x, trim: true, codes: {L: L, W: P}}", {"x": "W  "}, "P", None),
    ("jenis_kelamin", "{from: x, codes: {L: L, W: P}}", {"x": None}, None, "REQUIRED"),
    ("jenis_kelamin", "{from: x, codes: {L: L, W: P}}", {"x": " "}, None, "REQUIRED"),
    ("jenis_kelamin", "{from: x, codes: {L: L}, unknown: default, default: P}", {"x": "?"}, "P", None),
    ("status_perkawinan", "{from: x, codes: {01: B, 2: S}}", {"x": "01"}, "B", None),
    ("status_perkawinan", "{from: x, codes: {01: B, 2: S}}", {"x": "1"}, None, "CODE_UNKNOWN"),
    ("status_perkawinan", "{from: x, codes: {no: B, on: S}}", {"x": "no"}, "B", None),
    ("status_perkawinan", "{from: x, codes: {2: S}, unknown: null}", {"x": "9"}, None, None),
    ("status_perkawinan", "x", {"x": "S"}, "S", None),
    ("status_perkawinan", "x", {"x": "K"}, None, "CODE_UNKNOWN"),
    (
        "pekerjaan",
        "{from: x, codes: {W1: WIRASWASTA}, unknown: default, default: LAINNYA}",
        {"x": None},
        "LAINNYA",
        None,
    ),
    # numbers
    ("pekerjaan_kode", "x", {"x": "88"}, "88", None),
    ("pekerjaan_kode", "x", {"x": "007"}, "7", None),
    ("pekerjaan_kode", "x", {"x": None}, None, None),
    ("pekerjaan_kode", "x", {"x": "  "}, None, None),
    ("pekerjaan_kode", "x", {"x": "100"}, None, "NUMBER_FORMAT"),
    ("pekerjaan_kode", "x", {"x": "-1"}, None, "NUMBER_FORMAT"),
    ("pekerjaan_kode", "x", {"x": "1.0"}, None, "NUMBER_FORMAT"),
    ("pekerjaan_kode", "x", {"x": "0x1F"}, None, "NUMBER_FORMAT"),
    ("pekerjaan_kode", "x", {"x": "1_0"}, None, "NUMBER_FORMAT"),
    ("pekerjaan_kode", "x", {"x": "9" * 40}, None, "NUMBER_FORMAT"),
    ("pekerjaan_kode", "{from: x, codes: {A1: 5, W1: 88}}", {"x": "W1"}, "88", None),
    ("pekerjaan_kode", "{const: 88}", {}, "88", None),
    # RT and RW
    ("rt", "{from: x, pad: 3}", {"x": "3"}, "003", None),
    ("rt", "{from: x, pad: 3}", {"x": None}, None, None),
    ("rt", "x", {"x": "0003"}, None, "TOO_LONG"),
    ("rt", "{from: x, rtrw: rt}", {"x": "003/005"}, "003", None),
    ("rw", "{from: x, rtrw: rw}", {"x": "003/005"}, "005", None),
    ("rt", "{from: x, rtrw: rt}", {"x": "3-5"}, "003", None),
    ("rw", "{from: x, rtrw: rw}", {"x": "3-5"}, "005", None),
    ("rt", "{from: x, rtrw: rt}", {"x": "003005"}, "003", None),
    ("rw", "{from: x, rtrw: rw}", {"x": "003005"}, "005", None),
    ("rw", "{from: x, rtrw: rw}", {"x": "RT 03 / RW. 5"}, "005", None),
    ("rw", "{from: x, rtrw: rw}", {"x": "rt.03 rw.05"}, "005", None),
    ("rt", "{from: x, rtrw: rt}", {"x": None}, None, None),
    ("rt", "{from: x, rtrw: rt}", {"x": "0305"}, None, "RTRW_FORMAT"),
    ("rt", "{from: x, rtrw: rt}", {"x": "3"}, None, "RTRW_FORMAT"),
    ("rt", "{from: x, rtrw: rt}", {"x": "1234/5"}, None, "RTRW_FORMAT"),
    ("rt", "{from: x, rtrw: rt, on_invalid: null}", {"x": "?"}, None, None),
    ("rt", "{from: x, rtrw: rt, on_invalid: default, default: '000'}", {"x": "?"}, "000", None),
)


@pytest.mark.parametrize(("column", "rule", "cells", "value", "reason"), CELLS)
def test_a_cell_becomes_a_value_or_a_reason(
    mapper: Mapper, column: str, rule: str, cells: Mapping[str, str | None], value: str | None, reason: str | None
) -> None:
    mapped = mapper.member({column: rule}, cells)
    if reason is None:
        assert mapped.reasons == ()
        assert mapped.values[column] == value
    else:
        assert mapped.reasons == ((reason, column),)


DATES: tuple[tuple[str, str | None, str | None], ...] = (
    ("YYYY-MM-DD", "1990-08-15", "1990-08-15"),
    ("YYYY-MM-DD", "2000-02-29", "2000-02-29"),
    ("YYYY-MM-DD", "1999-02-29", None),
    ("YYYY-MM-DD", "1900-02-29", None),
    ("YYYY-MM-DD", "1990-04-31", None),
    ("YYYY-MM-DD", "1990-12-31", "1990-12-31"),
    ("YYYY-MM-DD", "1990-13-01", None),
    ("YYYY-MM-DD", "1990-00-10", None),
    ("YYYY-MM-DD", "1990-01-00", None),
    ("YYYY-MM-DD", "1990-1-05", None),
    ("YYYY-MM-DD", "1990-1-105", None),
    ("YYYY-MM-DD", "199-01-005", None),
    ("YYYY-MM-DD", "15/08/1990", None),
    ("YYYY-MM-DD", "1990/08/15", None),
    ("YYYY-MM-DD", "1990-08-15 ", None),
    ("YYYY-MM-DD", " 990-08-15", None),
    ("YYYY-MM-DD", "+990-08-15", None),
    ("YYYY-MM-DD", "19_0-08-15", None),
    ("YYYY-MM-DD", "0x90-08-15", None),
    ("YYYY-MM-DD", "1990-08-1５", None),
    ("YYYY-MM-DD", "1990-08-15 BC", None),
    ("YYYY-MM-DD", "12345-01-01", None),
    ("YYYY-MM-DD", "infinity", None),
    ("YYYY-MM-DD", "-infinity", None),
    ("YYYY-MM-DD", "today", None),
    ("YYYY-MM-DD", "now", None),
    ("YYYY-MM-DD", "epoch", None),
    ("YYYY-MM-DD", "1990-08-15 10:00:00", None),
    ("YYYY-MM-DD", None, None),
    ("DD/MM/YYYY", "15/08/1990", "1990-08-15"),
    ("DD/MM/YYYY", "05/08/1990", "1990-08-05"),
    ("DD/MM/YYYY", "08/15/1990", None),
    ("DD/MM/YYYY", "5/8/1990", None),
    ("DD/MM/YYYY", " 5/08/1990", None),
    ("DD/MM/YYYY", "+5/08/1990", None),
    ("DD/MM/YYYY", "1_/08/1990", None),
    ("DD/MM/YYYY", "0x/E6/2206", None),
    ("DD/MM/YYYY", "15-08-1990", None),
    ("DD/MM/YYYY", "15/08/90", None),
    ("DD/MM/YYYY", "15/08/0090", None),
    ("MM/DD/YYYY", "08/15/1990", "1990-08-15"),
    ("MM/DD/YYYY", "15/08/1990", None),
    ("DD-MM-YYYY", "15-08-1990", "1990-08-15"),
    ("DD-MM-YYYY", "15/08/1990", None),
    ("YYYYMMDD", "19900815", "1990-08-15"),
    ("YYYYMMDD", "1990-08-15", None),
    ("YYYYMMDD", "1990081", None),
    ("YYYYMMDD", "0x900815", None),
    ("YYYYMMDD", "1990 815", None),
)


@pytest.mark.parametrize(("written", "cell", "value"), DATES)
def test_a_date_is_read_in_its_declared_format_and_no_other(
    mapper: Mapper, written: str, cell: str | None, value: str | None
) -> None:
    mapped = mapper.office({"tanggal_surat": f"{{from: x, date: {written}}}"}, {"x": cell})
    if value is None and cell is not None:
        assert mapped.reasons == (("DATE_FORMAT", "tanggal_surat"),)
    else:
        assert mapped.reasons == ()
        assert mapped.values["tanggal_surat"] == value


TIMES: tuple[tuple[str, str, str | None], ...] = (
    ("YYYY-MM-DD", "1990-08-15", "1990-08-15"),
    ("YYYY-MM-DD", "1990-08-15 00:00:00", "1990-08-15"),
    ("YYYY-MM-DD", "1990-08-15T23:59:59.123Z", "1990-08-15"),
    ("YYYY-MM-DD", "1990-08-15 07:00:00+07", "1990-08-15"),
    ("YYYY-MM-DD", "1990-08-15 07:00:00.5 +07:00", "1990-08-15"),
    ("DD/MM/YYYY", "15/08/1990 07:00", "1990-08-15"),
    ("YYYY-MM-DD", "1990-08-15 soon", None),
    ("YYYY-MM-DD", "1990-08-1500:00:00", None),
    ("YYYY-MM-DD", "1990-08-15 BC", None),
)


@pytest.mark.parametrize(("written", "cell", "value"), TIMES)
def test_a_time_of_day_may_follow_only_where_declared(
    mapper: Mapper, written: str, cell: str, value: str | None
) -> None:
    mapped = mapper.office({"tanggal_surat": f"{{from: x, date: {{format: {written}, time: true}}}}"}, {"x": cell})
    assert mapped.reasons == (() if value else (("DATE_FORMAT", "tanggal_surat"),))
    if value:
        assert mapped.values["tanggal_surat"] == value


def test_a_date_that_means_unknown_is_an_empty_date(mapper: Mapper) -> None:
    rule = "{from: x, date: {format: YYYY-MM-DD, time: true, unknown: 1900-01-01}}"
    mapped = mapper.office({"tanggal_surat": rule}, {"x": "1900-01-01 00:00:00.000"})
    assert mapped.reasons == ()
    assert mapped.values["tanggal_surat"] is None
    born = mapper.member({"tanggal_lahir": rule}, {"x": "1900-01-01"})
    assert born.reasons == (("REQUIRED", "tanggal_lahir"),)


def test_a_birth_date_before_1900_or_in_the_future_is_refused(mapper: Mapper) -> None:
    today = database_today(mapper)
    rows = {"1899-12-31": True, "1900-01-01": False, (today + timedelta(days=2)).isoformat(): True}
    for cell, refused in rows.items():
        mapped = mapper.member(row={"lahir": cell})
        assert (("DATE_RANGE", "tanggal_lahir") in mapped.reasons) is refused, cell


NIKS: tuple[tuple[str | None, str | None, str | None], ...] = (
    ("3273015512950007", "3273015512950007", None),
    ("32.73.01-551295-0007", "3273015512950007", None),
    (" 3273 0155 1295 0007 ", "3273015512950007", None),
    ("3.27301E+15", None, "NIK_FORMAT"),
    ("3.2730155129500E+15", None, "NIK_FORMAT"),
    ("3273015512950007.0", None, "NIK_FORMAT"),
    ("327301551295000", None, "NIK_FORMAT"),
    ("32730155129500071", None, "NIK_FORMAT"),
    ("327301551295000A", None, "NIK_FORMAT"),
    ("3273_0155_1295_0007", None, "NIK_FORMAT"),
    ("3_73015512950007", None, "NIK_FORMAT"),
    ("0x73015512950007", None, "NIK_FORMAT"),
    ("+273015512950007", None, "NIK_FORMAT"),
    ("0073015512950007", None, "NIK_FORMAT"),
    ("３２７３０１５５１２９５０００７", None, "NIK_FORMAT"),
    ("3273013212950007", None, "NIK_DATE"),
    ("3273014012950007", None, "NIK_DATE"),
    ("3273017212950007", None, "NIK_DATE"),
    ("3273018112950007", None, "NIK_DATE"),
    ("3273019912950007", None, "NIK_DATE"),
    ("3273010012950007", None, "NIK_DATE"),
    ("3273011513950007", None, "NIK_DATE"),
    ("3273011500950007", None, "NIK_DATE"),
    ("3273013104950007", None, "NIK_DATE"),
    ("3273013002950007", None, "NIK_DATE"),
    ("3273012902950007", None, "NIK_DATE"),
    ("3273012902960007", "3273012902960007", None),
    ("3273012902000007", "3273012902000007", None),
    ("3273016902000007", "3273016902000007", None),
    ("3273017112950007", "3273017112950007", None),
    ("3273015512950000", None, "NIK_SERIAL"),
    (None, None, "REQUIRED"),
    ("", None, "REQUIRED"),
    (" . - ", None, "REQUIRED"),
)


@pytest.mark.parametrize(("cell", "value", "reason"), NIKS)
@pytest.mark.parametrize("rule", ["nik", "{from: nik, digits: true}"])
def test_a_nik_is_sixteen_digits_with_a_date_and_a_serial(
    mapper: Mapper, rule: str, cell: str | None, value: str | None, reason: str | None
) -> None:
    mapped = mapper.member({"nik": rule}, {"nik": cell})
    if reason is None:
        assert mapped.reasons == ()
        assert mapped.values["nik"] == value
    else:
        assert mapped.reasons == ((reason, "nik"),)


def test_a_nik_of_papua_before_the_split_is_known_and_one_of_nowhere_is_a_finding(mapper: Mapper) -> None:
    for nowhere in ("9999995512950007", "5401015512950007"):  # no list of East Timor's districts is at hand
        assert mapper.member(row={"nik": nowhere}).findings == ("INDIKASI_NIK_WILAYAH",)
    assert mapper.member(row={"nik": "9103015512950007"}).findings == ()


def test_a_local_party_of_aceh_may_go_without_a_nik(mapper: Mapper) -> None:
    assert mapper.member(row={"nik": None}, jenis="LOKAL_ACEH").reasons == ()
    assert mapper.member({"nik": None}, jenis="LOKAL_ACEH").reasons == ()
    assert mapper.member(row={"nik": "1"}, jenis="LOKAL_ACEH").reasons == (("NIK_FORMAT", "nik"),)
    with pytest.raises(MappingError, match="needs a rule for `nik`"):
        mapper.member({"nik": None})


FINDINGS: tuple[tuple[Mapping[str, str | None], tuple[str, ...]], ...] = (
    ({"lahir": "1995-12-16"}, ("NIK_TANGGAL",)),
    ({"lahir": "1895-12-15"}, ()),  # another century is another matter: refused for its year, not compared
    ({"nik": "3273011512950007"}, ("NIK_KELAMIN",)),
    ({"jk": "L"}, ("NIK_KELAMIN",)),
    ({"jk": "L", "lahir": "1995-11-15"}, ("NIK_TANGGAL", "NIK_KELAMIN")),
    ({"nama": "A" * 61}, ("NAMA_PANJANG",)),
    ({"nama": "é" * 60}, ()),
    ({"nama": "BUDI 2"}, ("NAMA_ANGKA",)),
    ({"kerja": "PNS guru"}, ("INDIKASI_PEKERJAAN",)),
    ({"kerja": "PEGAWAI NEGERI SIPIL"}, ("INDIKASI_PEKERJAAN",)),
    ({"kerja": "Anggota TNI-AD"}, ("INDIKASI_PEKERJAAN",)),
    ({"kerja": "polri"}, ("INDIKASI_PEKERJAAN",)),
    ({"kerja": "Kepala  Desa"}, ("INDIKASI_PEKERJAAN",)),
    ({"kerja": "TNI (purn)"}, ()),
    ({"kerja": "Purnawirawan POLRI"}, ()),
    ({"kerja": "pensiunan PNS"}, ()),
    ({"kerja": "mantan kades"}, ()),
    ({"kerja": "wiraswasta/pedagang"}, ()),
    ({"kerja": "karyawan pabrik kapuas"}, ()),
    ({"kel": "3273019999"}, ("KELURAHAN_TIDAK_DIKENAL",)),
)


@pytest.mark.parametrize(("row", "findings"), FINDINGS)
def test_what_kpu_should_look_at_is_a_finding_and_the_row_is_staged(
    mapper: Mapper, row: Mapping[str, str | None], findings: tuple[str, ...]
) -> None:
    mapped = mapper.member(row=row)
    assert mapped.findings == findings
    assert mapped.reasons == () or row.get("lahir") == "1895-12-15"


@pytest.mark.parametrize(
    ("code", "found"), [("5", True), ("6", True), ("7", True), ("86", True), ("85", False), ("88", False)]
)
def test_a_barred_siak_code_is_a_finding(mapper: Mapper, code: str, found: bool) -> None:
    mapped = mapper.member({"pekerjaan_kode": "x"}, {"x": code})
    assert mapped.findings == (("INDIKASI_PEKERJAAN",) if found else ())


def test_the_words_of_an_occupation_are_found_however_its_text_is_made(mapper: Mapper) -> None:
    rules = (
        "{from: x, trim: true}",
        "{from: x, case: upper}",
        "{join: [x, y]}",
        "{from: x, slice: {start: 1, length: 9}}",
    )
    for rule in rules:
        assert mapper.member({"pekerjaan": rule}, {"x": "guru PNS ", "y": "SD"}).findings == ("INDIKASI_PEKERJAAN",), (
            rule
        )


def database_today(mapper: Mapper) -> date:
    """The date that the program goes by."""
    today = one(mapper, "select current_date")[0]
    assert isinstance(today, date)
    return today


def years_before(today: date, years: int) -> date:
    return date(today.year - years, today.month, min(today.day, 28))


@pytest.mark.parametrize(("status", "found"), [("B", True), (None, True), ("S", False), ("P", False)])
def test_under_seventeen_and_never_married_is_a_finding(mapper: Mapper, status: str | None, found: bool) -> None:
    born = years_before(database_today(mapper), 16)
    nik = f"327301{born.day + 40:02}{born:%m%y}0007"
    mapped = mapper.member(row={"lahir": born.isoformat(), "nik": nik, "kawin": status})
    assert mapped.findings == (("INDIKASI_USIA",) if found else ())
    grown = years_before(database_today(mapper), 18)
    assert mapper.member(row={"lahir": grown.isoformat(), "kawin": status}).findings == ("NIK_TANGGAL",)


def test_who_will_be_seventeen_before_the_stage_closes_is_told_apart(mapper: Mapper) -> None:
    today = database_today(mapper)
    born = years_before(today, 16)
    row = {"lahir": born.isoformat(), "nik": f"327301{born.day + 40:02}{born:%m%y}0007", "kawin": "B"}
    for entities, found in (("{}", "USIA_SAAT_INI"), ("{kantor}", "INDIKASI_USIA")):
        with mapper.conn.transaction(force_rollback=True):
            mapper.conn.execute(
                "insert into staging.ref_tahapan (tahapan, dibuka, ditutup, dasar, entity)"
                " values ('UJI', now(), now() + interval '400 days', 'uji', %s)",
                (entities,),
            )
            assert mapper.member(row=row).findings == (found,)


def test_sex_comes_from_the_nik_only_where_the_mapping_says_so(mapper: Mapper) -> None:
    rule = "{from: jk, codes: {male: L, female: P}, from_nik: true}"
    told = mapper.member({"jenis_kelamin": rule}, {"jk": "unknown"})
    assert (told.values["jenis_kelamin"], told.findings, told.reasons) == ("P", ("KELAMIN_DARI_NIK",), ())
    assert mapper.member({"jenis_kelamin": rule}, {"jk": "female"}).findings == ()
    assert (
        mapper.member({"jenis_kelamin": rule}, {"jk": None, "nik": "3273011512950007"}).values["jenis_kelamin"] == "L"
    )
    alone = mapper.member({"jenis_kelamin": "{from_nik: true}"})
    assert (alone.values["jenis_kelamin"], alone.findings) == ("P", ("KELAMIN_DARI_NIK",))
    bad = mapper.member({"jenis_kelamin": rule}, {"jk": "unknown", "nik": "3273015512950000"})
    assert bad.reasons == (("NIK_SERIAL", "nik"), ("REQUIRED", "jenis_kelamin"))
    silent = mapper.member({"jenis_kelamin": "{from: jk, codes: {male: L, female: P}}"}, {"jk": "unknown"})
    assert silent.reasons == (("CODE_UNKNOWN", "jenis_kelamin"),)


def test_what_a_mapping_drops_or_replaces_is_a_finding(mapper: Mapper) -> None:
    dropped = mapper.member({"rt": "{from: x, rtrw: rt, on_invalid: null}"}, {"x": "?"})
    assert dropped.findings == ("NILAI_DIKOSONGKAN",)
    replaced = mapper.member({"rt": "{from: x, rtrw: rt, on_invalid: default, default: '000'}"}, {"x": "?"})
    assert replaced.findings == ("NILAI_DIGANTI",)
    empty = mapper.member({"rt": "{from: x, rtrw: rt, on_invalid: default, default: '000'}"}, {"x": None})
    assert (empty.values["rt"], empty.findings) == ("000", ())
    unknown = mapper.member({"status_perkawinan": "{from: x, codes: {2: S}, unknown: null}"}, {"x": "9"})
    assert unknown.findings == ("NILAI_DIKOSONGKAN",)


def test_a_long_code_list_gives_the_same_as_a_short_one(mapper: Mapper) -> None:
    pairs = ", ".join(f"K{number}: {'S' if number % 2 else 'B'}" for number in range(400))
    rule = f"{{from: x, codes: {{{pairs}}}}}"
    assert mapper.member({"status_perkawinan": rule}, {"x": "K399"}).values["status_perkawinan"] == "S"
    assert mapper.member({"status_perkawinan": rule}, {"x": None}).reasons == ()
    assert mapper.member({"status_perkawinan": rule}, {"x": "K400"}).reasons == (("CODE_UNKNOWN", "status_perkawinan"),)


# ------------------------------------------------------------------------------------------------- regions


CODES: tuple[tuple[str | None, str, str | None, tuple[str, ...]], ...] = (
    # Cell, district, village, findings.
    ("3273011001", "32.73.01", "32.73.01.1001", ()),
    ("32.73.01.1001", "32.73.01", "32.73.01.1001", ()),
    ("327301", "32.73.01", None, ()),
    ("32.73.01", "32.73.01", None, ()),
    ("3273019999", "32.73.01", None, ("KELURAHAN_TIDAK_DIKENAL",)),
    ("32.73.01.9999", "32.73.01", None, ("KELURAHAN_TIDAK_DIKENAL",)),
)


@pytest.mark.parametrize(("cell", "district", "village", "findings"), CODES)
def test_a_region_code_gives_the_member_all_levels(
    mapper: Mapper, cell: str, district: str, village: str | None, findings: tuple[str, ...]
) -> None:
    mapped = mapper.member(row={"kel": cell})
    assert mapped.reasons == ()
    assert mapped.values["kode_kabkota"] == "32.73"
    assert mapped.values["kode_kecamatan"] == district
    assert mapped.values["kode_kelurahan"] == village
    assert mapped.values["kode_wilayah_sumber"] == cell
    assert mapped.findings == findings


@pytest.mark.parametrize(
    ("cell", "reasons"),
    [
        (None, (("REQUIRED", "kode_kabkota"),)),
        ("  ", (("REQUIRED", "kode_kabkota"),)),
        ("3273", (("REGION_LEVEL", "kode_kecamatan"),)),
        ("32.73", (("REGION_LEVEL", "kode_kecamatan"),)),
        ("32", (("REGION_UNKNOWN", "kode_kabkota"),)),
        ("9999999999", (("REGION_UNKNOWN", "kode_kabkota"),)),
        ("3273991001", (("REGION_UNKNOWN", "kode_kabkota"),)),
        ("327301100", (("REGION_UNKNOWN", "kode_kabkota"),)),
        ("3.27301.1001", (("REGION_UNKNOWN", "kode_kabkota"),)),
        ("32-73-01-1001", (("REGION_UNKNOWN", "kode_kabkota"),)),
        ("Bandung", (("REGION_UNKNOWN", "kode_kabkota"),)),
    ],
)
def test_a_region_that_is_not_in_the_list_is_refused(
    mapper: Mapper, cell: str | None, reasons: tuple[tuple[str, str], ...]
) -> None:
    assert mapper.member(row={"kel": cell}).reasons == reasons


def test_a_former_code_becomes_the_current_one_and_both_are_kept(mapper: Mapper) -> None:
    old, new = one(
        mapper,
        "select kode_lama, kode_baru from staging.ref_wilayah_lama"
        " where length(kode_lama) = 8 and length(kode_baru) = 8 order by 1 limit 1",
    )
    mapped = mapper.member(row={"kel": old.replace(".", "")})
    assert mapped.values["kode_kecamatan"] == new
    assert mapped.values["kode_wilayah_sumber"] == old.replace(".", "")
    assert "WILAYAH_LAMA" in mapped.findings
    below = mapper.member(row={"kel": old.replace(".", "") + "9999"})
    assert below.values["kode_kecamatan"] == new
    assert {"WILAYAH_LAMA", "KELURAHAN_TIDAK_DIKENAL"} <= set(below.findings)


NAMES_RULE = "{region: names, province: prov, city: kota, district: kec, village: kel}"
SURABAYA = {"prov": "Jawa Timur", "kota": "Kota Surabaya", "kec": "Sukolilo", "kel": "Keputih"}


def by_names(mapper: Mapper, **names: str | None) -> Mapped:
    return mapper.member({"kode_kelurahan": NAMES_RULE}, {**SURABAYA, **names})


@pytest.mark.parametrize(
    ("names", "regency"),
    [
        ({}, "35.78"),
        ({"kota": "KOTA SURABAYA", "kec": "SUKOLILO", "kel": "keputih"}, "35.78"),
        (
            {"kota": " kodya  surabaya ", "prov": "Prov. Jawa Timur", "kec": "Kec. Sukolilo", "kel": "Kel. Keputih"},
            "35.78",
        ),
        ({"kota": "Surabaya"}, "35.78"),
        ({"prov": "JAWA TIMUR "}, "35.78"),
        ({"prov": "Jawa Barat", "kota": "Kab. Bogor", "kec": "Cibinong", "kel": "Pabuaran"}, "32.01"),
        ({"prov": "Jawa Barat", "kota": "Kabupaten Bogor ", "kec": "Cibinong", "kel": "Pabuaran"}, "32.01"),
        ({"prov": "Jawa Barat", "kota": "KOTA BOGOR", "kec": "Bogor Utara", "kel": "Tegal Gundil"}, "32.71"),
        ({"prov": "DKI Jakarta", "kota": "Jakarta Selatan", "kec": "Tebet", "kel": "Manggarai"}, "31.74"),
        ({"prov": "DKI Jakarta", "kota": "Kota Adm. Jakarta Selatan", "kec": "Tebet", "kel": "Manggarai"}, "31.74"),
        ({"prov": "Papua", "kota": "Kab. Merauke", "kec": "Merauke", "kel": "Kelapa Lima"}, "93.01"),
    ],
)
def test_a_region_is_found_by_its_names_from_the_top_down(
    mapper: Mapper, names: dict[str, str | None], regency: str
) -> None:
    mapped = by_names(mapper, **names)
    assert mapped.reasons == ()
    assert mapped.values["kode_kabkota"] == regency
    assert str(mapped.values["kode_kecamatan"]).startswith(regency)
    assert mapped.values["kode_kelurahan"] is not None
    assert "KELURAHAN_TIDAK_DIKENAL" not in mapped.findings


@pytest.mark.parametrize(
    ("names", "reasons"),
    [
        ({"prov": "Jawa Barat", "kota": "Bogor", "kec": "Bogor Utara"}, (("REGION_AMBIGUOUS", "kode_kabkota"),)),
        ({"prov": "Jawa Tengah"}, (("REGION_UNKNOWN", "kode_kabkota"),)),
        ({"prov": None}, (("REGION_UNKNOWN", "kode_kabkota"),)),
        ({"kota": "Kab. Surabaya"}, (("REGION_UNKNOWN", "kode_kabkota"),)),
        ({"kec": "Cibinong"}, (("REGION_UNKNOWN", "kode_kecamatan"),)),
        ({"kec": None}, (("REGION_UNKNOWN", "kode_kecamatan"),)),
        ({"prov": None, "kota": None, "kec": None, "kel": None}, (("REQUIRED", "kode_kabkota"),)),
    ],
)
def test_a_name_that_is_not_there_or_means_two_is_refused_and_not_guessed(
    mapper: Mapper, names: dict[str, str | None], reasons: tuple[tuple[str, str], ...]
) -> None:
    assert by_names(mapper, **names).reasons == reasons


def test_an_unknown_village_is_a_finding_and_the_member_counts_in_the_district(mapper: Mapper) -> None:
    for village in ("Entah", None):
        mapped = by_names(mapper, kel=village)
        assert mapped.reasons == ()
        assert mapped.values["kode_kelurahan"] is None
        assert "KELURAHAN_TIDAK_DIKENAL" in mapped.findings
    assert by_names(mapper).values["kode_wilayah_sumber"] == "Jawa Timur / Kota Surabaya / Sukolilo / Keputih"


def test_every_region_is_found_by_its_own_names(mapper: Mapper) -> None:
    """All 7,285 districts and 83,762 villages; the few villages whose name is another's too are left open."""
    conn = mapper.conn
    compiled = program("anggota", {**MEMBER_RULES, "kode_kelurahan": NAMES_RULE})
    places = {column: f"i{place}" for place, column in enumerate(compiled.inputs)}
    cells = {"id": "v.kode", "prov": "p.nama", "kota": "k.nama", "kec": "c.nama", "kel": "v.nama"}
    chosen = ", ".join(f"{cells.get(column, 'null::text')} as {name}" for column, name in places.items())
    query = f"""
        with inbox as materialized (
          select {chosen}, null::text as edge from staging.ref_wilayah v
            join staging.ref_wilayah c on c.kode = v.induk join staging.ref_wilayah k on k.kode = c.induk
            join staging.ref_wilayah p on p.kode = k.induk)
        select count(*), count(*) filter (where kode_kecamatan = left(source_key, 8)),
               count(*) filter (where kode_kelurahan = source_key), count(*) filter (where kode_kelurahan <> source_key)
          from ({compiled.select}) m"""
    found = conn.execute(query.encode(), compiled.params).fetchone()
    assert found is not None
    read, districts, villages, wrong = found
    assert read == districts == 83_762
    assert wrong == 0
    shared = one(mapper, "select count(*) from staging.ref_wilayah where tingkat = 4 and not nama_tunggal")[0]
    assert read - villages == shared


def test_a_bps_code_is_looked_up_in_the_bridge_and_nowhere_else(mapper: Mapper) -> None:
    rule = "{from: x, region: bps, bridge: staging.ref_wilayah_bps}"
    with mapper.conn.transaction(force_rollback=True):
        mapper.conn.execute("insert into staging.ref_wilayah_bps values ('3204010001', '32.73.01.1001')")
        mapped = mapper.member({"kode_kelurahan": rule}, {"x": "3204010001"})
        assert mapped.reasons == ()
        assert mapped.values["kode_kelurahan"] == "32.73.01.1001"
        assert mapped.values["kode_wilayah_sumber"] == "3204010001"
        # In force at Kemendagri, but no BPS code of the bridge.
        other = mapper.member({"kode_kelurahan": rule}, {"x": "3273011001"})
        assert other.reasons == (("REGION_UNKNOWN", "kode_kabkota"),)


@pytest.mark.parametrize(
    ("level", "cell", "value", "reason"),
    [
        ("PUSAT", None, None, None),
        ("PUSAT", "3273", None, None),
        ("PROVINSI", "32", "32", None),
        ("KABKOTA", "32.73", "32.73", None),
        ("KABKOTA", "32", None, "REGION_LEVEL"),
        ("PROVINSI", "3273", None, "REGION_LEVEL"),
        ("KABKOTA", None, None, "REQUIRED"),
        ("KABKOTA", "9999", None, "REGION_UNKNOWN"),
    ],
)
def test_an_office_has_the_region_of_its_level(
    mapper: Mapper, level: str, cell: str | None, value: str | None, reason: str | None
) -> None:
    mapped = mapper.office(row={"tingkat": level, "wil": cell})
    assert mapped.reasons == (() if reason is None else ((reason, "kode_wilayah"),))
    if reason is None:
        assert mapped.values["kode_wilayah"] == value


@pytest.mark.parametrize(
    ("level", "names", "value", "reason"),
    [
        ("PUSAT", (None, None), None, None),
        ("PROVINSI", ("Jawa Barat", None), "32", None),
        ("PROVINSI", ("Jawa Barat", "Kota Bogor"), "32", None),
        ("KABKOTA", ("Jawa Barat", "Kota Bogor"), "32.71", None),
        ("KABKOTA", ("Jawa Barat", "Bogor"), None, "REGION_AMBIGUOUS"),
        ("KABKOTA", ("Jawa Barat", None), None, "REGION_UNKNOWN"),
        ("PROVINSI", ("Jawa", None), None, "REGION_UNKNOWN"),
        ("PROVINSI", (None, None), None, "REQUIRED"),
    ],
)
def test_an_office_is_found_by_the_names_its_level_needs(
    mapper: Mapper, level: str, names: tuple[str | None, str | None], value: str | None, reason: str | None
) -> None:
    rule = {"kode_wilayah": "{region: names, province: prov, city: kota}"}
    mapped = mapper.office(rule, {"tingkat": level, "prov": names[0], "kota": names[1]})
    assert mapped.reasons == (() if reason is None else ((reason, "kode_wilayah"),))
    if reason is None:
        assert mapped.values["kode_wilayah"] == value


def test_an_offices_village_is_looked_up_and_left_open_where_unknown(mapper: Mapper) -> None:
    rule = {"kode_kelurahan": "{from: kel, region: kemendagri}"}
    assert mapper.office(rule, {"kel": "3273011001"}).values["kode_kelurahan"] == "32.73.01.1001"
    assert mapper.office(rule, {"kel": None}).findings == ()
    unknown = mapper.office(rule, {"kel": "3273019999"})
    assert (unknown.values["kode_kelurahan"], unknown.findings, unknown.reasons) == (
        None,
        ("KELURAHAN_TIDAK_DIKENAL",),
        (),
    )


# ------------------------------------------------------------------------------------------------- rows


WHEN = "when:\n  - {column: jenis, in: [1, KTP], reason: IDENTITY_KIND}"


@pytest.mark.parametrize(("cell", "refused"), [("1", False), ("KTP", False), ("2", True), (None, True), (" 1", True)])
def test_a_row_outside_its_condition_is_refused_with_the_declared_reason(
    mapper: Mapper, cell: str | None, refused: bool
) -> None:
    mapped = mapper.member(row={"jenis": cell, "nik": "1" if refused else "3273015512950007"}, extra=WHEN)
    assert mapped.reasons == ((("IDENTITY_KIND", ""),) if refused else ())


def test_a_row_without_its_key_is_refused(mapper: Mapper) -> None:
    assert mapper.member(row={"id": None}).reasons == (("NULL_KEY", ""),)


def test_a_row_that_the_byte_check_refused_keeps_its_reason_alone(mapper: Mapper) -> None:
    compiled = program("anggota", MEMBER_RULES)
    cells = ", ".join(f"null::text as i{place}" for place in range(1, len(compiled.inputs)))
    found = mapper.conn.execute(
        f"with inbox as materialized (select '7' as i0, {cells}, 'INVALID_UTF8' as edge)"
        f" select source_key, edge, alasan, alasan_kolom from ({compiled.select}) m".encode(),
        compiled.params,
    ).fetchone()
    assert found == ("7", "INVALID_UTF8", ["INVALID_UTF8"], [""])


@pytest.mark.parametrize(
    "parts", [("a", "b"), ("a|b", "c"), ("a", "b|c"), ("a\\", "|b"), ("\\|", "\\\\"), ("", ""), ("ü", "%s")]
)
def test_a_composite_key_is_the_same_text_in_sql_and_in_python(mapper: Mapper, parts: tuple[str, str]) -> None:
    compiled = program("anggota", {**MEMBER_RULES, "nomor_kta": "{key: [a, b]}"}, key="[a, b]")
    cells = {f"c{place}": value for place, value in enumerate(parts)}
    rest = ", ".join(f"null::text as i{place}" for place in range(2, len(compiled.inputs)))
    found = mapper.conn.execute(
        f"with inbox as materialized (select %(c0)s::text as i0, %(c1)s::text as i1, {rest}, null::text as edge)"
        f" select source_key, nomor_kta from ({compiled.select}) m".encode(),
        {**compiled.params, **cells},
    ).fetchone()
    assert found is not None
    assert found[0] == source_key(parts)
    assert found[1] == source_key(parts)


# ------------------------------------------------------------------------------------------------- other entities


def test_a_document_is_metadata_with_a_digest_a_size_and_a_truth(mapper: Mapper) -> None:
    rules = {
        "jenis": "{const: KTA}", "pemilik_entity": "{const: anggota}", "pemilik_source_key": "{key: [a, b]}",
        "sha256": "hash", "ukuran": "size", "tersedia": "{from: ada, codes: {y: true, n: false}}",
    }  # fmt: skip
    row = {"id": "1", "a": "7", "b": "x|y", "hash": "AB" * 32, "size": "123456789012", "ada": "y"}
    mapped = mapper.entity("dokumen", rules, row)
    assert mapped.reasons == ()
    assert mapped.values == {
        "jenis": "KTA", "pemilik_entity": "anggota", "pemilik_source_key": "7|x\\|y", "sha256": "\\x" + "ab" * 32,
        "ukuran": "123456789012", "tersedia": "true",
    }  # fmt: skip
    assert mapper.entity("dokumen", {**rules, "sha256": "hash"}, {**row, "hash": "\\x" + "cd" * 32}).reasons == ()
    bad = mapper.entity("dokumen", rules, {**row, "hash": "ab", "size": "big", "ada": "?"})
    assert bad.reasons == (("DIGEST_FORMAT", "sha256"), ("NUMBER_FORMAT", "ukuran"), ("CODE_UNKNOWN", "tersedia"))


def test_a_boolean_of_the_view_needs_no_codes(mapper: Mapper) -> None:
    rules = {
        "jenis": "{const: KTA}",
        "pemilik_entity": "{const: anggota}",
        "pemilik_source_key": "a",
        "tersedia": "ada",
    }
    for cell, value in {"t": "true", "f": "false", "true": "true", "false": "false"}.items():
        assert mapper.entity("dokumen", rules, {"id": "1", "a": "7", "ada": cell}).values["tersedia"] == value


def test_a_decree_of_tomorrow_is_a_finding(mapper: Mapper) -> None:
    rules = {
        "tingkat": "{const: PUSAT}", "nomor_sk": "no", "tanggal_sk": "{from: tgl, date: YYYY-MM-DD}",
        "status": "{const: AKTIF}",
    }  # fmt: skip
    future = (database_today(mapper) + timedelta(days=5)).isoformat()
    assert mapper.entity("kepengurusan", rules, {"id": "1", "no": "1", "tgl": future}).findings == ("TANGGAL_SK_DEPAN",)
    assert mapper.entity("kepengurusan", rules, {"id": "1", "no": "1", "tgl": "2024-01-01"}).findings == ()


def test_the_values_a_program_gives_fit_the_staging_table(mapper: Mapper) -> None:
    compiled = program("anggota", {**MEMBER_RULES, "rt": "{from: x, pad: 3}", "pekerjaan_kode": "y"})
    columns = ", ".join(compiled.columns)
    cells = {f"c{place}": {"x": "3", "y": "9", "id": "1"}.get(column) for place, column in enumerate(compiled.inputs)}
    inbox = ", ".join(f"%({name})s::text as i{name[1:]}" for name in cells)
    with mapper.conn.transaction(force_rollback=True):
        mapper.conn.execute(
            f"create temp table fits as select {columns} from staging.anggota with no data".encode(),
        )
        mapper.conn.execute(
            f"with inbox as materialized (select {inbox}, null::text as edge)"
            f" insert into fits ({columns}) select {columns} from ({compiled.select}) m".encode(),
            {**compiled.params, **cells},
        )


def test_every_code_a_program_can_give_is_in_the_catalogue() -> None:
    import re

    known = set(REASONS)
    for entity, rules in {"anggota": MEMBER_RULES}.items():
        compiled = compile_entity(document(entity, rules), entity, ProgramOptions(1))
        for code in re.findall(r"then '([A-Z][A-Z_]+)'", compiled.select):
            assert code in known or code in ("L", "P"), code


def test_only_the_text_of_a_rule_is_asked_not_its_place_in_the_file(mapper: Mapper) -> None:
    turned = dict(reversed(list(MEMBER_RULES.items())))
    assert map_row(mapper.conn, program("anggota", turned), {"id": "1"}) == map_row(
        mapper.conn, program("anggota", MEMBER_RULES), {"id": "1"}
    )
