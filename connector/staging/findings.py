"""Findings over sets of rows, and counts by regency: kept current from the change feed, beside the parties' batches.

One session at a time does this for all parties (an advisory lock sees to it), a page of the feed in one transaction.
What it keeps can be made anew from staging at any time, and is, where the feed does not reach back far enough or where
a party's first copy was under way. It sets no status: a finding is something KPU should look at.
"""

from __future__ import annotations

from dataclasses import dataclass

import psycopg

from connector.staging import organisation

# Keys of the feed taken at a time: a second of work.
PAGE_KEYS = 20_000
# So far behind, reading the changed parties' members whole is quicker than following the feed.
REBUILD_KEYS = 200_000
ADVISORY_LOCK = 0x5369506F6C02

COUNTED = {
    "U": ("INDIKASI_USIA",),
    "P": ("INDIKASI_PEKERJAAN",),
    "N": ("INDIKASI_NIK_WILAYAH", "NIK_TANGGAL", "NIK_KELAMIN"),
}


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did: keys taken from the feed, a party read whole, one's organisation judged, regencies counted,
    or a new beginning."""

    keys: int = 0
    rebuilt: int = 0
    judged: int = 0
    counted: int = 0
    anew: bool = False

    @property
    def idle(self) -> bool:
        return not (self.keys or self.rebuilt or self.judged or self.counted or self.anew)


def step(conn: psycopg.Connection, *, hurry: bool = False) -> Step:
    """Take the next page in, or read a party whole, or judge an organisation, or count anew; at most one of them.

    Judging and counting come last: while changes stream in they would be done over and over. With `hurry` a busy
    party is read too.
    """
    with conn.transaction():
        row = conn.execute("select pg_try_advisory_xact_lock(%s)", (ADVISORY_LOCK,)).fetchone()
        if row is None or not row[0]:
            return Step()
        conn.execute(_NEW_DOCUMENTS)
        organisation.note_day(conn)
        rebuilt = _rebuild_next(conn, hurry=hurry)
        if rebuilt:
            return Step(rebuilt=rebuilt)
        taken = _take_page(conn)
        if not taken.idle:
            return taken
        judged = organisation.judge_next(conn)
        return Step(judged=judged) if judged else Step(counted=_count(conn))


def is_loading(conn: psycopg.Connection) -> bool:
    """Whether a first copy is under way: better come back later."""
    row = conn.execute(_LOADING).fetchone()
    return row is not None and bool(row[0])


def _take_page(conn: psycopg.Connection) -> Step:
    """Bring one page of the feed into the findings."""
    row = conn.execute("select place from connector.temuan_cursor for update").fetchone()
    assert row is not None
    if row[0] is None:
        return _begin_anew(conn, _EVERYBODY)
    pending = conn.execute(_PENDING, (row[0],)).fetchone()
    assert pending is not None
    if pending[0] > REBUILD_KEYS:
        return _begin_anew(conn, _CHANGED, row[0])
    for statement in _TEMPORARY:
        conn.execute(statement)
    try:
        with conn.transaction():
            taken = conn.execute(_TAKE, {"place": row[0], "keys": PAGE_KEYS}).fetchone()
    except psycopg.errors.InvalidParameterValue:
        # The feed begins after our place by now, or another database's was restored over this one.
        return _begin_anew(conn, _EVERYBODY)
    assert taken is not None
    if not taken[0]:
        return Step()
    conn.execute("update connector.temuan_cursor set place = %s, moved_at = clock_timestamp()", (taken[1],))
    conn.execute(_LATER)
    conn.execute("analyze pg_temp.halaman")
    conn.execute(_TOUCH_OLD)
    conn.execute(_REFRESH)
    conn.execute(_TOUCH_NEW)
    conn.execute("analyze pg_temp.tersentuh")
    conn.execute(_AFFECTED)
    conn.execute(_PAPERS_OLD)
    conn.execute(_PAPERS_NEW)
    _judge(conn)
    organisation.note_page(conn)
    return Step(keys=taken[0])


def _begin_anew(conn: psycopg.Connection, due: bytes, *values: object) -> Step:
    """Have parties read whole, and follow the feed from now on: what changes meanwhile comes through it."""
    conn.execute(due, values or None)
    conn.execute("update connector.temuan_cursor set place = sipol.perubahan_kini(), moved_at = clock_timestamp()")
    return Step(anew=True)


def settle(conn: psycopg.Connection) -> None:
    """Bring everything up to date now; returns at once where another session is at it."""
    while not step(conn, hurry=True).idle:
        pass


def _rebuild_next(conn: psycopg.Connection, *, hurry: bool) -> int:
    """Read a party's members whole, where that is due and possible; gives its parpol_id, 0 where there is none."""
    row = conn.execute(_DUE, {"hurry": hurry}).fetchone()
    if row is None:
        return 0
    values = {"parpol_id": row[0]}
    for statement in _TEMPORARY:
        conn.execute(statement)
    conn.execute(_WHOLE_PARTY, values)
    conn.execute("delete from connector.sosok where parpol_id = %(parpol_id)s", values)
    conn.execute(_FILL, values)
    conn.execute("delete from connector.berkas where parpol_id = %(parpol_id)s", values)
    conn.execute(_FILL_PAPERS, values)
    conn.execute("analyze connector.sosok")
    conn.execute(_WHOLE_PARTY, values)
    _judge(conn)
    conn.execute(_ALL_REGIONS, values)
    conn.execute(
        "insert into connector.organisasi_due (parpol_id) values (%(parpol_id)s) on conflict do nothing", values
    )
    conn.execute("delete from connector.temuan_due where parpol_id = %(parpol_id)s", values)
    return int(row[0])


