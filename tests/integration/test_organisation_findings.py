"""Findings over boards, officers, offices, accounts and documents: what raises each, and what ends it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import psycopg
import pytest
from psycopg import sql

from connector.staging import findings, session

BOOKKEEPING: Mapping[str, object] = {
    "row_hash": b"", "mapping_version": "1", "sync_batch_id": 1, "read_position": 1, "staged_at": "2026-01-01",
}  # fmt: skip
DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "parpol": {"nama": "Partai Alfa Sejahtera", "singkatan": "PAS", "jenis": "NASIONAL"},
    "kepengurusan": {
        "tingkat": "KABKOTA", "kode_wilayah": "32.73", "nomor_sk": "SK-1", "tanggal_sk": "2025-01-01",
        "status": "AKTIF",
    },
    "pengurus": {
        "kepengurusan_source_key": "b1", "nama": "SITI RAHMA", "jabatan": "KETUA", "jabatan_inti": "KETUA",
        "jenis_kelamin": "P", "nik": "3273015512950007",
    },
    "kantor": {
        "tingkat": "KABKOTA", "kode_wilayah": "32.73", "alamat": "JL", "status_kantor": "SEWA",
        "berlaku_sampai": "2099-01-01",
    },
    "rekening": {
        "tingkat": "PUSAT", "nama_bank": "BANK", "nomor_rekening": "0012", "atas_nama": "DPP PARTAI ALFA SEJAHTERA",
    },
    "anggota": {
        "nik": "3273015512950007", "nomor_kta": "K1", "nama": "SITI RAHMA", "jenis_kelamin": "P",
        "tanggal_lahir": "1995-12-15", "pekerjaan": "GURU", "alamat": "JL", "kode_kabkota": "32.73",
        "kode_kecamatan": "32.73.01", "kode_wilayah_sumber": "",
    },
    "dokumen": {"jenis": "KTA", "pemilik_entity": "anggota", "pemilik_source_key": "a", "tersedia": True},
}  # fmt: skip
OTHER_NIK = "3273010101900011"


class Party:
    """A party whose rows a test stages one by one; every change is followed by what the daemon would find."""

    def __init__(self, conn: psycopg.Connection) -> None:
        self.conn = conn
        conn.execute("insert into connector.party (party, parpol_id) values ('p', 1)")
        for entity in DEFAULTS:
            if entity != "dokumen":
                self.begins(entity)
            conn.execute(
                sql.SQL("create table {} partition of {} for values in (1)").format(
                    sql.Identifier("staging", f"{entity}_p1"), sql.Identifier("staging", entity)
                )
            )
        self.put("parpol", "p")
        self.put("kepengurusan", "b1")
        self.put("anggota", "a")

    def begins(self, entity: str) -> None:
        """The party's mapping names the entity, and its copy is through."""
        self.conn.execute(
            "insert into connector.entity (party, entity, state) values ('p', %s, 'streaming')", (entity,)
        )

    def put(self, entity: str, key: str, **cells: object) -> None:
        row = {"parpol_id": 1, "source_key": key, "dihapus_pada": None, **DEFAULTS[entity], **BOOKKEEPING, **cells}
        if entity == "anggota":
            row["nik_hmac"] = str(row["nik"]).encode()
        columns = [sql.Identifier(name) for name in row]
        update = sql.SQL(", ").join(sql.SQL("{0} = excluded.{0}").format(column) for column in columns)
        insert = sql.SQL("insert into {} ({}) values ({}) on conflict (parpol_id, source_key) do update set {}")
        query = insert.format(
            sql.Identifier("staging", entity), sql.SQL(", ").join(columns),
            sql.SQL(", ").join(sql.Placeholder() * len(columns)), update,
        )  # fmt: skip
        with self.conn.transaction():
            self.conn.execute(query, list(row.values()))
            self._note(entity, key)
        findings.settle(self.conn)

    def drop(self, entity: str, key: str) -> None:
        with self.conn.transaction():
            gone = sql.SQL("update {} set dihapus_pada = now() where source_key = %s")
            self.conn.execute(gone.format(sql.Identifier("staging", entity)), (key,))
            self._note(entity, key)
        findings.settle(self.conn)

    def _note(self, entity: str, key: str) -> None:
        self.conn.execute(
            "insert into connector.journal (batch_id, parpol_id, entity, keys, ops)"
            " values (nextval(pg_get_serial_sequence('staging.sync_batch', 'id')), 1, %s, array[%s], 'U')",
            (entity, key),
        )

    def stage(self, closes: str) -> None:
        """KPU sets a stage that closes then."""
        self.conn.execute(
            "insert into staging.ref_tahapan (tahapan, dibuka, ditutup, dasar) values ('UJI', '2020-01-01', %s, 'uji')"
            " on conflict (tahapan) do update set ditutup = excluded.ditutup",
            (closes,),
        )
        findings.settle(self.conn)

    @property
    def found(self) -> set[tuple[str, str]]:
        query = "select jenis, source_key from sipol.temuan where parpol_id = 1"
        return set(self.conn.execute(query.encode()).fetchall())


