-- Partai Alfa's own database: PostgreSQL, Indonesian words, clean codes, a history of edits.
-- Everything here belongs to the party. The connector sees schema `ekspor` and no table of `public`.
-- All people are synthetic. Every view finds one key through an index of its base table.

-- The party's profile: one row.
create table public.partai (
  partai_id      smallint primary key,
  nama           varchar(150) not null,
  singkatan      varchar(30),
  no_berita      varchar(60),
  tgl_berita     date,
  no_ad_art      varchar(60),
  tgl_ad_art     date,
  no_sk_menkum   varchar(60),
  tgl_sk_menkum  date,
  surel          text,
  telepon        text,
  situs          text
);

-- Occupations, SIAK's list of 89. A row of it stands behind thousands of members.
create table public.m_kerja (
  kerja_id    smallint primary key,
  nama_kerja  varchar(60) not null
);

create table public.m_jabatan (
  jabatan_id    smallint primary key,
  nama_jabatan  varchar(100) not null,
  inti          char(1) not null                 -- K ketua, S sekretaris, B bendahara, L lainnya
);

create table public.m_bank (
  bank_kode  varchar(10) primary key,
  nama_bank  varchar(100) not null
);

-- `versi` is taken before commit: a long transaction commits a lower number after a higher one was seen.
create sequence public.versi_seq;

create table public.kader (
  kader_id        uuid primary key,
  nik             varchar(20),                   -- '32.73.01-150895-0001', some with a trailing space
  no_kta          varchar(30),                   -- '3273.000123': leading digits matter
  gelar_depan     varchar(20),
  nama            varchar(120),
  gelar_belakang  varchar(40),
  jk              char(1),                       -- L, P, and some W from an old form
  tmp_lahir       varchar(60),
  tgl_lahir       date,
  kawin           smallint,                      -- SIAK 1 to 4
  kerja_id        smallint references public.m_kerja on update cascade,
  alamat          text,
  rt              int,                           -- numbers: the zeros of '003' are gone
  rw              int,
  kel_kode        char(10),                      -- Kemendagri without dots: '3273011001'
  status          varchar(10) not null,          -- aktif, mundur, wafat, pindah
  dibuat          timestamptz not null default now(),
  diubah          timestamptz not null default now(),
  versi           bigint not null default nextval('public.versi_seq')
);
create index kader_kerja on public.kader (kerja_id);

-- Boards: a decree (SK) makes one. tingkat 0 DPP, 1 DPD, 2 DPC, 3 PAC.
create table public.sk (
  sk_id           int primary key,
  no_sk           varchar(80),
  tgl_sk          date,
  berlaku_sampai  date,
  tingkat         int not null,
  wil_kode        varchar(6),                    -- null, '32', '3273', '327301'
  nama_unit       varchar(150),
  status          varchar(10) not null           -- aktif, berakhir
);

create table public.pengurus (
  sk_id       int not null references public.sk on update cascade on delete cascade,
  kader_id    uuid not null references public.kader on update cascade on delete cascade,
  jabatan_id  smallint not null references public.m_jabatan on update cascade,
  urutan      smallint,
  primary key (sk_id, kader_id)
);
create index pengurus_kader on public.pengurus (kader_id);
create index pengurus_jabatan on public.pengurus (jabatan_id);

create table public.kantor (
  kantor_id       int primary key,
  tingkat         int not null,
  wil_kode        varchar(6),
  alamat          varchar(255) not null,
  kode_pos        varchar(5),
  kel_kode        char(10),
  telepon         varchar(40),
  surel           varchar(120),
  milik           char(1) not null,              -- M milik sendiri, S sewa, P pinjam pakai, L lainnya
  no_surat        varchar(80),
  tgl_surat       date,
  berlaku_sampai  date
);

create table public.rekening (
  bank_kode  varchar(10) not null references public.m_bank on update cascade,
  no_rek     varchar(34) not null,
  tingkat    int not null,
  wil_kode   varchar(6),
  atas_nama  varchar(150) not null,
  primary key (bank_kode, no_rek)
);

