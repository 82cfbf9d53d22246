-- The staging contract: what a party's rows become. Column names are KPU's words where a source has them.
--
-- Every core table is partitioned by party, so that one party can be loaded, vacuumed, detached or erased
-- alone, and has no default partition: a row of an unknown party is an error. The upsert key is
-- (parpol_id, source_key). There is no other index on purpose: with one, an update of an indexed column
-- is not HOT. NIK is not unique, not even within a party: duplicates are a finding KPU must see.
--
-- The constraints here are the last net. The mapping program refuses a bad value first, with a reason.

create schema staging;
comment on schema staging is 'The staging contract: rows of the parties, quarantine, batches, reference data.';

create table staging.parpol (
    parpol_id              smallint not null,
    source_key             text collate "C" not null,
    nama                   varchar(150) not null,
    singkatan              varchar(30),
    jenis                  varchar(12) not null check (jenis in ('NASIONAL', 'LOKAL_ACEH')),
    nomor_berita_negara    varchar(60),
    tanggal_berita_negara  date,
    nomor_ad_art           varchar(60),
    tanggal_ad_art         date,
    nomor_sk_menkum        varchar(60),
    tanggal_sk_menkum      date,
    lambang_sha256         bytea,
    surel                  text,
    telepon                text,
    situs                  text,
    indikasi               text[],
    row_hash               bytea not null,
    mapping_version        text not null,
    sync_batch_id          bigint not null,
    source_ts              timestamptz,
    read_position          bigint not null,
    staged_at              timestamptz not null,
    dihapus_pada           timestamptz,
    alasan_hapus           text,
    primary key (parpol_id, source_key)
) partition by list (parpol_id);

create table staging.petugas (
    parpol_id               smallint not null,
    source_key              text collate "C" not null,
    peran                   varchar(20) not null
                            check (peran in ('PETUGAS_PENGHUBUNG', 'ADMIN_SIPOL', 'PIC_INTEGRASI')),
    tingkat                 varchar(10) not null check (tingkat in ('PUSAT', 'PROVINSI', 'KABKOTA', 'KECAMATAN')),
    kode_wilayah            varchar(8),
    nama                    varchar(100) not null,
    nik                     char(16) not null,
    nomor_kta               varchar(50) not null,
    tempat_lahir            varchar(100),
    tanggal_lahir           date not null,
    jenis_kelamin           char(1) not null check (jenis_kelamin in ('L', 'P')),
    alamat                  varchar(255) not null,
    surel                   text not null,
    telepon                 text not null,
    pekerjaan               varchar(60) not null,
    jabatan                 varchar(100) not null,
    nomor_surat_penunjukan  varchar(80) not null,
    tanggal_surat           date not null,
    berlaku_sampai          date,
    indikasi                text[],
    row_hash                bytea not null,
    mapping_version         text not null,
    sync_batch_id           bigint not null,
    source_ts               timestamptz,
    read_position           bigint not null,
    staged_at               timestamptz not null,
    dihapus_pada            timestamptz,
    alasan_hapus            text,
    primary key (parpol_id, source_key),
    constraint wilayah_sesuai_tingkat check (kode_wilayah is not null or tingkat = 'PUSAT')
) partition by list (parpol_id);

create table staging.kepengurusan (
    parpol_id          smallint not null,
    source_key         text collate "C" not null,
    tingkat            varchar(10) not null check (tingkat in ('PUSAT', 'PROVINSI', 'KABKOTA', 'KECAMATAN')),
    kode_wilayah       varchar(8),
    nama_unit          varchar(150),
    nomor_sk           varchar(80) not null,
    tanggal_sk         date not null,
    sk_berlaku_sampai  date,
    status             varchar(10) not null check (status in ('AKTIF', 'BERAKHIR')),
    indikasi           text[],
    row_hash           bytea not null,
    mapping_version    text not null,
    sync_batch_id      bigint not null,
    source_ts          timestamptz,
    read_position      bigint not null,
    staged_at          timestamptz not null,
    dihapus_pada       timestamptz,
    alasan_hapus       text,
    primary key (parpol_id, source_key),
    constraint wilayah_sesuai_tingkat check (kode_wilayah is not null or tingkat = 'PUSAT')
) partition by list (parpol_id);

