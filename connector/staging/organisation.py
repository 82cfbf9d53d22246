"""Findings over a party's organisation: boards, officers, offices and accounts, held against each other and members.

A party has a few thousand boards and at most some hundred thousand officers, so all of a party's are looked at when one
of them changed, and when the day or the calendar of stages did. Runs inside the caller's transaction, one session at a
time (`findings` holds the lock).
"""

from __future__ import annotations

import psycopg

KINDS = (
    "DUALISME", "SK_BERAKHIR", "RANGKAP_PENGURUS", "PENGURUS_BUKAN_ANGGOTA", "PENGURUS_PEKERJAAN", "PENGURUS_TANPA_NIK",
    "PENGURUS_TANPA_KEPENGURUSAN", "SUSUNAN_TANPA_SK", "KANTOR_MASA_BERLAKU", "REKENING_ATAS_NAMA",
)  # fmt: skip


def note_page(conn: psycopg.Connection) -> None:
    """Mark the parties whose organisation the page's changes (`pg_temp.halaman`) may have touched."""
    conn.execute(_TOUCHED)


def note_day(conn: psycopg.Connection) -> None:
    """Mark every party where a day began or the calendar changed: what is valid until then is not any more."""
    conn.execute(_NEW_DAY)


def judge_next(conn: psycopg.Connection) -> int:
    """Look at one marked party; gives its parpol_id, 0 where none is marked."""
    row = conn.execute(_DUE).fetchone()
    if row is None:
        return 0
    values = {"parpol_id": row[0], "kinds": list(KINDS)}
    for statement in _TEMPORARY:
        conn.execute(statement)
    for statement in (_OFFICERS, b"analyze pg_temp.pejabat_kini", _EXPECT, _RAISE, _RESOLVE, _REMEMBER, _FORGET, _DONE):
        conn.execute(statement, values)
    return int(row[0])


MARK = b"insert into connector.organisasi_due (parpol_id) values (%(parpol_id)s) on conflict do nothing"

_TOUCHED = b"""
insert into connector.organisasi_due (parpol_id)
select parpol_id from pg_temp.halaman where entity in ('parpol', 'kepengurusan', 'pengurus', 'kantor', 'rekening')
 union
select h.parpol_id from pg_temp.halaman h
  join connector.pejabat j on j.parpol_id = h.parpol_id and j.anggota_key = h.source_key where h.entity = 'anggota'
 union
select h.parpol_id from pg_temp.halaman h
  join staging.anggota a using (parpol_id, source_key)
  join connector.pejabat j on j.parpol_id = a.parpol_id and j.nik = hashtextextended(a.nik, 0)
 where h.entity = 'anggota'
on conflict do nothing
"""

_NEW_DAY = b"""
with now as (
  select (now() at time zone 'Asia/Jakarta')::date as hari,
         (select coalesce(md5(string_agg(t::text, ',' order by tahapan)), '') from staging.ref_tahapan t) as kalender),
moved as (
  update connector.temuan_cursor c set hari = now.hari, kalender = now.kalender from now
   where (c.hari, c.kalender) is distinct from (now.hari, now.kalender) returning 1)
insert into connector.organisasi_due (parpol_id)
select parpol_id from connector.party where exists (select from moved) on conflict do nothing
"""

# Half a copy would say that officers are no members.
_DUE = b"""
select d.parpol_id from connector.organisasi_due d
 where not exists (select from connector.entity e join connector.party p using (party)
                    where p.parpol_id = d.parpol_id and e.copying and e.bulk
                      and e.entity in ('anggota', 'parpol', 'kepengurusan', 'pengurus', 'kantor', 'rekening'))
 order by d.since limit 1 for update skip locked
"""

_TEMPORARY = (
    b"""
    create temp table if not exists pejabat_kini (
      source_key text collate "C", nik text, board text, tingkat text, aktif boolean, nomor_sk text, susunan bigint,
      anggota_key text collate "C", dilarang boolean) on commit delete rows
    """,
    b"""
    create temp table if not exists harap_organisasi (
      jenis text, entity text, source_key text collate "C", kelompok bigint) on commit delete rows
    """,
)

# Of identical members one is enough: they are the same person.
_OFFICERS = b"""
insert into pg_temp.pejabat_kini
select p.source_key, p.nik, k.source_key, k.tingkat, coalesce(k.status = 'AKTIF', false), k.nomor_sk,
       hashtextextended(staging.kata(p.nama) || '|' || staging.kata(p.jabatan) || '|' || p.kepengurusan_source_key, 0),
       a.source_key, coalesce(a.dilarang, false)
  from staging.pengurus p
  left join staging.kepengurusan k
    on k.parpol_id = p.parpol_id and k.source_key = p.kepengurusan_source_key and k.dihapus_pada is null
  left join (
       select nik, min(source_key) as source_key,
              bool_or(coalesce(indikasi && array['INDIKASI_PEKERJAAN'], false) or staging.pekerjaan_desa(pekerjaan)
                      or pekerjaan_kode in (select kode from staging.ref_pekerjaan where barred is not null)
              ) as dilarang
         from staging.anggota
        where parpol_id = %(parpol_id)s and dihapus_pada is null
          and nik in (select nik from staging.pengurus where parpol_id = %(parpol_id)s and dihapus_pada is null)
        group by nik) a on a.nik = p.nik
 where p.parpol_id = %(parpol_id)s and p.dihapus_pada is null
"""

