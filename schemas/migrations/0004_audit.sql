-- The audit log: appended to, never changed. The hash chain and the signed checkpoints prove it to others;
-- the guards here stop an honest mistake, and make a dishonest one leave a trace in the catalogue.

create schema audit;
comment on schema audit is 'Append-only record of every batch, control act and outage.';

create table audit.entry (
    party      text not null,
    seq        bigint not null check (seq >= 0),
    body       bytea not null check (octet_length(body) < 65536),
    prev_hash  bytea not null,
    hash       bytea not null check (octet_length(hash) = 32),
    at         timestamptz not null default now(),
    primary key (party, seq)
);
comment on column audit.entry.body is 'Canonical JSON as bytes: jsonb would reorder keys and the hash would no longer match.';

create table audit.head (
    party  text primary key,
    seq    bigint not null,
    hash   bytea not null
) with (fillfactor = 50);

create function audit.refuse_change() returns trigger
language plpgsql as $$
begin
    raise exception 'audit.% is append-only: % refused', tg_table_name, lower(tg_op)
        using errcode = 'insufficient_privilege',
              hint = 'To correct an entry, append another one. To look for tampering: connector audit verify.';
end
$$;

create trigger entry_is_append_only before update or delete or truncate on audit.entry
    for each statement execute function audit.refuse_change();
-- `always`: session_replication_role = replica switches ordinary triggers off.
alter table audit.entry enable always trigger entry_is_append_only;

create trigger head_is_never_removed before delete or truncate on audit.head
    for each statement execute function audit.refuse_change();
alter table audit.head enable always trigger head_is_never_removed;

-- From the owner too: whoever wants to change an entry must first grant it to himself.
revoke all on audit.entry, audit.head from public;
revoke update, delete, truncate on audit.entry from current_user;
revoke delete, truncate on audit.head from current_user;
