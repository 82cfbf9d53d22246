-- What each changed row was, for who holds the salt: a commitment that the batch's audit entry is bound to.
-- The journal becomes the history of rows: key, operation, commitment after, and the batch that had written it before.
-- schemas/audit-entry.md says how a commitment is made. It is not the keyed digest that tells unchanged rows.

alter table connector.journal
    add column digests bytea,
    add column priors bytea,
    add constraint sixteen_bytes_per_key check (octet_length(digests) = 16 * cardinality(keys)),
    add constraint eight_bytes_per_key check (octet_length(priors) = 8 * cardinality(keys));
comment on column connector.journal.digests is
    'The commitment to each key''s row, 16 bytes each. Null where the rows were committed to elsewhere (a first copy).';
comment on column connector.journal.priors is
    'For each key the batch that had written its row before, 8 bytes big-endian; 0 for none. The way back through a row''s history.';
-- Salted hashes do not compress.
alter table connector.journal alter column digests set storage external;
create index journal_batch on connector.journal (batch_id);

-- Rows committed to without being news to Sipol: a first copy's, and those committed to again under a new salt.
create table audit.committed (
    batch_id       bigint not null,
    first_ordinal  bigint not null check (first_ordinal >= 1),
    parpol_id      smallint not null,
    entity         text not null,
    keys           text[] not null check (cardinality(keys) >= 1),
    digests        bytea not null,
    primary key (batch_id, first_ordinal),
    constraint sixteen_bytes_per_key check (octet_length(digests) = 16 * cardinality(keys))
);
alter table audit.committed alter column digests set storage external;

-- Handed to the party by its receipts. Without its salt a commitment says nothing about a row: to erase it is to delete it.
create table audit.salt (
    batch_id  bigint primary key,
    party     text not null,
    entity    text not null,
    salt      bytea not null check (octet_length(salt) = 32)
);
revoke all on audit.committed, audit.salt from public;

do $$
begin
    if 'lz4' = any ((select enumvals from pg_settings where name = 'default_toast_compression')::text[]) then
        alter table connector.journal alter column priors set compression lz4;
        alter table audit.committed alter column keys set compression lz4;
    else
        alter table audit.committed alter column keys set storage external;
    end if;
end
$$;
