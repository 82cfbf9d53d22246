-- Time stamps (RFC 3161) of signed checkpoints: an authority outside says when a checkpoint existed at the latest.

create table audit.timestamp (
    size   bigint not null references audit.checkpoint,
    tsa    text not null,
    token  bytea not null,
    said   timestamptz not null,
    at     timestamptz not null default clock_timestamp(),
    primary key (size, tsa)
);
comment on column audit.timestamp.token is 'The TimeStampResp as it came, over the bytes of audit.checkpoint.note.';
comment on column audit.timestamp.said is 'The time that the authority says.';
create trigger timestamp_is_append_only before update or delete or truncate on audit.timestamp
    for each statement execute function audit.refuse_change();
alter table audit.timestamp enable always trigger timestamp_is_append_only;
revoke all on audit.timestamp from public;
