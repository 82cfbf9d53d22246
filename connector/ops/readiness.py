"""Where a party stands against the legal thresholds, from staging's counts: never a verdict of KPU's.

Every threshold is a row with the decision it stands on (`ref_ambang`, `ref_ambang_provinsi`). Counts of members come
from `staging.hitungan`, which the daemon keeps; nothing here reads members one by one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row, dict_row

from connector.errors import UsageError
from connector.mapping.reasons import REASONS
from connector.ops.quarantine import masked
from connector.settings import Config
from connector.staging import findings
from connector.staging.session import translated

# Where one city's rows were looked at, 9 % were external duplicates and a quarter identical copies: less room than this
# over the minimum is thin.
CUSHION_MIN = 1.15
WOMEN_SHARE_MIN = 0.30
KEYS_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Regency:
    """One regency's row: the minimum with what it stands on, and what is staged."""

    kode: str
    nama: str
    provinsi: str
    penduduk: int
    minimal: int
    dasar: str
    diterima: int
    identik: int
    potensi: int
    eksternal: int
    kta_ganda: int
    usia: int
    pekerjaan: int
    nik: int
    bersih: int
    kepengurusan: bool
    kecamatan: int
    minimal_kecamatan: int
    kantor: bool
    rekening: bool

    @property
    def selisih(self) -> int:
        return self.bersih - self.minimal

    @property
    def bantalan(self) -> float:
        """How many times the minimum is there."""
        return self.bersih / self.minimal

    @property
    def tipis(self) -> bool:
        return self.selisih >= 0 and self.bantalan < CUSHION_MIN

    @property
    def kurang(self) -> tuple[str, ...]:
        """What keeps the regency from counting."""
        lacks = (
            ("anggota", self.selisih < 0), ("kepengurusan", not self.kepengurusan),
            ("kecamatan", self.kecamatan < self.minimal_kecamatan), ("kantor", not self.kantor),
        )  # fmt: skip
        return tuple(name for name, missing in lacks if missing)

    @property
    def memenuhi(self) -> bool:
        return not self.kurang

    @property
    def sampel(self) -> int:
        return krejcie_morgan(self.bersih)


@dataclass(frozen=True, slots=True)
class Province:
    """A province: regencies needed and regencies that count. `jalur`: those nearest to closing the gap."""

    kode: str
    nama: str
    jumlah_kabkota: int
    minimal_kabkota: int
    dasar: str
    memenuhi: int
    kepengurusan: bool
    kantor: bool
    rekening: bool
    jalur: tuple[str, ...]
    kurang_anggota: int

    @property
    def selisih(self) -> int:
        return self.memenuhi - self.minimal_kabkota


@dataclass(frozen=True, slots=True)
class Requirement:
    """One line: rule, required, have. `ada` and `perlu` are counts, or per cent."""

    syarat: str
    perlu: float
    ada: float
    dasar: str

    @property
    def terpenuhi(self) -> bool:
        return self.ada >= self.perlu


@dataclass(frozen=True, slots=True)
class Refusals:
    """Refused rows of one entity for one reason; `keys` are the party's own, a few of them."""

    entity: str
    reason: str
    rows: int
    first_seen: datetime
    last_seen: datetime
    keys: Sequence[str]
    indonesian: str


@dataclass(frozen=True, slots=True)
class Freshness:
    """One entity: how current it is, its counts, and what the last 24 hours brought.

    `view_rows` is what the last compare counted; `sipol_rows` what Sipol says it has, where that was given.
    """

    entity: str
    state: str
    reason: str | None
    last_batch_at: datetime | None
    live_rows: int
    refused_rows: int
    view_rows: int | None
    view_counted_at: datetime | None
    mapping_version: str | None
    added_day: int
    changed_day: int
    removed_day: int
    sipol_rows: int | None = None


@dataclass(frozen=True, slots=True)
class Unmapped:
    """A staging column that rows were refused for because their code or region means nothing to the mapping.

    The values themselves are not kept: `connector mapping dry-run` lists them.
    """

    entity: str
    column: str
    reason: str
    rows: int


@dataclass(frozen=True, slots=True)
class Documents:
    """The party's documents of one kind."""

    jenis: str
    ada: int
    tersedia: int


@dataclass(frozen=True, slots=True)
class Stage:
    tahapan: str
    ditutup: datetime
    dasar: str


@dataclass(frozen=True, slots=True)
class Report:
    """Everything, as of one moment."""

    party: str
    parpol_id: int
    jenis: str
    at: datetime
    counted_at: datetime | None
    counting: bool
    requirements: tuple[Requirement, ...]
    provinces: tuple[Province, ...]
    regencies: tuple[Regency, ...]
    elsewhere: int
    refusals: tuple[Refusals, ...]
    unmapped: tuple[Unmapped, ...]
    documents: tuple[Documents, ...]
    freshness: tuple[Freshness, ...]
    stages: tuple[Stage, ...]
    daemon: Mapping[str, Any]
    receipt: Mapping[str, Any]


