"""What parties' databases really hold, one kind a test: what each gives, and that nothing worse comes of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from mapped import Mapper
from staged import Staged

from connector.embedded import Server
from connector.ops.refusal_sheet import harmless
from connector.staging import session
from connector.view.blocks import BadRow, check
from tests.conftest import drop_database, new_database


@pytest.fixture(scope="module")
def mapper(staging_server: Server, staging_template: str) -> Iterator[Mapper]:
    name = new_database(staging_server, "mapper", staging_template)
    with session.connect(staging_server.dsn(name)) as conn:
        yield Mapper(conn)
    drop_database(staging_server, name)


@pytest.mark.parametrize("rule", ["nik", "{from: nik, digits: true}"])
def test_a_nik_that_a_spreadsheet_destroyed_is_refused_and_never_mended(mapper: Mapper, rule: str) -> None:
    for cell in ("3.27301E+15", "3,27301E+15", "3.273015512950E+15"):
        assert mapper.member({"nik": rule}, {"nik": cell}).reasons[0][1] == "nik"
    # Excel keeps fifteen digits: the last one became a zero, and 0000 is nobody's serial.
    assert mapper.member({"nik": rule}, {"nik": "3273015512950000"}).reasons == (("NIK_SERIAL", "nik"),)


def test_a_zerofilled_number_gets_its_zeros_back(mapper: Mapper) -> None:
    mapped = mapper.member({"nomor_kta": "{from: kta, pad: 10}"}, {"kta": "42"})
    assert (mapped.values["nomor_kta"], mapped.reasons) == ("0000000042", ())


def test_mojibake_that_is_text_is_staged_as_it_was_sent(mapper: Mapper) -> None:
    mapped = mapper.member(row={"nama": "JOSÃ© DA COSTA", "alamat": "Jl. Â«MawarÂ»"})
    assert (mapped.values["nama"], mapped.reasons, mapped.findings) == ("JOSÃ© DA COSTA", (), ())


def test_bytes_that_are_no_text_cost_one_row() -> None:
    block = check([b"1\tJOS\xc9\n", b"2\tSITI\n"], 2, 1, 1_000)
    assert (block.rows, block.bad) == (1, (BadRow(("1",), "INVALID_UTF8"),))


def test_a_name_of_one_word_is_a_name(mapper: Mapper) -> None:
    mapped = mapper.member(row={"nama": "SUHARTO"})
    assert (mapped.reasons, mapped.findings) == ((), ())


def test_a_name_over_sixty_letters_is_a_finding_and_one_over_a_hundred_is_refused(mapper: Mapper) -> None:
    assert mapper.member(row={"nama": "É" * 60}).findings == ()
    assert mapper.member(row={"nama": "É" * 61}).findings == ("NAMA_PANJANG",)
    assert mapper.member(row={"nama": "É" * 101}).reasons == (("TOO_LONG", "nama"),)


def test_the_first_of_january_1900_is_unknown_where_the_mapping_says_so(mapper: Mapper) -> None:
    rule = "{from: lahir, date: {format: YYYY-MM-DD, unknown: 1900-01-01}}"
    assert mapper.member({"tanggal_lahir": rule}, {"lahir": "1900-01-01"}).reasons == (("REQUIRED", "tanggal_lahir"),)
    assert mapper.member(row={"lahir": "1900-01-01"}).findings == ("NIK_TANGGAL",), "else it is a date like any other"


@pytest.mark.parametrize("cell", ["1995-12-32", "1995-13-01", "1995-02-29", "1995-00-10", "0000-00-00", "1995-12-1"])
def test_a_day_that_no_calendar_has_is_refused(mapper: Mapper, cell: str) -> None:
    assert mapper.member(row={"lahir": cell}).reasons == (("DATE_FORMAT", "tanggal_lahir"),)


def test_a_key_that_a_join_gave_twice_with_other_values_refuses_both_rows(staging_dsn: str) -> None:
    party = Staged(staging_dsn)
    try:
        party.attach()
        party.signal([("a", "x", "1"), ("b", "x", "1")])
        party.signal([("a", "x", "2"), ("a", "x", "3"), ("b", "x", "4")])
        assert party.quarantine() == {"a": (["DUPLICATE_KEY"], 2)}
        assert party.live() == {"a": ("x", "1"), "b": ("x", "4")}, "the last good version stands"
    finally:
        party.close()


def test_a_regency_that_exists_twice_is_refused_and_never_guessed(mapper: Mapper) -> None:
    rule = "{region: names, province: prov, city: kota, district: kec, village: kel}"
    row: dict[str, str | None] = {"prov": "Jawa Barat", "kota": "Bogor", "kec": "Bogor Utara", "kel": "Tegal Gundil"}
    mapped = mapper.member({"kode_kelurahan": rule}, row)
    assert ("REGION_AMBIGUOUS", "kode_kabkota") in mapped.reasons
    assert mapper.member({"kode_kelurahan": rule}, {**row, "kota": "Kota Bogor"}).reasons == ()


@pytest.mark.parametrize("prefix", ["910101", "910301", "917101", "920401"])
def test_a_nik_of_before_a_region_was_split_is_in_order(mapper: Mapper, prefix: str) -> None:
    assert mapper.member(row={"nik": f"{prefix}5512950007"}).findings == ()


def test_a_nul_is_refused_before_it_reaches_staging() -> None:
    block = check([b"1\tSI\x00TI\n", b"2\tSITI\n"], 2, 1, 1_000)
    assert (block.rows, block.bad) == (1, (BadRow(("1",), "NUL_CHARACTER"),))


@pytest.mark.parametrize("odd", ["\x01", "\x1b[31m", "\x7f", "\u202e", "\u200f", "\ufeff"])
def test_control_characters_and_direction_marks_are_data(mapper: Mapper, odd: str) -> None:
    mapped = mapper.member(row={"nama": f"SITI{odd}RAHMA"})
    assert (mapped.values["nama"], mapped.reasons) == (f"SITI{odd}RAHMA", ())
    assert mapper.member(row={"nik": f"327301551295000{odd}7"}).reasons == (("NIK_FORMAT", "nik"),)


def test_a_cell_of_megabytes_is_refused_by_its_size_and_a_large_one_by_its_column(mapper: Mapper) -> None:
    block = check([b"1\t" + b"x" * 2_000_000 + b"\n"], 2, 1, 1_048_576)
    assert block.bad == (BadRow(("1",), "CELL_TOO_LARGE"),)
    assert mapper.member(row={"alamat": "x" * 900_000}).reasons == (("TOO_LONG", "alamat"),)


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "  =1", "|calc", "%0A"])
def test_what_a_spreadsheet_would_run_gets_an_apostrophe(cell: str) -> None:
    assert harmless(cell) == f"'{cell}"


def test_a_plain_cell_is_exported_as_it_is() -> None:
    assert [harmless(cell) for cell in ("12", "", "a=b", "2026-11-30")] == ["12", "", "a=b", "2026-11-30"]


def test_a_formula_in_a_cell_is_staged_as_text(mapper: Mapper) -> None:
    assert mapper.member(row={"alamat": "=1+1"}).values["alamat"] == "=1+1"