def _judge(conn: psycopg.Connection) -> None:
    """Find out anew what holds of every member in `terkena`; whole sets must be in it."""
    conn.execute("analyze pg_temp.terkena")
    conn.execute(_EXPECT)
    conn.execute("analyze pg_temp.harap")
    conn.execute(_RAISE)
    conn.execute(_RESOLVE)
    conn.execute(_DIRTY)


def _count(conn: psycopg.Connection) -> int:
    """Count the regencies of one party that changed: the step's last statement."""
    # Right after a first copy nothing has statistics. For one row of `found`, as the planner then expects, a loop would
    # do; for a regency of 20,000 members it took 90 seconds.
    conn.execute("set local enable_nestloop = off")
    return conn.execute(_COUNT).rowcount


_EVERYBODY = b"""
insert into connector.temuan_due (parpol_id) select parpol_id from connector.party on conflict do nothing
"""
_PENDING = b"select coalesce(sum(key_count), 0) from connector.journal where xid >= split_part(%s, '.', 1)::xid8"
_CHANGED = b"""
insert into connector.temuan_due (parpol_id)
select distinct parpol_id from connector.journal where xid >= split_part(%s, '.', 1)::xid8 on conflict do nothing
"""

# `tersentuh`: what changed rows were or are found by; letter n (NIK), o (name), k (KTA).
_TEMPORARY = tuple(
    f"create temp table if not exists {table} on commit delete rows".encode()
    for table in (
        'halaman (parpol_id smallint, entity text, source_key text collate "C")',
        'tersentuh (letter "char", parpol_id smallint, value bigint)',
        'terkena (parpol_id smallint, source_key text collate "C")',
        'harap (jenis text, parpol_id smallint, source_key text collate "C", kelompok bigint, utama boolean)',
    )
)

_TAKE = b"""
with page as materialized (select * from sipol.perubahan(%(place)s, %(keys)s) with ordinality),
     noted as (insert into pg_temp.halaman
               select distinct parpol_id, entity, source_key from page where entity <> 'petugas')
select count(*), (select "cursor" from page order by ordinality desc limit 1) from page
"""

# While a first copy is under way its rows are in a table of their own: read them whole when it is through.
_LATER = b"""
with copied as (
  select p.parpol_id, e.entity from connector.entity e join connector.party p using (party)
   where e.entity = 'anggota' and e.copying and e.bulk),
gone as (
  delete from pg_temp.halaman h using copied c where h.parpol_id = c.parpol_id and h.entity = c.entity
  returning h.parpol_id)
insert into connector.temuan_due (parpol_id) select distinct parpol_id from gone on conflict do nothing
"""

# A first copy that makes progress: everything here would be done again at its end, and costs it processor time.
_LOADING = b"""
select exists (select from connector.entity
                where state = 'copying' and bulk and last_batch_at > now() - interval '30 seconds')
"""

# A party that is busy is left alone for a while: reading it whole takes a processor for half a minute per million rows.
_DUE = b"""
select d.parpol_id from connector.temuan_due d
 where not exists (select from connector.entity e join connector.party p using (party)
                    where p.parpol_id = d.parpol_id
                      and (e.entity = 'anggota' and e.copying and e.bulk
                           or not %(hurry)s and e.last_batch_at > now() - interval '5 seconds'
                              and d.since > now() - interval '2 minutes'))
 order by d.since limit 1 for update skip locked
"""