def krejcie_morgan(population: int) -> int:
    """The sample that factual verification takes of so many members: 95 % confidence, 5 % error, P = 0.5."""
    if population <= 0:
        return 0
    chi, share = 3.841, 0.25
    return min(population, round(chi * population * share / (0.0025 * (population - 1) + chi * share)))


def count(conn: psycopg.Connection) -> None:
    """Bring findings and counts up to date, where no daemon does."""
    with translated("counting members"):
        findings.settle(conn)


def report(conn: psycopg.Connection, config: Config, party: str, sipol_rows: Mapping[str, int] | None = None) -> Report:
    """Read a party's state.

    Args:
        sipol_rows: how many rows Sipol says it has, by entity.

    Raises:
        ConfigError, UsageError: there is no such party; it was never started.
    """
    name = config.party(party).name
    with translated("reading the readiness"), conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        head = conn.execute(_PARTY, {"party": name}).fetchone()
        if head is None:
            raise UsageError(f"{name} was never started", hint="connector check, then connector run", place=name)
        values = {"party": name, "parpol_id": head[0], "area": "11%" if head[1] == "LOKAL_ACEH" else "%"}
        with conn.cursor(row_factory=class_row(Regency)) as cursor:
            regencies = tuple(cursor.execute(_REGENCIES, values).fetchall())
        with conn.cursor(row_factory=class_row(Freshness)) as cursor:
            found = cursor.execute(_FRESHNESS, values).fetchall()
        freshness = tuple(replace(one, sipol_rows=(sipol_rows or {}).get(one.entity)) for one in found)
        with conn.cursor(row_factory=class_row(Unmapped)) as cursor:
            unmapped = tuple(cursor.execute(_UNMAPPED, values).fetchall())
        with conn.cursor(row_factory=class_row(Documents)) as cursor:
            documents = tuple(cursor.execute(_DOCUMENTS, values).fetchall())
        with conn.cursor(row_factory=class_row(Stage)) as cursor:
            stages = tuple(cursor.execute(_STAGES).fetchall())
        provinces = _provinces(conn.execute(_PROVINCES, values).fetchall(), regencies)
        requirements = () if head[1] == "LOKAL_ACEH" else tuple(_requirements(conn, values, provinces))
        return Report(
            party=name,
            parpol_id=head[0],
            jenis=head[1],
            at=head[2],
            counted_at=head[3],
            counting=head[4],
            requirements=requirements,
            provinces=provinces,
            regencies=_by_cushion(regencies),
            elsewhere=head[5],
            refusals=tuple(_refusals(conn, values)),
            unmapped=unmapped,
            documents=documents,
            freshness=freshness,
            stages=stages,
            daemon=_one(conn, _DAEMON, values),
            receipt=_one(conn, _RECEIPT, values),
        )


def _by_cushion(regencies: Iterable[Regency]) -> tuple[Regency, ...]:
    return tuple(sorted(regencies, key=lambda one: (one.bantalan, one.kode)))


def _provinces(rows: Iterable[tuple[Any, ...]], regencies: Iterable[Regency]) -> tuple[Province, ...]:
    inside: dict[str, list[Regency]] = defaultdict(list)
    for one in regencies:
        inside[one.provinsi].append(one)
    found = []
    for kode, nama, total, needed, dasar, board, office, account in rows:
        counting = [one for one in inside[kode] if one.memenuhi]
        path = _path([one for one in inside[kode] if not one.memenuhi], needed - len(counting))
        short = sum(max(0, -one.selisih) for one in path)
        codes = tuple(one.kode for one in path)
        found.append(Province(kode, nama, total, needed, dasar, len(counting), board, office, account, codes, short))
    return tuple(found)


def _path(candidates: list[Regency], lacking: int) -> list[Regency]:
    """The regencies that close the gap soonest: fewest missing members, then fewest other lacks."""
    ordered = sorted(candidates, key=lambda one: (max(0, -one.selisih), len(one.kurang), one.kode))
    return ordered[: max(0, lacking)]