create schema ekspor;

-- What the party tells about members who left. It covers 'mundur' and nothing else, as such tables do.
create table ekspor.penghapusan (
  kader_id  uuid not null,
  alasan    text not null,
  waktu     timestamptz not null,
  versi     bigint not null
);

create function public.kader_diubah() returns trigger language plpgsql as $$
begin
  new.diubah := now();
  new.versi := nextval('public.versi_seq');
  if old.status = 'aktif' and new.status = 'mundur' then
    insert into ekspor.penghapusan values (new.kader_id, new.status, now(), new.versi);
  end if;
  return new;
end
$$;
create trigger kader_diubah before update on public.kader for each row execute function public.kader_diubah();

create view ekspor.v_parpol as
  select partai_id, nama, singkatan, no_berita, tgl_berita, no_ad_art, tgl_ad_art, no_sk_menkum, tgl_sk_menkum,
         surel, telepon, situs
    from public.partai;

create view ekspor.v_kepengurusan as
  select sk_id, no_sk, tgl_sk, berlaku_sampai, tingkat, wil_kode, nama_unit, status
    from public.sk;

-- A board that ends takes its people out of the view, although no row of theirs changed.
create view ekspor.v_pengurus as
  select p.sk_id, p.kader_id, p.jabatan_id, p.urutan, j.nama_jabatan, j.inti,
         concat_ws(' ', k.gelar_depan, k.nama) || coalesce(', ' || k.gelar_belakang, '') as nama_lengkap,
         k.nik, k.no_kta, k.jk, s.tingkat
    from public.pengurus p
    join public.sk s on s.sk_id = p.sk_id
    join public.kader k on k.kader_id = p.kader_id
    join public.m_jabatan j on j.jabatan_id = p.jabatan_id
   where s.status = 'aktif';

create view ekspor.v_kantor as
  select kantor_id, tingkat, wil_kode, alamat, kode_pos, kel_kode, telepon, surel, milik, no_surat, tgl_surat,
         berlaku_sampai
    from public.kantor;

create view ekspor.v_rekening as
  select r.bank_kode, r.no_rek, r.tingkat, r.wil_kode, r.atas_nama, b.nama_bank
    from public.rekening r
    join public.m_bank b on b.bank_kode = r.bank_kode;

-- Leaving 'aktif' is vanishing from this view.
create view ekspor.v_anggota as
  select k.kader_id, k.nik, k.no_kta, k.gelar_depan, k.nama, k.gelar_belakang, k.jk, k.tmp_lahir, k.tgl_lahir, k.kawin,
         k.kerja_id, k.alamat, k.rt, k.rw, k.kel_kode, k.status, k.dibuat, k.diubah, k.versi,
         concat_ws(' ', k.gelar_depan, k.nama) || coalesce(', ' || k.gelar_belakang, '') as nama_lengkap,
         w.nama_kerja
    from public.kader k
    left join public.m_kerja w on w.kerja_id = k.kerja_id
   where k.status = 'aktif';