-- No foreign key to the board: parties send rows in any order, and a board may be in quarantine.
create table staging.pengurus (
    parpol_id                smallint not null,
    source_key               text collate "C" not null,
    kepengurusan_source_key  text not null,
    nama                     varchar(100) not null,
    jabatan                  varchar(100) not null,
    jabatan_inti             varchar(12) not null
                             check (jabatan_inti in ('KETUA', 'SEKRETARIS', 'BENDAHARA', 'LAINNYA')),
    jenis_kelamin            char(1) not null check (jenis_kelamin in ('L', 'P')),
    nik                      char(16),
    nomor_kta                varchar(50),
    urutan                   smallint,
    indikasi                 text[],
    row_hash                 bytea not null,
    mapping_version          text not null,
    sync_batch_id            bigint not null,
    source_ts                timestamptz,
    read_position            bigint not null,
    staged_at                timestamptz not null,
    dihapus_pada             timestamptz,
    alasan_hapus             text,
    primary key (parpol_id, source_key)
) partition by list (parpol_id);

create table staging.kantor (
    parpol_id               smallint not null,
    source_key              text collate "C" not null,
    tingkat                 varchar(10) not null check (tingkat in ('PUSAT', 'PROVINSI', 'KABKOTA')),
    kode_wilayah            varchar(8),
    alamat                  varchar(255) not null,
    kode_pos                varchar(5),
    kode_kelurahan          varchar(13),
    telepon                 text,
    surel                   text,
    status_kantor           varchar(15) not null
                            check (status_kantor in ('MILIK_SENDIRI', 'SEWA', 'PINJAM_PAKAI', 'LAINNYA')),
    nomor_surat_keterangan  varchar(80),
    tanggal_surat           date,
    berlaku_sampai          date,
    indikasi                text[],
    row_hash                bytea not null,
    mapping_version         text not null,
    sync_batch_id           bigint not null,
    source_ts               timestamptz,
    read_position           bigint not null,
    staged_at               timestamptz not null,
    dihapus_pada            timestamptz,
    alasan_hapus            text,
    primary key (parpol_id, source_key),
    constraint wilayah_sesuai_tingkat check (kode_wilayah is not null or tingkat = 'PUSAT')
) partition by list (parpol_id);

create table staging.rekening (
    parpol_id        smallint not null,
    source_key       text collate "C" not null,
    tingkat          varchar(10) not null check (tingkat in ('PUSAT', 'PROVINSI', 'KABKOTA')),
    kode_wilayah     varchar(8),
    nama_bank        varchar(100) not null,
    kode_bank        varchar(10),
    nomor_rekening   varchar(34) not null,
    atas_nama        varchar(150) not null,
    indikasi         text[],
    row_hash         bytea not null,
    mapping_version  text not null,
    sync_batch_id    bigint not null,
    source_ts        timestamptz,
    read_position    bigint not null,
    staged_at        timestamptz not null,
    dihapus_pada     timestamptz,
    alasan_hapus     text,
    primary key (parpol_id, source_key),
    constraint wilayah_sesuai_tingkat check (kode_wilayah is not null or tingkat = 'PUSAT')
) partition by list (parpol_id);