def _requirements(
    conn: psycopg.Connection, values: Mapping[str, object], provinces: Sequence[Province]
) -> Iterable[Requirement]:
    law = "UU 7/2017 ps. 173(2)"
    row = conn.execute(_CENTRE, values).fetchone()
    assert row is not None
    women, officers, board, office, account, profile = row
    yield Requirement("profil partai", 1, profile, f"{law} a")
    yield Requirement("kepengurusan pusat", 1, board, f"{law} b")
    yield Requirement(
        "provinsi dengan kepengurusan", len(provinces), _sum(one.kepengurusan for one in provinces), f"{law} b"
    )
    yield Requirement(
        "provinsi yang kabupaten/kotanya cukup (75 %)", len(provinces), _sum(one.selisih >= 0 for one in provinces),
        f"{law} c, d, f; {provinces[0].dasar if provinces else ''}",
    )  # fmt: skip
    share = 100 * women / officers if officers else 0.0
    yield Requirement(
        "perempuan di kepengurusan pusat (%)", 100 * WOMEN_SHARE_MIN, math.floor(share * 10) / 10, f"{law} e"
    )
    yield Requirement("kantor pusat", 1, office, f"{law} g")
    yield Requirement("provinsi dengan kantor", len(provinces), _sum(one.kantor for one in provinces), f"{law} g")
    yield Requirement("rekening pusat", 1, account, f"{law} i")
    yield Requirement("provinsi dengan rekening", len(provinces), _sum(one.rekening for one in provinces), f"{law} i")


def _sum(flags: Iterable[bool]) -> int:
    return sum(1 for flag in flags if flag)


def _refusals(conn: psycopg.Connection, values: Mapping[str, object]) -> Iterable[Refusals]:
    for entity, reason, rows, first, last, keys in conn.execute(_REFUSALS, {**values, "keys": KEYS_SHOWN}):
        known = REASONS.get(reason)
        shown = tuple(masked(key) for key in keys)
        yield Refusals(entity, reason, rows, first, last, shown, known.indonesian if known else "")


def _one(conn: psycopg.Connection, query: bytes, values: Mapping[str, object]) -> dict[str, Any]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, values).fetchone() or {}


_PARTY = b"""
select p.parpol_id, p.jenis, now(), (select min(counted_at) from staging.hitungan h where h.parpol_id = p.parpol_id),
       exists (select from connector.temuan_due d where d.parpol_id = p.parpol_id)
         or exists (select from connector.hitungan_due d where d.parpol_id = p.parpol_id),
       (select coalesce(sum(h.anggota), 0)::bigint from staging.hitungan h
         where h.parpol_id = p.parpol_id
           and not exists (select from staging.ref_ambang a where a.kode_kabkota = h.kode_kabkota))
  from connector.party p where p.party = %(party)s
"""

_REGENCIES = b"""
with boards as materialized (
  select tingkat, kode_wilayah from staging.kepengurusan
   where parpol_id = %(parpol_id)s and dihapus_pada is null and status = 'AKTIF'
     and coalesce(sk_berlaku_sampai >= current_date, true)),
districts as (
  select left(kode_wilayah, 5) as kode, count(distinct kode_wilayah)::int as boards from boards
   where tingkat = 'KECAMATAN' group by 1),
offices as (
  select distinct kode_wilayah as kode from staging.kantor
   where parpol_id = %(parpol_id)s and dihapus_pada is null and tingkat = 'KABKOTA'
     and coalesce(berlaku_sampai >= current_date, true)),
accounts as (
  select distinct kode_wilayah as kode from staging.rekening
   where parpol_id = %(parpol_id)s and dihapus_pada is null and tingkat = 'KABKOTA')
select a.kode_kabkota as kode, coalesce(w.nama, a.kode_kabkota) as nama, left(a.kode_kabkota, 2) as provinsi,
       a.penduduk, a.minimal_anggota as minimal, a.dasar, coalesce(h.anggota, 0) as diterima,
       coalesce(h.identik, 0) as identik,
       coalesce(h.potensi, 0) as potensi, coalesce(h.eksternal, 0) as eksternal, coalesce(h.kta, 0) as kta_ganda,
       coalesce(h.usia, 0) as usia, coalesce(h.pekerjaan, 0) as pekerjaan, coalesce(h.nik, 0) as nik,
       coalesce(h.bersih, 0) as bersih,
       exists (select from boards b where b.tingkat = 'KABKOTA' and b.kode_wilayah = a.kode_kabkota) as kepengurusan,
       coalesce(d.boards, 0) as kecamatan, a.minimal_kecamatan,
       exists (select from offices o where o.kode = a.kode_kabkota) as kantor,
       exists (select from accounts r where r.kode = a.kode_kabkota) as rekening
  from staging.ref_ambang a
  left join staging.ref_wilayah w on w.kode = a.kode_kabkota
  left join staging.hitungan h on h.parpol_id = %(parpol_id)s and h.kode_kabkota = a.kode_kabkota
  left join districts d on d.kode = a.kode_kabkota
 where a.kode_kabkota like %(area)s
"""

