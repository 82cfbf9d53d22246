-- What Sipol reads: one view for each entity with live rows only, and a feed of what changed.
-- Columns are added at the end of a view and never renamed or taken away.

create schema sipol;
comment on schema sipol is 'For Sipol: stable read views and the change feed.';

create view sipol.parpol with (security_barrier) as
    select parpol_id, source_key, nama, singkatan, jenis, nomor_berita_negara, tanggal_berita_negara,
           nomor_ad_art, tanggal_ad_art, nomor_sk_menkum, tanggal_sk_menkum, lambang_sha256,
           surel, telepon, situs, indikasi
    from staging.parpol where dihapus_pada is null;

create view sipol.petugas with (security_barrier) as
    select parpol_id, source_key, peran, tingkat, kode_wilayah, nama, nik, nomor_kta, tempat_lahir,
           tanggal_lahir, jenis_kelamin, alamat, surel, telepon, pekerjaan, jabatan,
           nomor_surat_penunjukan, tanggal_surat, berlaku_sampai, indikasi
    from staging.petugas where dihapus_pada is null;

create view sipol.kepengurusan with (security_barrier) as
    select parpol_id, source_key, tingkat, kode_wilayah, nama_unit, nomor_sk, tanggal_sk,
           sk_berlaku_sampai, status, indikasi
    from staging.kepengurusan where dihapus_pada is null;

create view sipol.pengurus with (security_barrier) as
    select parpol_id, source_key, kepengurusan_source_key, nama, jabatan, jabatan_inti, jenis_kelamin,
           nik, nomor_kta, urutan, indikasi
    from staging.pengurus where dihapus_pada is null;

create view sipol.kantor with (security_barrier) as
    select parpol_id, source_key, tingkat, kode_wilayah, alamat, kode_pos, kode_kelurahan, telepon, surel,
           status_kantor, nomor_surat_keterangan, tanggal_surat, berlaku_sampai, indikasi
    from staging.kantor where dihapus_pada is null;

create view sipol.rekening with (security_barrier) as
    select parpol_id, source_key, tingkat, kode_wilayah, nama_bank, kode_bank, nomor_rekening, atas_nama, indikasi
    from staging.rekening where dihapus_pada is null;

create view sipol.anggota with (security_barrier) as
    select parpol_id, source_key, nik, nomor_kta, nama, jenis_kelamin, tempat_lahir, tanggal_lahir,
           status_perkawinan, pekerjaan, pekerjaan_kode, alamat, rt, rw, kode_kabkota, kode_kecamatan,
           kode_kelurahan, kode_wilayah_sumber, jenis_identitas, nik_hmac, indikasi
    from staging.anggota where dihapus_pada is null;

create view sipol.dokumen with (security_barrier) as
    select parpol_id, source_key, jenis, pemilik_entity, pemilik_source_key, nomor, tanggal, sha256, ukuran,
           tersedia, indikasi
    from staging.dokumen where dihapus_pada is null;