@pytest.fixture
def party(staging_dsn: str) -> Iterator[Party]:
    with session.connect(staging_dsn) as conn:
        yield Party(conn)


def test_an_officer_in_order_has_no_finding(party: Party) -> None:
    party.put("pengurus", "o")
    party.put("kantor", "k")
    party.put("rekening", "r")
    assert party.found == set()


def test_an_officer_who_is_no_member_is_found_until_the_member_comes(party: Party) -> None:
    party.put("pengurus", "o", nik=OTHER_NIK)
    assert party.found == {("PENGURUS_BUKAN_ANGGOTA", "o")}
    party.put("anggota", "b", nik=OTHER_NIK, nomor_kta="K2", nama="BUDI")
    assert party.found == set()
    party.put("anggota", "b", nik="3273010101900012", nomor_kta="K2", nama="BUDI")
    assert party.found == {("PENGURUS_BUKAN_ANGGOTA", "o")}, "the member's NIK was corrected to another"


def test_without_members_nobody_is_called_a_non_member(party: Party) -> None:
    party.conn.execute("update connector.entity set copying = true, bulk = false where entity = 'anggota'")
    party.put("pengurus", "o", nik=OTHER_NIK)
    assert party.found == set()


@pytest.mark.parametrize(
    ("cells", "barred"),
    [
        ({"pekerjaan": "PERANGKAT DESA"}, True),
        ({"pekerjaan": "Kaur Desa Sukamaju"}, True),
        ({"pekerjaan": "mantan perangkat desa"}, False),
        ({"pekerjaan": "LAINNYA", "pekerjaan_kode": 85}, True),
        ({"pekerjaan": "PETANI", "pekerjaan_kode": 88}, False),
        ({"pekerjaan": "PNS", "indikasi": ["INDIKASI_PEKERJAAN"]}, True),
    ],
)
def test_an_occupation_that_may_not_sit_on_a_board_is_found(
    party: Party, cells: dict[str, object], barred: bool
) -> None:
    party.put("pengurus", "o")
    party.put("anggota", "a", **cells)
    assert (("PENGURUS_PEKERJAAN", "o") in party.found) is barred


def test_one_person_on_two_boards_of_a_level_is_found(party: Party) -> None:
    party.put("kepengurusan", "b2", kode_wilayah="32.01", nomor_sk="SK-2")
    party.put("kepengurusan", "b3", tingkat="PROVINSI", kode_wilayah="32", nomor_sk="SK-3")
    party.put("pengurus", "o1")
    party.put("pengurus", "o3", kepengurusan_source_key="b3")
    assert party.found == set(), "a province and a regency are two levels"
    party.put("pengurus", "o2", kepengurusan_source_key="b2")
    assert party.found == {("RANGKAP_PENGURUS", "o1"), ("RANGKAP_PENGURUS", "o2")}
    party.put("kepengurusan", "b2", kode_wilayah="32.01", nomor_sk="SK-2", status="BERAKHIR")
    assert party.found == set()


def test_a_nik_is_wanted_of_all_but_district_officers(party: Party) -> None:
    party.put("kepengurusan", "b2", tingkat="KECAMATAN", kode_wilayah="32.73.01")
    party.put("pengurus", "o1", nik=None)
    party.put("pengurus", "o2", nik=None, kepengurusan_source_key="b2")
    assert party.found == {("PENGURUS_TANPA_NIK", "o1")}


