-- Reference data. `connector migrate` fills these tables from schemas/reference and notes the file in ref_versi.

create table staging.ref_versi (
    nama        text primary key,
    versi       text not null,
    sha256      bytea not null check (octet_length(sha256) = 32),
    sumber      text not null,
    dimuat_pada timestamptz not null default now()
);
comment on table staging.ref_versi is 'Which edition of each reference table is loaded, and where it came from.';

-- Region names as people write them come down to one spelling: upper case, apostrophes away, other punctuation
-- to blanks, blanks collapsed, the type word of the level taken off. `Kab. Bogor` and `KOTA BOGOR` both give BOGOR;
-- which one is meant, the type word says (staging.jenis_kabkota), and without it the name is ambiguous.
-- The type word comes off at its own level only: the district Kota Bahagia keeps its Kota.
-- Not `strict`: a strict function with a CASE is not inlined, and this one runs once for each row of a batch.
create function staging.nama_wilayah(nama text, tingkat integer) returns text
language sql immutable parallel safe
return regexp_replace(
    btrim(regexp_replace(translate(upper(nama collate "C"), '''`‘’', ''), '[^A-Z0-9]+', ' ', 'g')),
    case tingkat
        when 1 then '^(PROVINSI|PROPINSI|PROV) (?=.)'
        when 2 then '^(KABUPATEN|KAB|KOTAMADYA|KOTA|KODYA) ((ADMINISTRASI|ADM) )?(?=.)'
        when 3 then '^(KECAMATAN|KEC|DISTRIK) (?=.)'
        else '^(KELURAHAN|KEL|DESA ADAT|DESA) (?=.)'
    end,
    '');

-- KABUPATEN, KOTA or null: what the type word at the head of a regency's name says.
create function staging.jenis_kabkota(nama text) returns text
language sql immutable parallel safe
return case substring(upper(nama collate "C") from '^[^A-Z]*(KABUPATEN|KAB|KOTAMADYA|KOTA|KODYA)[^A-Z]+[A-Z]')
    when 'KABUPATEN' then 'KABUPATEN'
    when 'KAB' then 'KABUPATEN'
    when 'KOTAMADYA' then 'KOTA'
    when 'KODYA' then 'KOTA'
    when 'KOTA' then 'KOTA'
end;

create table staging.ref_wilayah (
    kode            text primary key,
    tingkat         smallint not null check (tingkat between 1 and 4),
    nama            text not null,
    jenis           text not null check (jenis in ('PROVINSI', 'KABUPATEN', 'KOTA', 'KECAMATAN', 'DISTRIK',
                                                   'KELURAHAN', 'DESA', 'DESA_ADAT')),
    induk           text,
    kode_polos      text not null unique,
    nama_norm       text not null,
    nama_tunggal    boolean not null default true,
    berlaku_mulai   date,
    berlaku_sampai  date,
    dasar           text not null,
    constraint hanya_provinsi_tanpa_induk check ((induk is null) = (tingkat = 1))
);
create index ref_wilayah_induk_nama on staging.ref_wilayah (induk, nama_norm);
comment on table staging.ref_wilayah is 'Kemendagri regions in force: 1 province, 2 regency or city, 3 district, 4 village.';
comment on column staging.ref_wilayah.kode_polos is 'The code without dots: 3273011001.';
comment on column staging.ref_wilayah.nama_norm is 'staging.nama_wilayah(nama, tingkat); parties'' names are compared with it.';

comment on column staging.ref_wilayah.nama_tunggal is
    'No other region under the same parent comes down to this name: false for the kabupaten and the kota of Bogor.';

create table staging.ref_wilayah_lama (
    kode_lama  text primary key,
    kode_baru  text not null,
    dasar      text not null
);
comment on table staging.ref_wilayah_lama is
    'Codes no longer in force and the one region in force that has the same name under the same, or the replaced, parent.';

create table staging.ref_wilayah_bps (
    kode_bps  text primary key,
    kode      text not null
);
comment on table staging.ref_wilayah_bps is
    'BPS code to Kemendagri code. Ships empty: a BPS code looks like a Kemendagri code of another place, so nothing is guessed.';

create table staging.ref_wilayah_alias (
    kode       text not null,
    nama_norm  text not null,
    dasar      text not null,
    primary key (kode, nama_norm)
);
comment on table staging.ref_wilayah_alias is 'Other names in use for a region: former names and common short forms.';

create view staging.ref_wilayah_nama as
    select tingkat, induk, nama_norm, jenis, kode from staging.ref_wilayah
    union all
    select w.tingkat, w.induk, a.nama_norm, w.jenis, w.kode
    from staging.ref_wilayah_alias a join staging.ref_wilayah w on w.kode = a.kode;
comment on view staging.ref_wilayah_nama is
    'Every name a region is known by. Resolve from the top down: a name means something only under its parent.';

create table staging.ref_nik_prefix (
    prefix   text primary key,
    tingkat  smallint not null check (tingkat between 1 and 3),
    dasar    text not null,
    angka    bigint generated always as (prefix::bigint) stored unique
);
comment on column staging.ref_nik_prefix.angka is
    'The prefix as a number: a batch compares it with NIKs as numbers, at a third of the cost of text.';
comment on table staging.ref_nik_prefix is
    'Known first digits of a NIK (2, 4 or 6). An unknown one is a finding and never a refusal: old prefixes stay valid.';

create table staging.ref_ambang (
    kode_kabkota       text primary key,
    penduduk           bigint not null check (penduduk > 0),
    minimal_anggota    integer not null check (minimal_anggota between 1 and 1000),
    jumlah_kecamatan   integer not null check (jumlah_kecamatan > 0),
    minimal_kecamatan  integer not null check (minimal_kecamatan between 1 and jumlah_kecamatan),
    dasar              text not null,
    berlaku_mulai      date
);
comment on column staging.ref_ambang.dasar is 'The decision, or the computation, that the minimum stands on.';

create table staging.ref_ambang_provinsi (
    kode_provinsi    text primary key,
    jumlah_kabkota   integer not null check (jumlah_kabkota > 0),
    minimal_kabkota  integer not null check (minimal_kabkota between 1 and jumlah_kabkota),
    dasar            text not null
);

create table staging.ref_pekerjaan (
    kode    smallint primary key check (kode between 1 and 99),
    nama    text not null,
    barred  text check (barred in ('ANGGOTA', 'PENGURUS')),
    dasar   text not null
);
comment on column staging.ref_pekerjaan.barred is
    'ANGGOTA: may not be a member at all. PENGURUS: may not sit on a board. Gives an indication, not a verdict.';

create table staging.ref_tahapan (
    tahapan  text primary key,
    dibuka   timestamptz not null,
    ditutup  timestamptz,
    dasar    text not null,
    check (ditutup is null or ditutup > dibuka)
);
comment on table staging.ref_tahapan is 'Stages of a registration. Dates are set by the operator from KPU''s decision; it ships empty.';