-- The feed. A consumer calls it with the cursor of the last row it has handled and gets what comes next.
--
-- Entries are ordered by (transaction id, batch, place in the batch), and a transaction is shown only once no
-- transaction with a lower id can still commit (its id is below the snapshot's xmin). Ordering by time or by
-- batch number would lose the entry of a transaction that started first and committed last.
-- The price: a transaction left open anywhere in this cluster, if it has written, delays the feed. It waits;
-- it never skips. `stable`, so that the snapshot's xmin and the rows seen belong to one snapshot.
create function sipol.perubahan(since text default null, max_rows integer default 1000)
returns table ("cursor" text, parpol_id smallint, entity text, source_key text, operation text, sync_batch_id bigint)
language plpgsql stable security definer set search_path = pg_catalog, pg_temp
as $$
declare
    horizon       xid8 := pg_snapshot_xmin(pg_current_snapshot());
    after_xid     xid8 := '0';
    after_batch   bigint := 0;
    after_place   bigint := 0;
    room          integer := max_rows;
    floor         connector.journal_floor;
    page          record;
    lo            integer;
    hi            integer;
begin
    if max_rows is null or max_rows not between 1 and 100000 then
        raise exception 'max_rows must be between 1 and 100000' using errcode = '22023';
    end if;
    if since is not null then
        if since !~ '^[0-9]{1,20}\.[0-9]{1,19}\.[0-9]{1,19}$'
           or not pg_input_is_valid(split_part(since, '.', 1), 'xid8')
           or not pg_input_is_valid(split_part(since, '.', 2), 'bigint')
           or not pg_input_is_valid(split_part(since, '.', 3), 'bigint') then
            raise exception 'this is not a cursor of sipol.perubahan'
                using errcode = '22023', hint = 'Pass the cursor column of the last row handled, or null to begin.';
        end if;
        after_xid := split_part(since, '.', 1)::xid8;
        after_batch := split_part(since, '.', 2)::bigint;
        after_place := split_part(since, '.', 3)::bigint;
        -- We never give out a cursor beyond the horizon: this one was made by another cluster.
        if after_xid > horizon then
            raise exception 'this cursor does not belong to this database'
                using errcode = '22023',
                      hint = 'The database was replaced or restored: take sipol.perubahan_kini(), then read the views again.';
        end if;
        select * into floor from connector.journal_floor;
        if (after_xid, after_batch, after_place) < (floor.xid, floor.batch_id, floor.ordinal) then
            raise exception 'this cursor is older than the feed, which begins at %.%.%',
                    floor.xid, floor.batch_id, floor.ordinal
                using errcode = '22023',
                      hint = 'Changes in between were pruned: take sipol.perubahan_kini(), then read the views again.';
        end if;
    end if;

    for page in
        select j.xid, j.batch_id, j.first_ordinal, j.parpol_id, j.entity, j.keys, j.ops, j.key_count
        from connector.journal j
        where j.xid >= after_xid and j.xid < horizon
          and (j.xid, j.batch_id) >= (after_xid, after_batch)
          and (j.xid > after_xid or j.batch_id > after_batch or j.first_ordinal + j.key_count - 1 > after_place)
        order by j.xid, j.batch_id, j.first_ordinal
    loop
        lo := 1;
        if page.xid = after_xid and page.batch_id = after_batch and after_place >= page.first_ordinal then
            lo := after_place - page.first_ordinal + 2;
        end if;
        hi := least(page.key_count, lo + room - 1);
        return query
            select concat_ws('.', page.xid::text, page.batch_id::text, (page.first_ordinal + lo - 2 + one.place)::text),
                   page.parpol_id, page.entity, one.key,
                   case one.op when 'D' then 'hapus' else 'upsert' end, page.batch_id
            from unnest(page.keys[lo:hi], string_to_array(substr(page.ops, lo, hi - lo + 1), null))
                 with ordinality as one(key, op, place)
            order by one.place;
        room := room - (hi - lo + 1);
        exit when room <= 0;
    end loop;
end
$$;
comment on function sipol.perubahan(text, integer) is
    'What changed after a cursor, oldest first; null: from the oldest entry kept. Keep the last row''s cursor and come back with it.';

-- For a consumer that begins, or begins anew: take this cursor first, then read the views, then follow the feed
-- from the cursor. What the views did not show yet comes through the feed; some of it may come twice.
create function sipol.perubahan_kini() returns text
language sql stable set search_path = pg_catalog, pg_temp
return pg_snapshot_xmin(pg_current_snapshot())::text || '.0.0';
comment on function sipol.perubahan_kini() is 'The cursor of this moment: take it, read the views, then follow sipol.perubahan from it.';

-- A role belongs to the whole server: another database of ours may have made it, or be making it now.
do $$
begin
    if not exists (select from pg_roles where rolname = 'sipol_reader') then
        create role sipol_reader nologin;
    end if;
exception when duplicate_object or unique_violation then
    null;
end
$$;

revoke all on schema connector, staging, audit, sipol from public;
revoke all on function sipol.perubahan(text, integer), sipol.perubahan_kini() from public;
grant usage on schema sipol to sipol_reader;
grant select on all tables in schema sipol to sipol_reader;
grant execute on function sipol.perubahan(text, integer), sipol.perubahan_kini() to sipol_reader;