def test_an_officer_without_a_board_is_found_until_the_board_comes(party: Party) -> None:
    party.put("pengurus", "o", kepengurusan_source_key="b9")
    assert party.found == {("PENGURUS_TANPA_KEPENGURUSAN", "o")}
    party.put("kepengurusan", "b9", kode_wilayah="32.01")
    assert party.found == set()


def test_a_board_that_changes_under_the_same_decree_is_found_until_a_new_decree_comes(party: Party) -> None:
    party.put("pengurus", "o")
    party.put("pengurus", "o", jabatan="SEKRETARIS")
    assert party.found == {("SUSUNAN_TANPA_SK", "o")}
    party.put("pengurus", "o")
    assert party.found == set(), "it was taken back"
    party.put("pengurus", "o", nama="SITI RAHMAWATI")
    assert party.found == {("SUSUNAN_TANPA_SK", "o")}
    party.put("kepengurusan", "b1", nomor_sk="SK-2")
    assert party.found == set()
    party.put("pengurus", "o", nama="siti  rahmawati")
    assert party.found == set(), "spelling is no change"


def test_a_decree_that_ends_before_the_stage_is_found(party: Party) -> None:
    party.put("kepengurusan", "b1", sk_berlaku_sampai="2097-06-01")
    assert party.found == set()
    party.stage("2098-01-01")
    assert party.found == {("SK_BERAKHIR", "b1")}
    party.stage("2097-01-01")
    assert party.found == set()
    party.put("kepengurusan", "b1", sk_berlaku_sampai="2020-01-01", status="BERAKHIR")
    assert party.found == set(), "a board that ended may have an old decree"


def test_an_office_must_last_until_the_last_stage(party: Party) -> None:
    party.put("kantor", "k1", berlaku_sampai=None)
    party.put("kantor", "k2", kode_wilayah="32.01", berlaku_sampai=None, status_kantor="MILIK_SENDIRI")
    party.put("kantor", "k3", kode_wilayah="32.02", berlaku_sampai="2097-06-01")
    assert party.found == {("KANTOR_MASA_BERLAKU", "k1")}
    party.stage("2098-01-01")
    assert party.found == {("KANTOR_MASA_BERLAKU", "k1"), ("KANTOR_MASA_BERLAKU", "k3")}


@pytest.mark.parametrize(
    ("holder", "good"),
    [
        ("DPC Partai Alfa Sejahtera Kota Bandung", True),
        ("ALFA-SEJAHTERA JAWA BARAT", True),
        ("DPW PAS", True),
        ("PASAR BARU", False),
        ("SITI RAHMA", False),
    ],
)
def test_an_account_is_in_the_party_s_name(party: Party, holder: str, good: bool) -> None:
    party.put("rekening", "r", atas_nama=holder)
    assert (party.found == set()) is good
    party.drop("parpol", "p")
    assert party.found == set(), "without the party's own name nothing can be compared"


def test_a_member_needs_a_card_and_an_identity_once_documents_are_sent(party: Party) -> None:
    keys = itertools.count(1)
    assert party.found == set()
    party.begins("dokumen")
    findings.settle(party.conn)
    assert party.found == {("DOKUMEN_KURANG", "a")}
    party.put("dokumen", str(next(keys)))
    party.put("dokumen", str(next(keys)), jenis="KTP_EL", tersedia=False)
    assert party.found == {("DOKUMEN_KURANG", "a")}
    party.put("dokumen", "kk", jenis="KK")
    assert party.found == set()
    party.put("anggota", "b", nik=OTHER_NIK, nomor_kta="K2", nama="BUDI")
    party.put("dokumen", "kta b", pemilik_source_key="b")
    party.put("dokumen", "kk", jenis="KK", pemilik_source_key="b")
    assert party.found == {("DOKUMEN_KURANG", "a")}, "it was the other one's"
    party.drop("dokumen", "kk")
    assert party.found == {("DOKUMEN_KURANG", "a"), ("DOKUMEN_KURANG", "b")}


def test_what_is_gone_has_no_finding(party: Party) -> None:
    party.put("pengurus", "o", nik=None)
    party.put("kantor", "k", berlaku_sampai=None)
    party.drop("pengurus", "o")
    party.drop("kantor", "k")
    assert party.found == set()
    assert party.conn.execute("select count(*) from connector.pejabat").fetchall() == [(0,)]