_MEETS = """
insert into pg_temp.tersentuh
select 'n', null, nik from s where nik is not null
 union select 'o', parpol_id, nama from s
 union select 'k', parpol_id, kta from s
"""

_TOUCH_OLD = f"""
with s as (select s.* from connector.sosok s join pg_temp.halaman h using (parpol_id, source_key)
            where h.entity = 'anggota'),
     dirty as (insert into connector.hitungan_due select distinct parpol_id, kode_kabkota from s on conflict do nothing)
{_MEETS}
""".encode()

_TOUCH_NEW = _TOUCH_OLD

# A party's own members, and those elsewhere that share a NIK with one. Run before and after it is read.
_WHOLE_PARTY = b"""
insert into pg_temp.terkena
select parpol_id, source_key from connector.sosok where parpol_id = %(parpol_id)s
union all
select o.parpol_id, o.source_key from connector.sosok o
 where o.parpol_id <> %(parpol_id)s
   and o.nik in (select nik from connector.sosok where parpol_id = %(parpol_id)s)
"""

_TANDA = " || ".join(
    f"case when a.indikasi && array[{', '.join(repr(code) for code in codes)}] then array['{letter}'::\"char\"]"
    " else '{}' end"
    for letter, codes in COUNTED.items()
)

_SOSOK = f"""
select a.parpol_id, a.source_key, p.jenis = 'LOKAL_ACEH',
       ('x' || encode(substr(a.nik_hmac, 1, 8), 'hex'))::bit(64)::bigint,
       hashtextextended(n.orang, 0), hashtextextended(n.orang || a.jenis_kelamin, 0), hashtextextended(a.nomor_kta, 0),
       a.kode_kabkota, a.kode_kecamatan,
       case when a.indikasi is null then '{{}}' else {_TANDA} end
  from staging.anggota a join connector.party p using (parpol_id)
 cross join lateral (select staging.nama_orang(a.nama) || '|' || a.tanggal_lahir as orang offset 0) n
"""

_FILL = f"""
insert into connector.sosok {_SOSOK} where a.parpol_id = %(parpol_id)s and a.dihapus_pada is null
""".encode()

# The page's members as they are now. The row locks of nobody are needed: only this session writes here.
_REFRESH = f"""
with gone as (
  delete from connector.sosok s using pg_temp.halaman h
   where h.entity = 'anggota' and s.parpol_id = h.parpol_id and s.source_key = h.source_key
     and not exists (select from staging.anggota a
                      where a.parpol_id = h.parpol_id and a.source_key = h.source_key and a.dihapus_pada is null))
insert into connector.sosok
{_SOSOK} join pg_temp.halaman h on h.entity = 'anggota' and h.parpol_id = a.parpol_id and h.source_key = a.source_key
 where a.dihapus_pada is null
on conflict (parpol_id, source_key) do update
   set lokal = excluded.lokal, nik = excluded.nik, orang = excluded.orang, nama = excluded.nama, kta = excluded.kta,
       kode_kabkota = excluded.kode_kabkota, kode_kecamatan = excluded.kode_kecamatan, tanda = excluded.tanda
""".encode()

# Also the changed rows themselves: one that is gone has no finding any more.
_AFFECTED = b"""
insert into pg_temp.terkena
select s.parpol_id, s.source_key from connector.sosok s
  join (select distinct value from pg_temp.tersentuh where letter = 'n') n on s.nik = n.value
 union select s.parpol_id, s.source_key from connector.sosok s
  join (select distinct parpol_id, value from pg_temp.tersentuh where letter = 'o') o
    on s.parpol_id = o.parpol_id and s.nama = o.value
 union select s.parpol_id, s.source_key from connector.sosok s
  join (select distinct parpol_id, value from pg_temp.tersentuh where letter = 'k') k
    on s.parpol_id = k.parpol_id and s.kta = k.value
 union select parpol_id, source_key from pg_temp.halaman where entity = 'anggota'
"""

_PAPERS = """
insert into connector.berkas
select d.parpol_id, d.source_key, d.pemilik_source_key, d.jenis = 'KTA' from staging.dokumen d
"""