create table staging.anggota (
    parpol_id            smallint not null,
    source_key           text collate "C" not null,
    nik                  char(16),
    nomor_kta            varchar(50) not null,
    nama                 varchar(100) not null,
    jenis_kelamin        char(1) not null check (jenis_kelamin in ('L', 'P')),
    tempat_lahir         varchar(100),
    tanggal_lahir        date not null,
    status_perkawinan    char(1) check (status_perkawinan in ('B', 'S', 'P')),
    pekerjaan            varchar(60) not null,
    pekerjaan_kode       smallint,
    alamat               varchar(255) not null,
    rt                   varchar(3),
    rw                   varchar(3),
    kode_kabkota         varchar(5) not null,
    kode_kecamatan       varchar(8) not null,
    kode_kelurahan       varchar(13),
    kode_wilayah_sumber  text not null,
    jenis_identitas      varchar(3) check (jenis_identitas in ('KTP', 'KK')),
    nik_hmac             bytea,
    indikasi             text[],
    row_hash             bytea not null,
    mapping_version      text not null,
    sync_batch_id        bigint not null,
    source_ts            timestamptz,
    read_position        bigint not null,
    staged_at            timestamptz not null,
    dihapus_pada         timestamptz,
    alasan_hapus         text,
    primary key (parpol_id, source_key)
) partition by list (parpol_id);
comment on column staging.anggota.nik is 'Null only for a local party of Aceh; the mapping program sees to it.';
comment on column staging.anggota.kode_wilayah_sumber is 'The region as the party sent it, before it was resolved.';

create table staging.dokumen (
    parpol_id           smallint not null,
    source_key          text collate "C" not null,
    jenis               varchar(40) not null,
    pemilik_entity      varchar(20) not null,
    pemilik_source_key  text not null,
    nomor               varchar(80),
    tanggal             date,
    sha256              bytea,
    ukuran              bigint,
    tersedia            boolean not null,
    indikasi            text[],
    row_hash            bytea not null,
    mapping_version     text not null,
    sync_batch_id       bigint not null,
    source_ts           timestamptz,
    read_position       bigint not null,
    staged_at           timestamptz not null,
    dihapus_pada        timestamptz,
    alasan_hapus        text,
    primary key (parpol_id, source_key)
) partition by list (parpol_id);

-- The database refuses a batch that does not balance: no row may vanish between reading and writing.
create table staging.sync_batch (
    id               bigint generated always as identity primary key,
    party            text not null,
    parpol_id        smallint not null,
    entity           text not null,
    kind             text not null,
    audit_seq        bigint,
    mapping_version  text,
    mapping_digest   text,
    position_from    text,
    position_to      text,
    signalled        bigint not null default 0,
    read             bigint not null default 0,
    inserted         bigint not null default 0,
    updated          bigint not null default 0,
    unchanged        bigint not null default 0,
    deleted          bigint not null default 0,
    absent           bigint not null default 0,
    quarantined      bigint not null default 0,
    parked           bigint not null default 0,
    committed_first  timestamptz,
    committed_last   timestamptz,
    started_at       timestamptz not null,
    ended_at         timestamptz not null,
    constraint no_count_is_negative check (
        least(signalled, read, inserted, updated, unchanged, deleted, absent, quarantined, parked) >= 0),
    constraint what_was_read_is_accounted_for check (read = inserted + updated + unchanged + quarantined),
    constraint what_was_signalled_is_accounted_for check (
        kind <> 'signals' or signalled = read + deleted + absent + parked)
);
create index sync_batch_entity on staging.sync_batch (party, entity, id);

create table staging.karantina (
    parpol_id        smallint not null,
    entity           text not null,
    source_key       text collate "C" not null,
    sync_batch_id    bigint not null,
    reasons          text[] not null check (cardinality(reasons) >= 1),
    columns          text[],
    rows_seen        integer not null default 1,
    mapping_version  text,
    first_seen       timestamptz not null default now(),
    last_seen        timestamptz not null default now(),
    primary key (parpol_id, entity, source_key)
);
comment on table staging.karantina is 'Rows that were refused: the party''s key and the reasons, never a cell value.';
comment on column staging.karantina.columns is 'Parallel to reasons: the staging column each one is about.';
