"""Loads schemas/reference into staging.ref_*. A file that is loaded already is left alone.

The tables are small and replaced whole, by delete and insert, so that a batch that reads them
at that moment sees the old edition or the new one. What KPU decided is never replaced by a computation.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import psycopg
from psycopg import sql

from connector.resources import schema_path

_LOADED = "select nama, sha256 from staging.ref_versi"
_NOTE = """
insert into staging.ref_versi (nama, versi, sha256, sumber) values (%s, %s, %s, %s)
on conflict (nama) do update
   set versi = excluded.versi, sha256 = excluded.sha256, sumber = excluded.sumber, dimuat_pada = now()
"""


@dataclass(frozen=True, slots=True)
class Edition:
    """One line of manifest.csv, with its file's content (unpacked, so that a repacked file is the same edition)."""

    nama: str
    versi: str
    sumber: str
    dasar: str
    content: bytes

    @property
    def sha256(self) -> bytes:
        return hashlib.sha256(self.content).digest()

    @property
    def columns(self) -> list[str]:
        return self.content.split(b"\n", 1)[0].decode().split(",")


# The file's rows are in pg_temp.masuk, all text, empty cells null; %(dasar)s is the manifest's.
_STATEMENTS: Mapping[str, tuple[str, ...]] = {
    "wilayah": (
        "delete from staging.ref_wilayah",
        """
        insert into staging.ref_wilayah (kode, tingkat, nama, jenis, induk, kode_polos, nama_norm, dasar)
        select kode, tingkat, nama,
               case tingkat
                   when 1 then 'PROVINSI'
                   when 2 then case when substr(kode, 4, 1) >= '7' then 'KOTA' else 'KABUPATEN' end
                   -- The provinces of Papua have distrik where others have kecamatan.
                   when 3 then case when kode >= '91' then 'DISTRIK' else 'KECAMATAN' end
                   else case substr(kode, 10, 1) when '1' then 'KELURAHAN' when '3' then 'DESA_ADAT' else 'DESA' end
               end,
               case when tingkat > 1 then regexp_replace(kode, '[.][0-9]+$', '') end,
               replace(kode, '.', ''), staging.nama_wilayah(nama, tingkat), %(dasar)s::text
        from (select kode, nama, length(kode) - length(replace(kode, '.', '')) + 1 as tingkat from pg_temp.masuk) as one
        """,
        """
        update staging.ref_wilayah set nama_tunggal = false
        where (induk, nama_norm) in
              (select induk, nama_norm from staging.ref_wilayah group by induk, nama_norm having count(*) > 1)
        """,
    ),
    "wilayah_lama": (
        "delete from staging.ref_wilayah_lama",
        """
        insert into staging.ref_wilayah_lama (kode_lama, kode_baru, dasar)
        select kode_lama, kode_baru, dasar from pg_temp.masuk
        """,
    ),
    "wilayah_alias": (
        "delete from staging.ref_wilayah_alias",
        """
        insert into staging.ref_wilayah_alias (kode, nama_norm, dasar)
        select m.kode, staging.nama_wilayah(m.nama, w.tingkat), m.dasar
        from pg_temp.masuk m join staging.ref_wilayah w on w.kode = m.kode
        """,
    ),
    "nik_prefix": (
        "delete from staging.ref_nik_prefix",
        """
        insert into staging.ref_nik_prefix (prefix, tingkat, dasar)
        select prefix, length(prefix) / 2, dasar from pg_temp.masuk
        """,
    ),
    "ambang": (
        "delete from staging.ref_ambang where dasar like 'hitungan:%%'",
        """
        insert into staging.ref_ambang
            (kode_kabkota, penduduk, minimal_anggota, jumlah_kecamatan, minimal_kecamatan, dasar)
        select kode_kabkota, penduduk::bigint, minimal_anggota::integer, jumlah_kecamatan::integer,
               minimal_kecamatan::integer, dasar
        from pg_temp.masuk on conflict (kode_kabkota) do nothing
        """,
    ),
    "ambang_provinsi": (
        "delete from staging.ref_ambang_provinsi where dasar like 'hitungan:%%'",
        """
        insert into staging.ref_ambang_provinsi (kode_provinsi, jumlah_kabkota, minimal_kabkota, dasar)
        select kode_provinsi, jumlah_kabkota::integer, minimal_kabkota::integer, dasar
        from pg_temp.masuk on conflict (kode_provinsi) do nothing
        """,
    ),
    "pekerjaan": (
        "delete from staging.ref_pekerjaan",
        """
        insert into staging.ref_pekerjaan (kode, nama, barred, dasar)
        select kode::smallint, nama, barred, dasar from pg_temp.masuk
        """,
    ),
}

# Read by every batch's mapping: fresh statistics right after a load, not when autovacuum comes round.
_ANALYZE = "analyze staging.ref_wilayah, staging.ref_nik_prefix, staging.ref_wilayah_lama"


def editions() -> tuple[Edition, ...]:
    """What this program carries, in the order of manifest.csv."""
    with schema_path("reference", "manifest.csv").open(encoding="utf-8", newline="") as lines:
        return tuple(
            Edition(row["nama"], row["versi"], row["sumber"], row["dasar"], _content(row["berkas"]))
            for row in csv.DictReader(lines)
        )


def load(conn: psycopg.Connection) -> tuple[str, ...]:
    """Load each file that differs from what is loaded; returns their names. Call inside a transaction."""
    loaded = {name: bytes(sha256) for name, sha256 in conn.execute(_LOADED)}
    stale = [edition for edition in editions() if loaded.get(edition.nama) != edition.sha256]
    for edition in stale:
        _replace(conn, edition)
    if stale:
        conn.execute(_ANALYZE)
    return tuple(edition.nama for edition in stale)


def _replace(conn: psycopg.Connection, edition: Edition) -> None:
    columns = [sql.SQL("{} text").format(sql.Identifier(name)) for name in edition.columns]
    conn.execute(sql.SQL("create temporary table masuk ({}) on commit drop").format(sql.SQL(", ").join(columns)))
    with conn.cursor().copy("copy pg_temp.masuk from stdin (format csv, header)") as copy:
        copy.write(edition.content)
    for statement in _STATEMENTS[edition.nama]:
        conn.execute(statement.encode(), {"dasar": edition.dasar} if "%(dasar)s" in statement else ())
    conn.execute("drop table pg_temp.masuk")
    conn.execute(_NOTE, (edition.nama, edition.versi, edition.sha256, edition.sumber))


def _content(name: str) -> bytes:
    raw = schema_path("reference", name).read_bytes()
    return gzip.decompress(raw) if name.endswith(".gz") else raw