_OF_MEMBERS = """
 d.pemilik_entity = 'anggota' and d.jenis in ('KTA', 'KTP_EL', 'KK') and d.tersedia and d.dihapus_pada is null
"""

_FILL_PAPERS = f"{_PAPERS} where d.parpol_id = %(parpol_id)s and {_OF_MEMBERS}".encode()

# Whose documents they were is affected, and whose they are now.
_PAPERS_OLD = b"""
with gone as (
  delete from connector.berkas b using pg_temp.halaman h
   where h.entity = 'dokumen' and b.parpol_id = h.parpol_id and b.source_key = h.source_key
  returning b.parpol_id, b.pemilik)
insert into pg_temp.terkena select distinct parpol_id, pemilik from gone
"""

_PAPERS_NEW = f"""
with come as (
  {_PAPERS} join pg_temp.halaman h
    on h.entity = 'dokumen' and h.parpol_id = d.parpol_id and h.source_key = d.source_key and {_OF_MEMBERS}
  returning parpol_id, pemilik)
insert into pg_temp.terkena select distinct parpol_id, pemilik from come
""".encode()

# A party that begins to send documents: from now on each of its members needs some.
_NEW_DOCUMENTS = b"""
with new as (
  insert into connector.berkas_dinilai
  select p.parpol_id from connector.entity e join connector.party p using (party)
   where e.entity = 'dokumen' and e.state not in ('new', 'needs_resync') and not e.copying
     and not exists (select from connector.berkas_dinilai b where b.parpol_id = p.parpol_id)
  on conflict do nothing returning parpol_id)
insert into connector.temuan_due (parpol_id) select parpol_id from new on conflict do nothing
"""

# Sets are summed up once each, so that a set of many rows costs what it has rows.
_EXPECT = b"""
insert into pg_temp.harap
with a as materialized (
       select * from connector.sosok where (parpol_id, source_key) in (select * from pg_temp.terkena)),
     niks as (select distinct nik from a where nik is not null),
     same as materialized (
       select s.nik, s.parpol_id, s.orang, bool_or(s.lokal) as lokal, count(*) as rows, min(s.source_key) as first
         from connector.sosok s join niks using (nik) group by 1, 2, 3),
     own as materialized (
       select nik, parpol_id, bool_or(lokal) as lokal, count(*) as persons from same group by 1, 2),
     -- A national party's member may belong to a local one of Aceh: such pairs are lawful.
     everywhere as materialized (select nik, lokal from own group by 1, 2 having count(*) > 1),
     names as (
       select s.parpol_id, s.nama from connector.sosok s
         join (select distinct parpol_id, nama from a) t using (parpol_id, nama)
        where s.nik is not null group by 1, 2 having min(s.nik) <> max(s.nik)),
     cards as (
       select s.parpol_id, s.kta from connector.sosok s
         join (select distinct parpol_id, kta from a) t using (parpol_id, kta)
        group by 1, 2 having min(coalesce(s.nik, s.orang)) <> max(coalesce(s.nik, s.orang)))
select 'GANDA_IDENTIK', a.parpol_id, a.source_key, a.nik # a.orang, a.source_key = same.first
  from a join same using (nik, parpol_id, orang) where same.rows > 1
union all
select 'GANDA_POTENSI', a.parpol_id, a.source_key, coalesce(own.nik, a.nama), false
  from a left join own on own.nik = a.nik and own.parpol_id = a.parpol_id and own.persons > 1
  left join names on names.parpol_id = a.parpol_id and names.nama = a.nama and a.nik is not null
 where own.nik is not null or names.nama is not null
union all
select 'GANDA_EKSTERNAL', a.parpol_id, a.source_key, a.nik, false
  from a join everywhere on everywhere.nik = a.nik and everywhere.lokal = a.lokal
union all
select 'KTA_GANDA', a.parpol_id, a.source_key, a.kta, false from a join cards using (parpol_id, kta)
union all
select 'DOKUMEN_KURANG', a.parpol_id, a.source_key, hashtextextended(a.source_key, 0), false
  from a join connector.berkas_dinilai using (parpol_id)
 where not exists (select from connector.berkas b
                    where b.parpol_id = a.parpol_id and b.pemilik = a.source_key and b.kartu)
    or not exists (select from connector.berkas b
                    where b.parpol_id = a.parpol_id and b.pemilik = a.source_key and not b.kartu)
"""

