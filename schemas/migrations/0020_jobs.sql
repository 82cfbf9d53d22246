-- The slow periodic work: what there is, when each job ran last and how that ended, when it runs next.

create table connector.job (
    job              text primary key,
    schedule         text not null,
    next_run_at      timestamptz,
    last_started_at  timestamptz,
    last_ended_at    timestamptz,
    outcome          text check (outcome in ('running', 'ok', 'failed', 'interrupted')),
    message          text,
    runs             bigint not null default 0,
    failures         bigint not null default 0
) with (fillfactor = 50);
comment on column connector.job.message is 'What the last run said in our own words: counts and names, never a value.';

-- Of several daemons one runs the jobs.
create table connector.scheduler (
    only_row      boolean primary key default true check (only_row),
    daemon        text,
    heartbeat_at  timestamptz
) with (fillfactor = 50);
insert into connector.scheduler default values;
