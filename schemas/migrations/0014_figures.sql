-- What metrics are made of, beside the counts that are kept already.

alter table connector.worker add column stages jsonb;
comment on column connector.worker.stages is 'Seconds by stage and number of batches, in all since the worker started.';

-- When the whole audit log was last verified, and how that ended. The proof is in the log; this says that somebody looked.
create table connector.verification (
    only_row  boolean primary key default true check (only_row),
    at        timestamptz not null default clock_timestamp(),
    good      boolean not null,
    entries   bigint not null
);
revoke all on connector.verification from public;
