"""The staging contract: its entities and columns, their types, and what a value must be to be staged.

Plain values, the same for every party. The rules that need SQL are named here and written in `checks.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Kind(Enum):
    """What a column holds; decides which check it gets."""

    TEXT = "text"
    NAME = "name"  # text with blanks collapsed
    CHOICE = "choice"  # one of a closed list of words
    DATE = "date"
    NIK = "nik"
    NUMBER = "number"
    TRUTH = "truth"
    DIGEST = "digest"  # SHA-256
    REGION = "region"  # a Kemendagri code


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the contract. `length_max` counts characters; `number_max` bounds a number from above."""

    name: str
    kind: Kind
    sql_type: str
    required: bool = False
    length_max: int = 0
    choices: tuple[str, ...] = ()
    number_max: int = 0


@dataclass(frozen=True, slots=True)
class Entity:
    """A table of the contract. A region column named in `placed` is resolved together with its parents."""

    name: str
    columns: tuple[Column, ...]
    placed: tuple[str, ...] = ()

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)


def _text(name: str, length_max: int = 0, *, required: bool = False) -> Column:
    return Column(name, Kind.TEXT, f"varchar({length_max})" if length_max else "text", required, length_max)


def _name(name: str, length_max: int, *, required: bool = False) -> Column:
    return Column(name, Kind.NAME, f"varchar({length_max})", required, length_max)


def _choice(name: str, sql_type: str, choices: tuple[str, ...], *, required: bool = True) -> Column:
    return Column(name, Kind.CHOICE, sql_type, required, choices=choices)


def _date(name: str, *, required: bool = False) -> Column:
    return Column(name, Kind.DATE, "date", required)


def _number(name: str, sql_type: str, number_max: int) -> Column:
    return Column(name, Kind.NUMBER, sql_type, number_max=number_max)


def _region(name: str, length_max: int, *, required: bool = False) -> Column:
    return Column(name, Kind.REGION, f"varchar({length_max})", required, length_max)


LEVELS = ("PUSAT", "PROVINSI", "KABKOTA", "KECAMATAN")
OFFICE_LEVELS = LEVELS[:3]
PARTY_KINDS = ("NASIONAL", "LOKAL_ACEH")

_NIK = Column("nik", Kind.NIK, "char(16)", required=True)
_SEX = _choice("jenis_kelamin", "char(1)", ("L", "P"))

PARPOL = Entity(
    "parpol",
    (
        _name("nama", 150, required=True),
        _text("singkatan", 30),
        _choice("jenis", "varchar(12)", PARTY_KINDS),
        _text("nomor_berita_negara", 60),
        _date("tanggal_berita_negara"),
        _text("nomor_ad_art", 60),
        _date("tanggal_ad_art"),
        _text("nomor_sk_menkum", 60),
        _date("tanggal_sk_menkum"),
        Column("lambang_sha256", Kind.DIGEST, "bytea"),
        _text("surel"),
        _text("telepon"),
        _text("situs"),
    ),
)

PETUGAS = Entity(
    "petugas",
    (
        _choice("peran", "varchar(20)", ("PETUGAS_PENGHUBUNG", "ADMIN_SIPOL", "PIC_INTEGRASI")),
        _choice("tingkat", "varchar(10)", LEVELS),
        _region("kode_wilayah", 8),
        _name("nama", 100, required=True),
        _NIK,
        _text("nomor_kta", 50, required=True),
        _text("tempat_lahir", 100),
        _date("tanggal_lahir", required=True),
        _SEX,
        _text("alamat", 255, required=True),
        _text("surel", required=True),
        _text("telepon", required=True),
        _text("pekerjaan", 60, required=True),
        _text("jabatan", 100, required=True),
        _text("nomor_surat_penunjukan", 80, required=True),
        _date("tanggal_surat", required=True),
        _date("berlaku_sampai"),
    ),
)

KEPENGURUSAN = Entity(
    "kepengurusan",
    (
        _choice("tingkat", "varchar(10)", LEVELS),
        _region("kode_wilayah", 8),
        _text("nama_unit", 150),
        _text("nomor_sk", 80, required=True),
        _date("tanggal_sk", required=True),
        _date("sk_berlaku_sampai"),
        _choice("status", "varchar(10)", ("AKTIF", "BERAKHIR")),
    ),
)