# Who is no member can be told only of a party whose members are staged.
_EXPECT = b"""
insert into pg_temp.harap_organisasi
with boards as materialized (
       select source_key, tingkat, sk_berlaku_sampai,
              hashtextextended(tingkat || coalesce(kode_wilayah, ''), 0) as kelompok,
              count(*) over (partition by tingkat, kode_wilayah) as boards
         from staging.kepengurusan
        where parpol_id = %(parpol_id)s and dihapus_pada is null and status = 'AKTIF'),
     twice as (
       select nik, tingkat from pg_temp.pejabat_kini where nik is not null and aktif
        group by nik, tingkat having count(distinct board) > 1),
     members as (
       select exists (select from connector.entity e join connector.party p using (party)
                       where p.parpol_id = %(parpol_id)s and e.entity = 'anggota' and not e.copying
                         and e.state not in ('new', 'needs_resync')) as known),
     names as (
       select array_remove(array[staging.kata(nama), regexp_replace(staging.kata(nama), '^ PARTAI ', ' '),
                                 staging.kata(singkatan)], null) as names
         from staging.parpol where parpol_id = %(parpol_id)s and dihapus_pada is null)
select 'DUALISME', 'kepengurusan', source_key, kelompok from boards where boards > 1
union all
select 'SK_BERAKHIR', 'kepengurusan', source_key, hashtextextended(source_key, 0)
  from boards where sk_berlaku_sampai < staging.tanggal_acuan('kepengurusan')
union all
select 'RANGKAP_PENGURUS', 'pengurus', j.source_key, hashtextextended(j.nik || j.tingkat, 0)
  from pg_temp.pejabat_kini j join twice using (nik, tingkat) where j.aktif
union all
select 'PENGURUS_BUKAN_ANGGOTA', 'pengurus', source_key, hashtextextended(source_key, 0)
  from pg_temp.pejabat_kini, members where members.known and nik is not null and anggota_key is null
union all
select 'PENGURUS_PEKERJAAN', 'pengurus', source_key, hashtextextended(source_key, 0)
  from pg_temp.pejabat_kini where dilarang
union all
select 'PENGURUS_TANPA_NIK', 'pengurus', source_key, hashtextextended(source_key, 0)
  from pg_temp.pejabat_kini where nik is null and tingkat in ('PUSAT', 'PROVINSI', 'KABKOTA')
union all
select 'PENGURUS_TANPA_KEPENGURUSAN', 'pengurus', source_key, hashtextextended(source_key, 0)
  from pg_temp.pejabat_kini where board is null
union all
select 'SUSUNAN_TANPA_SK', 'pengurus', k.source_key, hashtextextended(k.source_key, 0)
  from pg_temp.pejabat_kini k
  join connector.pejabat j on j.parpol_id = %(parpol_id)s and j.source_key = k.source_key
 where j.nomor_sk = k.nomor_sk and j.susunan <> k.susunan
union all
select 'KANTOR_MASA_BERLAKU', 'kantor', source_key, hashtextextended(source_key, 0)
  from staging.kantor
 where parpol_id = %(parpol_id)s and dihapus_pada is null
   and (berlaku_sampai < staging.tanggal_terakhir() or berlaku_sampai is null and status_kantor <> 'MILIK_SENDIRI')
union all
select 'REKENING_ATAS_NAMA', 'rekening', r.source_key, hashtextextended(r.source_key, 0)
  from staging.rekening r, (select array_agg(distinct one) as names from names, unnest(names) as one) n
 where r.parpol_id = %(parpol_id)s and r.dihapus_pada is null
   and not exists (select from unnest(n.names) as one where position(one in staging.kata(r.atas_nama)) > 0)
   and n.names is not null
"""

_RAISE = b"""
insert into staging.temuan as t (jenis, parpol_id, entity, source_key, kelompok)
select jenis, %(parpol_id)s, entity, source_key, kelompok from pg_temp.harap_organisasi
on conflict (parpol_id, entity, source_key, jenis) do update
   set kelompok = excluded.kelompok, last_seen = clock_timestamp(), resolved_at = null,
       first_seen = case when t.resolved_at is null then t.first_seen else clock_timestamp() end
 where t.resolved_at is not null or t.kelompok <> excluded.kelompok
"""

_RESOLVE = b"""
update staging.temuan t set resolved_at = clock_timestamp(), last_seen = clock_timestamp()
 where t.parpol_id = %(parpol_id)s and t.jenis = any (%(kinds)s) and t.resolved_at is null
   and not exists (select from pg_temp.harap_organisasi h
                    where h.jenis = t.jenis and h.entity = t.entity and h.source_key = t.source_key)
"""

# What an officer was under a decree stays remembered until another decree comes.
_REMEMBER = b"""
insert into connector.pejabat as j (parpol_id, source_key, nik, anggota_key, susunan, nomor_sk)
select %(parpol_id)s, source_key, hashtextextended(nik, 0), anggota_key, susunan, nomor_sk from pg_temp.pejabat_kini
on conflict (parpol_id, source_key) do update
   set nik = excluded.nik, anggota_key = excluded.anggota_key,
       susunan = case when j.nomor_sk = excluded.nomor_sk then j.susunan else excluded.susunan end,
       nomor_sk = coalesce(excluded.nomor_sk, j.nomor_sk)
 where (j.nik, j.anggota_key) is distinct from (excluded.nik, excluded.anggota_key)
    or j.nomor_sk is distinct from coalesce(excluded.nomor_sk, j.nomor_sk)
"""

_FORGET = b"""
delete from connector.pejabat j
 where j.parpol_id = %(parpol_id)s
   and not exists (select from pg_temp.pejabat_kini k where k.source_key = j.source_key)
"""

_DONE = b"delete from connector.organisasi_due where parpol_id = %(parpol_id)s"
