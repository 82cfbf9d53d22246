-- What comparing a party's views with staging found. Each run also leaves an entry in the audit log, by a wish.

create table connector.reconcile (
    id               bigint generated always as identity primary key,
    party            text not null references connector.party,
    entity           text not null,
    asked_by         text not null,
    started_at       timestamptz not null,
    ended_at         timestamptz not null default clock_timestamp(),
    view_rows        bigint not null,
    refused_rows     bigint not null,
    live_rows        bigint not null,
    missing          bigint not null,
    different        bigint not null,
    extra            bigint not null,
    refusal_missing  bigint not null,
    refusal_stale    bigint not null,
    moving           bigint not null,
    parked           bigint not null,
    settled          boolean not null
);
create index reconcile_entity on connector.reconcile (party, entity, id);
comment on column connector.reconcile.moving is 'Keys that differed at every look, each time otherwise: under change, no difference.';
comment on column connector.reconcile.settled is 'False where staging was still behind the view at the last look: what moves then is no difference yet.';

create table connector.reconcile_key (
    run         bigint not null references connector.reconcile on delete cascade,
    source_key  text collate "C" not null,
    kind        text not null,
    primary key (run, source_key)
);
comment on table connector.reconcile_key is 'The differing keys of an entity''s last run: a repair reads them again.';
