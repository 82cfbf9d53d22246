-- Which daemon works for which party, by staging's clock alone. A lease decides who tries; the session lock and the
-- epoch in connector.source_offset decide who writes.

create table connector.daemon (
    daemon      text primary key,
    parties     text[] not null,
    backend     integer not null,
    started_at  timestamptz not null default clock_timestamp(),
    seen_at     timestamptz not null default clock_timestamp()
) with (fillfactor = 50);
comment on table connector.daemon is 'Daemons that run, and the parties each is configured for; one that is not seen for some seconds is taken for dead.';

create table connector.lease (
    party     text primary key,
    daemon    text not null references connector.daemon on delete cascade,
    taken_at  timestamptz not null default clock_timestamp()
);
create index lease_daemon on connector.lease (daemon);
comment on table connector.lease is 'The daemon that works for a party. No row: the next daemon that looks may take it.';
comment on column connector.daemon.backend is 'The process of its session here: one that has none any more was killed.';
