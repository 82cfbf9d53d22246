-- Findings over sets of rows, and counts for each regency: kept current from the journal, in the background.
-- A finding is something KPU should look at. It is no status: MS, BMS and TMS are acts of KPU and stand nowhere here.

-- A person's name as it is compared: upper case, what follows a comma (academic titles) off, titles before the name off,
-- punctuation to blanks, blanks collapsed. SITI RAHMA, S.PD and HJ. SITI RAHMA are one. Titles behind a name without a
-- comma stay: ST or SE may be somebody's name. A name without a Latin letter is compared as it is.
create function staging.nama_orang(nama text) returns text
language sql immutable parallel safe
return coalesce(nullif(btrim(regexp_replace(
    regexp_replace(translate(upper(split_part(nama, ',', 1) collate "C"), '''`‘’', ''), '[^A-Z0-9]+', ' ', 'g'),
    '^ ?((H|HJ|KH|DR|DRG|IR|DRS|DRA|PROF|UST|USTADZ|TGK) )+(?=.)', '')), ''), nama);

-- One row for each live member: by what it meets others. Hashes of 64 bits, of NIKs keyed ones (the head of nik_hmac).
create table connector.sosok (
    parpol_id       smallint not null,
    source_key      text collate "C" not null,
    lokal           boolean not null,
    nik             bigint,
    orang           bigint not null,
    nama            bigint not null,
    kta             bigint not null,
    kode_kabkota    varchar(5) not null,
    kode_kecamatan  varchar(8) not null,
    tanda           "char"[] not null,
    primary key (parpol_id, source_key)
);
create index sosok_nik on connector.sosok (nik);
create index sosok_nama on connector.sosok (parpol_id, nama);
create index sosok_kta on connector.sosok (parpol_id, kta);
create index sosok_wilayah on connector.sosok (parpol_id, kode_kabkota);
comment on column connector.sosok.lokal is 'Of a local party of Aceh: its members may belong to a national party too.';
comment on column connector.sosok.orang is 'Name and birth date. `nama`: those and the sex.';
comment on column connector.sosok.tanda is 'Findings of the row itself that are counted: U age, P occupation, N anything about the NIK.';

create table staging.temuan (
    jenis         text not null,
    parpol_id     smallint not null,
    entity        text not null,
    source_key    text collate "C" not null,
    kelompok      bigint not null,
    utama         boolean not null default false,
    first_seen    timestamptz not null default clock_timestamp(),
    last_seen     timestamptz not null default clock_timestamp(),
    resolved_at   timestamptz,
    primary key (parpol_id, entity, source_key, jenis)
);
comment on table staging.temuan is
    'Findings over sets: GANDA_IDENTIK, GANDA_POTENSI, GANDA_EKSTERNAL, KTA_GANDA (anggota), DUALISME (kepengurusan).';
comment on column staging.temuan.kelompok is 'Equal for the rows of one set. Rows of several parties share it: not for parties'' eyes.';
comment on column staging.temuan.utama is 'Of identical rows the one that is counted.';

create table staging.hitungan (
    parpol_id     smallint not null,
    kode_kabkota  varchar(5) not null,
    anggota       bigint not null,
    bersih        bigint not null,
    identik       bigint not null,
    potensi       bigint not null,
    eksternal     bigint not null,
    kta           bigint not null,
    usia          bigint not null,
    pekerjaan     bigint not null,
    nik           bigint not null,
    kecamatan     integer not null,
    counted_at    timestamptz not null default clock_timestamp(),
    primary key (parpol_id, kode_kabkota)
);
comment on table staging.hitungan is 'Members of a party in a regency, live and by finding; kept by the connector.';
comment on column staging.hitungan.bersih is 'Rows without any finding; of identical rows that have no other, one.';
comment on column staging.hitungan.identik is 'Extra copies: rows of identical sets beyond the one that is counted.';

-- Which counts are to be made anew, and which parties' members are to be read whole (a first copy was under way).
create table connector.hitungan_due (
    parpol_id     smallint not null,
    kode_kabkota  varchar(5) not null,
    primary key (parpol_id, kode_kabkota)
);
create table connector.temuan_due (
    parpol_id  smallint primary key,
    since      timestamptz not null default clock_timestamp()
);

-- How far in the change feed all this is. `place` null: everything is to be read whole.
create table connector.temuan_cursor (
    only_row  boolean primary key default true check (only_row),
    place     text,
    moved_at  timestamptz
);
insert into connector.temuan_cursor default values;

-- Every open finding, of sets and of single rows, under one name.
create view sipol.temuan with (security_barrier) as
    select parpol_id, entity, source_key, jenis, kelompok, first_seen
      from staging.temuan where resolved_at is null
    union all
    select parpol_id, 'anggota', source_key, unnest(indikasi), null, staged_at
      from staging.anggota where dihapus_pada is null and indikasi is not null
    union all
    select parpol_id, 'pengurus', source_key, unnest(indikasi), null, staged_at
      from staging.pengurus where dihapus_pada is null and indikasi is not null
    union all
    select parpol_id, 'kepengurusan', source_key, unnest(indikasi), null, staged_at
      from staging.kepengurusan where dihapus_pada is null and indikasi is not null
    union all
    select parpol_id, 'kantor', source_key, unnest(indikasi), null, staged_at
      from staging.kantor where dihapus_pada is null and indikasi is not null
    union all
    select parpol_id, 'rekening', source_key, unnest(indikasi), null, staged_at
      from staging.rekening where dihapus_pada is null and indikasi is not null
    union all
    select parpol_id, 'petugas', source_key, unnest(indikasi), null, staged_at
      from staging.petugas where dihapus_pada is null and indikasi is not null;
comment on view sipol.temuan is 'Open findings: what KPU should look at. Never a status; who the other party is, KPU alone sees by `kelompok`.';
grant select on sipol.temuan to sipol_reader;
