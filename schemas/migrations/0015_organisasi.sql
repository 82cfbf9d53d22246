-- Findings over a party's organisation: boards, officers, offices, accounts, and members' documents. As those over
-- members they are kept in the background, are something KPU should look at, and are never a status.

-- The day that rules about time look at: the end of the stage that closes next, where KPU has set one, else today.
create function staging.tanggal_acuan(untuk text) returns date
language sql stable
return coalesce(
    (select min(t.ditutup at time zone 'Asia/Jakarta')::date from staging.ref_tahapan t
      where t.ditutup > now() and (t.entity = '{}' or untuk = any (t.entity))),
    (now() at time zone 'Asia/Jakarta')::date);

-- An office must last until the election's last stage (UU 7/2017 art. 173(2) g).
create function staging.tanggal_terakhir() returns date
language sql stable
return greatest((select max(t.ditutup at time zone 'Asia/Jakarta')::date from staging.ref_tahapan t),
                (now() at time zone 'Asia/Jakarta')::date);

-- A text as names are compared: upper case, everything but letters and digits one blank, a blank at both ends.
create function staging.kata(naskah text) returns text
language sql immutable parallel safe
return regexp_replace(' ' || upper(naskah collate "C") || ' ', '[^A-Z0-9]+', ' ', 'g');

-- Occupations that may not sit on a board besides those that may not join a party: UU 6/2014 arts. 29, 51, 64.
create function staging.pekerjaan_desa(pekerjaan text) returns boolean
language sql immutable parallel safe
return lower(left(pekerjaan, 200)) ~
       '\m(perangkat desa|sekretaris desa|sekdes|bendahara desa|(kaur|kasi|kadus) desa|kepala dusun|badan permusyawaratan desa|bpd|pendamping desa|pendamping pkh|pendamping keluarga harapan)\M'
   and lower(left(pekerjaan, 200)) !~
       '\m(purn|purna|purnawirawan|purnabakti|pensiun|pensiunan|mantan|eks|ex|bekas|veteran|istri|isteri|suami|anak|non|bukan)\M';

-- Officers as they were last looked at. `susunan` is of the moment the decree named here was first seen: a board that
-- changes under the same decree is a finding until a new one comes.
create table connector.pejabat (
    parpol_id    smallint not null,
    source_key   text collate "C" not null,
    nik          bigint,
    anggota_key  text collate "C",
    susunan      bigint not null,
    nomor_sk     text,
    primary key (parpol_id, source_key)
);
create index pejabat_nik on connector.pejabat (parpol_id, nik);
create index pejabat_anggota on connector.pejabat (parpol_id, anggota_key);
comment on column connector.pejabat.nik is 'A hash to find the officers that a changed member may be; null without a NIK.';

-- Parties whose organisation is to be looked at anew, and those whose members are held against their documents.
create table connector.organisasi_due (
    parpol_id  smallint primary key,
    since      timestamptz not null default clock_timestamp()
);
create table connector.berkas_dinilai (
    parpol_id  smallint primary key
);
comment on table connector.berkas_dinilai is 'Parties that send documents at all: only their members can lack one.';

alter table connector.temuan_cursor add column hari date, add column kalender text;
comment on column connector.temuan_cursor.hari is 'The day, and the calendar of stages, that findings about time were judged by.';

-- Which member has which document that is there: as a table of its own, so that documents need no second index.
create table connector.berkas (
    parpol_id   smallint not null,
    source_key  text collate "C" not null,
    pemilik     text collate "C" not null,
    kartu       boolean not null,
    primary key (parpol_id, source_key)
);
create index berkas_pemilik on connector.berkas (parpol_id, pemilik);
comment on column connector.berkas.kartu is 'A card (KTA); else what proves identity (KTP-el, KK).';

comment on table staging.temuan is
    'Findings over sets of rows. anggota: GANDA_IDENTIK, GANDA_POTENSI, GANDA_EKSTERNAL, KTA_GANDA, DOKUMEN_KURANG. kepengurusan: '
    'DUALISME, SK_BERAKHIR. pengurus: RANGKAP_PENGURUS, PENGURUS_BUKAN_ANGGOTA, PENGURUS_PEKERJAAN, PENGURUS_TANPA_NIK, '
    'PENGURUS_TANPA_KEPENGURUSAN, SUSUNAN_TANPA_SK. kantor: KANTOR_MASA_BERLAKU. rekening: REKENING_ATAS_NAMA.';

-- Once, for parties that are there already.
insert into connector.organisasi_due (parpol_id) select parpol_id from connector.party;