_RAISE = b"""
insert into staging.temuan as t (jenis, parpol_id, entity, source_key, kelompok, utama)
select jenis, parpol_id, 'anggota', source_key, kelompok, utama from pg_temp.harap
on conflict (parpol_id, entity, source_key, jenis) do update
   set kelompok = excluded.kelompok, utama = excluded.utama, last_seen = clock_timestamp(), resolved_at = null,
       first_seen = case when t.resolved_at is null then t.first_seen else clock_timestamp() end
 where t.resolved_at is not null or t.kelompok <> excluded.kelompok or t.utama <> excluded.utama
"""

_RESOLVE = b"""
update staging.temuan t set resolved_at = clock_timestamp(), last_seen = clock_timestamp(), utama = false
  from pg_temp.terkena x
 where t.entity = 'anggota' and t.parpol_id = x.parpol_id and t.source_key = x.source_key and t.resolved_at is null
   and not exists (select from pg_temp.harap h
                    where h.jenis = t.jenis and h.parpol_id = t.parpol_id and h.source_key = t.source_key)
"""

_DIRTY = b"""
insert into connector.hitungan_due
select distinct s.parpol_id, s.kode_kabkota
  from pg_temp.terkena x join connector.sosok s using (parpol_id, source_key)
on conflict do nothing
"""

_ALL_REGIONS = b"""
insert into connector.hitungan_due
select parpol_id, kode_kabkota from staging.hitungan where parpol_id = %(parpol_id)s
 union select parpol_id, kode_kabkota from connector.sosok where parpol_id = %(parpol_id)s
on conflict do nothing
"""

_COUNT = b"""
with due as materialized (
  select parpol_id, kode_kabkota from connector.hitungan_due
   where parpol_id = (select min(parpol_id) from connector.hitungan_due)),
found as materialized (
  select t.parpol_id, t.source_key, bool_or(jenis = 'GANDA_IDENTIK') as identik, bool_or(utama) as utama,
         bool_or(jenis = 'GANDA_POTENSI') as potensi, bool_or(jenis = 'GANDA_EKSTERNAL') as eksternal,
         bool_or(jenis = 'KTA_GANDA') as kta
    from staging.temuan t
   where t.parpol_id = (select min(parpol_id) from due) and t.entity = 'anggota' and t.resolved_at is null
   group by 1, 2),
done as (delete from connector.hitungan_due d using due where d.parpol_id = due.parpol_id
             and d.kode_kabkota = due.kode_kabkota),
counted as (
  select s.kode_kabkota, count(*) as anggota,
         count(*) filter (where s.tanda = '{}' and not coalesce(f.potensi, false) and not coalesce(f.eksternal, false)
                            and not coalesce(f.kta, false) and (not coalesce(f.identik, false) or f.utama)) as bersih,
         count(*) filter (where f.identik and not f.utama) as identik, count(*) filter (where f.potensi) as potensi,
         count(*) filter (where f.eksternal) as eksternal, count(*) filter (where f.kta) as kta,
         count(*) filter (where 'U' = any (s.tanda)) as usia, count(*) filter (where 'P' = any (s.tanda)) as pekerjaan,
         count(*) filter (where 'N' = any (s.tanda)) as nik, count(distinct s.kode_kecamatan) as kecamatan
    from connector.sosok s left join found f on f.source_key = s.source_key
   where s.parpol_id = (select min(parpol_id) from due) and s.kode_kabkota = any (array(select kode_kabkota from due))
   group by s.kode_kabkota)
insert into staging.hitungan (parpol_id, kode_kabkota, anggota, bersih, identik, potensi, eksternal, kta, usia,
       pekerjaan, nik, kecamatan)
select due.parpol_id, due.kode_kabkota, coalesce(c.anggota, 0), coalesce(c.bersih, 0), coalesce(c.identik, 0),
       coalesce(c.potensi, 0), coalesce(c.eksternal, 0), coalesce(c.kta, 0), coalesce(c.usia, 0),
       coalesce(c.pekerjaan, 0), coalesce(c.nik, 0), coalesce(c.kecamatan, 0)
  from due left join counted c on c.kode_kabkota = due.kode_kabkota
on conflict (parpol_id, kode_kabkota) do update
   set anggota = excluded.anggota, bersih = excluded.bersih, identik = excluded.identik, potensi = excluded.potensi,
       eksternal = excluded.eksternal, kta = excluded.kta, usia = excluded.usia, pekerjaan = excluded.pekerjaan,
       nik = excluded.nik, kecamatan = excluded.kecamatan, counted_at = clock_timestamp()
"""