_PROVINCES = b"""
select a.kode_provinsi, coalesce(w.nama, a.kode_provinsi), a.jumlah_kabkota, a.minimal_kabkota, a.dasar,
       exists (select from staging.kepengurusan k where k.parpol_id = %(parpol_id)s and k.dihapus_pada is null
                  and k.status = 'AKTIF' and k.tingkat = 'PROVINSI' and k.kode_wilayah = a.kode_provinsi
                  and coalesce(k.sk_berlaku_sampai >= current_date, true)),
       exists (select from staging.kantor k where k.parpol_id = %(parpol_id)s and k.dihapus_pada is null
                  and k.tingkat = 'PROVINSI' and k.kode_wilayah = a.kode_provinsi
                  and coalesce(k.berlaku_sampai >= current_date, true)),
       exists (select from staging.rekening r where r.parpol_id = %(parpol_id)s and r.dihapus_pada is null
                  and r.tingkat = 'PROVINSI' and r.kode_wilayah = a.kode_provinsi)
  from staging.ref_ambang_provinsi a left join staging.ref_wilayah w on w.kode = a.kode_provinsi
 where a.kode_provinsi like %(area)s order by 1
"""

_CENTRE = b"""
with boards as (
  select source_key from staging.kepengurusan
   where parpol_id = %(parpol_id)s and dihapus_pada is null and status = 'AKTIF' and tingkat = 'PUSAT'
     and coalesce(sk_berlaku_sampai >= current_date, true)),
officers as (
  select p.jenis_kelamin from staging.pengurus p join boards b on b.source_key = p.kepengurusan_source_key
   where p.parpol_id = %(parpol_id)s and p.dihapus_pada is null)
select (select count(*) from officers where jenis_kelamin = 'P'), (select count(*) from officers),
       (select count(*) from boards),
       (select count(*) from staging.kantor where parpol_id = %(parpol_id)s and dihapus_pada is null
           and tingkat = 'PUSAT' and coalesce(berlaku_sampai >= current_date, true)),
       (select count(*) from staging.rekening where parpol_id = %(parpol_id)s and dihapus_pada is null
           and tingkat = 'PUSAT'),
       (select count(*) from staging.parpol where parpol_id = %(parpol_id)s and dihapus_pada is null)
"""

_REFUSALS = b"""
select entity, reason, count(*), min(first_seen), max(last_seen),
       (array_agg(source_key order by source_key))[1:%(keys)s]
  from (select distinct entity, source_key, first_seen, last_seen, unnest(reasons) as reason
          from staging.karantina where parpol_id = %(parpol_id)s) r
 group by entity, reason order by count(*) desc, entity, reason
"""

_FRESHNESS = b"""
select e.entity, e.state, e.reason, e.last_batch_at, e.live_rows,
       (select count(*) from staging.karantina k
         where k.parpol_id = %(parpol_id)s and k.entity = e.entity) as refused_rows,
       r.view_rows, r.ended_at as view_counted_at, e.mapping_version,
       coalesce(d.added, 0)::bigint as added_day, coalesce(d.changed, 0)::bigint as changed_day,
       coalesce(d.removed, 0)::bigint as removed_day
  from connector.entity e
  left join (select entity, sum(inserted) as added, sum(updated) as changed, sum(deleted) as removed
               from staging.sync_batch
              where party = %(party)s and ended_at > now() - interval '24 hours' group by entity) d using (entity)
  left join lateral (select view_rows, ended_at from connector.reconcile r
                      where r.party = e.party and r.entity = e.entity order by r.id desc limit 1) r on true
 where e.party = %(party)s order by e.entity
"""

_UNMAPPED = b"""
select entity, column_name as column, reason, count(*) as rows
  from staging.karantina, unnest(reasons, columns) as told (reason, column_name)
 where parpol_id = %(parpol_id)s and column_name <> ''
   and reason in ('CODE_UNKNOWN', 'REGION_UNKNOWN', 'REGION_AMBIGUOUS')
 group by 1, 2, 3 order by 4 desc, 1, 2, 3
"""

_DOCUMENTS = b"""
select jenis, count(*) as ada, count(*) filter (where tersedia) as tersedia
  from staging.dokumen where parpol_id = %(parpol_id)s and dihapus_pada is null group by jenis order by jenis
"""

_STAGES = b"""
select tahapan, ditutup, dasar from staging.ref_tahapan where dibuka <= now() and ditutup > now() order by ditutup
"""

_DAEMON = b"""
select w.state, w.heartbeat_at, w.lag_s, w.lag_bytes, o.position_text as position, o.moved_at
  from connector.source_offset o left join connector.worker w using (party) where o.party = %(party)s
"""

_RECEIPT = b"""
select h.seq, encode(h.hash, 'hex') as hash, c.size as checkpoint_size, encode(c.root, 'hex') as checkpoint_root
  from audit.head h left join lateral (select size, root from audit.checkpoint order by size desc limit 1) c on true
 where h.party = %(party)s
"""