insert into public.m_kerja (kerja_id, nama_kerja) values
  (1, 'BELUM/TIDAK BEKERJA'), (2, 'MENGURUS RUMAH TANGGA'), (3, 'PELAJAR/MAHASISWA'), (4, 'PENSIUNAN'),
  (5, 'PEGAWAI NEGERI SIPIL'), (6, 'TENTARA NASIONAL INDONESIA'), (7, 'KEPOLISIAN RI'), (8, 'PERDAGANGAN'),
  (9, 'PETANI/PEKEBUN'), (10, 'PETERNAK'), (11, 'NELAYAN/PERIKANAN'), (12, 'INDUSTRI'), (13, 'KONSTRUKSI'),
  (14, 'TRANSPORTASI'), (15, 'KARYAWAN SWASTA'), (16, 'KARYAWAN BUMN'), (17, 'KARYAWAN BUMD'),
  (18, 'KARYAWAN HONORER'), (19, 'BURUH HARIAN LEPAS'), (20, 'BURUH TANI/PERKEBUNAN'),
  (21, 'BURUH NELAYAN/PERIKANAN'), (22, 'BURUH PETERNAKAN'), (23, 'PEMBANTU RUMAH TANGGA'), (24, 'TUKANG CUKUR'),
  (25, 'TUKANG LISTRIK'), (26, 'TUKANG BATU'), (27, 'TUKANG KAYU'), (28, 'TUKANG SOL SEPATU'),
  (29, 'TUKANG LAS/PANDAI BESI'), (30, 'TUKANG JAHIT'), (31, 'TUKANG GIGI'), (32, 'PENATA RIAS'),
  (33, 'PENATA BUSANA'), (34, 'PENATA RAMBUT'), (35, 'MEKANIK'), (36, 'SENIMAN'), (37, 'TABIB'), (38, 'PARAJI'),
  (39, 'PERANCANG BUSANA'), (40, 'PENTERJEMAH'), (41, 'IMAM MASJID'), (42, 'PENDETA'), (43, 'PASTOR'),
  (44, 'WARTAWAN'), (45, 'USTADZ/MUBALIGH'), (46, 'JURU MASAK'), (47, 'PROMOTOR ACARA'), (48, 'ANGGOTA DPR-RI'),
  (49, 'ANGGOTA DPD'), (50, 'ANGGOTA BPK'), (51, 'PRESIDEN'), (52, 'WAKIL PRESIDEN'),
  (53, 'ANGGOTA MAHKAMAH KONSTITUSI'), (54, 'ANGGOTA KABINET/KEMENTERIAN'), (55, 'DUTA BESAR'), (56, 'GUBERNUR'),
  (57, 'WAKIL GUBERNUR'), (58, 'BUPATI'), (59, 'WAKIL BUPATI'), (60, 'WALIKOTA'), (61, 'WAKIL WALIKOTA'),
  (62, 'ANGGOTA DPRD PROVINSI'), (63, 'ANGGOTA DPRD KABUPATEN/KOTA'), (64, 'DOSEN'), (65, 'GURU'), (66, 'PILOT'),
  (67, 'PENGACARA'), (68, 'NOTARIS'), (69, 'ARSITEK'), (70, 'AKUNTAN'), (71, 'KONSULTAN'), (72, 'DOKTER'),
  (73, 'BIDAN'), (74, 'PERAWAT'), (75, 'APOTEKER'), (76, 'PSIKIATER/PSIKOLOG'), (77, 'PENYIAR TELEVISI'),
  (78, 'PENYIAR RADIO'), (79, 'PELAUT'), (80, 'PENELITI'), (81, 'SOPIR'), (82, 'PIALANG'), (83, 'PARANORMAL'),
  (84, 'PEDAGANG'), (85, 'PERANGKAT DESA'), (86, 'KEPALA DESA'), (87, 'BIARAWATI'), (88, 'WIRASWASTA'),
  (89, 'LAINNYA');

insert into public.m_jabatan (jabatan_id, nama_jabatan, inti) values
  (1, 'Ketua', 'K'), (2, 'Sekretaris', 'S'), (3, 'Bendahara', 'B'), (4, 'Wakil Ketua', 'L'),
  (5, 'Wakil Sekretaris', 'L'), (6, 'Wakil Bendahara', 'L'), (7, 'Ketua Bidang Organisasi', 'L'),
  (8, 'Ketua Bidang Kaderisasi', 'L'), (9, 'Ketua Bidang Perempuan', 'L'), (10, 'Ketua Bidang Pemuda', 'L');

insert into public.m_bank (bank_kode, nama_bank) values
  ('002', 'Bank Rakyat Indonesia'), ('008', 'Bank Mandiri'), ('009', 'Bank Negara Indonesia'),
  ('014', 'Bank Central Asia'), ('200', 'Bank Tabungan Negara'), ('451', 'Bank Syariah Indonesia');