PENGURUS = Entity(
    "pengurus",
    (
        _text("kepengurusan_source_key", required=True),
        _name("nama", 100, required=True),
        _text("jabatan", 100, required=True),
        _choice("jabatan_inti", "varchar(12)", ("KETUA", "SEKRETARIS", "BENDAHARA", "LAINNYA")),
        _SEX,
        Column("nik", Kind.NIK, "char(16)"),
        _text("nomor_kta", 50),
        _number("urutan", "smallint", 32_767),
    ),
)

KANTOR = Entity(
    "kantor",
    (
        _choice("tingkat", "varchar(10)", OFFICE_LEVELS),
        _region("kode_wilayah", 8),
        _text("alamat", 255, required=True),
        _text("kode_pos", 5),
        _region("kode_kelurahan", 13),
        _text("telepon"),
        _text("surel"),
        _choice("status_kantor", "varchar(15)", ("MILIK_SENDIRI", "SEWA", "PINJAM_PAKAI", "LAINNYA")),
        _text("nomor_surat_keterangan", 80),
        _date("tanggal_surat"),
        _date("berlaku_sampai"),
    ),
)

REKENING = Entity(
    "rekening",
    (
        _choice("tingkat", "varchar(10)", OFFICE_LEVELS),
        _region("kode_wilayah", 8),
        _text("nama_bank", 100, required=True),
        _text("kode_bank", 10),
        _text("nomor_rekening", 34, required=True),
        _text("atas_nama", 150, required=True),
    ),
)

# The columns one region rule of a member fills; the rule may stand under any of the first three.
MEMBER_PLACE = ("kode_kabkota", "kode_kecamatan", "kode_kelurahan", "kode_wilayah_sumber")

ANGGOTA = Entity(
    "anggota",
    (
        _NIK,
        _text("nomor_kta", 50, required=True),
        _name("nama", 100, required=True),
        _SEX,
        _text("tempat_lahir", 100),
        _date("tanggal_lahir", required=True),
        _choice("status_perkawinan", "char(1)", ("B", "S", "P"), required=False),
        _text("pekerjaan", 60, required=True),
        _number("pekerjaan_kode", "smallint", 99),
        _text("alamat", 255, required=True),
        _text("rt", 3),
        _text("rw", 3),
        _region("kode_kabkota", 5, required=True),
        _region("kode_kecamatan", 8, required=True),
        _region("kode_kelurahan", 13),
        Column("kode_wilayah_sumber", Kind.TEXT, "text", required=True),
        _choice("jenis_identitas", "varchar(3)", ("KTP", "KK"), required=False),
    ),
    placed=MEMBER_PLACE,
)

DOKUMEN = Entity(
    "dokumen",
    (
        _choice(
            "jenis",
            "varchar(40)",
            (
                "KTA",
                "KTP_EL",
                "KK",
                "SURAT_PERNYATAAN_ANGGOTA",
                "SK_PENGURUS",
                "SURAT_PENUNJUKAN",
                "BERITA_NEGARA",
                "AD_ART",
                "F_SURAT_PERNYATAAN_PARPOL",
                "F_KANTOR_TETAP_PARPOL",
                "SURAT_KETERANGAN_KANTOR",
                "BUKTI_REKENING",
                "LAINNYA",
            ),
        ),
        _choice(
            "pemilik_entity",
            "varchar(20)",
            ("parpol", "petugas", "kepengurusan", "pengurus", "kantor", "rekening", "anggota"),
        ),
        _text("pemilik_source_key", required=True),
        _text("nomor", 80),
        _date("tanggal"),
        Column("sha256", Kind.DIGEST, "bytea"),
        _number("ukuran", "bigint", 1 << 50),
        Column("tersedia", Kind.TRUTH, "boolean", required=True),
    ),
)

ENTITIES = {
    entity.name: entity for entity in (PARPOL, PETUGAS, KEPENGURUSAN, PENGURUS, KANTOR, REKENING, ANGGOTA, DOKUMEN)
}
