-- The connector's own bookkeeping: who the parties are, where each one stands, what was asked.
-- Nothing outside the connector reads this schema; Sipol reads schema `sipol` only.

create schema connector;
comment on schema connector is 'Bookkeeping of the connector. Not part of the staging contract.';

create table connector.migration (
    version     integer primary key,
    name        text not null,
    sha256      bytea not null check (octet_length(sha256) = 32),
    applied_at  timestamptz not null default now()
);
comment on table connector.migration is 'One row for each file of schemas/migrations that was applied, with the digest it had then.';

create table connector.party (
    party       text primary key,
    parpol_id   smallint not null unique,
    jenis       text not null default 'NASIONAL' check (jenis in ('NASIONAL', 'LOKAL_ACEH')),
    added_at    timestamptz not null default now()
);

-- Updated once a batch: room on the page keeps those updates HOT.
create table connector.source_offset (
    party             text primary key references connector.party,
    position_ordinal  bigint,
    position_text     text,
    audited_ordinal   bigint,
    audited_text      text,
    read_position     bigint not null default 0,
    system            text,
    timeline          integer,
    slot              text,
    epoch             bigint not null default 0,
    claimed_at        timestamptz,
    moved_at          timestamptz
) with (fillfactor = 50);
comment on column connector.source_offset.epoch is 'Rises with each take-over; a daemon that holds an older one is fenced.';
comment on column connector.source_offset.read_position is 'Rises with each read of the view; an older read never overwrites a newer one.';

create table connector.entity (
    party             text not null references connector.party,
    entity            text not null,
    state             text not null default 'new'
                      check (state in ('new', 'copying', 'streaming', 'held', 'paused', 'needs_resync')),
    reason            text,
    hint              text,
    since             timestamptz not null default now(),
    generation        integer not null default 0,
    copy_after        text,
    copy_rows         bigint not null default 0,
    bulk              boolean not null default false,
    copying           boolean not null default false,
    view_fingerprint  text,
    live_rows         bigint not null default 0,
    signalled         bigint not null default 0,
    read              bigint not null default 0,
    inserted          bigint not null default 0,
    updated           bigint not null default 0,
    unchanged         bigint not null default 0,
    deleted           bigint not null default 0,
    quarantined       bigint not null default 0,
    absent            bigint not null default 0,
    last_batch_at     timestamptz,
    mapping_version   text,
    mapping_digest    text,
    pending_deletes   bigint not null default 0,
    brake_off         boolean not null default false,
    rescan_since      timestamptz,
    primary key (party, entity)
) with (fillfactor = 50);

comment on column connector.entity.copying is 'A copy was begun and is not through, whatever the state is now (held or paused in its middle).';
comment on column connector.entity.rescan_since is 'Every row of the view may have changed since then: it is to be read whole.';

-- What the party's worker says of itself; a heartbeat that stands still is a worker that hangs.
create table connector.worker (
    party         text primary key references connector.party,
    state         text not null,
    daemon        text not null,
    lag_bytes     bigint,
    lag_s         double precision,
    error         text,
    hint          text,
    attempt       integer not null default 0,
    heartbeat_at  timestamptz not null default now()
) with (fillfactor = 50);

create table connector.parked (
    party       text not null,
    entity      text not null,
    source_key  text collate "C" not null,
    primary key (party, entity, source_key)
);
comment on table connector.parked is 'Keys signalled while their entity was held or paused; re-read when it is released.';

-- Unlogged: after a crash it is empty, and a copy that was under way starts again from its first key.
create unlogged table connector.seen (
    party       text not null,
    entity      text not null,
    generation  integer not null,
    source_key  text not null
);
comment on table connector.seen is 'Keys met by the copy of this generation; what staging holds beyond them has left the view.';

create table connector.wish (
    id         bigint generated always as identity primary key,
    party      text not null,
    entity     text,
    verb       text not null,
    args       jsonb not null default '{}',
    asked_by   text not null default session_user,
    asked_at   timestamptz not null default now(),
    obeyed_at  timestamptz,
    outcome    text
);
create index wish_open on connector.wish (party, id) where obeyed_at is null;
comment on table connector.wish is 'What an operator asked for; the daemon obeys and writes the outcome.';

-- The change feed's source. A batch writes its keys as arrays, a few thousand a row, so that a page of
-- the feed unpacks one small row and not the batch (measured: 1.3 ms against 40 ms with 1 M keys in one row).
create table connector.journal (
    xid            xid8 not null default pg_current_xact_id(),
    batch_id       bigint not null,
    first_ordinal  bigint not null default 1 check (first_ordinal >= 1),
    parpol_id      smallint not null,
    entity         text not null,
    keys           text[] not null check (cardinality(keys) >= 1),
    ops            text not null,
    key_count      integer not null generated always as (cardinality(keys)) stored,
    primary key (xid, batch_id, first_ordinal),
    constraint one_letter_per_key check (octet_length(ops) = cardinality(keys))
);
comment on column connector.journal.ops is 'One letter for each key, in the same order: U there now, D gone.';
comment on column connector.journal.first_ordinal is 'Place of the first key within its batch; rows of one batch continue each other.';

-- Where the journal begins now: the place of the last entry that was pruned away.
create table connector.journal_floor (
    only_row  boolean primary key default true check (only_row),
    xid       xid8 not null default '0',
    batch_id  bigint not null default 0,
    ordinal   bigint not null default 0
);
insert into connector.journal_floor default values;

-- Forget entries of batches that ended more than `keep` ago; returns how many rows of the journal went.
-- Only a beginning of the feed's order goes, so that one place tells what is missing.
create function connector.prune_journal(keep interval) returns bigint
language plpgsql set search_path = pg_catalog, pg_temp
as $$
declare
    upto     xid8;
    removed  bigint;
begin
    select coalesce(min(j.xid), pg_snapshot_xmin(pg_current_snapshot())) into upto
    from connector.journal j
    where not exists (select from staging.sync_batch b where b.id = j.batch_id and b.ended_at < now() - keep);
    with gone as (
        delete from connector.journal where xid < upto
        returning xid, batch_id, first_ordinal + key_count - 1 as ordinal
    ), last as (
        update connector.journal_floor f set xid = g.xid, batch_id = g.batch_id, ordinal = g.ordinal
        from (select xid, batch_id, ordinal from gone order by xid desc, batch_id desc, ordinal desc limit 1) g
    )
    select count(*) into removed from gone;
    return removed;
end
$$;
revoke all on function connector.prune_journal(interval) from public;

-- Keys often do not compress (UUIDs), and pglz needs longer to find that out than the rest of the insert takes
-- (measured: 1.4 s for 1 M keys, 0.5 s without). lz4 is cheap; a server built without it stores the keys as they are.
do $$
begin
    if 'lz4' = any ((select enumvals from pg_settings where name = 'default_toast_compression')::text[]) then
        alter table connector.journal alter column keys set compression lz4;
        alter table connector.journal alter column ops set compression lz4;
    else
        alter table connector.journal alter column keys set storage external;
    end if;
end
$$;
